// Live updates: WebSocket, else server-sent events, else asking every five seconds.

import { clock, place } from './kit.js';

const WAITS = [1, 2, 5, 10, 30];
const POLL = 5000;
// Rows are as those of the list: with the recipients of the envelope.
const EVENTS = 'api/events?envelope=1';
const KINDS = ['new', 'update', 'delete', 'prune', 'truncate', 'stats', 'rejected', 'fault'];

export class Live {
  // *take(kind, data)* gets each event; *refresh()* fetches what may have been missed and returns
  // a promise; *show(state, text)* tells the reader: live, slow or offline.
  constructor(take, refresh, show) {
    this.take = take;
    this.refresh = refresh;
    this.show = show;
    this.rung = 0;
    this.failures = 0;
    this.tries = 0;
    this.since = null;
    this.missed = true;
    this.connect();
  }

  connect() {
    [this.socket, this.stream, this.poll][this.rung].call(this);
  }

  socket() {
    const url = place(EVENTS).replace(/^http/, 'ws');
    let opened = 0;
    let socket;
    try {
      socket = new WebSocket(url);
    } catch {
      this.failed(false);
      return;
    }
    socket.onopen = () => { opened = Date.now(); this.up(); };
    socket.onmessage = (event) => {
      try {
        const { Type, Data } = JSON.parse(event.data);
        this.take(Type, Data);
      } catch {
        // Another program's frames are not ours.
      }
    };
    socket.onclose = () => this.failed(opened && Date.now() - opened > 2000);
  }

  stream() {
    const source = new EventSource(place(EVENTS));
    let opened = 0;
    source.onopen = () => { opened = Date.now(); this.up(); };
    for (const kind of KINDS) {
      source.addEventListener(kind, (event) => this.take(kind, JSON.parse(event.data)));
    }
    source.onerror = () => {
      // While it connects again by itself, the server sends what was missed.
      if (source.readyState === EventSource.CONNECTING && opened && Date.now() - opened > 2000) {
        this.down();
        return;
      }
      source.close();
      this.failed(false);
    };
  }

  async poll() {
    const begin = Date.now();
    while (Date.now() - begin < 60000) {
      try {
        await this.refresh();
        this.since = null;
        this.tries = 0;
        this.show('slow', 'every 5 s');
      } catch {
        this.down();
      }
      await new Promise((done) => setTimeout(done, POLL));
    }
    this.rung = 0;
    this.connect();
  }

  up() {
    this.failures = 0;
    this.tries = 0;
    this.since = null;
    this.show('live', 'live');
    if (this.missed) this.refresh().catch(() => {});
    this.missed = false;
  }

  down() {
    this.since ??= new Date();
    this.show('offline', `offline since ${clock(this.since).slice(0, 5)}`, this.since);
  }

  async failed(worked) {
    this.missed = true;
    const answers = await fetch(place('readyz')).then((answer) => answer.status < 500, () => false);
    if (!answers) {
      this.down();
    } else if (!worked) {
      this.failures += 1;
      if (this.failures >= 2) {
        this.failures = 0;
        this.rung = Math.min(this.rung + 1, 2);
        this.tries = 0;
        this.connect();
        return;
      }
    }
    const wait = WAITS[Math.min(this.tries, WAITS.length - 1)];
    this.tries += 1;
    setTimeout(() => this.connect(), wait * 1000);
  }
}
