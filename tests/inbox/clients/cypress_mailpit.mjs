// The npm package cypress-mailpit against an inbox, with a small stand-in for Cypress:
// node cypress_mailpit.mjs MODULE URL [USER PASSWORD]
import assert from "node:assert/strict";
import { register } from "node:module";
import { pathToFileURL } from "node:url";

const [file, url, username, password] = process.argv.slice(2);

// The package is written for a bundler: ES modules whose imports have no suffix.
register("data:text/javascript," + encodeURIComponent(`
  export const resolve = (name, context, next) =>
    next(name.startsWith("./") && !name.endsWith(".js") ? name + ".js" : name, context);
  export const load = (url, context, next) =>
    next(url, url.includes("/cypress-mailpit/") ? { ...context, format: "module" } : context);
`));

// Each command returns a promise, which has "then" as Cypress' own chains have it.
const requests = [];
globalThis.cy = {
  wrap: async (value) => value,
  wait: (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds)),
  env: async () => (username ? { MAILPIT_USERNAME: username, MAILPIT_PASSWORD: password } : {}),
  async request({ method, url, auth, qs, body }) {
    const place = new URL(url);
    for (const [name, value] of Object.entries(qs ?? {})) place.searchParams.set(name, value);
    const headers = {};
    if (auth) headers.authorization = "Basic " + btoa(`${auth.user}:${auth.pass}`);
    if (body) headers["content-type"] = "application/json";
    const answer = await fetch(place, { method, headers, body: body && JSON.stringify(body) });
    requests.push(`${method} ${url}`);
    const text = await answer.text();
    if (!answer.ok) throw new Error(`${answer.status} ${answer.statusText}: ${text}`);
    const isJson = (answer.headers.get("content-type") ?? "").includes("json");
    return { status: answer.status, body: isJson ? JSON.parse(text) : text };
  },
};
globalThis.Cypress = {
  expose: () => url.replace(/\/$/, ""),
  config: () => 4000,
  Commands: { add: (name, options, command) => (cy[name] = command) },
};
await import(pathToFileURL(file));

const fails = (promise, pattern) => assert.rejects(promise, pattern);
const tests = {
  async "a message with the usual values"() {
    await cy.mailpitDeleteAllEmails();
    const { ID } = await cy.mailpitSendMail();
    const mail = await cy.mailpitGetMail();
    assert.equal(mail.ID, ID);
    assert.equal(await cy.mailpitGetSubject(mail), "Hello Mailpit");
    assert.deepEqual(await cy.mailpitGetRecipientAddress(mail), ["jane@example.com"]);
    assert.equal(await cy.mailpitGetFromAddress(mail), "from@example.com");
    assert.deepEqual(await cy.mailpitGetAttachments(mail), []);
    assert.deepEqual(mail.Bcc, [{ Name: "", Address: "bcc@example.com" }]);
  },
  async "the views, whose addresses have two slashes"() {
    const mail = await cy.mailpitGetMail();
    assert.equal(await cy.mailpitGetMailHTMlBody(mail), "<p>hello from mailpit</p>");
    assert.equal(await cy.mailpitGetMailTextBody(mail), "hello from mailpit");
    assert.match(requests.at(-1), /\w\/\/view\//);
  },
  async "attachments by their names"() {
    await cy.mailpitSendMail({ attachments: [{ Filename: "a b.txt", Content: "aGVsbG8=" }] });
    assert.deepEqual(await cy.mailpitGetAttachments(await cy.mailpitGetMail()), ["a b.txt"]);
  },
  async "lists, and searches by subject and recipient"() {
    await cy.mailpitDeleteAllEmails();
    await cy.mailpitSendMail({ subject: "first one", to: [{ Email: "one@shop.test" }] });
    await cy.mailpitSendMail({ subject: "second", to: [{ Email: "two@shop.test" }] });
    const all = await cy.mailpitGetAllMails();
    assert.deepEqual([all.total, all.messages.length, all.messages_count], [2, 2, 2]);
    assert.equal((await cy.mailpitGetEmailsBySubject("second")).messages_count, 1);
    assert.equal((await cy.mailpitGetEmailsByTo("one@shop.test")).messages[0].Subject, "first one");
    assert.equal((await cy.mailpitSearchEmails('subject:"first one"')).messages_count, 1);
  },
  async "what is there, and what is not"() {
    assert.equal((await cy.mailpitHasEmailsBySubject("second")).messages_count, 1);
    assert.equal((await cy.mailpitHasEmailsByTo("two@shop.test")).messages_count, 1);
    assert.equal((await cy.mailpitHasEmailsBySearch("from:from@example.com")).messages_count, 2);
    assert.equal((await cy.mailpitNotHasEmailsBySubject("third")).messages_count, 0);
    assert.equal((await cy.mailpitNotHasEmailsByTo("three@shop.test")).messages_count, 0);
    assert.equal((await cy.mailpitNotHasEmailsBySearch("is:read")).messages_count, 0);
    await fails(cy.mailpitHasEmailsBySubject("third", 0, 50, { timeout: 20, interval: 10 }), /Timed out/);
  },
  async "read states of all and of some"() {
    assert.equal(await cy.mailpitSetAllEmailStatusAsRead(), "ok");
    assert.equal((await cy.mailpitGetAllMails()).unread, 0);
    await cy.mailpitSetAllEmailStatusAsUnRead();
    const { messages } = await cy.mailpitGetAllMails();
    await cy.mailpitSetStatusAsRead(messages[0]);
    assert.equal((await cy.mailpitGetAllMails()).unread, 1);
    await cy.mailpitSetStatusAsRead(messages);
    await cy.mailpitSetStatusAsUnRead([messages[1]]);
    assert.equal((await cy.mailpitSearchEmails("is:unread")).messages[0].ID, messages[1].ID);
  },
  async "deletion by search"() {
    await cy.mailpitDeleteEmailsBySearch("subject:second");
    assert.equal((await cy.mailpitGetAllMails()).total, 1);
  },
  async "there is no spam check"() {
    const mail = await cy.mailpitGetMail();
    await fails(cy.mailpitGetMailSpamAssassinSummary(mail), /404/);
    await fails(cy.mailpitGetMailSpamAssainSummary(mail), /404/);
  },
};

for (const [name, test] of Object.entries(tests)) {
  try {
    await test();
    console.log(JSON.stringify({ name }));
  } catch (error) {
    console.log(JSON.stringify({ name, error: String(error.stack ?? error) }));
  }
}
