// The eight views of a message.

import { action, bytes, copyButton, el, icon, place, plural, remember, remembered, request } from './kit.js';

// Characters of a source that are shown at first.
const CUT = 2_000_000;
const WIDTHS = [['fit', 'Fit'], ['768', '768'], ['360', '360']];
// Milliseconds after which a frame is shown although its images have not all come.
const FRAME = 700;

export const TABS = [
  { id: 'html', title: 'HTML', missing: (mail) => !mail.HTML, render: htmlOf },
  { id: 'text', title: 'Text', render: textOf },
  { id: 'source', title: 'Source', render: sourceOf },
  { id: 'headers', title: 'Headers', render: headersOf },
  { id: 'parts', title: 'Parts', about: 'parts', badge: (root, mail) => partsCount(inside(root, mail.Part)), render: partsOf },
  { id: 'links', title: 'Links', about: 'links', missing: isInner, badge: (found) => found.links.length, isBad: (found) => found.links.some((link) => link.wrong), render: linksOf },
  { id: 'checks', title: 'Checks', about: 'checks', missing: isInner, badge: (found) => found.filter(isProblem).length, isBad: (found) => found.some(isProblem), render: checksOf },
  { id: 'smtp', title: 'SMTP', about: 'smtp', missing: isInner, render: async (view) => smtpOf(await view.about('smtp'), { id: view.mail.ID, go: view.go, isOwn: true }) },
];

// A message inside of another one has no session, and its links are those of the other one.
function isInner(mail) {
  return Boolean(mail.Part);
}

const isProblem = (one) => one.level !== 'info';

// HTML: the message itself, in a frame that may do nothing but open links in new windows.

function htmlOf(view, panel, isCurrent) {
  let canvas = panel.querySelector('.canvas');
  if (!canvas) {
    canvas = el('div', { class: 'canvas' });
    const skip = el('button', { type: 'button', class: 'button small skip-mail', on: { click: () => after.focus() } }, 'Skip the message');
    const after = el('div', { class: 'sr', tabindex: '-1' }, 'End of the message');
    panel.replaceChildren(frameTools(canvas, skip), el('div', { class: 'stage' }, canvas), after);
  }
  panel.querySelector('.images')?.replaceChildren(...images(view, canvas));
  load(canvas, view.page('html', { frame: 1 }), isCurrent);
}

function load(canvas, address, isCurrent) {
  for (const other of canvas.querySelectorAll('iframe:not(.shown)')) other.remove();
  const frame = el('iframe', { sandbox: 'allow-popups allow-popups-to-escape-sandbox', title: 'The HTML of the message', src: place(address), referrerpolicy: 'no-referrer' });
  const show = () => {
    // Once: a later frame may be on its way when the time is over.
    if (frame.classList.contains('shown') || !frame.isConnected || !isCurrent()) return;
    for (const other of canvas.querySelectorAll('iframe')) if (other !== frame) other.remove();
    frame.classList.add('shown');
  };
  frame.addEventListener('load', show);
  setTimeout(show, FRAME);
  canvas.append(frame);
}

function frameTools(canvas, skip) {
  const apply = () => {
    canvas.dataset.width = remembered('width', 'fit');
    canvas.dataset.canvas = remembered('canvas', 'light');
  };
  const choice = (label, name, values, title) => el('div', { class: 'choice', role: 'group', 'aria-label': label, title },
    values.map(([value, text]) => {
      const made = el('button', { type: 'button', 'aria-pressed': String(remembered(name, values[0][0]) === value) }, text);
      made.addEventListener('click', () => {
        remember(name, value);
        for (const other of made.parentNode.children) other.setAttribute('aria-pressed', other === made);
        apply();
      });
      return made;
    }));
  apply();
  return el('div', { class: 'frame-tools' },
    choice('Width in pixels', 'width', WIDTHS),
    choice('Canvas', 'canvas', [['light', 'Light'], ['dark', 'Dark']], 'The colour under the message: it shows what has no colour of its own. Colours that the message has for dark screens follow those of your system; a page cannot choose them.'),
    el('p', { class: 'images' }), skip);
}

// Images of other hosts are not loaded, unless the reader asks for those of this message.
function images(view, canvas) {
  const { Count, Hosts } = view.mail.RemoteImages;
  if (!Count || view.list.settings?.remote_images) return [];
  return [`${plural(Count, 'remote image')} of ${plural(Hosts, 'host')} blocked`,
    action('Load once', () => load(canvas, view.page('html', { frame: 1, remote: 1 }), () => true), { class: 'button small' })];
}

// Text

const LINK = /\b(?:https?:\/\/|mailto:)[^\s<>"]*[^\s<>".,;:!?)\]}']/gi;
const CODE = /(?<![\w/.=-])\d{4,8}(?![\w/.-]*\w)/g;

// Characters in which codes are looked for, and lines of a block, which is drawn when it is seen.
const CODES_IN = 100_000;
const BLOCK = 100;

async function textOf(view, panel, isCurrent, limit = CUT) {
  const { text, whole } = await start(view, view.page('txt'), limit);
  if (!text.trim()) return el('p', { class: 'pad quiet' }, 'This message has no text.');
  const codes = [...new Set(text.slice(0, CODES_IN).replace(LINK, ' ').match(CODE) || [])].filter((code) => !/^(19|20)\d\d$/.test(code)).slice(0, 5);
  const body = el('div', { class: 'text' });
  const lines = text.split(/\r?\n/);
  for (let at = 0; at < lines.length; at += BLOCK) body.append(blockOf(lines.slice(at, at + BLOCK)));
  const all = async () => { const made = await textOf(view, panel, isCurrent, Infinity); if (isCurrent()) panel.replaceChildren(...made); };
  return [
    codes.length ? el('p', { class: 'codes' }, codes.map((code) => el('span', { class: 'code' }, el('code', {}, code), copyButton(code, `Copy ${code}`)))) : null,
    whole ? null : el('p', { class: 'note' }, `The first ${bytes(limit)} are shown. `, action('Show all', all, { class: 'button small' }), ' ',
      el('a', { href: view.page('txt'), target: '_blank', rel: 'noopener' }, 'Open in a new tab')),
    body,
  ].filter(Boolean);
}

// Lines as one element: what is not a link and not quoted is one text.
function blockOf(lines) {
  const block = el('div', { dir: 'auto' });
  let plain = '';
  const flush = () => { if (plain) block.append(...linked(plain)); plain = ''; };
  for (const line of lines) {
    if (/^\s*>/.test(line)) {
      flush();
      block.append(el('span', { class: 'quoted' }, linked(line)), '\n');
    } else {
      plain += `${line}\n`;
    }
  }
  flush();
  return block;
}

function linked(line) {
  const found = [];
  let end = 0;
  for (const match of line.matchAll(LINK)) {
    found.push(line.slice(end, match.index), outside(match[0], match[0]));
    end = match.index + match[0].length;
  }
  found.push(line.slice(end));
  return found;
}

// A link to another place: only addresses that a reader can follow become links.
function outside(url, text) {
  if (!/^(?:https?|mailto):/i.test(url)) return el('span', { class: 'address' }, text);
  return el('a', { class: 'address', href: url, target: '_blank', rel: 'noopener noreferrer' }, text);
}

// Source

async function start(view, path, limit) {
  const leave = new AbortController();
  const answer = await request(path, { signal: leave.signal });
  const reader = answer.body.getReader();
  const decoder = new TextDecoder();
  let text = '';
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return { text: text + decoder.decode(), whole: true };
    text += decoder.decode(value, { stream: true });
    if (text.length > limit) {
      leave.abort();
      return { text: text.slice(0, text.lastIndexOf('\n', limit) + 1 || limit), whole: false };
    }
  }
}

async function sourceOf(view, panel, isCurrent, limit = CUT) {
  const { text, whole } = await start(view, view.source(), limit);
  const added = view.mail.Part ? 0 : await addedLines(view, text).catch(() => 0);
  const box = el('div', { class: 'source', translate: 'no' });
  const lines = text.replace(/\r\n/g, '\n').split('\n');
  if (lines.at(-1) === '') lines.pop();
  if (added) box.append(el('pre', { class: 'added', title: 'Not part of the mail data: the inbox added these lines' }, lines.slice(0, added).join('\n')));
  for (let at = added; at < lines.length; at += 400) box.append(el('pre', {}, lines.slice(at, at + 400).join('\n')));
  const note = whole ? null : el('p', { class: 'note' }, `The first ${bytes(limit)} of ${bytes(view.mail.Size)} are shown. `,
    action('Show all', async () => { const all = await sourceOf(view, panel, isCurrent, Infinity); if (isCurrent()) panel.replaceChildren(...all); }, { class: 'button small' }), ' ',
    el('a', { href: `${view.source()}?dl=1`, download: `${view.mail.ID}.eml` }, 'Download'));
  const legend = added ? el('span', { class: 'legend' }, `${plural(added, 'line')} added by the inbox`) : null;
  return [finder(box, [legend, copyButton(() => text, 'Copy the source')]), note, box].filter(Boolean);
}

// The mail data as it came is the end of the source; the fields before it are ours.
async function addedLines(view, text) {
  const { text: pristine } = await start(view, `api/message/${view.mail.ID}/copy?as=eml`, 2000);
  const begin = pristine.slice(0, Math.min(pristine.length, 1000));
  const at = begin ? text.indexOf(begin) : -1;
  return at > 0 ? text.slice(0, at).split('\n').length - 1 : 0;
}

// A search inside of a text: n and N go to the next and the one before.
function finder(box, more) {
  let ranges = [];
  let at = -1;
  const result = el('span', { class: 'found', role: 'status' });
  const input = el('input', { type: 'search', 'aria-label': 'Find in the source', placeholder: 'Find in the source', spellcheck: 'false' });
  const paint = () => {
    if (!('highlights' in CSS)) return;
    CSS.highlights.delete('found');
    CSS.highlights.delete('here');
    if (ranges.length) {
      CSS.highlights.set('found', new Highlight(...ranges.slice(0, 2000)));
      if (at >= 0) CSS.highlights.set('here', new Highlight(ranges[at]));
    }
  };
  const go = (by) => {
    if (!ranges.length) return;
    at = (at + by + ranges.length) % ranges.length;
    paint();
    result.textContent = `${at + 1} of ${ranges.length}`;
    const block = ranges[at].startContainer.parentElement;
    const top = ranges[at].getBoundingClientRect().top;
    if (top) block.closest('.panel').scrollBy(0, top - block.closest('.panel').getBoundingClientRect().top - 120);
  };
  const find = () => {
    const wanted = input.value.toLowerCase();
    ranges = [];
    at = -1;
    if (wanted) {
      for (const block of box.querySelectorAll('pre')) {
        const text = block.firstChild?.data.toLowerCase() || '';
        for (let place = text.indexOf(wanted); place >= 0 && ranges.length < 10000; place = text.indexOf(wanted, place + wanted.length)) {
          const range = new Range();
          range.setStart(block.firstChild, place);
          range.setEnd(block.firstChild, place + wanted.length);
          ranges.push(range);
        }
      }
    }
    result.textContent = wanted && !ranges.length ? 'not found' : '';
    paint();
    go(1);
  };
  input.addEventListener('input', find);
  input.addEventListener('keydown', (event) => {
    if (event.key === 'Enter') { event.preventDefault(); go(event.shiftKey ? -1 : 1); }
  });
  const bar = el('div', { class: 'finder' }, input, result,
    action('Previous', () => go(-1), { class: 'button small' }), action('Next', () => go(1), { class: 'button small' }), el('span', { class: 'gap' }), more);
  bar.next = go;
  box.find = go;
  return bar;
}

// Headers

const WORD = /=\?([^?*]+)(?:\*[^?]*)?\?([bq])\?([^?]*)\?=/gi;

export function decoded(value) {
  return value.replace(/(\?=)\s+(?==\?)/g, '$1').replace(WORD, (all, charset, encoding, text) => {
    try {
      const octets = encoding.toLowerCase() === 'b'
        ? Uint8Array.from(atob(text), (one) => one.charCodeAt(0))
        : Uint8Array.from(text.replace(/_/g, ' ').replace(/=([0-9a-f]{2})/gi, (_, hex) => String.fromCharCode(parseInt(hex, 16))), (one) => one.charCodeAt(0));
      return new TextDecoder(charset).decode(octets);
    } catch {
      return all;
    }
  });
}

function fieldsOf(source) {
  const fields = [];
  for (const line of source.split(/\r?\n/)) {
    if (line === '') break;
    if (/^[ \t]/.test(line) && fields.length) fields.at(-1)[1] += `\n${line}`;
    else {
      const colon = line.indexOf(':');
      fields.push(colon > 0 ? [line.slice(0, colon), line.slice(colon + 1).trimStart()] : ['', line]);
    }
  }
  return fields;
}

async function headersOf(view) {
  const { text } = await start(view, view.source(), 1 << 20);
  const fields = fieldsOf(text);
  const body = el('tbody');
  const fill = (isRaw) => body.replaceChildren(...fields.map(([name, value]) => el('tr', {},
    el('th', { scope: 'row' }, name || '(no name)'),
    el('td', { class: isRaw ? 'raw' : null }, isRaw ? value : decoded(value.replace(/\n[ \t]+/g, ' '))))));
  const set = (isRaw) => { remember('raw-headers', isRaw); fill(isRaw); };
  fill(remembered('raw-headers', false));
  const toggle = el('label', { class: 'check' }, el('input', { type: 'checkbox', checked: remembered('raw-headers', false), on: { change: (event) => set(event.target.checked) } }), ' As sent, without decoding');
  const head = text.slice(0, Math.max(0, text.search(/\r?\n\r?\n/)) || text.length);
  return [el('div', { class: 'finder' }, toggle, el('span', { class: 'gap' }), copyButton(head, 'Copy the headers')),
    hops(fields),
    el('table', { class: 'fields' }, el('caption', { class: 'sr' }, 'Header fields in their order'), body)].filter(Boolean);
}

// The way of the message, oldest hop first, with the seconds between.
function hops(fields) {
  const found = fields.filter(([name]) => name.toLowerCase() === 'received').map(([, value]) => value.replace(/\s+/g, ' ')).reverse();
  if (found.length < 2) return null;
  let before = NaN;
  return el('ol', { class: 'hops', 'aria-label': 'The way of the message' }, found.map((value) => {
    const at = new Date(value.slice(value.lastIndexOf(';') + 1).replace(/\(.*\)/, '')).getTime();
    const passed = Number.isNaN(at) || Number.isNaN(before) ? '' : `+${(at - before) / 1000} s`;
    before = at;
    const from = /\bfrom (\S+)/i.exec(value)?.[1] || '';
    const by = /\bby (\S+)/i.exec(value)?.[1] || '';
    return el('li', { title: value }, el('b', {}, from || by), from && by ? ` → ${by}` : '', passed ? el('span', { class: 'passed' }, ` ${passed}`) : null);
  }));
}

// Parts

const partsCount = (root) => (root.parts.length ? countOf(root) : 0);

// The root of the tree, or that of the message which is a part.
function inside(root, number) {
  if (!number) return root;
  const left = [root];
  for (let part = left.pop(); part; part = left.pop()) {
    if (part.number === number) return part.parts[0] || part;
    left.push(...part.parts);
  }
  return root;
}

const countOf = (part) => part.parts.reduce((count, one) => count + countOf(one), part.parts.length ? 0 : 1);

async function partsOf(view) {
  const root = inside(await view.about('parts'), view.mail.Part);
  const listed = new Set([...view.mail.Attachments, ...view.mail.Inline].map((part) => part.PartID));
  return el('ul', { class: 'tree' }, partOf(view, root, listed));
}

function partOf(view, part, listed) {
  const address = `api/v1/message/${view.mail.ID}/part/${part.number}`;
  const facts = [part.charset, part.encoding, part.disposition, part.parts.length ? '' : bytes(part.size), part.content_id && `cid:${part.content_id}`].filter(Boolean).join(' · ');
  const isText = ['text/plain', 'text/html'].includes(part.type) && !listed.has(part.number);
  const isMessage = part.type.startsWith('message/') && part.parts.length > 0;
  const canFetch = !isText && (isMessage || !part.parts.length);
  const isReadable = canFetch && !isMessage && /^(?:text\/|message\/|application\/(?:json|.*\+json|ics))/.test(part.type);
  const shown = el('div', { class: 'content', hidden: true });
  const sums = part.checksums && el('details', {}, el('summary', {}, 'Checksums'), el('dl', {}, Object.entries(part.checksums).map(([name, sum]) => el('div', {}, el('dt', {}, name.toUpperCase()), el('dd', {}, el('code', {}, sum))))));
  return el('li', {},
    el('div', { class: 'part' },
      el('span', { class: 'number' }, part.number),
      el('b', {}, part.type), part.name ? el('span', { class: 'name' }, part.name) : null,
      el('span', { class: 'quiet' }, facts),
      el('span', { class: 'doing' },
        isText ? action(part.type === 'text/html' ? 'See HTML' : 'See Text', () => view.choose(part.type === 'text/html' && view.mail.HTML ? 'html' : 'text'), { class: 'button small' }) : null,
        isMessage ? action('Open', () => view.go(`${view.mail.ID}/${part.number}`), { class: 'button small', 'aria-label': `Open the message of part ${part.number}` }) : null,
        isReadable ? action('Show', (event) => read(event.target, address, part.type, shown), { class: 'button small', 'aria-expanded': 'false' }) : null,
        canFetch ? el('a', { class: 'button small', href: address, download: part.name || `part-${part.number}` }, 'Download') : null)),
    part.notice ? el('p', { class: 'warn' }, icon('warning'), part.notice) : null,
    shown, sums,
    part.parts.length ? el('ul', {}, part.parts.map((one) => partOf(view, one, listed))) : null);
}

async function read(control, address, type, shown) {
  const isOpen = !shown.hidden;
  control.setAttribute('aria-expanded', !isOpen);
  control.textContent = isOpen ? 'Show' : 'Hide';
  shown.hidden = isOpen;
  if (isOpen || shown.firstChild) return;
  try {
    const text = (await (await request(address)).text()).slice(0, CUT);
    shown.replaceChildren(...[type === 'text/calendar' ? calendar(text) : type === 'message/delivery-status' ? delivery(text) : null, el('pre', {}, text)].filter(Boolean));
  } catch (error) {
    shown.replaceChildren(el('p', {}, error.message));
  }
}

function calendar(text) {
  const names = { SUMMARY: 'What', DTSTART: 'Begins', DTEND: 'Ends', LOCATION: 'Place', ORGANIZER: 'From', ATTENDEE: 'To', RRULE: 'Repeats' };
  const rows = [];
  let inside = false;
  for (const line of text.replace(/\r?\n[ \t]/g, '').split(/\r?\n/)) {
    if (line === 'BEGIN:VEVENT') inside = true;
    const found = /^([A-Z]+)((?:;[^:]*)?):(.*)$/.exec(line);
    if (!inside || !found || !names[found[1]]) continue;
    const zone = /TZID=([^;:]+)/.exec(found[2])?.[1];
    const value = found[3].replace(/\\([,;\\])/g, '$1').replace(/\\n/gi, ' ').replace(/^mailto:/i, '')
      .replace(/^(\d{4})(\d\d)(\d\d)(?:T(\d\d)(\d\d)(\d\d)(Z?))?$/, (_, y, m, d, h, min, s, utc) => `${y}-${m}-${d}${h ? ` ${h}:${min}${utc ? ' UTC' : ''}` : ''}`);
    rows.push(el('div', {}, el('dt', {}, names[found[1]]), el('dd', {}, value, zone ? ` (${zone})` : '')));
  }
  return rows.length ? el('dl', { class: 'names' }, rows) : null;
}

// The fields of a report of delivery: of the message, then of each recipient.
function delivery(text) {
  const groups = text.trim().split(/\r?\n\s*\r?\n/).slice(0, 50).map((group) => fieldsOf(group));
  return el('div', { class: 'report' }, groups.map((fields) => el('dl', { class: 'names' },
    fields.map(([name, value]) => el('div', {}, el('dt', {}, name), el('dd', {}, value.replace(/^(?:rfc822|smtp|dns|utf-8);\s*/i, '')))))));
}

// Links

async function linksOf(view) {
  const { links } = await view.about('links');
  if (!links.length) return el('p', { class: 'pad quiet' }, 'This message has no links.');
  const hosts = new Map();
  for (const link of links) hosts.set(link.host, [...(hosts.get(link.host) || []), link]);
  return el('div', { class: 'links' }, [...hosts].map(([host, found]) => el('section', {},
    el('h3', {}, host || 'without a host', el('span', { class: 'quiet' }, ` ${found.length}`)),
    el('ul', {}, found.map((link) => el('li', {},
      el('span', { class: 'place' }, link.place),
      el('div', {}, link.text ? el('div', { class: 'words' }, link.text) : null,
        link.url ? outside(link.url, link.url) : el('i', {}, '(empty)'),
        link.warnings.map((text) => el('p', { class: 'warn' }, icon('warning'), text))),
      copyButton(link.url, `Copy ${link.url}`)))))));
}

// Checks

const LEVELS = { error: 'Error', warn: 'Warning', info: 'Hint' };

async function checksOf(view) {
  const found = await view.about('checks');
  const problems = found.filter(isProblem).length;
  return el('div', { class: 'checks' },
    el('p', { class: 'quiet' }, problems ? `${plural(problems, 'problem')}. All checks were made here, without the network.` : 'No problem found. All checks were made here, without the network.'),
    el('ul', {}, found.map((one) => el('li', { class: one.level },
      icon(one.level === 'warn' ? 'warning' : one.level),
      el('div', {}, el('b', {}, el('span', { class: 'sr' }, `${LEVELS[one.level] || one.level}: `), one.title), one.detail ? el('p', {}, one.detail) : null),
      one.where ? el('span', { class: 'place' }, one.where) : null))));
}

// SMTP: the dialogue of a session.

export function smtpOf(session, { id, line, go, isOwn }) {
  const [from, last] = session.transaction || [0, 0];
  // The reply to the mail data came after the message was stored.
  const to = id && session.lines[last]?.text.endsWith(id) ? last + 1 : last;
  const others = session.messages.filter((one) => one !== id);
  const tls = session.tls ? `${session.tls.version} ${session.tls.cipher}` : 'no TLS';
  const here = line === undefined ? -1 : refusing(session.lines, line);
  const mechanism = /^AUTH (\S+)/i.exec(session.lines.findLast((one) => one.who === 'C' && /^AUTH /i.test(one.text))?.text)?.[1];
  const words = { C: 'client', S: 'server', '-': 'note' };
  const isAhead = (one) => one?.who === '-' && one.text === 'pipelined';
  return el('div', { class: 'smtp' },
    el('p', { class: 'quiet' }, [session.client && `Client ${session.client}`, session.client && tls, session.user && `logged in as ${session.user}${mechanism ? ` by ${mechanism.toUpperCase()}` : ''}`].filter(Boolean).join(' · ') || 'This message came by the API.'),
    session.lines.length ? el('ol', {}, session.lines.map((one, at) => (isAhead(one) ? null : el('li', {
      class: [one.who === 'C' ? 'client' : one.who === 'S' ? 'server' : 'aside', at >= from && at < to ? 'own' : '', at === here ? 'here' : '', one.who === '-' && one.text.startsWith('fault:') ? 'fault' : '', one.who === 'S' && /^[45]/.test(one.text) ? 'bad' : ''].filter(Boolean).join(' '),
      'aria-current': at === here ? 'true' : null,
    },
    el('span', { class: 'at' }, `${one.at.toFixed(3)}`),
    el('span', { class: 'side' }, one.who === '-' ? '·' : one.who, el('span', { class: 'sr' }, ` ${words[one.who]}: `)),
    el('span', { class: 'said' }, one.text),
    isAhead(session.lines[at + 1]) ? el('span', { class: 'tag', title: 'The client sent it before it got the reply to the last command' }, 'pipelined') : null)))) : el('p', { class: 'quiet' }, isOwn ? 'It has no SMTP dialogue.' : 'The session has no lines.'),
    others.length ? el('p', {}, 'The same session brought ', others.map((one, at) => [at ? ', ' : '', el('a', { href: `view/${one}`, on: { click: (event) => { event.preventDefault(); go(one); } } }, `message ${session.messages.indexOf(one) + 1}`)]), '.') : null);
}

// The index of the reply at which an attempt points: it is noted before or with its line.
function refusing(lines, line) {
  for (const at of [line, line - 1, line + 1]) if (lines[at]?.who === 'S' && /^[45]/.test(lines[at].text)) return at;
  return Math.min(line, lines.length - 1);
}

