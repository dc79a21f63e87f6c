// The npm package mailpit-api against an inbox: node mailpit_api.mjs MODULE URL [USER PASSWORD]
import assert from "node:assert/strict";
import { pathToFileURL } from "node:url";

const [file, url, username, password] = process.argv.slice(2);
const { MailpitClient } = await import(pathToFileURL(file));
const auth = username ? { username, password } : undefined;
const mailpit = new MailpitClient(url, auth ? { auth } : {});

const html = '<p style="text-align: center">one\ntwo</p>\n<a href="https://shop.test/a">go</a> <img src="cid:logo">';
const pixel = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";
const request = {
  From: { Email: "from@shop.test", Name: "Shop" },
  To: [{ Email: "to@shop.test", Name: "To One" }, { Email: "to2@shop.test" }],
  Cc: [{ Email: "cc@shop.test", Name: "Copy" }],
  Bcc: ["bcc@shop.test"],
  ReplyTo: [{ Email: "reply@shop.test", Name: "Reply" }],
  Subject: "Grüße ✓",
  Text: "line one\nline two\r\n",
  HTML: html,
  Headers: { "List-Unsubscribe": "<https://shop.test/unsubscribe>, <mailto:off@shop.test>" },
  Attachments: [
    { Filename: "logo.png", Content: pixel, ContentType: "image/png", ContentID: "logo" },
    { Filename: "note.txt", Content: btoa("a note"), ContentType: "text/plain" },
  ],
};
const keys = (value) => Object.keys(value).sort();
const rowKeys = ["Attachments", "Bcc", "Cc", "Created", "From", "ID", "MessageID", "Read", "ReplyTo", "Size", "Snippet", "Subject", "Tags", "To", "Username"];
const messageKeys = ["Attachments", "Bcc", "Cc", "Date", "From", "HTML", "ID", "Inline", "ListUnsubscribe", "MessageID", "ReplyTo", "ReturnPath", "Size", "Subject", "Tags", "Text", "To", "Username"];
const partKeys = ["Checksums", "ContentID", "ContentType", "FileName", "PartID", "Size"];
const version = (await mailpit.getInfo()).Version;

async function sent(more = {}) {
  return (await mailpit.sendMessage({ ...request, ...more })).ID;
}

const tests = {
  async "a sent message comes back whole"() {
    const id = await sent();
    const message = await mailpit.getMessageSummary(id);
    assert.deepEqual(keys(message), messageKeys);
    assert.equal(message.HTML, html);
    assert.equal(message.Text, request.Text);
    assert.equal(message.Subject, request.Subject);
    assert.deepEqual(message.From, { Name: "Shop", Address: "from@shop.test" });
    assert.deepEqual(message.To, [{ Name: "To One", Address: "to@shop.test" }, { Name: "", Address: "to2@shop.test" }]);
    assert.deepEqual(message.Cc, [{ Name: "Copy", Address: "cc@shop.test" }]);
    assert.deepEqual(message.Bcc, [{ Name: "", Address: "bcc@shop.test" }]);
    assert.deepEqual(message.ReplyTo, [{ Name: "Reply", Address: "reply@shop.test" }]);
    assert.equal(message.ReturnPath, "from@shop.test");
    assert.equal(message.Username, username ?? "");
    assert.deepEqual(message.ListUnsubscribe, {
      Header: request.Headers["List-Unsubscribe"],
      Links: ["https://shop.test/unsubscribe", "mailto:off@shop.test"],
      Errors: "",
      HeaderPost: "",
    });
    assert.equal(message.Inline.length, 1);
    assert.equal(message.Attachments.length, 1);
    assert.deepEqual(keys(message.Inline[0]), partKeys);
    assert.deepEqual(keys(message.Inline[0].Checksums), ["MD5", "SHA1", "SHA256"]);
    assert.equal(message.Attachments[0].FileName, "note.txt");
    assert.equal(message.Attachments[0].Size, 6);
  },
  async "latest is the newest"() {
    const id = await sent();
    assert.equal((await mailpit.getMessageSummary()).ID, id);
  },
  async "headers have exactly these names"() {
    const id = await sent();
    const headers = await mailpit.getMessageHeaders(id);
    assert.deepEqual(Object.keys(headers), ["Bcc", "Cc", "Content-Type", "Date", "From", "List-Unsubscribe", "Message-Id", "Mime-Version", "Reply-To", "Return-Path", "Subject", "To"]);
    assert.deepEqual(headers["Return-Path"], ["<from@shop.test>"]);
  },
  async "parts are decoded"() {
    const message = await mailpit.getMessageSummary(await sent());
    const note = await mailpit.getMessageAttachment(message.ID, message.Attachments[0].PartID);
    assert.equal(await note.text(), "a note");
    const logo = await mailpit.getMessageAttachment("latest", message.Inline[0].PartID);
    assert.equal(logo.type, "image/png");
    assert.equal(Buffer.from(await logo.arrayBuffer()).toString("base64"), pixel);
  },
  async "a thumbnail is a JPEG"() {
    const message = await mailpit.getMessageSummary(await sent());
    const thumb = await mailpit.getAttachmentThumbnail(message.ID, message.Inline[0].PartID);
    assert.equal(thumb.type, "image/jpeg");
    assert.ok(thumb.size > 100);
    await assert.rejects(mailpit.getAttachmentThumbnail(message.ID, "99"), /400 Bad Request/);
  },
  async "the source is plain text"() {
    const id = await sent({ Headers: { "X-IP": "1.2.3.4" } });
    const source = await mailpit.getMessageSource(id);
    assert.match(source, /^Return-Path: <from@shop.test>\r\n/);
    assert.match(source, /\r\nX-IP: 1\.2\.3\.4\r\n/);
  },
  async "release without a relay is refused"() {
    await sent();
    await assert.rejects(mailpit.releaseMessage("latest", { To: ["a@shop.test"] }), /400 Bad Request/);
  },
  async "lists have pages"() {
    await mailpit.deleteMessages();
    for (const number of [1, 2, 3]) await sent({ Subject: `number ${number}` });
    const page = await mailpit.listMessages(1, 1);
    assert.deepEqual(keys(page), ["count", "messages", "messages_count", "messages_unread", "start", "tags", "total", "unread"]);
    assert.deepEqual([page.total, page.unread, page.count, page.messages_count, page.messages_unread, page.start], [3, 3, 1, 3, 3, 1]);
    assert.deepEqual(keys(page.messages[0]), rowKeys);
    assert.equal(page.messages[0].Subject, "number 2");
    assert.equal(page.messages[0].Attachments, 1);
  },
  async "read states: all, by ids, by search"() {
    await mailpit.deleteMessages();
    const first = await sent({ Subject: "alpha" });
    await sent({ Subject: "beta" });
    assert.equal(await mailpit.setReadStatus({ Read: true }), "ok");
    assert.equal((await mailpit.listMessages()).unread, 0);
    await mailpit.setReadStatus();
    assert.equal((await mailpit.listMessages()).unread, 2);
    await mailpit.setReadStatus({ IDs: [first], Read: true });
    assert.equal((await mailpit.searchMessages({ query: "is:read" })).messages[0].ID, first);
    await mailpit.setReadStatus({ Search: "subject:beta", Read: true }, { tz: "America/Chicago" });
    assert.equal((await mailpit.listMessages()).unread, 0);
  },
  async "search and wait"() {
    await mailpit.deleteMessages();
    await sent({ Subject: "needle" });
    await sent({ Subject: "other" });
    const found = await mailpit.searchMessages({ query: "subject:needle", start: 0, limit: 10, tz: "Europe/Berlin" });
    assert.deepEqual([found.total, found.messages_count, found.count], [2, 1, 1]);
    assert.equal((await mailpit.waitForMessage({ query: "addressed:bcc@shop.test subject:needle" })).Subject, "needle");
    assert.equal((await mailpit.waitForMessages({ count: 2, exact: true })).messages_count, 2);
    await assert.rejects(mailpit.searchMessages({ query: "" }), /400 Bad Request/);
  },
  async "deletion: by ids, by search, of all"() {
    await mailpit.deleteMessages();
    const ids = [await sent({ Subject: "one" }), await sent({ Subject: "two" }), await sent({ Subject: "three" })];
    assert.equal(await mailpit.deleteMessages({ IDs: [ids[0]] }), "ok");
    assert.equal((await mailpit.listMessages()).total, 2);
    assert.equal(await mailpit.deleteMessagesBySearch({ query: "subject:two" }), "ok");
    assert.equal((await mailpit.listMessages()).messages[0].ID, ids[2]);
    assert.equal(await mailpit.deleteMessages(), "ok");
    assert.equal((await mailpit.listMessages()).total, 0);
    await assert.rejects(mailpit.getMessageSummary(), /404 Not Found.*Message not found/s);
  },
  async "an unknown id is not found"() {
    await assert.rejects(mailpit.getMessageSummary("unknown"), /404 Not Found/);
    await assert.rejects(mailpit.renderMessageHTML("unknown"), /404 Not Found/);
  },
  async "the HTML check finds style"() {
    await sent();
    const check = await mailpit.htmlCheck();
    assert.deepEqual(keys(check), ["Platforms", "Total", "Warnings"]);
    assert.deepEqual(keys(check.Total), ["Nodes", "Partial", "Supported", "Tests", "Unsupported"]);
    assert.ok(check.Warnings.length > 0 && check.Warnings[0].Results.length > 0);
    assert.deepEqual(keys(check.Warnings[0]), ["Category", "Description", "Keywords", "NotesByNumber", "Results", "Score", "Slug", "Tags", "Title", "URL"]);
    await sent({ HTML: "" });
    await assert.rejects(mailpit.htmlCheck(), /400 Bad Request/);
  },
  async "the link check lists links"() {
    await sent();
    const check = await mailpit.linkCheck("latest", true);
    assert.equal(check.Errors, 0);
    assert.deepEqual(check.Links.map((link) => link.URL), ["https://shop.test/a"]);
    assert.deepEqual(keys(check.Links[0]), ["Status", "StatusCode", "URL"]);
  },
  async "there is no spam check"() {
    await sent();
    await assert.rejects(mailpit.spamAssassinCheck(), /404 Not Found/);
  },
  async "tags: set, rename, delete"() {
    await mailpit.deleteMessages();
    const id = await sent({ Tags: ["First", "sec ond"] });
    assert.deepEqual(await mailpit.getTags(), ["First", "sec ond"]);
    assert.equal(await mailpit.setTags({ IDs: [id], Tags: ["Tag 1", "Tag@2"] }), "ok");
    assert.equal(await mailpit.renameTag("Tag@2", "Tag 3"), "ok");
    assert.equal(await mailpit.deleteTag("Tag 1"), "ok");
    assert.deepEqual((await mailpit.getMessageSummary(id)).Tags, ["Tag 3"]);
    await mailpit.setTags({ IDs: [id] });
    assert.deepEqual(await mailpit.getTags(), []);
    await assert.rejects(mailpit.deleteTag("a/b"), /400 Bad Request/);
  },
  async "chaos is set and read"() {
    const off = { Sender: { ErrorCode: 451, Probability: 0 }, Recipient: { ErrorCode: 451, Probability: 0 }, Authentication: { ErrorCode: 535, Probability: 0 } };
    assert.deepEqual(await mailpit.setChaosTriggers(), off);
    const on = await mailpit.setChaosTriggers({ Sender: { ErrorCode: 421, Probability: 5 } });
    assert.deepEqual(on, { ...off, Sender: { ErrorCode: 421, Probability: 5 } });
    assert.deepEqual(await mailpit.getChaosTriggers(), on);
    await assert.rejects(mailpit.setChaosTriggers({ Sender: { ErrorCode: 200, Probability: 5 } }), /400 Bad Request/);
    await mailpit.setChaosTriggers();
  },
  async "the views are exact"() {
    const message = await mailpit.getMessageSummary(await sent());
    const part = `${new URL(url).pathname.replace(/\/$/, "")}/api/v1/message/${message.ID}/part/${message.Inline[0].PartID}`;
    assert.equal(await mailpit.renderMessageHTML(message.ID), html.replace("cid:logo", part));
    assert.equal(await mailpit.renderMessageText(), request.Text);
    const embedded = await mailpit.renderMessageHTML(message.ID, 1);
    assert.match(embedded, /target="_blank" rel="noreferrer noopener"/);
    assert.ok(!embedded.includes(html));
    await sent({ HTML: "" });
    await assert.rejects(mailpit.renderMessageHTML(), /404 Not Found/);
  },
  async "refused requests to send say why"() {
    for (const wrong of [{ From: {} }, { To: [], Cc: [], Bcc: [] }, { To: [{ Email: "nope" }] }, { Headers: { Subject: "x" } }, { Headers: { "X\r\nBcc": "x" } }, { Subject: "a\nBcc: b@shop.test" }]) {
      await assert.rejects(sent(wrong), /400 Bad Request.*"Error":"/s);
    }
  },
  async "information has exactly these keys"() {
    const info = await mailpit.getInfo();
    assert.deepEqual(keys(info), ["Database", "DatabaseSize", "LatestVersion", "Messages", "RuntimeStats", "Tags", "Unread", "Version"]);
    assert.deepEqual(keys(info.RuntimeStats), ["Memory", "MessagesDeleted", "SMTPAccepted", "SMTPAcceptedSize", "SMTPIgnored", "SMTPRejected", "Uptime"]);
    assert.equal(info.LatestVersion, version);
    const webui = await mailpit.getConfiguration();
    assert.deepEqual(webui, { Label: "", MessageRelay: { Enabled: false, SMTPServer: "", ReturnPath: "", AllowedRecipients: "", BlockedRecipients: "", OverrideFrom: "", PreserveMessageIDs: false, RecipientAllowlist: "" }, SpamAssassin: false, ChaosEnabled: true, DuplicatesIgnored: false, HideDeleteAllButton: false });
  },
  async "a wrong password is refused"() {
    const wrong = new MailpitClient(url, { auth: { username, password: "wrong" } });
    await assert.rejects(wrong.getInfo(), /401 Unauthorized/);
    await assert.rejects(new MailpitClient(url).listMessages(), /401 Unauthorized/);
  },
};

if (!auth) delete tests["a wrong password is refused"];
for (const [name, test] of Object.entries(tests)) {
  try {
    await test();
    console.log(JSON.stringify({ name }));
  } catch (error) {
    console.log(JSON.stringify({ name, error: String(error.stack ?? error) }));
  }
}
