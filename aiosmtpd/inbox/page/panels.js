// Everything beside list and message: faults, help, settings, copies, tags, and an empty list.

import { $, action, button, commas, complaint, copy, copyButton, dialog, el, get, icon, plural, remember, remembered, request, say, send, shortTime } from './kit.js';
import { terms } from './list.js';

// Search

const EXAMPLES = [
  ['reset password', 'both words, anywhere in the message'],
  ['"reset your password"', 'a phrase'],
  ['from:ann@example.org', 'the sender; also to: cc: bcc: reply-to: addressed:'],
  ['subject:invoice', 'words of the subject'],
  ['tag:billing', 'a tag, whole'],
  ['login:shop', 'the name that the client logged in with'],
  ['is:unread', 'also is:read and is:tagged'],
  ['is:rejected', 'refused attempts in place of messages'],
  ['has:attachment', 'also has:inline'],
  ['larger:1mb', 'also smaller:; with k, kb, m or mb'],
  ['after:2026-11-28', 'also before:; a day or a time'],
  ['-subject:newsletter', 'a minus before a term excludes it'],
];

export function searchHelp(search) {
  const box = dialog('Search',
    el('p', {}, 'All terms must match. Case does not matter. Click on an example to try it.'),
    el('ul', { class: 'examples' }, EXAMPLES.map(([query, text]) => el('li', {},
      el('button', { type: 'button', class: 'term', on: { click: () => { box.close(); search(query); } } }, query), el('span', {}, text)))));
}

// Settings and keys

const KEYS = [
  ['j  k', 'next, previous'], ['Enter  o', 'open'], ['u  Esc', 'back to the list'], ['/', 'search'],
  ['x', 'select'], ['J  K', 'select more'], ['*', 'select all that match'], ['r', 'read or unread'],
  ['#  Delete', 'delete'], ['z', 'undo'], ['t', 'tags'], ['1 … 8', 'tabs of the message'], ['n', 'newest message'],
  ['e', 'download as .eml'], ['c', 'copy as a test'], ['f', 'follow'], ['g r', 'rejected'], ['g f', 'faults'], ['g i', 'all messages'], ['?', 'this list'],
];

export function settings(page) {
  const check = (name, label, otherwise, changed) => el('label', { class: 'check' },
    el('input', { type: 'checkbox', checked: remembered(name, otherwise), on: { change: (event) => { remember(name, event.target.checked); changed?.(event.target); } } }), ` ${label}`);
  const notify = async (box) => {
    if (box.checked && (await Notification.requestPermission()) !== 'granted') {
      box.checked = false;
      remember('notify', false);
    }
  };
  const seconds = el('input', { type: 'number', id: 'undo-time', min: '5', max: '120', step: '1' });
  seconds.value = remembered('undo', 5);
  seconds.addEventListener('change', () => {
    seconds.value = Math.min(120, Math.max(5, Number(seconds.value) || 5));
    remember('undo', Number(seconds.value));
  });
  const width = (label, value) => action(label, () => page.split(value), { class: 'button small' });
  dialog('Settings and keys',
    el('div', { class: 'settings' },
      check('keys', 'Keys of one letter', true),
      'Notification' in window ? check('notify', 'Desktop notification for each new message', false, notify) : null,
      el('label', { class: 'check', for: 'undo-time' }, 'Seconds to undo a deletion: ', seconds),
      el('p', {}, 'Width of the list: ', width('Narrow', 320), ' ', width('Middle', 420), ' ', width('Wide', 600))),
    el('dl', { class: 'keys' }, KEYS.map(([keys, text]) => el('div', {}, el('dt', {}, keys.split('  ').map((key) => el('kbd', {}, key))), el('dd', {}, text)))));
}

// Copies

const COPIES = { pytest: 'pytest test', python: 'Python, sends it again', send: 'aiosmtpd send', curl: 'curl', wait: 'URL that waits for it' };

export function copyAs(mail) {
  const text = el('pre', { class: 'code-block', tabindex: '0', 'aria-label': 'The copy' });
  const status = el('div');
  let current = '';
  const show = async (kind) => {
    remember('copy', kind);
    status.replaceChildren();
    try {
      current = await (await request(`api/message/${mail.ID}/copy?as=${kind}`)).text();
      text.textContent = current;
    } catch (error) {
      status.replaceChildren(complaint(error, () => show(kind)));
    }
  };
  const chosen = remembered('copy', 'pytest');
  const radio = (kind, label) => el('label', {}, el('input', { type: 'radio', name: 'as', value: kind, checked: kind === chosen, on: { change: () => show(kind) } }), el('span', {}, label));
  const done = action('Copy', async () => {
    const worked = await copy(current);
    done.textContent = worked ? 'Copied' : 'Select it and press Ctrl+C';
    say(done.textContent);
    setTimeout(() => { done.textContent = 'Copy'; }, 2000);
  }, { class: 'button primary', autofocus: true });
  dialog('Copy as',
    el('fieldset', { class: 'choices' }, el('legend', { class: 'sr' }, 'Kind'), Object.entries(COPIES).map(([kind, label]) => radio(kind, label))),
    status, text,
    el('footer', {}, done, el('a', { class: 'button', href: `api/message/${mail.ID}/copy?as=eml`, download: `${mail.ID}.eml` }, 'Download as .eml')));
  show(chosen);
}

// Release: send a message to real recipients.

export function release(mail, relay) {
  const input = el('input', { type: 'text', id: 'release-to', autocomplete: 'off', spellcheck: 'false', autofocus: true, 'aria-describedby': 'release-help' });
  input.value = [...new Set(mail.Envelope.To)].join(', ');
  const status = el('div');
  const done = el('button', { type: 'submit', class: 'button primary' }, 'Release');
  const submit = async (event) => {
    event.preventDefault();
    const to = input.value.split(',').map((one) => one.trim()).filter(Boolean);
    done.disabled = true;
    try {
      await send('POST', `api/v1/message/${mail.ID}/release`, { To: to });
      status.replaceChildren(el('p', { class: 'done', role: 'status' }, icon('checked'), `Released to ${to.join(', ')}.`));
    } catch (error) {
      status.replaceChildren(complaint(error));
    }
    done.disabled = false;
  };
  dialog('Release', el('form', { on: { submit } },
    el('label', { for: 'release-to' }, 'Send this message to these addresses; commas between them'), input,
    el('p', { id: 'release-help', class: 'quiet' }, `${relay.SMTPServer} takes it. Addresses must match `, el('code', {}, relay.AllowedRecipients), relay.BlockedRecipients ? [' and not ', el('code', {}, relay.BlockedRecipients)] : null, '.'),
    status, el('footer', {}, done)));
}

// The differences of two messages, older first

// Cells of the table of equal lines; larger texts are shown as one change.
const TABLE = 4_000_000;

async function textsOf(id) {
  const [mail, fields] = await Promise.all([get(`api/v1/message/${id}`), get(`api/v1/message/${id}/headers`)]);
  const header = Object.entries(fields).flatMap(([name, values]) => values.map((value) => `${name}: ${value}`));
  return { Headers: header, Text: mail.Text.split(/\r?\n/), HTML: mail.HTML ? mail.HTML.split(/\r?\n/) : [] };
}

// Return [mark, line] for each line: ' ' in both, '-' in the first, '+' in the second.
export function differences(old, now) {
  let begin = 0;
  while (begin < old.length && begin < now.length && old[begin] === now[begin]) begin += 1;
  let end = 0;
  while (end < old.length - begin && end < now.length - begin && old.at(-1 - end) === now.at(-1 - end)) end += 1;
  const [a, b] = [old.slice(begin, old.length - end), now.slice(begin, now.length - end)];
  const found = old.slice(0, begin).map((line) => [' ', line]);
  if (a.length * b.length > TABLE) {
    found.push(...a.map((line) => ['-', line]), ...b.map((line) => ['+', line]));
  } else {
    const width = b.length + 1;
    const longest = new Uint16Array((a.length + 1) * width);
    for (let i = a.length - 1; i >= 0; i -= 1) {
      for (let j = b.length - 1; j >= 0; j -= 1) {
        const [down, right] = [longest[(i + 1) * width + j], longest[i * width + j + 1]];
        longest[i * width + j] = a[i] === b[j] ? longest[(i + 1) * width + j + 1] + 1 : Math.max(down, right);
      }
    }
    let [i, j] = [0, 0];
    while (i < a.length || j < b.length) {
      if (i < a.length && j < b.length && a[i] === b[j]) { found.push([' ', a[i]]); i += 1; j += 1; }
      else if (j >= b.length || (i < a.length && longest[(i + 1) * width + j] >= longest[i * width + j + 1])) { found.push(['-', a[i]]); i += 1; }
      else { found.push(['+', b[j]]); j += 1; }
    }
  }
  return found.concat(old.slice(old.length - end).map((line) => [' ', line]));
}

export async function compare(older, newer) {
  const body = el('div', { class: 'diff', tabindex: '0', role: 'region', 'aria-label': 'Differences' });
  const box = dialog('Compare two messages', el('p', { class: 'quiet' }, `− ${shortTime(older.Created)} ${older.Subject} · + ${shortTime(newer.Created)} ${newer.Subject}`), body);
  box.classList.add('wide');
  try {
    const [first, second] = await Promise.all([textsOf(older.ID), textsOf(newer.ID)]);
    body.replaceChildren(...Object.keys(first).map((name) => section(name, differences(first[name], second[name]))));
  } catch (error) {
    body.replaceChildren(complaint(error));
  }
}

// Lines that differ, side by side if there is room: those of the older message on the left.
function section(name, found) {
  const rows = [];
  let same = 0;
  let [old, now] = [[], []];
  const close = () => {
    for (let at = 0; at < Math.max(old.length, now.length); at += 1) rows.push(el('li', { class: 'pair' }, side('old', old[at]), side('now', now[at])));
    if (same) rows.push(el('li', { class: 'same' }, plural(same, 'equal line')));
    same = 0;
    [old, now] = [[], []];
  };
  for (const [mark, line] of found) {
    if ((mark === ' ') !== same > 0) close();
    if (mark === ' ') same += 1;
    else (mark === '-' ? old : now).push(line);
  }
  close();
  const isSame = found.every(([mark]) => mark === ' ');
  return el('section', {}, el('h3', {}, name), isSame ? el('p', { class: 'quiet' }, 'No difference') : el('ul', {}, rows));
}

function side(name, line) {
  if (line === undefined) return el('div', { class: 'none' });
  const [mark, word] = name === 'old' ? ['−', 'only in the older: '] : ['+', 'only in the newer: '];
  return el('div', { class: name }, el('span', { 'aria-hidden': 'true' }, mark), el('span', { class: 'sr' }, word), el('code', {}, line || ' '));
}

// Tags

export function editTags(ids, before, known, done) {
  const tags = new Set(before);
  const chips = el('div', { class: 'chips' });
  const input = el('input', { type: 'text', id: 'new-tag', list: 'known-tags', maxlength: '100', autocomplete: 'off', autofocus: true });
  const status = el('div');
  const draw = () => chips.replaceChildren(...[...tags].map((tag) => el('span', { class: 'tag' }, tag,
    button(`Remove the tag ${tag}`, 'cross', () => { tags.delete(tag); draw(); input.focus(); }))));
  const add = () => {
    for (const tag of input.value.split(',')) if (tag.trim()) tags.add(tag.trim());
    input.value = '';
    draw();
  };
  const save = async (event) => {
    event.preventDefault();
    const isAdding = document.activeElement === input && input.value.trim();
    add();
    if (isAdding && event.submitter === null) return;
    try {
      await send('PUT', 'api/v1/tags', { IDs: ids, Tags: [...tags] });
      box.close();
      done([...tags]);
    } catch (error) {
      status.replaceChildren(complaint(error));
    }
  };
  const box = dialog(ids.length > 1 ? `Tags of ${plural(ids.length, 'message')}` : 'Tags',
    el('form', { on: { submit: save } }, chips,
      el('label', { for: 'new-tag' }, 'Add a tag; with commas, several'), input,
      el('datalist', { id: 'known-tags' }, known.map((tag) => el('option', { value: tag }))),
      status, el('footer', {}, el('button', { type: 'submit', class: 'button primary' }, 'Save'))));
  draw();
  input.focus();
}

// Faults

const SAMPLES = [
  ['rcpt *@slow.test: 450 4.2.1 busy x2', 'refuse a recipient twice, then accept'],
  ['mail: 451 4.3.0 try again later 20%', 'refuse one of five senders'],
  ['end-of-data: drop after', 'accept the message and lose the connection'],
  ['connect: delay 5', 'greet after five seconds'],
  ['data: drip', 'answer slowly, byte by byte'],
  ['rcpt: 452 4.5.3 too many over 10/min', 'a limit of ten in a minute'],
];

export class FaultsPanel {
  constructor(go) {
    this.go = go;
    this.box = $('message');
    this.list = el('ul', { class: 'faults' });
    this.status = el('div');
  }

  async show() {
    const input = el('input', { type: 'text', id: 'rule', autocomplete: 'off', spellcheck: 'false', placeholder: SAMPLES[0][0], 'aria-describedby': 'rule-help' });
    const add = async (event) => {
      event.preventDefault();
      await this.change(() => send('POST', 'api/faults', { rule: input.value || input.placeholder }), () => { input.value = ''; });
    };
    this.clear = action('Remove all', () => this.change(() => send('DELETE', 'api/faults')), { class: 'button small' });
    this.box.dataset.key = 'faults';
    this.box.replaceChildren(
      el('header', { class: 'head' },
        el('div', { class: 'tools' }, button('Back to the list', 'back', () => this.go(''), { class: 'icon back' }), el('span', { class: 'gap' }), this.clear),
        el('h2', { id: 'subject' }, 'Faults'),
        el('p', { class: 'quiet' }, 'The server fails on purpose, to show how your program takes it. Each rule strikes from now on.')),
      el('div', { class: 'panel pad', id: 'panel' },
        el('form', { class: 'rule', on: { submit: add } },
          el('label', { for: 'rule' }, 'New rule'), input, el('button', { type: 'submit', class: 'button primary' }, 'Add')),
        this.status,
        this.list,
        el('h3', {}, 'Examples'),
        el('ul', { class: 'examples' }, SAMPLES.map(([rule, text]) => el('li', {},
          el('button', { type: 'button', class: 'term', on: { click: () => { input.value = rule; input.focus(); } } }, rule), el('span', {}, text)))),
        el('p', { id: 'rule-help', class: 'quiet' }, 'A rule is STAGE [PATTERN]: EFFECT [TIMES]. Stages: connect, ehlo, starttls, auth, mail, rcpt, data, end-of-data, quit. Effects: a reply such as 450 4.2.1 busy, say TEXT, delay SECONDS, drip, drop, drop after, truncate, tls-failure. Times: xN, every N, N%, over N/min.')));
    await this.refresh();
  }

  isShown() {
    return this.list.isConnected;
  }

  async refresh() {
    try {
      this.draw((await get('api/faults')).faults);
    } catch (error) {
      this.status.replaceChildren(complaint(error));
    }
  }

  draw(faults) {
    this.clear.hidden = !faults.length;
    this.count = faults.length;
    this.list.replaceChildren(...(faults.length ? faults.map((one) => el('li', {},
      icon('fault'), el('code', {}, one.rule),
      el('span', { class: 'quiet' }, `struck ${commas(one.struck)} of ${plural(one.met, 'time')}`),
      button(`Remove ${one.rule}`, 'cross', () => this.change(() => send('DELETE', `api/faults/${one.id}`)))))
      : [el('li', { class: 'quiet' }, 'No faults: the server works as it should.')]));
  }

  async change(what, after) {
    try {
      await what();
      this.status.replaceChildren();
      after?.();
    } catch (error) {
      this.status.replaceChildren(complaint(error));
    }
    await this.refresh();
    this.go(null, { faults: this.count });
  }
}

// An empty list

function programs(host, port, user) {
  const auth = (text) => (user ? text : '');
  return {
    'aiosmtpd': `aiosmtpd send ${host}:${port}`,
    'Django': `EMAIL_HOST = "${host}"\nEMAIL_PORT = ${port}\n`,
    'Flask': `MAIL_SERVER = "${host}"\nMAIL_PORT = ${port}\n`,
    'Rails': `config.action_mailer.delivery_method = :smtp\nconfig.action_mailer.smtp_settings = { address: "${host}", port: ${port} }\n`,
    'Laravel': `MAIL_MAILER=smtp\nMAIL_HOST=${host}\nMAIL_PORT=${port}\nMAIL_ENCRYPTION=null\n`,
    'Spring': `spring.mail.host=${host}\nspring.mail.port=${port}\n`,
    'Node': `nodemailer.createTransport({ host: "${host}", port: ${port} })\n`,
    '.env': `SMTP_HOST=${host}\nSMTP_PORT=${port}\n${auth('SMTP_USER=\nSMTP_PASSWORD=\n')}`,
    'swaks': `swaks --server ${host}:${port} --to bob@example.org\n`,
  };
}

export async function empty(list) {
  const found = await get('api/settings').catch(() => ({}));
  const parts = [el('h2', {}, 'Waiting for mail'), refusedJustNow(list)];
  if (found.host && found.port) parts.push(...howTo(found));
  const status = el('div');
  parts.push(el('p', {}, action('Send a test message', async () => {
    try {
      await send('POST', 'api/v1/send', testMessage());
      status.replaceChildren();
    } catch (error) {
      status.replaceChildren(complaint(error));
    }
  }, { class: 'button primary' })), status);
  return el('div', { class: 'empty' }, parts.filter(Boolean));
}

function howTo(found) {
  const all = programs(found.host, found.port, found.auth);
  const text = el('pre', { class: 'code-block', tabindex: '0', 'aria-label': 'Settings' });
  const choose = (name) => {
    remember('program', name);
    text.textContent = all[name].trimEnd();
    for (const one of bar.children) one.setAttribute('aria-pressed', one.textContent === name);
  };
  const bar = el('div', { class: 'choice wrap', role: 'group', 'aria-label': 'Settings for' },
    Object.keys(all).map((name) => el('button', { type: 'button', on: { click: () => choose(name) } }, name)));
  choose(all[remembered('program', 'Django')] ? remembered('program', 'Django') : 'Django');
  return [el('p', {}, 'Point your program at ', el('code', { class: 'strong' }, `${found.host}:${found.port}`), ' ', copyButton(`${found.host}:${found.port}`, 'Copy the address')),
    bar, el('div', { class: 'with-copy' }, text, copyButton(() => text.textContent, 'Copy the settings'))];
}

function testMessage() {
  return {
    From: { Email: 'inbox@example.org', Name: 'Your inbox' }, To: [{ Email: 'you@example.org', Name: 'You' }],
    Subject: 'It works', Tags: ['test'],
    Text: 'This message came from the page itself.\n\nYour code is 481205.\nhttps://example.org/welcome/\n',
    HTML: '<!doctype html><html lang="en"><body style="font:16px/1.5 sans-serif;max-width:32em;margin:2em auto;padding:0 1em"><h1 style="font-size:1.4em">It works</h1><p>This message came from the page itself.</p><p>Your code is <b>481205</b>.</p><p><a href="https://example.org/welcome/">A link</a></p></body></html>',
  };
}

function refusedJustNow(list) {
  const last = list.latest;
  if (!last || Date.now() - new Date(last.at).getTime() > 60_000) return null;
  return el('p', { class: 'warn' }, icon('warning'), `A program tried to send at ${shortTime(last.at)} and was refused: ${last.reply}`);
}

// Tell which term of a search leaves nothing.
export async function whyEmpty(query, search, list) {
  const all = terms(query);
  const count = async (some) => (await get(`api/v1/search?${new URLSearchParams({ query: some, limit: 0, tz: Intl.DateTimeFormat().resolvedOptions().timeZone })}`)).messages_count;
  const rows = [];
  if (all.length > 1) {
    const counts = await Promise.all(all.map(count));
    all.forEach((term, at) => rows.push(el('li', {}, el('code', {}, term), el('span', {}, counts[at] ? ` alone finds ${plural(counts[at], 'message')}` : ' finds nothing'),
      action('Search without it', () => search(all.filter((_, other) => other !== at).join(' ')), { class: 'button small', 'aria-label': `Search without ${term}` }))));
  }
  return el('div', { class: 'empty' }, el('h2', {}, 'Nothing matches'), refusedJustNow(list), el('p', {}, el('code', {}, query)),
    rows.length ? el('ul', { class: 'why' }, rows) : null,
    el('p', {}, action('Show all messages', () => search(''))));
}

export function nothingRefused() {
  return el('div', { class: 'empty' }, el('h2', {}, 'Nothing was refused'), el('p', {}, 'Commands that got a 4xx or 5xx reply, and failed TLS handshakes, are listed here.'));
}
