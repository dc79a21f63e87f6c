// Elements, icons, times and requests: small things that all modules use.

const SVG = 'http://www.w3.org/2000/svg';
// Characters that turn the direction of text: names of senders and files must not use them.
const TURNS = /[\u202a-\u202e\u2066-\u2069]/g;

const ICONS = {
  mail: 'M3 6h18v12H3z M3.5 6.5 12 13l8.5-6.5',
  menu: 'M4 7h16M4 12h16M4 17h16',
  help: 'M9 9a3 3 0 1 1 4.5 2.6c-1 .6-1.5 1.2-1.5 2.4M12 17.5v.01',
  follow: 'M4 12h11M11 7.5l4.5 4.5-4.5 4.5M20 5v14',
  theme: 'M12 4a8 8 0 1 0 0 16zM12 4a8 8 0 0 1 0 16',
  gear: 'M5 7h8M17 7h2M5 17h2M11 17h8M15 5v4M9 15v4M5 12h14',
  trash: 'M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13M10.5 11v5M13.5 11v5',
  copy: 'M9 9h11v11H9zM5 15H4V4h11v1',
  download: 'M12 4v11M7.5 11l4.5 4.5 4.5-4.5M5 20h14',
  previous: 'M15 6l-6 6 6 6',
  next: 'M9 6l6 6-6 6',
  back: 'M19 12H5M11 6l-6 6 6 6',
  clip: 'M19 11l-7.5 7.5a4 4 0 0 1-6-6L13 5a2.7 2.7 0 0 1 4 4l-7.3 7.3a1.3 1.3 0 0 1-2-2L14 8',
  cross: 'M6 6l12 12M18 6L6 18',
  tag: 'M4 4h8l8 8-8 8-8-8zM8 8v.01',
  unread: 'M21 11v7H3V6h11M3.5 6.5 12 13l3-2.3M19 3.5a2.5 2.5 0 1 0 0 5 2.5 2.5 0 0 0 0-5z',
  unchecked: 'M5 5h14v14H5z',
  checked: 'M5 5h14v14H5zM8 12l3 3 5-6',
  fault: 'M13 3L5 14h6l-1 7 8-11h-6z',
  file: 'M6 3h8l4 4v14H6zM14 3v4h4',
  open: 'M14 4h6v6M20 4l-9 9M18 14v6H4V6h6',
  warning: 'M12 4l9 16H3zM12 10v4M12 17v.01',
  error: 'M8 3h8l5 5v8l-5 5H8l-5-5V8zM12 8v5M12 16v.01',
  info: 'M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18zM12 11v5M12 8v.01',
  compare: 'M7 4v16M17 4v16M3 8l4-4 4 4M13 16l4 4 4-4',
  send: 'M4 12l16-8-5 16-4-6zM11 14l9-10',
  up: 'M12 19V5M6 11l6-6 6 6',
};

export function icon(name) {
  const svg = document.createElementNS(SVG, 'svg');
  svg.setAttribute('viewBox', '0 0 24 24');
  svg.setAttribute('aria-hidden', 'true');
  svg.setAttribute('class', 'i');
  const path = document.createElementNS(SVG, 'path');
  path.setAttribute('d', ICONS[name]);
  svg.append(path);
  return svg;
}

export const $ = (id) => document.getElementById(id);

// Make an element. Strings become text: nothing of a message is ever read as HTML.
export function el(tag, props = {}, ...children) {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (key === 'on') for (const [type, what] of Object.entries(value)) made.addEventListener(type, what);
    else if (key === 'icon') made.prepend(icon(value));
    else made.setAttribute(key, value === true ? '' : safe(String(value)));
  }
  for (const child of children.flat(3)) {
    if (child !== null && child !== undefined && child !== false) {
      made.append(child instanceof Node ? child : safe(String(child)));
    }
  }
  return made;
}

export const safe = (text) => text.replace(TURNS, '');

export function button(label, name, action, more = {}) {
  return el('button', { type: 'button', class: 'icon', 'aria-label': label, title: label, icon: name, on: { click: action }, ...more });
}

export function action(label, what, more = {}) {
  return el('button', { type: 'button', class: 'button', on: { click: what }, ...more }, label);
}

// Numbers and times.

export function bytes(count) {
  if (count < 1000) return `${count} B`;
  for (const unit of ['kB', 'MB', 'GB']) {
    count /= 1000;
    if (count < 999.5) return `${count < 9.95 ? count.toFixed(1) : Math.round(count)} ${unit}`;
  }
  return `${Math.round(count)} GB`;
}

// With commas; toLocaleString() would make a formatter for each number.
export const commas = new Intl.NumberFormat('en').format;
export const plural = (count, one, many = `${one}s`) => `${commas(count)} ${count === 1 ? one : many}`;

const pad = (number, length = 2) => String(number).padStart(length, '0');
const MONTHS = 'Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec'.split(' ');
const DAYS = 'Sun Mon Tue Wed Thu Fri Sat'.split(' ');

export const clock = (time) => `${pad(time.getHours())}:${pad(time.getMinutes())}:${pad(time.getSeconds())}`;

export function shortTime(text) {
  const time = new Date(text);
  if (Number.isNaN(time.getTime())) return '';
  const now = new Date();
  if (time.toDateString() === now.toDateString()) return clock(time);
  const day = `${time.getDate()} ${MONTHS[time.getMonth()]}`;
  if (time.getFullYear() !== now.getFullYear()) return `${day} ${time.getFullYear()}`;
  return `${day} ${pad(time.getHours())}:${pad(time.getMinutes())}`;
}

function zone(time) {
  const offset = -time.getTimezoneOffset();
  return `${offset < 0 ? '-' : '+'}${pad(Math.floor(Math.abs(offset) / 60))}${pad(Math.abs(offset) % 60)}`;
}

export function longTime(text) {
  const time = new Date(text);
  if (Number.isNaN(time.getTime())) return '';
  const day = `${DAYS[time.getDay()]} ${time.getDate()} ${MONTHS[time.getMonth()]} ${time.getFullYear()}`;
  return `${day} ${clock(time)}.${pad(time.getMilliseconds(), 3)} ${zone(time)}`;
}

export function age(text) {
  const seconds = Math.max(0, (Date.now() - new Date(text).getTime()) / 1000);
  for (const [size, name] of [[86400, 'day'], [3600, 'hour'], [60, 'minute']]) {
    if (seconds >= size) return `${plural(Math.floor(seconds / size), name)} ago`;
  }
  return `${plural(Math.floor(seconds), 'second')} ago`;
}

export const person = (one) => (one && (one.Name || one.Address)) || '';
export const fullPerson = (one) => (one.Name && one.Address ? `${one.Name} <${one.Address}>` : one.Name || one.Address);

// Requests. All addresses are relative to the base of the page.

export const place = (path) => new URL(path, document.baseURI).href;

export class Problem extends Error {
  constructor(status, message, hint = '') {
    super(message);
    this.status = status;
    this.hint = hint;
  }
}

export async function request(path, options = {}) {
  let answer;
  try {
    answer = await fetch(place(path), options);
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Problem(0, 'The server does not answer');
  }
  if (!answer.ok) throw await problemOf(answer);
  return answer;
}

async function problemOf(answer) {
  const text = (await answer.text()).trim();
  try {
    const found = JSON.parse(text);
    return new Problem(answer.status, found.error || found.Error, found.hint);
  } catch {
    return new Problem(answer.status, text.slice(0, 300) || answer.statusText);
  }
}

export const get = async (path, options) => (await request(path, options)).json();

export function send(method, path, body, options = {}) {
  const headers = { 'Content-Type': 'application/json' };
  return request(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body), ...options });
}

// An error, at the place that it concerns, with what to do.
export function complaint(error, again) {
  const hint = error.hint || (error.status === 0 ? 'Is it still running?' : '');
  return el('div', { class: 'complaint', role: 'alert' }, icon('error'),
    el('p', {}, error.message, hint ? ` · ${hint}` : ''),
    again ? action('Try again', again) : null);
}

// Settings that this browser remembers; without storage they last as long as the page.

const memory = {};

export function remembered(name, otherwise) {
  try {
    return JSON.parse(localStorage.getItem(`inbox.${name}`)) ?? memory[name] ?? otherwise;
  } catch {
    return memory[name] ?? otherwise;
  }
}

export function remember(name, value) {
  memory[name] = value;
  try {
    localStorage.setItem(`inbox.${name}`, JSON.stringify(value));
  } catch {
    // Private windows may have no storage.
  }
}

// A polite word for screen readers.
export function say(text) {
  $('said').textContent = '';
  requestAnimationFrame(() => { $('said').textContent = text; });
}

export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Pages without TLS on other hosts have no clipboard: let the browser copy a selection.
    const area = el('textarea', { class: 'sr', 'aria-hidden': 'true', tabindex: '-1' });
    area.value = text;
    (document.querySelector('dialog[open]') || document.body).append(area);
    area.select();
    const done = document.execCommand('copy');
    area.remove();
    return done;
  }
}

export function copyButton(text, label = 'Copy') {
  const made = el('button', { type: 'button', class: 'button small', 'aria-label': label === 'Copy' ? null : label }, 'Copy');
  made.addEventListener('click', async () => {
    made.textContent = (await copy(typeof text === 'function' ? text() : text)) ? 'Copied' : 'Press Ctrl+C';
    say(made.textContent);
    setTimeout(() => { made.textContent = 'Copy'; }, 2000);
  });
  return made;
}

// A dialog that closes by Esc, by its button and by a click beside it, and gives the focus back.
export function dialog(title, ...content) {
  document.querySelector('dialog[open]')?.close();
  const before = document.activeElement;
  const box = el('dialog', { 'aria-labelledby': 'dialog-title' },
    el('div', { class: 'dialog' },
      el('header', {}, el('h2', { id: 'dialog-title' }, title), button('Close', 'cross', () => box.close())),
      ...content));
  box.addEventListener('close', () => { box.remove(); before?.focus?.(); });
  box.addEventListener('click', (event) => { if (event.target === box) box.close(); });
  document.body.append(box);
  box.showModal();
  return box;
}

export function later(what, milliseconds) {
  let timer = 0;
  return (...values) => {
    if (timer) return;
    timer = setTimeout(() => { timer = 0; what(...values); }, milliseconds);
  };
}

// Call *what* soon, but not again before so many milliseconds have passed. On a busy machine it
// takes longer, and waits longer: the page is there for its reader first.
export function paced(what, milliseconds) {
  let timer = 0;
  let next = 0;
  return () => {
    if (timer) return;
    timer = setTimeout(() => {
      timer = 0;
      const began = performance.now();
      what();
      const end = performance.now();
      const least = typeof milliseconds === 'function' ? milliseconds() : milliseconds;
      next = end + Math.max(least, Math.min(1000, 10 * (end - began)));
    }, Math.max(0, next - performance.now()));
  };
}

// Call *what* when there was no call for so many milliseconds.
export function quiet(what, milliseconds) {
  let timer = 0;
  return (...values) => { clearTimeout(timer); timer = setTimeout(() => what(...values), milliseconds); };
}
