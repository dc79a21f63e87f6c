// The list: messages and refused attempts, newest first, in one order.

import { $, action, age, bytes, commas, complaint, el, get, icon, later, longTime, paced, person, plural, quiet, remembered, say, send, shortTime } from './kit.js';

const PAGE = 50;
// Rows that stay while messages arrive; the button below fetches older ones again.
const MOST = 200;
// Rows that are fetched at once.
const LONGEST = 1000;
// Elements of rows that one update makes: more would keep the page from its reader.
const AT_ONCE = 25;
// Milliseconds between two updates of the list; while more rows come than a reader can look at;
// and without an event before the list is counted again.
const PAUSE = 100;
const BURST = 400;
const QUIET = 1000;

export const terms = (query) => query.match(/(?:[^\s"]|"[^"]*(?:"|$))+/g) || [];
export const asksRejected = (query) => terms(query).some((term) => term.toLowerCase() === 'is:rejected');
const withoutRejected = (query) => terms(query).filter((term) => term.toLowerCase() !== 'is:rejected').join(' ');

export class List {
  // *open(key)* is called with the key of a row: an id, or "try-7" for a refused attempt.
  constructor(open, changed) {
    this.open = open;
    this.changed = changed;
    this.query = '';
    this.rows = [];
    this.attempts = [];
    // The newest of the messages that wait above the list, and the number of all of them.
    this.arrived = [];
    this.waiting = 0;
    this.events = [];
    this.isBurst = false;
    this.flush = paced(() => this.happen(), PAUSE);
    this.more = false;
    this.numbers = { total: 0, unread: 0, matches: 0, rejected: 0 };
    this.tags = [];
    this.checked = new Set();
    this.all = false;
    this.opened = '';
    this.focused = '';
    this.wasFocused = false;
    this.anchor = '';
    // The keys that the last stretch from the anchor has selected.
    this.span = [];
    this.hidden = null;
    this.loaded = false;
    this.rowsOf = null;
    this.asked = 0;
    // What came and went while a page is fetched, for each fetch.
    this.fetches = new Set();
    this.elements = new WeakMap();
    this.day = new Date().toDateString();
    this.fresh = 0;
    this.draw = paced(() => this.render(), () => (this.isBurst ? BURST : PAUSE));
    this.count = later(() => this.recount(), 250);
    this.again = later(() => (this.fetches.size ? this.again() : this.refresh().catch(() => {})), 300);
    this.verify = quiet(() => this.compare(), QUIET);
    this.tries = later(() => this.fetchAttempts().catch(() => {}), 200);
    this.ul = $('rows');
    this.ul.addEventListener('click', (event) => this.clicked(event));
    this.ul.addEventListener('focusin', (event) => {
      const row = event.target.closest('[role=option]');
      if (row) this.setFocus(row.dataset.key, false);
    });
    // The age is that of now, not of when the row was drawn.
    this.ul.addEventListener('pointerover', (event) => {
      const time = event.target.closest('time');
      if (time) time.title = `${longTime(time.dateTime)} · ${age(time.dateTime)}`;
    });
    $('select-all').addEventListener('click', () => this.checkAll());
    $('arrived').addEventListener('click', () => this.letIn());
    // Reading scrollTop would lay out the page for each update.
    this.isAtTop = true;
    $('scroll').addEventListener('scroll', () => { this.isAtTop = $('scroll').scrollTop < 8; }, { passive: true });
    addEventListener('pagehide', () => this.commit(true));
  }

  // Fetching.

  path(start, limit = PAGE) {
    const query = this.query.trim();
    const values = new URLSearchParams({ start, limit });
    if (query) {
      values.set('query', query);
      values.set('tz', Intl.DateTimeFormat().resolvedOptions().timeZone);
    }
    return `api/messages?${values}`;
  }

  async show(query) {
    const again = query === this.query && this.loaded;
    this.query = query;
    if (!again) {
      this.uncheck(false);
      this.putAside([]);
      this.wasFocused = false;
    }
    try {
      await this.refresh();
      if (!again) $('scroll').scrollTop = 0;
    } catch (error) {
      this.failed(error);
    }
  }

  failed(error) {
    $('notice').replaceChildren(complaint(error, () => this.show(this.query)));
  }

  // Fetch the first page again; raises Problem. Older rows that were loaded stay.
  async refresh() {
    const asked = ++this.asked;
    const query = this.query;
    const meanwhile = { came: [], gone: new Set() };
    this.fetches.add(meanwhile);
    let page;
    try {
      [page] = await Promise.all([
        asksRejected(query) ? get('api/messages?limit=1') : get(this.path(0, Math.max(PAGE, Math.min(this.rows.length + this.waiting, LONGEST)))),
        this.fetchAttempts(),
      ]);
    } finally {
      this.fetches.delete(meanwhile);
    }
    if (asked !== this.asked || query !== this.query) return;
    this.take(page, meanwhile);
    this.loaded = true;
    $('notice').replaceChildren();
    this.render();
    if (!this.rows.length && !this.attempts.length) this.changed('empty');
  }

  take(page, meanwhile) {
    this.numbers.total = page.total;
    this.numbers.unread = page.unread;
    this.tags = page.tags;
    if (asksRejected(this.query)) {
      this.rows = [];
      this.putAside([]);
      this.more = false;
      return;
    }
    const { matches } = this.numbers;
    this.numbers.matches = page.messages_count;
    const before = new Map([...this.rows, ...this.arrived].map((row) => [row.ID, row]));
    const known = new Set(page.messages.map((row) => row.ID));
    const isSame = this.rowsOf === this.query;
    const top = (this.arrived[0] || this.rows[0])?.Created || '';
    const all = [...meanwhile.came.filter((row) => !known.has(row.ID)), ...page.messages]
      .filter((row) => !meanwhile.gone.has(row.ID))
      .map((row) => sameOr(before.get(row.ID), row));
    // Messages that are newer than the rows of a reader wait above them.
    const newest = isSame && !this.isStill() ? this.rows[0]?.Created : undefined;
    this.rowsOf = this.query;
    const shown = new Set(this.rows.map((row) => row.ID));
    const above = newest ? all.filter((row) => row.Created > newest && !shown.has(row.ID)) : [];
    if (all.length > above.length || page.messages.length >= page.messages_count) {
      const waiting = new Set(above);
      this.rows = all.filter((row) => !waiting.has(row));
      this.putAside(above, above.length);
    } else {
      this.putAside(above, Math.min(page.messages_count, Math.max(above.length, this.waiting + page.messages_count - matches)));
    }
    this.more = this.rows.length + this.waiting < page.messages_count;
    // Without events, and in a search, this is how messages come.
    const came = isSame ? all.filter((row) => row.Created > top && !before.has(row.ID)) : [];
    if (came.length) this.changed('new', came);
  }

  // Refused attempts stand among all messages, or alone for is:rejected.
  async fetchAttempts() {
    const query = this.query;
    const own = asksRejected(query);
    try {
      const values = new URLSearchParams({ start: 0, limit: own ? 500 : 200 });
      if (own && withoutRejected(query)) values.set('query', withoutRejected(query));
      const found = await get(`api/rejected?${values}`);
      if (query !== this.query) return;
      if (!own || !withoutRejected(query)) this.numbers.rejected = found.total;
      if (own) this.numbers.matches = found.total;
      const before = new Map(this.attempts.map((one) => [one.id, one]));
      const attempts = found.attempts.map((one) => before.get(one.id) || one);
      this.attempts = own || !query.trim() ? attempts : [];
      this.latest = found.attempts[0];
    } catch (error) {
      if (error.status !== 404) throw error;
      this.numbers.rejected = null;
      this.attempts = [];
    }
    if (this.loaded) this.render();
  }

  async older() {
    const below = $('below');
    try {
      const page = await get(this.path(this.rows.length + this.waiting));
      const known = new Set([...this.rows, ...this.arrived].map((row) => row.ID));
      const fresh = page.messages.filter((row) => !known.has(row.ID));
      this.rows.push(...fresh);
      this.more = page.messages.length > 0 && this.rows.length + this.waiting < page.messages_count;
      this.render();
      if (fresh.length) this.setFocus(fresh[0].ID, true);
    } catch (error) {
      below.replaceChildren(complaint(error, () => this.older()));
    }
  }

  // Events.

  // Events wait for the next update, so that a thousand of them are one change of the page.
  event(kind, data) {
    this.events.push([kind, data]);
    this.flush();
  }

  happen() {
    const came = new Map();
    const updates = new Map();
    const gone = new Set();
    const rest = new Map();
    for (const [kind, data] of this.events.splice(0)) {
      if (kind === 'new') came.set(data.ID, data);
      else if (kind === 'update') updates.set(data.ID, { ...updates.get(data.ID), ...data });
      else if (kind === 'delete') { came.delete(data.ID); gone.add(data.ID); }
      else rest.set(kind, data);
    }
    this.isBurst = came.size > AT_ONCE;
    if (came.size) this.arrive([...came.values()]);
    if (updates.size) this.update([...updates.values()]);
    if (gone.size) {
      this.forget([...gone]);
      if (this.query.trim()) this.count();
    }
    for (const [kind, data] of rest) this.other(kind, data);
  }

  other(kind, data) {
    if (kind === 'stats') {
      this.numbers.total = data.Total;
      this.numbers.unread = data.Unread;
      if (!this.query.trim()) this.numbers.matches = data.Total;
      this.verify();
      this.draw();
      this.changed('counts');
    } else if (kind === 'prune' || kind === 'truncate') {
      this.again();
      this.changed(kind);
    } else if (kind === 'rejected' || kind === 'error') {
      this.tries();
    } else if (kind === 'fault') {
      this.changed('fault');
    }
  }

  // Never let a message be there and not be shown.
  compare() {
    const isWhole = this.loaded && !this.more && !this.query.trim();
    if (isWhole && this.rows.length + this.waiting !== this.numbers.total) this.again();
  }

  // Take messages, oldest first.
  arrive(rows) {
    if (this.query.trim()) {
      this.again();
      return;
    }
    const known = new Set([...this.rows, ...this.arrived].map((row) => row.ID));
    const fresh = rows.filter((row) => !known.has(row.ID)).reverse();
    if (!fresh.length) return;
    for (const one of this.fetches) one.came.unshift(...fresh);
    this.addTags(fresh);
    this.putAside([...fresh, ...this.arrived], this.waiting + fresh.length);
    this.changed('new', fresh);
    this.draw();
  }

  addTags(rows) {
    const known = new Set(this.tags);
    for (const row of rows) {
      for (const tag of row.Tags || []) {
        if (!known.has(tag)) this.tags.push(tag);
        known.add(tag);
      }
    }
  }

  putAside(rows, count = 0) {
    this.arrived = rows.slice(0, MOST);
    this.waiting = count;
  }

  isStill() {
    return this.isAtTop && !this.opened && !this.checked.size && !this.ul.contains(document.activeElement);
  }

  letIn() {
    const hadFocus = document.activeElement === $('arrived');
    if (this.waiting > this.arrived.length) {
      // The list is not long enough for all: those below come by the button.
      this.rows = this.arrived;
      this.more = true;
    } else {
      this.rows = [...this.arrived, ...this.rows];
    }
    if (this.rows.length > MOST && this.isAtTop) {
      this.rows = this.rows.slice(0, MOST);
      this.more = true;
    }
    this.putAside([]);
    this.render();
    if (hadFocus) {
      $('scroll').scrollTop = 0;
      this.setFocus(this.keys()[0], true);
    }
  }

  update(changes) {
    const found = new Map(changes.map((change) => [change.ID, change]));
    const changed = (row) => (found.has(row.ID) ? { ...row, ...found.get(row.ID) } : row);
    this.rows = this.rows.map(changed);
    this.arrived = this.arrived.map(changed);
    this.addTags(changes);
    this.draw();
  }

  forget(ids) {
    const gone = new Set(ids);
    for (const one of this.fetches) for (const id of ids) one.gone.add(id);
    const isLeft = (row) => !gone.has(row.ID);
    const left = this.arrived.filter(isLeft);
    this.rows = this.rows.filter(isLeft);
    this.putAside(left, this.waiting - (this.arrived.length - left.length));
    for (const id of ids) this.checked.delete(id);
    this.verify();
    this.draw();
  }

  async recount() {
    try {
      const page = await get(this.path(0, 1));
      this.numbers.matches = page.messages_count;
      this.render();
    } catch {
      // The next event counts again.
    }
  }

  // Drawing.

  items() {
    const hidden = this.hidden?.ids || new Set();
    const items = this.hidden?.all ? [] : this.rows.filter((row) => !hidden.has(row.ID)).map((row) => ({ key: row.ID, at: row.Created, row }));
    // Each kind keeps its own order, which is that of arrival: the clock may have been set back.
    const time = (one) => new Date(one.at).getTime();
    const last = this.more && this.rows.length ? time({ at: this.rows.at(-1).Created }) : -Infinity;
    let at = 0;
    for (const one of grouped(this.attempts)) {
      if (time(one) < last) continue;
      while (at < items.length && time(items[at]) >= time(one)) at += 1;
      items.splice(at, 0, one);
      at += 1;
    }
    return items;
  }

  keys() {
    return [...this.ul.children].map((row) => row.dataset.key);
  }

  render() {
    if (this.waiting && this.isStill()) {
      this.letIn();
      return;
    }
    // Rows of a day that is over get their date.
    if (this.day !== new Date().toDateString()) {
      this.day = new Date().toDateString();
      this.elements = new WeakMap();
    }
    const items = this.items();
    const keys = new Set(items.map((item) => item.key));
    if (!this.wasFocused || !keys.has(this.focused)) this.focused = keys.has(this.opened) ? this.opened : items[0]?.key || '';
    this.reconcile(this.made(items));
    for (const row of this.ul.children) this.mark(row);
    this.ul.hidden = !items.length;
    this.below(items.length);
    this.bar();
    this.changed('drawn', items.length);
  }

  // The elements of items. New ones are made a few at a time; the next update has more of them.
  made(items) {
    const found = [];
    let room = AT_ONCE;
    for (const item of items) {
      if (room > 0 || this.elements.has(item.row || item.attempt)) {
        const before = this.fresh;
        found.push(this.element(item));
        if (this.fresh !== before) room -= 1;
      }
    }
    if (found.length < items.length) this.draw();
    return found;
  }

  element(item) {
    const subject = item.row || item.attempt;
    let made = this.elements.get(subject);
    if (!made || (item.attempt && made.dataset.times !== String(item.count))) {
      this.fresh += 1;
      made = item.row ? mailRow(item.row) : attemptRow(item.attempt, item.count);
      made.dataset.key = item.key;
      made.tabIndex = -1;
      this.elements.set(subject, made);
    }
    return made;
  }

  reconcile(wanted) {
    const active = this.ul.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    const keep = new Set(wanted);
    for (const old of [...this.ul.children]) if (!keep.has(old)) old.remove();
    let cursor = this.ul.firstChild;
    for (const row of wanted) {
      if (row === cursor) cursor = cursor.nextSibling;
      else this.ul.insertBefore(row, cursor);
    }
    if (active && !this.ul.contains(document.activeElement)) this.find(this.focused)?.focus({ preventScroll: true });
  }

  mark(row) {
    const key = row.dataset.key;
    const checked = this.all ? !key.startsWith('try-') : this.checked.has(key);
    if (row.getAttribute('aria-selected') !== String(checked)) row.setAttribute('aria-selected', checked);
    const index = key === this.focused ? 0 : -1;
    if (row.tabIndex !== index) row.tabIndex = index;
    if ((key === this.opened) !== row.hasAttribute('aria-current')) row.toggleAttribute('aria-current');
    if (key === this.opened) row.setAttribute('aria-current', 'true');
  }

  below(shown) {
    const below = $('below');
    const children = [];
    if (this.more) children.push(action(`Show ${PAGE} older`, () => this.older()));
    else if (shown > 8) children.push(el('p', {}, 'This is the oldest.'));
    if (!this.more && this.gone && !this.query.trim()) children.push(el('p', {}, this.gone));
    if (below.dataset.is === `${this.more}${shown > 8}${this.gone}` && below.firstChild) return;
    below.dataset.is = `${this.more}${shown > 8}${this.gone}`;
    below.replaceChildren(...children);
  }

  bar() {
    const query = this.query.trim();
    // Messages that can still be taken back are not counted.
    const gone = this.hidden && !asksRejected(query) ? this.hidden.count : 0;
    const matches = Math.max(0, this.numbers.matches - gone);
    const total = Math.max(0, this.numbers.total - gone);
    const number = this.all ? matches : this.checked.size;
    const text = number ? `${commas(number)} selected`
      : asksRejected(query) ? plural(matches, 'refused attempt')
        : query ? `${commas(matches)} of ${plural(total, 'message')}` : plural(total, 'message');
    if ($('count').textContent !== text) $('count').textContent = text;
    const every = this.all || (number > 0 && number >= this.rows.length);
    const box = $('select-all');
    if (box.dataset.icon !== (every ? 'checked' : 'unchecked')) {
      box.dataset.icon = every ? 'checked' : 'unchecked';
      box.replaceChildren(icon(box.dataset.icon));
    }
    const label = every ? 'Select none' : `Select all ${commas(matches)} that match`;
    box.setAttribute('aria-label', label);
    box.title = `${label} (*)`;
    box.disabled = !this.rows.length;
    const pill = $('arrived');
    pill.hidden = !this.waiting;
    if (this.waiting && pill.dataset.count !== String(this.waiting)) {
      pill.dataset.count = this.waiting;
      pill.replaceChildren(`${commas(this.waiting)} new`, icon('up'));
      pill.title = 'Show them (n opens the newest)';
    }
    this.bulk(number);
  }

  bulk(number) {
    const bulk = $('bulk');
    bulk.hidden = !number;
    if (number && !bulk.firstChild) this.changed('bulk', bulk);
    if (bulk.firstChild) $('compare').hidden = number !== 2;
  }

  // Focus and selection.

  find(key) {
    return key ? this.ul.querySelector(`[data-key="${CSS.escape(key)}"]`) : null;
  }

  setFocus(key, really) {
    const row = this.find(key);
    if (!row) return;
    const before = this.find(this.focused);
    if (before) before.tabIndex = -1;
    this.focused = key;
    this.wasFocused = true;
    row.tabIndex = 0;
    if (really) {
      row.focus({ preventScroll: true });
      row.scrollIntoView({ block: 'nearest' });
    }
  }

  step(by) {
    const keys = this.keys();
    if (!keys.length) return '';
    const inside = this.ul.contains(document.activeElement);
    const at = keys.indexOf(inside ? this.focused : this.opened || this.focused);
    const to = at < 0 ? 0 : Math.max(0, Math.min(keys.length - 1, inside || this.opened ? at + by : at));
    return keys[to];
  }

  neighbour(by) {
    const keys = this.keys();
    const at = keys.indexOf(this.opened);
    return at < 0 ? '' : keys[at + by] || '';
  }

  clicked(event) {
    const row = event.target.closest('[role=option]');
    if (!row) return;
    const key = row.dataset.key;
    if (event.shiftKey && this.anchor) this.extend(key);
    else if (event.target.closest('.state') || event.ctrlKey || event.metaKey) this.toggle(key);
    else this.open(key);
  }

  toggle(key) {
    if (!key || key.startsWith('try-')) return;
    if (this.all) this.uncheck(false);
    if (!this.checked.delete(key)) this.checked.add(key);
    this.anchor = key;
    this.span = [];
    this.render();
  }

  extend(key) {
    const keys = this.keys();
    const [from, to] = [keys.indexOf(this.anchor), keys.indexOf(key)].sort((a, b) => a - b);
    // Give up the rows of the last stretch that this one does not reach.
    for (const one of this.span) this.checked.delete(one);
    const reached = keys.slice(Math.max(0, from), to + 1);
    this.span = reached.filter((one) => !one.startsWith('try-') && !this.checked.has(one));
    for (const one of this.span) this.checked.add(one);
    this.render();
  }

  checkAll() {
    if (this.all || (this.checked.size && this.checked.size >= this.rows.length)) {
      this.uncheck();
      return;
    }
    this.takeAll();
    this.render();
    say(`${this.numbers.matches} selected`);
  }

  // Select all that match, for an action that follows at once.
  takeAll() {
    this.all = this.numbers.matches > this.rows.length;
    this.checked = new Set(this.rows.map((row) => row.ID));
    // The next stretch begins anew: it would take away from all.
    this.anchor = '';
    this.span = [];
  }

  uncheck(draw = true) {
    this.checked.clear();
    this.all = false;
    this.anchor = '';
    this.span = [];
    if (draw) this.render();
  }

  // The ids of the selected messages, else of the open or the focused one.
  targets() {
    if (this.checked.size) return [...this.checked];
    const key = this.ul.contains(document.activeElement) ? this.focused : this.opened || this.focused;
    return key && !key.startsWith('try-') ? [key] : [];
  }

  // A query for all messages that match and that the reader can know of: later ones are not meant.
  everything() {
    return `${this.query.trim()} before:"${this.rows[0].Created}"`.trim();
  }

  // Changes.

  async setRead(read) {
    const ids = this.targets();
    const all = this.all;
    if (!ids.length) return;
    const value = read ?? !this.row(ids[0])?.Read;
    const query = all ? this.everything() : '';
    this.update(ids.map((ID) => ({ ID, Read: value })));
    this.uncheck();
    try {
      await send('PUT', 'api/v1/messages', all ? { Search: query, Read: value } : { IDs: ids, Read: value });
      if (all) this.again();
    } catch (error) {
      this.failed(error);
      this.again();
    }
  }

  row(id) {
    return this.rows.find((row) => row.ID === id) || this.arrived.find((row) => row.ID === id);
  }

  // Hide rows at once and delete them after some seconds, unless the reader wants them back.
  remove() {
    const ids = this.targets();
    if (!ids.length) return '';
    this.commit();
    const keys = this.keys();
    const gone = new Set(ids);
    const at = keys.indexOf(ids.length === 1 ? ids[0] : ids.find((id) => keys.includes(id)));
    const next = keys.slice(at + 1).find((key) => !gone.has(key)) || keys.slice(0, Math.max(0, at)).reverse().find((key) => !gone.has(key)) || '';
    this.hidden = { ids: gone, all: this.all, query: this.all ? this.everything() : '', count: this.all ? this.numbers.matches : ids.length };
    this.uncheck(false);
    this.render();
    this.offerUndo();
    return next || 'none';
  }

  offerUndo() {
    const bar = $('undo');
    const count = this.hidden.count;
    const text = `${plural(count, 'message')} deleted`;
    bar.replaceChildren(el('p', {}, text), action('Undo', () => this.undo(), { 'aria-keyshortcuts': 'z' }), el('span', { class: 'key', 'aria-hidden': 'true' }, 'z'));
    bar.hidden = false;
    say(`${text}. Press z to undo.`);
    let left = remembered('undo', 5) * 1000;
    let last = Date.now();
    clearInterval(this.timer);
    this.timer = setInterval(() => {
      // The time stands still while the bar is pointed at or has the focus.
      if (!bar.matches(':hover') && !bar.contains(document.activeElement)) left -= Date.now() - last;
      last = Date.now();
      if (left <= 0) this.commit();
    }, 200);
  }

  undo() {
    if (!this.hidden) return;
    const [first] = this.hidden.ids;
    this.endUndo();
    this.render();
    this.setFocus(first, true);
    say('The messages are back');
  }

  endUndo() {
    clearInterval(this.timer);
    const { hidden } = this;
    this.hidden = null;
    $('undo').hidden = true;
    return hidden;
  }

  async commit(leaving = false) {
    if (!this.hidden) return;
    const gone = this.endUndo();
    this.numbers.total -= gone.count;
    this.numbers.matches -= gone.count;
    if (gone.all) this.rows = [];
    else this.forget([...gone.ids]);
    const more = leaving ? { keepalive: true } : {};
    try {
      if (gone.all) await send('DELETE', `api/v1/search?${new URLSearchParams({ query: gone.query })}`, undefined, more);
      else await send('DELETE', 'api/v1/messages', { IDs: [...gone.ids] }, more);
      if (leaving) return;
      if (gone.all || this.more) this.again();
      else this.count();
    } catch (error) {
      await this.refresh().catch(() => {});
      this.failed(error);
    }
  }
}

// The row that is shown already, unless it has changed: its element stays, and the focus on it.
const sameOr = (old, row) => (old && JSON.stringify(old) === JSON.stringify(row) ? old : row);

// Attempts that repeat the one before them become one row.
function grouped(attempts) {
  const found = [];
  for (const attempt of attempts) {
    const last = found.at(-1);
    const same = last && ['stage', 'from', 'to', 'reply', 'client'].every((key) => last.attempt[key] === attempt[key]);
    if (same) last.count += 1;
    else found.push({ key: `try-${attempt.id}`, at: attempt.at, attempt, count: 1 });
  }
  return found;
}

// A long address gives way in its middle: its end says at least as much as its beginning. Programs
// that read the page aloud get it in one piece.
export function address(text) {
  const at = text.lastIndexOf('@');
  if (at < 6 || text.length < 24 || text.includes(' ')) return el('span', { class: 'who' }, text);
  return el('span', { class: 'who two', title: text },
    el('span', { class: 'sr' }, text),
    el('span', { class: 'local', 'aria-hidden': 'true' }, text.slice(0, at)),
    el('span', { class: 'domain', 'aria-hidden': 'true' }, text.slice(at)));
}

// The first recipient of the envelope, and how many more there are.
function recipient(first, count) {
  const others = count > 1 && plural(count - 1, 'more recipient');
  return [
    el('span', { class: 'arrow' }, el('span', { class: 'sr' }, ' to '), el('span', { 'aria-hidden': 'true' }, '→')),
    el('span', { class: 'to' }, first ? address(first) : el('i', {}, 'no recipient'),
      others && el('span', { class: 'plus', title: others }, el('span', { 'aria-hidden': 'true' }, `+${commas(count - 1)}`), el('span', { class: 'sr' }, ` and ${others}`))),
  ];
}

function mailRow(row) {
  return el('li', { role: 'option', class: row.Read ? 'row' : 'row unread' },
    el('span', { class: 'state' }, el('span', { class: 'box', 'aria-hidden': 'true' }), el('span', { class: 'dot', 'aria-hidden': 'true' }), row.Read ? null : el('span', { class: 'sr' }, 'unread ')),
    el('span', { class: 'people' },
      el('span', { class: 'from' }, person(row.From) ? address(person(row.From)) : el('i', {}, 'no sender')),
      recipient(row.Recipient, row.Recipients)),
    el('time', { datetime: row.Created, title: longTime(row.Created) }, shortTime(row.Created)),
    el('span', { class: 'words' },
      el('span', { class: 'subject' }, row.Subject || el('i', {}, '(no subject)')),
      row.Snippet ? el('span', { class: 'snippet' }, ` ${row.Snippet.replace(/\.\.\.$/, '…')}`) : null),
    el('span', { class: 'facts' },
      row.Tags.slice(0, 2).map((tag) => el('span', { class: 'tag' }, tag)),
      row.Tags.length > 2 ? el('span', { class: 'tag' }, `+${row.Tags.length - 2}`) : null,
      row.Attachments ? el('span', { class: 'clip', title: plural(row.Attachments, 'attachment') }, icon('clip'), String(row.Attachments), el('span', { class: 'sr' }, ' attached')) : null,
      el('span', { class: 'size' }, bytes(row.Size))));
}

// The first of addresses with commas between them; a quoted one may have commas, too.
const firstOf = (addresses) => /^(?:"(?:[^"\\]|\\.)*"|[^",]+)*/.exec(addresses)[0];

function attemptRow(one, count) {
  return el('li', { role: 'option', class: 'row refused', 'data-times': count },
    el('span', { class: 'state' }, icon('cross'), el('span', { class: 'sr' }, 'refused ')),
    el('span', { class: 'people' },
      el('span', { class: 'from' }, one.from ? address(one.from) : el('i', {}, one.client || 'unknown')),
      one.to && recipient(one.recipients > 1 ? firstOf(one.to) : one.to, one.recipients)),
    el('time', { datetime: one.at, title: longTime(one.at) }, shortTime(one.at)),
    el('span', { class: 'words' }, el('span', { class: 'subject' }, one.reply), el('span', { class: 'snippet' }, ` ${one.stage}`)),
    el('span', { class: 'facts' },
      one.fault ? el('span', { class: 'tag fault' }, 'fault') : null,
      count > 1 ? el('span', { class: 'times' }, `×${count}`) : null));
}

// What retention removed, as one line.
export function goneText(found) {
  const gone = found?.retention?.gone || [];
  const count = gone.reduce((sum, one) => sum + one.count, 0);
  if (!count) return '';
  const why = gone.map((one) => one.why).join(', ');
  return `${plural(count, 'older message')} removed by --keep ${why}, last at ${longTime(gone.at(-1).at)}.`;
}
