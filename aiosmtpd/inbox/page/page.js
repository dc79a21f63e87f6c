// The page: its address, its keys, and what is where.

import { $, button, clock, commas, el, get, icon, paced, person, place, plural, Problem, quiet, remember, remembered, say } from './kit.js';
import { address as shortened, asksRejected, goneText, List } from './list.js';
import { Live } from './live.js';

const THEMES = { auto: 'as the system', light: 'light', dark: 'dark' };
const MOST_NAMES = 8;
const MOST_TAGS = 50;
// Milliseconds after which the list is fetched without events.
const LATEST = 150;
// Modules that the first view does not need. They are fetched when there is time, because a page
// that has lost its server must still be able to show what it has.
const lazy = { message: () => import('./message.js').catch(missing), panels: () => import('./panels.js').catch(missing) };


// The key is the id of a message, an id with the number of a message inside ("ID/2"), or "try-7".
// The number of faults is null until it is known, and undefined if the server cannot fail. The rail
// has its mailboxes when they are counted, all at once.
const page = { query: '', key: '', panel: '', mailboxes: null, faults: null, follow: remembered('follow', false), settings: {}, split };
let message = null;
let faults = null;
let drawn = '';

function missing() {
  list.failed(new Problem(0, 'A file of this page cannot be loaded'));
  return new Promise(() => {});
}

// Icons of the buttons that are in the page from the beginning.
for (const made of document.querySelectorAll('[data-icon]')) made.prepend(icon(made.dataset.icon));

const list = new List((key) => go(key), listChanged);

// Where we are: the address of the page tells all of it.

function address() {
  const values = new URLSearchParams();
  if (page.query) values.set('q', page.query);
  if (page.key.startsWith('try-')) values.set('attempt', page.key.slice(4));
  if (page.panel) values.set('panel', page.panel);
  const [id, part] = page.key.startsWith('try-') ? [] : page.key.split('/');
  if (part) values.set('part', part);
  const path = id ? `view/${id}` : page.query ? 'search' : './';
  return place(values.size ? `${path}?${values}` : path);
}

function fromAddress() {
  const url = new URL(location.href);
  const inside = decodeURIComponent(url.pathname.slice(new URL(document.baseURI).pathname.length));
  const values = url.searchParams;
  const attempt = /^\d+$/.exec(values.get('attempt') || '');
  return {
    query: values.get('q') || values.get('query') || '',
    key: inside.startsWith('view/') ? inside.slice(5) + (values.get('part') ? `/${values.get('part')}` : '') : attempt ? `try-${attempt[0]}` : '',
    panel: values.get('panel') === 'faults' ? 'faults' : '',
  };
}

// Go to a message (its key, '' for none, null for no change) and do what *more* says.
async function go(key, more = {}) {
  if (more.panel === 'copy') return copyDialog();
  if (more.panel === 'tags') return tagsDialog();
  if (more.panel === 'delete') return remove();
  if (more.panel === 'release') return releaseDialog();
  if (more.faults !== undefined) { showCounts(); return undefined; }
  if (key === null) return undefined;
  const before = page.key;
  const wasPanel = page.panel;
  page.key = key;
  page.panel = more.panel || '';
  // Messages that open by themselves are one step of the way back.
  if (key !== before || page.panel !== wasPanel) history[more.follows && before ? 'replaceState' : 'pushState'](null, '', address());
  await show(more);
  if (!key && !page.panel) {
    list.setFocus(idOf(before) || list.focused, true);
    if (document.activeElement === document.body) $('scroll').focus();
  }
  return undefined;
}

const idOf = (key) => key.split('/')[0];

function search(query, isTyping = false) {
  page.query = query.trim();
  page.key = '';
  page.panel = '';
  if (!isTyping) $('search').value = page.query;
  history[isTyping ? 'replaceState' : 'pushState'](null, '', address());
  drawn = '';
  rail();
  list.show(page.query);
  return show();
}

async function show(more = {}) {
  document.body.dataset.pane = page.key || page.panel ? 'message' : 'list';
  closeRail();
  const before = list.opened;
  list.opened = idOf(page.key);
  if (before !== list.opened) for (const row of list.ul.children) list.mark(row);
  if (page.panel === 'faults') {
    const { FaultsPanel } = await lazy.panels();
    message?.close();
    faults ??= new FaultsPanel(go);
    await faults.show();
    $('rule').focus();
  } else if (page.key) {
    const key = page.key;
    list.setFocus(list.opened, false);
    list.find(list.opened)?.scrollIntoView({ block: 'nearest' });
    const { Message } = await lazy.message();
    message ??= new Message(list, go);
    if (page.key === key) await message.show(key, more.tab, more.follows);
    if (isNarrow() && !more.quietly && page.key === key) $('message').focus({ preventScroll: true });
  } else {
    message?.close();
    $('message').replaceChildren(el('p', { class: 'nothing' }, icon('mail'), 'Choose a message'));
    delete $('message').dataset.key;
  }
  rail();
  title();
}

addEventListener('popstate', () => {
  const { query, ...rest } = fromAddress();
  const isOther = query !== page.query;
  Object.assign(page, { query, ...rest });
  if (isOther) {
    $('search').value = query;
    drawn = '';
    list.show(query);
  }
  show();
});

const isNarrow = () => matchMedia('(max-width: 699px)').matches;

// What the list tells.

function listChanged(what, value) {
  if (what === 'drawn') {
    rail();
    countMailboxes();
    title();
    showEmpty(value);
    document.body.dataset.rows = value ? 'some' : 'none';
  } else if (what === 'new') {
    announce(value);
    if (page.follow) openNewest(value[0]);
  } else if (what === 'bulk') {
    bulk(value);
  } else if (what === 'prune' || what === 'truncate') {
    loadSettings();
  } else if (what === 'fault') {
    showCounts();
    if (faults?.isShown()) faults.refresh();
  }
}

// One word for all messages of five seconds, so that a reader of the screen is not kept from it.
let untold = 0;
const tell = paced(() => { say(plural(untold, 'new message')); untold = 0; }, 5000);

function announce(rows) {
  untold += rows.length;
  tell();
  if (remembered('notify', false) && document.hidden && 'Notification' in window && Notification.permission === 'granted') {
    const [row] = rows;
    const more = rows.length > 1 ? ` and ${rows.length - 1} more` : '';
    new Notification((row.Subject || '(no subject)') + more, { body: person(row.From), tag: 'inbox' });
  }
}

let newestRow = null;
const openSoon = paced(() => {
  if (!page.follow || document.querySelector('dialog[open]')) return;
  list.letIn();
  go(newestRow.ID, { quietly: true, follows: true });
}, 500);

function openNewest(row) {
  newestRow = row;
  openSoon();
}

async function showEmpty(shown) {
  const box = $('notice');
  const state = shown ? '' : `${page.query}\n${list.numbers.total && !page.query ? '' : 'empty'}`;
  if (state === drawn && (shown || box.firstChild)) return;
  drawn = state;
  if (shown || !list.loaded) {
    if (box.querySelector('.empty')) box.replaceChildren();
    return;
  }
  const { empty, nothingRefused, whyEmpty } = await lazy.panels();
  const made = asksRejected(page.query) ? nothingRefused() : page.query ? await whyEmpty(page.query, search, list) : await empty(list);
  if (state === drawn) box.replaceChildren(made);
}

function bulk(box) {
  const all = () => list.all;
  box.replaceChildren(
    button('Mark as read', 'mail', () => list.setRead(true)),
    button('Mark as unread', 'unread', () => list.setRead(false)),
    el('button', { type: 'button', class: 'icon', icon: 'download', 'aria-label': 'Download as mbox', title: 'Download as mbox', on: { click: () => download(all()) } }),
    button('Compare the two', 'compare', compareTwo, { id: 'compare' }),
    button('Delete', 'trash', remove),
    button('Select none', 'cross', () => list.uncheck()));
}

async function compareTwo() {
  const [newer, older] = list.rows.filter((row) => list.checked.has(row.ID));
  if (older) (await lazy.panels()).compare(older, newer);
}

function download(all) {
  const values = new URLSearchParams({ format: 'mbox' });
  if (all) values.set('query', list.everything());
  else values.set('ids', [...list.checked].join(','));
  el('a', { href: `api/export?${values}`, download: 'inbox.mbox' }).click();
}

// The rail

// *name* is "bad" for refusals, "address" for a label that may be long.
function entry(label, count, query, name = '') {
  const isHere = !page.panel && page.query === query;
  return el('li', {}, el('a', {
    href: query ? `search?${new URLSearchParams({ q: query })}` : './', 'aria-current': isHere ? 'page' : null,
    on: { click: (event) => { if (!event.ctrlKey && !event.metaKey) { event.preventDefault(); search(query); } } },
  }, el('span', { class: 'label' }, name === 'address' ? shortened(label) : label), count ? el('span', { class: name === 'bad' ? 'count bad' : 'count' }, commas(count), el('span', { class: 'sr' }, name === 'bad' ? ' refused' : '')) : null));
}

const group = (title, entries) => (entries.length ? [el('h2', {}, title), el('ul', {}, entries)] : []);

function rail() {
  const { rejected } = list.numbers;
  // Messages that can still be taken back are not counted.
  const total = Math.max(0, list.numbers.total - (list.hidden?.count || 0));
  const unread = Math.min(list.numbers.unread, total);
  const byName = (a, b) => a[0].localeCompare(b[0]);
  const names = (page.mailboxes?.recipients || []).slice(0, MOST_NAMES).map((one) => [one.address, one.count]).sort(byName);
  const logins = (page.mailboxes?.logins || []).slice(0, MOST_NAMES).map((one) => [one.name, one.count]).sort(byName);
  const inboxes = (page.settings.inboxes || []).map((one) => [one.name, one.query]);
  const state = JSON.stringify([total, unread, rejected, Boolean(page.mailboxes), names, logins, list.tags.length, inboxes, page.query, page.panel, page.faults, page.settings.delete_all]);
  if ($('rail').dataset.state === state) return;
  $('rail').dataset.state = state;
  const hadFocus = $('rail').contains(document.activeElement) ? document.activeElement.getAttribute('href') || document.activeElement.id : null;
  $('rail').replaceChildren(...[
    el('ul', {},
      entry('All', total, ''), entry('Unread', unread, 'is:unread'),
      rejected === null ? null : entry('Rejected', rejected, 'is:rejected', 'bad'),
      page.faults === undefined ? null : el('li', {}, el('a', {
        href: './?panel=faults', 'aria-current': page.panel === 'faults' ? 'page' : null,
        on: { click: (event) => { event.preventDefault(); go('', { panel: 'faults' }); } },
      }, el('span', { class: 'label' }, 'Faults'), page.faults ? el('span', { class: 'count bad' }, `${page.faults} on`) : null))),
    forAll(),
    ...group('Inboxes', inboxes.map(([name, query]) => entry(name, 0, query))),
    ...group('Recipients', names.map(([name, count]) => entry(name, count, `addressed:"${name}"`, 'address'))),
    ...group('Logins', logins.map(([name, count]) => entry(name, count, `login:"${name}"`))),
    ...group('Tags', (page.mailboxes ? [...list.tags] : []).sort((a, b) => a.localeCompare(b)).slice(0, MOST_TAGS).map((tag) => entry(tag, 0, `tag:"${tag}"`))),
  ].flat().filter(Boolean));
  if (hadFocus) ($(hadFocus) || $('rail').querySelector(`[href="${CSS.escape(hadFocus)}"]`))?.focus();
}

// Buttons for all messages of the list, also for those that are not on the page.
function forAll() {
  if (!list.numbers.total || asksRejected(page.query)) return null;
  const which = page.query ? 'found' : 'all';
  const make = (id, name, text, what) => el('button', { type: 'button', class: 'icon', id, icon: name, on: { click: what } }, text);
  return el('div', { class: 'for-all', role: 'group', 'aria-label': page.query ? 'Messages that were found' : 'All messages' },
    make('read-all', 'mail', `Mark ${which} as read`, () => { list.takeAll(); list.setRead(true); say('Marked as read'); }),
    page.query || page.settings.delete_all !== false ? make('delete-all', 'trash', `Delete ${which}`, () => { closeRail(); list.takeAll(); remove(); }) : null);
}

const countMailboxes = paced(() => {
  const state = `${list.numbers.total} ${list.rows[0]?.ID} ${list.waiting}`;
  // The server has other things to do while many messages come; a later update asks again.
  if (state === page.counted || list.isBurst) return;
  page.counted = state;
  get('api/mailboxes').then((found) => { page.mailboxes = found; rail(); }, () => { page.mailboxes ??= {}; rail(); });
}, 2000);

function closeRail() {
  document.body.classList.remove('with-rail');
  $('rail-button').setAttribute('aria-expanded', 'false');
}

function showCounts() {
  get('api/faults').then((found) => { page.faults = found.faults.length; rail(); }, () => { page.faults = undefined; rail(); });
}

async function loadSettings() {
  list.settings = page.settings = await get('api/settings').catch(() => ({}));
  list.gone = goneText(page.settings);
  list.draw();
}

function title() {
  const { unread } = list.numbers;
  const subject = page.panel === 'faults' ? 'Faults' : page.key && message?.mail && message.key === page.key ? message.mail.Subject : '';
  const text = `${unread ? `(${unread}) ` : ''}${subject ? `${subject.slice(0, 60)} · ` : ''}${page.label || 'Inbox'}`;
  if (document.title !== text) document.title = text;
  const link = document.querySelector('link[rel=icon]');
  link.dataset.read ??= link.getAttribute('href');
  const mark = unread ? 'icon-unread.svg' : link.dataset.read;
  if (link.getAttribute('href') !== mark) link.setAttribute('href', mark);
}

// Actions

// Deleting all messages at once can be switched off by --no-delete-all.
const mayRemove = () => !(list.all && !page.query && page.settings.delete_all === false);

async function remove() {
  if (!mayRemove()) {
    list.failed(new Problem(403, 'Deleting all messages at once is switched off here', 'Search for some of them'));
    return;
  }
  const wasOpen = idOf(page.key);
  const ids = list.targets();
  const next = list.remove();
  if (!next) return;
  if (wasOpen && ids.includes(wasOpen)) {
    await go(next === 'none' || isNarrow() ? '' : next);
  }
  if (next !== 'none') list.setFocus(next, true);
  else $('select-all').focus();
}

async function copyDialog() {
  const key = list.targets()[0] || idOf(page.key);
  const row = list.row(key) || message?.mail;
  if (!row) return;
  (await lazy.panels()).copyAs(page.key && message?.mail ? message.mail : row);
}

async function releaseDialog() {
  if (message?.mail && !message.mail.Part && list.relay) (await lazy.panels()).release(message.mail, list.relay);
}

async function tagsDialog() {
  const ids = list.checked.size ? [...list.checked] : page.key ? [idOf(page.key)] : list.targets();
  const rows = ids.map((id) => list.row(id)).filter(Boolean);
  if (!ids.length) return;
  const before = rows.length ? rows[0].Tags.filter((tag) => rows.every((row) => row.Tags.includes(tag))) : message?.mail?.Tags || [];
  (await lazy.panels()).editTags(ids, before, list.tags, async (tags) => {
    list.update(ids.map((ID) => ({ ID, Tags: tags })));
    if (ids.includes(page.key) && message?.mail) {
      message.key = '';
      await message.show(page.key);
    }
  });
}

function setTheme(theme) {
  remember('theme', theme);
  if (theme === 'auto') delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  document.querySelector('meta[name=color-scheme]').content = theme === 'auto' ? 'light dark' : theme;
  $('theme').setAttribute('aria-label', `Colours: ${THEMES[theme]}`);
  $('theme').title = `Colours: ${THEMES[theme]}`;
}

function setFollow(on) {
  page.follow = on;
  remember('follow', on);
  $('follow').setAttribute('aria-pressed', on);
  say(on ? 'Each new message opens' : 'New messages do not open by themselves');
}

async function newest() {
  list.letIn();
  const key = list.keys().find((one) => !one.startsWith('try-'));
  if (key) {
    $('scroll').scrollTop = 0;
    await go(key);
  }
}

// The width of the list

function split(width) {
  const most = Math.max(280, Math.min(900, $('panes').clientWidth - 600));
  const value = Math.round(Math.max(280, Math.min(most, width)));
  document.documentElement.style.setProperty('--list', `${value}px`);
  $('splitter').setAttribute('aria-valuenow', value);
  remember('split', value);
}

$('splitter').addEventListener('keydown', (event) => {
  const by = { ArrowLeft: -20, ArrowRight: 20, PageUp: -100, PageDown: 100, Home: -2000, End: 2000 }[event.key];
  if (!by) return;
  event.preventDefault();
  split($('list').clientWidth + by);
});
$('splitter').addEventListener('pointerdown', (event) => {
  if (event.button) return;
  $('splitter').setPointerCapture(event.pointerId);
  const left = $('list').getBoundingClientRect().left;
  document.body.classList.add('dragging');
  const move = (moved) => split(moved.clientX - left);
  const end = () => {
    document.body.classList.remove('dragging');
    $('splitter').removeEventListener('pointermove', move);
  };
  $('splitter').addEventListener('pointermove', move);
  $('splitter').addEventListener('lostpointercapture', end, { once: true });
});

// Keys

let prefix = 0;

const KEYS = {
  j: () => move(1), k: () => move(-1), ArrowDown: null, ArrowUp: null,
  J: () => stretch(1), K: () => stretch(-1),
  o: () => list.focused && go(list.focused),
  u: () => back(), '/': () => $('search').focus(), x: () => list.toggle(list.focused), '*': () => list.checkAll(),
  r: () => list.setRead(), '#': remove, Delete: remove, z: () => list.undo(), t: tagsDialog,
  n: () => found(1) || newest(), N: () => found(-1), e: saveSource, c: copyDialog, f: () => setFollow(!page.follow),
  '?': async () => (await lazy.panels()).settings(page),
};
const AFTER_G = { r: () => search('is:rejected'), f: () => page.faults !== undefined && go('', { panel: 'faults' }), i: () => search('') };

function move(by) {
  const key = list.step(by);
  if (!key) return;
  // With an open message, the next one opens; else the focus moves.
  if (page.key && !isNarrow()) go(key, { quietly: true });
  else if (page.key) go(key);
  else list.setFocus(key, true);
}

function stretch(by) {
  if (!list.anchor) list.toggle(list.focused);
  const key = list.step(by);
  if (!key) return;
  list.setFocus(key, true);
  list.extend(key);
}

function found(by) {
  const bar = $('message').querySelector('.finder');
  if (!bar?.next || !bar.querySelector('input').value) return false;
  bar.next(by);
  return true;
}

function saveSource() {
  const [id] = list.targets();
  if (id) el('a', { href: `api/v1/message/${id}/raw?dl=1`, download: `${id}.eml` }).click();
}

function back() {
  if (page.key || page.panel) go('');
  else if (list.checked.size) list.uncheck();
}

const isTyping = (target) => target.closest('input:not([type=checkbox]):not([type=radio]), textarea, select, [contenteditable]');

document.addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
  if (document.querySelector('dialog[open]')) return;
  if (event.key === 'Escape') {
    if (document.body.classList.contains('with-rail')) { closeRail(); $('rail-button').focus(); }
    else if (event.target === $('search')) { if ($('search').value) $('search').value = ''; else list.setFocus(list.focused, true); }
    else back();
    return;
  }
  if (isTyping(event.target)) return;
  const inList = list.ul.contains(event.target);
  if (inList && listKey(event)) { event.preventDefault(); return; }
  if (!remembered('keys', true)) return;
  if (Date.now() - prefix < 1500 && AFTER_G[event.key]) {
    prefix = 0;
    event.preventDefault();
    AFTER_G[event.key]();
    return;
  }
  prefix = event.key === 'g' ? Date.now() : 0;
  const tab = /^[1-8]$/.exec(event.key);
  if (tab && message?.mail) { event.preventDefault(); message.pick(Number(tab[0])); return; }
  if (event.key === '#' || KEYS[event.key]) {
    event.preventDefault();
    KEYS[event.key]();
  }
});

// Keys of a list box, which stay without the keys of one letter. Focus does not open.
function listKey(event) {
  const keys = list.keys();
  const at = keys.indexOf(list.focused);
  const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: keys.length - 1 }[event.key];
  if (to !== undefined) {
    const key = keys[Math.max(0, Math.min(keys.length - 1, to))];
    if (event.shiftKey && !list.anchor) list.toggle(list.focused);
    list.setFocus(key, true);
    if (event.shiftKey) list.extend(key);
    return true;
  }
  if (event.key === 'Enter') { go(list.focused); return true; }
  if (event.key === ' ') { list.toggle(list.focused); return true; }
  if (event.key === 'Delete') { remove(); return true; }
  return false;
}

// Live

function state(kind, text, since) {
  $('live').dataset.state = kind;
  $('live-text').textContent = text;
  $('live').title = { live: 'New messages appear at once', slow: 'New messages appear within five seconds', offline: text }[kind];
  const bar = $('offline');
  bar.hidden = kind !== 'offline';
  if (kind === 'offline') bar.textContent = `Not connected since ${clock(since)}, trying again.`;
}

// Buttons of the top

$('skip').addEventListener('click', (event) => {
  event.preventDefault();
  list.setFocus(list.focused, true);
  if (!list.ul.contains(document.activeElement)) $('select-all').focus();
});
$('home').addEventListener('click', (event) => { if (!event.ctrlKey && !event.metaKey) { event.preventDefault(); search(''); } });
$('search-form').addEventListener('submit', (event) => {
  event.preventDefault();
  search($('search').value);
  list.setFocus(list.focused, true);
});
$('search').addEventListener('input', quiet(() => { if ($('search').value.trim() !== page.query) search($('search').value, true); }, 250));
$('search-help').addEventListener('click', async () => (await lazy.panels()).searchHelp(search));
$('settings').addEventListener('click', async () => (await lazy.panels()).settings(page));
$('follow').addEventListener('click', () => setFollow(!page.follow));
$('theme').addEventListener('click', () => {
  const names = Object.keys(THEMES);
  setTheme(names[(names.indexOf(remembered('theme', 'auto')) + 1) % names.length]);
  say(`Colours: ${THEMES[remembered('theme', 'auto')]}`);
});
$('rail-button').addEventListener('click', () => {
  const isOpen = document.body.classList.toggle('with-rail');
  $('rail-button').setAttribute('aria-expanded', isOpen);
  if (isOpen) $('rail').querySelector('a')?.focus();
});
document.addEventListener('click', (event) => {
  if (document.body.classList.contains('with-rail') && !event.target.closest('#rail, #rail-button')) closeRail();
});

if (isNarrow()) $('search').placeholder = 'Search';
setTheme(remembered('theme', 'auto'));
$('follow').setAttribute('aria-pressed', page.follow);
if (remembered('split', 0)) split(remembered('split', 420));
Object.assign(page, fromAddress());
document.body.dataset.pane = page.key || page.panel ? 'message' : 'list';
$('search').value = page.query;
rail();
// The list is fetched when events come, so that none is missed and once is enough; or without them
// if they take longer.
let begun = null;
function fetchTheRest() {
  (window.requestIdleCallback || setTimeout)(() => { lazy.message(); lazy.panels(); }, { timeout: 2000 });
}
function begin() {
  if (begun) return begun;
  begun = list.show(page.query).then(() => { if (!page.key && !page.panel) show(); });
  begun.then(fetchTheRest, fetchTheRest);
  showCounts();
  loadSettings();
  get('api/v1/webui').then((found) => {
    page.label = found.Label || '';
    list.relay = found.MessageRelay?.Enabled ? found.MessageRelay : null;
    title();
  }, () => {});
  return begun;
}
new Live((kind, data) => list.event(kind, data), () => (begun ? list.refresh() : begin()), state);
setTimeout(begin, LATEST);
if (page.key || page.panel) show();

