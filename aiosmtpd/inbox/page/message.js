// The open message, or the open refused attempt: its head, its tabs and its actions.

import { $, action, button, bytes, commas, complaint, el, fullPerson, get, icon, longTime, plural, remember, remembered, say, send } from './kit.js';
import { TABS, smtpOf } from './tabs.js';

// A wait that is shorter needs no sign of it.
const PATIENCE = 300;
// Names of each kind that the head of a message shows at first.
const MOST = 5;
// Recipients that a refused attempt names at most.
const MOST_NAMED = 10;

// Names of people. Many would leave no room for the message: the rest comes by a button.
function listed(names) {
  const made = (some) => el('span', {}, some.map((name, at) => [at ? ', ' : '', el('span', { class: 'person' }, name)]));
  const box = el('dd', { tabindex: '-1' }, made(names.slice(0, MOST)));
  const rest = names.length - MOST;
  if (rest > 1) box.append(' ', action(`and ${commas(rest)} more`, () => { box.replaceChildren(made(names)); box.focus(); }, { class: 'button small' }));
  else if (rest) box.replaceChildren(made(names));
  return box;
}

// Parts of a long text get their heights when they are near: a place may need some frames.
function scrollTo(panel, top, frames = 4) {
  panel.scrollTop = top;
  if (panel.scrollTop < top && frames) requestAnimationFrame(() => scrollTo(panel, top, frames - 1));
}

export class Message {
  // *list* is the list beside it; *go(key, changes)* shows another message or tab.
  constructor(list, go) {
    this.list = list;
    this.go = go;
    this.key = '';
    this.tab = remembered('tab', 'html');
    this.mail = null;
    this.box = $('message');
    this.asked = 0;
    this.box.addEventListener('keydown', (event) => this.tabKey(event));
  }

  close() {
    this.asked += 1;
    this.key = '';
    this.mail = null;
    this.box.replaceChildren();
    delete this.box.dataset.key;
  }

  // With *keeps*, the place in a text stays: for the next message of the same kind.
  async show(key, tab, keeps = false) {
    if (tab) this.tab = tab;
    this.place = keeps ? this.box.querySelector('#panel')?.scrollTop || 0 : 0;
    if (key === this.key && this.mail) {
      this.choose(this.tab, false);
      return;
    }
    this.key = key;
    const asked = ++this.asked;
    const slow = setTimeout(() => asked === this.asked && this.box.setAttribute('aria-busy', 'true'), PATIENCE);
    try {
      const made = key.startsWith('try-') ? await this.attempt(Number(key.slice(4))) : await this.load(key);
      if (asked === this.asked) made();
    } catch (error) {
      if (asked !== this.asked || error.name === 'AbortError') return;
      this.mail = null;
      this.box.replaceChildren(this.top([]), el('div', { class: 'pad' }, error.status === 404
        ? el('div', { class: 'complaint', role: 'alert' }, icon('info'), el('p', {}, 'This message is not here any more: it was deleted, or the oldest ones had to go.'))
        : complaint(error, () => { this.key = ''; this.show(key); })));
    } finally {
      clearTimeout(slow);
      this.box.removeAttribute('aria-busy');
    }
  }

  // *key* is an id, or an id and the number of a part that is a message: "ID/2".
  async load(key) {
    const [id, part] = key.split('/');
    const mail = await get(`api/message/${id}/head${part ? `?${new URLSearchParams({ part })}` : ''}`);
    return () => {
      this.mail = mail;
      this.box.dataset.key = key;
      this.loads = {};
      this.draw();
    };
  }

  // Fetch something about the message once: parts, links, checks, smtp.
  about(what) {
    const id = this.mail.ID;
    this.loads[what] ??= get(`api/message/${id}/${what}`).catch((error) => {
      delete this.loads[what];
      throw error;
    });
    return this.loads[what];
  }

  // The head.

  top(actions) {
    return el('div', { class: 'tools' },
      button('Back to the list', 'back', () => this.go(''), { class: 'icon back' }),
      button('Newer message', 'previous', () => this.step(-1)),
      button('Older message', 'next', () => this.step(1)),
      el('span', { class: 'gap' }),
      actions);
  }

  step(by) {
    const key = this.list.neighbour(by);
    if (key) this.go(key);
  }

  // The address of the source.
  source() {
    const { ID, Part } = this.mail;
    return Part ? `api/v1/message/${ID}/part/${Part}` : `api/v1/message/${ID}/raw`;
  }

  // The address of the HTML or the text alone.
  page(kind, values = {}) {
    const { ID, Part } = this.mail;
    const query = new URLSearchParams({ ...values, ...(Part ? { part: Part } : {}) });
    return `view/${ID}.${kind}${query.size ? `?${query}` : ''}`;
  }

  actions() {
    const { mail } = this;
    const save = (query) => el('a', { class: 'icon', href: `${this.source()}${query}`, download: `${mail.ID}${mail.Part && `-${mail.Part}`}.eml`, icon: 'download', 'aria-label': 'Download as .eml', title: 'Download as .eml (e)' });
    if (mail.Part) return [save('')];
    return [
      button('Mark as unread', 'unread', () => this.unread()),
      button('Tags', 'tag', () => this.go(null, { panel: 'tags' }), { 'aria-haspopup': 'dialog' }),
      save('?dl=1'),
      this.list.relay ? button('Release', 'send', () => this.go(null, { panel: 'release' }), { 'aria-haspopup': 'dialog', title: 'Send this message to real recipients' }) : null,
      el('button', { type: 'button', class: 'icon wide', icon: 'copy', 'aria-haspopup': 'dialog', 'aria-label': 'Copy as', title: 'Copy as a test, a program or a command (c)', on: { click: () => this.go(null, { panel: 'copy' }) } }, 'Copy as'),
      button('Delete', 'trash', () => this.go(null, { panel: 'delete' })),
    ];
  }

  // The way back from a message that another one has as a part.
  outer() {
    const { ID, Part } = this.mail;
    if (!Part) return null;
    const back = (event) => {
      if (event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      this.go(ID, { tab: 'parts' });
    };
    return el('p', { class: 'inner' }, icon('mail'), `Part ${Part} of `, el('a', { href: `view/${ID}`, on: { click: back } }, this.mail.Outer || 'a message without a subject'));
  }

  draw() {
    const { mail } = this;
    const head = el('header', { class: 'head' },
      this.top(this.actions()),
      this.outer(),
      el('h2', { id: 'subject' }, mail.Subject || el('i', {}, '(no subject)')),
      this.people(),
      this.facts(),
      mail.Notices.length ? el('ul', { class: 'notices' }, mail.Notices.slice(0, 5).map((text) => el('li', { class: 'warn' }, icon('warning'), text))) : null);
    this.box.setAttribute('aria-label', 'Message');
    this.tabs = TABS.filter((tab) => !tab.missing?.(mail));
    const bar = el('div', { class: 'tabs', role: 'tablist', 'aria-label': 'Views of the message', 'aria-orientation': 'horizontal' },
      this.tabs.map((tab, number) => el('button', {
        type: 'button', role: 'tab', id: `tab-${tab.id}`, 'aria-controls': 'panel', title: `${tab.title} (${number + 1})`,
        on: { click: () => this.choose(tab.id) },
      }, tab.title, tab.badge ? el('span', { class: 'badge', hidden: true }) : null)));
    const panel = el('div', { class: 'panel', id: 'panel', role: 'tabpanel', tabindex: '0' });
    // The frame of the message before stays until the new one has loaded.
    const frame = this.box.querySelector('iframe.shown');
    if (frame && mail.HTML && this.current() === 'html' && this.box.querySelector('.canvas')) {
      const old = this.box.querySelector('#panel');
      this.box.querySelector('header.head').replaceWith(head);
      this.box.querySelector('.tabs').replaceWith(bar);
      this.box.querySelector('.attached')?.remove();
      old.before(...this.attached());
    } else {
      this.box.replaceChildren(head, bar, ...this.attached(), panel);
    }
    this.choose(this.current(), false);
    this.badges();
  }

  current() {
    const ids = this.tabs.map((tab) => tab.id);
    if (ids.includes(this.tab)) return this.tab;
    return ids.includes('html') ? 'html' : 'text';
  }

  people() {
    const { mail } = this;
    const names = (label, people) => (people.length
      ? el('div', {}, el('dt', {}, label), listed(people.map(fullPerson))) : null);
    return el('dl', { class: 'names' },
      names('From', mail.From.Name || mail.From.Address ? [mail.From] : [{ Name: '', Address: '(no sender)' }]),
      names('To', mail.To), names('Cc', mail.Cc), names('Bcc', mail.Bcc), this.envelope(), names('Reply-To', mail.ReplyTo));
  }

  // The recipients of the envelope, if the header names one that is not among them.
  envelope() {
    const { To, Cc, Bcc, Envelope, Part } = this.mail;
    const sent = new Set(Envelope.To.map((one) => one.toLowerCase()));
    if (Part || ![...To, ...Cc, ...Bcc].some((one) => !sent.has(one.Address.toLowerCase()))) return null;
    return el('div', { title: 'The recipients of the envelope (RCPT): the header names others, too' }, el('dt', {}, 'Sent to'), listed(Envelope.To));
  }

  facts() {
    const { mail } = this;
    return el('p', { class: 'facts' },
      mail.Part ? mail.Date && el('span', { title: 'Date of the message' }, mail.Date) : el('time', { datetime: mail.Created, title: 'Received' }, longTime(mail.Created)),
      el('span', {}, bytes(mail.Size)),
      mail.Username ? el('span', {}, `logged in as ${mail.Username}`) : null,
      mail.Tags.map((tag) => el('span', { class: 'tag' }, tag)));
  }

  attached() {
    const files = this.mail.Attachments;
    if (!files.length) return [];
    return [el('ul', { class: 'attached', 'aria-label': plural(files.length, 'attachment') },
      files.map((part) => el('li', {}, el('a', { href: `api/v1/message/${this.mail.ID}/part/${part.PartID}`, download: part.FileName || 'part', title: part.ContentType },
        icon('file'), el('span', { class: 'name' }, part.FileName), el('span', { class: 'size' }, bytes(part.Size))))))];
  }

  // Tabs.

  async choose(id, really = true) {
    if (really) {
      this.tab = id;
      remember('tab', id);
      this.go(null, { tab: id });
    }
    const chosen = this.tabs.find((tab) => tab.id === this.current());
    for (const tab of this.tabs) {
      const made = $(`tab-${tab.id}`);
      made.setAttribute('aria-selected', tab === chosen);
      made.tabIndex = tab === chosen ? 0 : -1;
    }
    $(`tab-${chosen.id}`).scrollIntoView({ block: 'nearest', inline: 'nearest' });
    const panel = this.box.querySelector('#panel');
    panel.setAttribute('aria-labelledby', `tab-${chosen.id}`);
    const key = `${this.mail.ID} ${this.mail.Part} ${chosen.id}`;
    if (panel.dataset.shows === key) return;
    panel.dataset.shows = key;
    const asked = this.asked;
    const isCurrent = () => asked === this.asked && panel.dataset.shows === key;
    try {
      const content = await chosen.render(this, panel, isCurrent);
      if (content && isCurrent()) {
        panel.replaceChildren(...[content].flat());
        const own = panel.querySelector('.own');
        panel.scrollTop = own ? own.offsetTop - 48 : 0;
        if (this.place) scrollTo(panel, this.place);
        this.place = 0;
      }
    } catch (error) {
      if (isCurrent()) panel.replaceChildren(el('div', { class: 'pad' }, complaint(error, () => { delete panel.dataset.shows; this.choose(chosen.id, false); })));
    }
  }

  pick(number) {
    const tab = this.tabs?.[number - 1];
    if (tab && this.mail) this.choose(tab.id);
  }

  tabKey(event) {
    const tab = event.target.closest?.('[role=tab]');
    if (!tab || event.ctrlKey || event.metaKey || event.altKey) return;
    const all = [...tab.parentNode.children];
    const at = all.indexOf(tab);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: all.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    const next = all[(to + all.length) % all.length];
    next.focus();
    next.click();
  }

  // Numbers on the tabs; a route that is missing leaves its tab out.
  badges() {
    const asked = this.asked;
    setTimeout(() => {
      if (asked !== this.asked || !this.mail) return;
      for (const tab of this.tabs) {
        if (!tab.badge) continue;
        this.about(tab.about).then((found) => {
          if (asked !== this.asked || !this.mail) return;
          const count = tab.badge(found, this.mail);
          const badge = $(`tab-${tab.id}`)?.querySelector('.badge');
          if (!badge || !count) return;
          badge.textContent = count;
          badge.hidden = false;
          badge.classList.toggle('bad', Boolean(tab.isBad?.(found)));
        }, (error) => {
          if (error.status === 404 && asked === this.asked) $(`tab-${tab.id}`)?.setAttribute('hidden', '');
        });
      }
    }, 60);
  }

  async unread() {
    const { ID } = this.mail;
    this.list.update([{ ID, Read: false }]);
    await send('PUT', 'api/v1/messages', { IDs: [ID], Read: false }).catch((error) => this.list.failed(error));
    say('Marked as unread');
  }

  // A refused attempt.

  async attempt(id) {
    let found = this.list.attempts.find((one) => one.id === id);
    if (!found) found = (await get('api/rejected?limit=1000')).attempts.find((one) => one.id === id);
    if (!found) {
      return () => this.box.replaceChildren(this.top([]), el('p', { class: 'pad' }, 'This attempt is not here any more.'));
    }
    const session = await get(`api/sessions/${found.session}`).catch(() => null);
    return () => {
      this.mail = null;
      this.box.dataset.key = `try-${id}`;
      const rest = found.recipients - MOST_NAMED;
      const target = [found.from || 'an empty sender', found.to].filter(Boolean).join(' → ') + (rest > 0 ? ` and ${commas(rest)} more` : '');
      this.box.replaceChildren(
        el('header', { class: 'head' }, this.top([]),
          el('h2', { id: 'subject', class: 'refused' }, icon('cross'), found.reply),
          el('dl', { class: 'names' },
            ['MAIL', 'RCPT', 'DATA'].includes(found.stage) ? el('div', {}, el('dt', {}, 'Mail'), el('dd', {}, target)) : null,
            el('div', {}, el('dt', {}, 'Refused at'), el('dd', {}, found.stage)),
            el('div', {}, el('dt', {}, 'Client'), el('dd', {}, [found.client || 'a Unix socket', found.tls, found.user && `logged in as ${found.user}`].filter(Boolean).join(' · '))),
            found.fault ? el('div', {}, el('dt', {}, 'Fault'), el('dd', {}, el('code', {}, found.fault), ' ', el('a', { href: './?panel=faults', on: { click: (event) => { event.preventDefault(); this.go('', { panel: 'faults' }); } } }, 'All faults'))) : null),
          el('p', { class: 'facts' }, el('time', { datetime: found.at }, longTime(found.at)))),
        el('div', { class: 'panel', id: 'panel', tabindex: '0', role: 'region', 'aria-label': 'The dialogue' },
          session ? smtpOf(session, { line: found.line, go: this.go }) : el('p', { class: 'pad' }, 'The dialogue of its session was not kept.')));
      // The reply is the line before the one that the attempt points at, or that line.
      this.box.querySelector('.here')?.scrollIntoView({ block: 'center' });
    };
  }
}

