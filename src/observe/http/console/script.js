'use strict';
// All that comes from outside goes into the page by textContent; the policy of the page forbids
// every other way.
const $ = (id) => document.getElementById(id);
const hasActions = document.body.dataset.actions === 'on';
let token = '';
let columns = {};
let points = [];
let taken = -1;
let parkedKey = null;
let part = {};
let shownBefore = 0;
let groupsHeld = [];
const listsBefore = {};
let parkedAt = 0;
let parkedSum = 0;
const chosen = new Set();

const STATES = {
  connecting: ['Connecting', 'warn'], standby: ['Standby', 'good'], catching_up: ['Catching up', 'warn'],
  running: ['Running', 'good'], paused: ['Paused', 'warn'], draining: ['Draining', 'warn'],
  waiting: ['Waiting to try again', 'bad'], stopped: ['Stopped', 'bad'],
};

function put(id, text) { const it = $(id); if (it.textContent !== text) it.textContent = text; }

function make(name, text, kind) {
  const it = document.createElement(name);
  if (text !== undefined && text !== null) it.textContent = text;
  if (kind) it.className = kind;
  return it;
}

function bytes(n) {
  if (n === null || n === undefined) return '–';
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let at = 0;
  while (Math.abs(n) >= 1024 && at < units.length - 1) { n /= 1024; at += 1; }
  return (at === 0 || n >= 100 ? Math.round(n) : n.toFixed(1)) + ' ' + units[at];
}

function span(s) {
  if (s === null || s === undefined) return '–';
  if (s === 0) return '0 s';
  if (s < 0.001) return Math.round(s * 1e6) + ' µs';
  if (s < 1) return (s < 0.0995 && (s * 1e3) % 1 > 1e-6 ? (s * 1e3).toFixed(1) : Math.round(s * 1e3)) + ' ms';
  if (s < 60) return (s < 10 && !Number.isInteger(s) ? s.toFixed(1) : Math.round(s)) + ' s';
  const whole = Math.round(s);
  const parts = [[86400, 'd'], [3600, 'h'], [60, 'min'], [1, 's']];
  let rest = whole; const out = [];
  for (const [size, name] of parts) {
    const count = Math.floor(rest / size); rest -= count * size;
    if (count || out.length) out.push([count, name]);
    if (out.length === 2) break;
  }
  return out.filter(([count]) => count).map(([count, name]) => count + ' ' + name).join(' ');
}

function count(n) {
  if (n === null || n === undefined) return '–';
  return n >= 100 || Number.isInteger(n) ? Math.round(n).toLocaleString('en') : n.toFixed(1);
}

// As people write it everywhere, in the zone of this browser.
function clock(at) {
  const two = (n) => String(n).padStart(2, '0');
  return [at.getFullYear(), two(at.getMonth() + 1), two(at.getDate())].join('-') + ' '
    + [at.getHours(), at.getMinutes(), at.getSeconds()].map(two).join(':');
}

function headers() { return token ? { Authorization: 'Bearer ' + token } : {}; }

async function fetched(path) {
  const answer = await fetch(path, { headers: headers(), cache: 'no-store' });
  if (answer.status === 401) { shut(); throw new Error('the token is asked for'); }
  const body = await answer.json();
  if (!answer.ok) throw new Error(said(body));
  return body;
}

function said(body) { return body.hint ? body.what + ' – ' + body.hint : body.what; }

// The gate.

let opened = null;
function shut() {
  $('data').hidden = true; $('gate').hidden = false;
  put('gate-said', token ? 'That is not the token.' : '');
  link('waits for the token', false);
  token = '';
}
function wait() { return new Promise((resolve) => { opened = resolve; }); }
$('gate-open').addEventListener('click', () => {
  token = $('gate-token').value.trim(); $('gate-token').value = '';
  link('connecting …', false);
  if (opened) { opened(); opened = null; }
});
$('gate-token').addEventListener('keydown', (event) => { if (event.key === 'Enter') $('gate-open').click(); });

// What it is at.

function hint(text) { const line = make('div', 'Hint: ', 'quiet'); line.append(make('code', text)); return line; }

// What the state says already is not said twice.
function reasons(all, why, isSevere) {
  return all.filter((of) => of.hint || of.what !== why).map((of) => {
    const it = make('li', null, isSevere ? 'severe' : '');
    if (of.what !== why) it.append(make('div', of.what || of.code));
    if (of.hint) it.append(hint(of.hint));
    return it;
  });
}

function behind(status) {
  const relay = status.relay;
  if (status.state === 'paused') return 'not read while paused';
  if (status.state === 'standby') return 'by the relay that holds the slot';
  if (!relay) return 'nothing is published now';
  return relay.unsettled_seconds === null ? 'no event waits here' : 'the oldest event here: ' + span(relay.unsettled_seconds);
}

function trend() {
  const lag = columns.confirmed_lag_bytes;
  const last = points.filter((point) => point[lag] !== null).slice(-13);
  if (last.length < 3) return '';
  const change = last[last.length - 1][lag] - last[0][lag];
  const floor = Math.max(1 << 20, last[0][lag] * 0.1);
  return change > floor ? '↑\u00a0growing' : change < -floor ? '↓\u00a0shrinking' : '→\u00a0steady';
}

function show(status) {
  $('gate').hidden = true; $('data').hidden = false;
  document.title = (STATES[status.state] || [status.state])[0] + ' · pgoutbox ' + status.slot_name;
  put('slot-name', status.slot_name + ' · ' + status.version);
  const [word, mood] = STATES[status.state] || [status.state, 'warn'];
  put('state', word);
  $('state').className = 'state ' + (status.is_ready ? mood : 'bad');
  put('since', 'for ' + span(Math.floor(status.state_seconds)));
  const again = status.again_in_seconds;
  put('why', status.why + (again === null ? '' : '; tried again in ' + span(Math.ceil(again))));
  $('reasons').replaceChildren(
    ...reasons(status.reasons, status.why, true), ...reasons(status.degraded, status.why, false));
  const rows = status.state === 'catching_up' ? status.catch_up : null;
  $('catch-up').hidden = !rows;
  if (rows) {
    $('catch-up-meter').max = Math.max(1, rows.rows); $('catch-up-meter').value = rows.done;
    const pace = rows.left_seconds === null ? '' : ', ' + count(rows.per_second) + ' a second, ' + span(rows.left_seconds) + ' left';
    put('catch-up-rows', count(rows.done) + ' of ' + count(rows.rows) + ' rows are published' + pace + '; then comes the stream');
  }

  $('pause-tools').hidden = !hasActions;
  $('pause').hidden = status.state === 'paused'; $('resume').hidden = !$('pause').hidden;

  const slot = status.slot; const relay = status.relay;
  put('behind-bytes', slot ? bytes(slot.confirmed_lag_bytes) : '–');
  put('behind-seconds', behind(status));
  put('trend', trend());
  put('delivered', count(status.events.delivered) + ' since this process began');
  const all = status.commit_to_confirm;
  put('latency-all', all.count ? 'since the start: ' + span(all.p50_seconds) + ', 99 % ' + span(all.p99_seconds) : '');
  const limit = status.window;
  put('window', relay ? count(relay.window_messages) : '–');
  put('window-of', relay ? 'of ' + count(relay.window_size) + ' messages in flight' : 'no session');
  $('window-meter').hidden = !relay;
  $('window-meter').value = relay ? Math.max(relay.window_messages / relay.window_size, relay.window_bytes / limit.limit_bytes) : 0;
  put('window-bytes', relay ? bytes(relay.window_bytes) + ' of ' + bytes(limit.limit_bytes) + (relay.waiting ? '; ' + count(relay.waiting) + ' more wait' : '') : '');
  put('retained', slot ? bytes(slot.retained_wal_bytes) : '–');
  $('wal-meter').hidden = !slot || slot.used_percent === null;
  $('wal-meter').value = slot && slot.used_percent !== null ? slot.used_percent : 0;
  let room = 'not seen yet';
  if (slot) {
    room = 'slot ' + slot.wal_status;
    room += slot.left_bytes === null ? ', no limit is set' : ', ' + bytes(slot.left_bytes) + ' left of ' + slot.limit;
    room += slot.full_in_seconds === null ? '' : '; full in ' + span(slot.full_in_seconds);
  }
  // Names of settings are longer than a card is wide.
  if ($('headroom').textContent !== room) $('headroom').replaceChildren(...room.split(/(?<=_)/).flatMap((part) => [part, make('wbr')]));

  if (status.changes) changes(status.changes);
  tables(status);
  destinations(status);
  groups(status.parked, status.held_aggregates);
  if (status.points_taken === undefined || status.points_taken !== taken) { taken = status.points_taken; history(); }
}

// What is tried over and over is one line for each step of it, with how often and since when.
function folded(all) {
  const out = [];
  for (const change of all) {
    out.push({ ...change, times: 1, since: change.at, key: change.state + ' ' + change.what });
    for (const steps of [1, 2, 3]) {
      const [older, newer] = [out.slice(-2 * steps, -steps), out.slice(-steps)];
      if (older.length === steps && older.every((one, at) => one.key === newer[at].key)) {
        newer.forEach((one, at) => { one.times += older[at].times; one.since = older[at].since; });
        out.splice(-2 * steps, steps);
        break;
      }
    }
  }
  return out;
}

// What happened lately is seen at once; the rest is folded.
const LATELY = 5;
function changes(all) {
  put('zone', 'in the time of this browser, ' + Intl.DateTimeFormat().resolvedOptions().timeZone);
  const items = folded(all).reverse().map((change) => {
    const it = make('li');
    const at = make('time', clock(new Date(change.at)), 'quiet');
    at.dateTime = change.at;
    const what = make('div', change.what);
    if (change.times > 1) what.append(make('div', count(change.times) + ' times since ' + clock(new Date(change.since)), 'quiet'));
    if (change.hint) what.append(hint(change.hint));
    it.append(at, make('strong', (STATES[change.state] || [change.state])[0]), what);
    return it;
  });
  $('changes').replaceChildren(...items.slice(0, LATELY));
  $('changes-earlier').replaceChildren(...items.slice(LATELY));
  $('earlier').hidden = items.length <= LATELY;
  put('earlier-count', count(items.length - LATELY) + ' earlier');
}

// What came a second since the status before, of the same session; of each in a list, by its title.
function rates(list, all, title) {
  const now = performance.now();
  const before = listsBefore[list];
  if (!before || now - before.at > 4000 || before.all.length !== all.length) listsBefore[list] = { at: now, all };
  return all.map((one) => {
    const past = before && before.all.find((it) => title(it) === title(one));
    if (!past || past.delivered > one.delivered) return '–';
    return count((one.delivered - past.delivered) / Math.max(0.5, (now - before.at) / 1000)) + ' /s';
  });
}

function rowOf(cells, names) {
  const row = make('tr');
  row.append(...cells.map((text, at) => { const cell = make('td', text); if (names[at]) cell.dataset.name = names[at]; return cell; }));
  return row;
}

// By where events go.
function destinations(status) {
  const all = status.destinations || [];
  const title = (one) => one.kind === 'other' ? 'all others' : one.kind + ' ' + (one.name || '(default)');
  const per = rates('destinations', all, title);
  $('destinations').hidden = !all.length;
  $('destinations-rows').replaceChildren(...all.map((one, at) => rowOf(
    [title(one), per[at], span(one.commit_to_confirm.p50_seconds), span(one.commit_to_confirm.p99_seconds),
      count(one.delivered), count(one.parked)],
    ['', 'rate', 'median', '99 %', 'delivered', 'parked'])));
  const streams = all.filter((one) => one.stream);
  $('streams-table').hidden = !streams.length;
  const named = streams.find((one) => one.stream.publisher);
  put('streams-said', named ? 'Streams are published to as ' + named.stream.publisher + '.' : '');
  $('streams-rows').replaceChildren(...streams.map(({ name, stream }) => rowOf(
    [name, stream.leader, count(stream.in_flight), stream.confirmed_id], ['', 'leader', 'in flight', 'confirmed up to id'])));
}

function tables(status) {
  const all = status.tables || [];
  const per = rates('tables', all, (one) => one.table);
  $('tables-table').hidden = !all.length;
  put('tables-said', all.length ? '' : 'No session runs, so nothing is counted.');
  $('tables-rows').replaceChildren(...all.map((one, at) => {
    const row = rowOf(
      [one.table, one.to, per[at], span(one.commit_to_confirm.p50_seconds), span(one.commit_to_confirm.p99_seconds),
        count(one.delivered), '–'],
      ['', 'to', 'rate', 'median', '99 %', 'delivered', 'parked']);
    row.dataset.table = one.table;
    return row;
  }));
  parkedByTable();
}

// The list of parked events comes by itself.
function parkedByTable() {
  for (const row of $('tables-rows').rows) {
    const sum = groupsHeld.filter((one) => one.table === row.dataset.table).reduce((sum, one) => sum + one.events + one.waiting, 0);
    row.lastElementChild.textContent = count(sum);
  }
}

// Parked events.

function groups(parked, held) {
  const all = parked || [];
  const sum = all.reduce((sum, one) => sum + one.events, 0);
  parkedSum = sum;
  put('parked-count', parked ? count(sum) : '–');
  const oldest = Math.max(0, ...all.map((one) => one.oldest_seconds));
  put('parked-note', sum ? 'oldest ' + span(oldest) + (held ? '; ' + count(held) + ' aggregates held' : '') : parked ? 'none' : 'not seen yet');
  const key = all.map((one) => one.state + one.reason + one.events).join();
  const isOld = sum && Date.now() - parkedAt > 15000;
  // Who has chosen some, or unfolded one, is not disturbed by the clock.
  const isBusy = chosen.size > 0 || document.querySelector('#parked-rows [aria-expanded="true"]');
  if (parked && (key !== parkedKey || isOld) && !(isBusy && sum)) { parkedKey = key; list(); }
}

function query(more) {
  const all = Object.entries({ ...part, ...more }).filter(([, value]) => value);
  return 'parked' + (all.length ? '?' : '') + all.map(([name, value]) => name + '=' + encodeURIComponent(value)).join('&');
}

async function list() {
  parkedAt = Date.now();
  try {
    const told = await fetched(query());
    grouped(told.groups);
    rows(told.events);
    const heads = told.groups.reduce((sum, one) => sum + one.events, 0);
    const isPart = part.reason || part.table || part.text;
    const [from, to] = [shownBefore + 1, shownBefore + told.events.length];
    let text = 'None.';
    if (told.events.length) text = count(from) + ' to ' + count(to) + (isPart ? '' : ' of ' + count(heads)) + (told.has_more || shownBefore ? ', the oldest first.' : '.');
    else if (isPart) text = 'None fits.';
    put('parked-said', text);
    $('parked-pages').hidden = !told.has_more && !part.after;
    $('page-first').disabled = !part.after; $('page-next').disabled = !told.has_more;
    $('page-next').dataset.after = told.events.length ? told.events[told.events.length - 1].seq : '';
    $('page-next').dataset.shown = to;
    $('search-all').hidden = !isPart;
  } catch (error) { put('parked-said', 'They cannot be listed: ' + error.message); parkedKey = null; }
}

function turn(to, before) { part = to; shownBefore = before; chosen.clear(); return list(); }
$('page-next').addEventListener('click', () => turn({ ...part, after: $('page-next').dataset.after }, Number($('page-next').dataset.shown)));
$('page-first').addEventListener('click', () => turn({ ...part, after: '' }, 0));
$('search').addEventListener('submit', (submit) => { submit.preventDefault(); turn({ text: $('search-text').value.trim() }, 0); });
$('search-all').addEventListener('click', () => { $('search-text').value = ''; turn({}, 0); });

// Each reason once, with what helps; pressed, it shows its own only.
function grouped(all) {
  groupsHeld = all;
  parkedByTable();
  const several = new Set(all.map((one) => one.table)).size > 1;
  $('parked-groups').replaceChildren(...all.map((one) => {
    const it = make('li', null, one.failed ? 'failed' : '');
    const name = (one.reason || 'unknown') + (several ? ', ' + one.table : '');
    const isShown = part.reason === one.reason && (!part.table || part.table === one.table);
    const press = make('button', name);
    press.type = 'button';
    press.setAttribute('aria-pressed', String(isShown));
    press.addEventListener('click', () => turn(isShown ? {} : { reason: one.reason, table: several ? one.table : '' }, 0));
    const told = count(one.events) + (one.events === 1 ? ' event' : ' events') + (one.failed ? ', ' + count(one.failed) + ' failed' : '')
      + (one.waiting ? '; ' + count(one.waiting) + (one.waiting === 1 ? ' more waits' : ' more wait') + ' behind' : '') + '; oldest ' + span(one.oldest_seconds);
    it.append(press, make('span', told, 'quiet'));
    if (one.hint) it.append(hint(one.hint));
    if (one.hints > 1) it.append(make('div', 'and ' + count(one.hints - 1) + ' more hints: see the events', 'quiet'));
    return it;
  }));
}

function cell(event, isFollower) {
  const id = make('td', null, 'event');
  const line = make('div', event.event_id === null ? 'unreadable id' : event.event_id, 'id');
  line.title = line.textContent;
  id.append(line, make('div', 'seq ' + event.seq + ', ' + event.table, 'quiet'));
  if (event.exchange !== null) id.append(make('div', 'to ' + (event.exchange || 'the default exchange') + ', ' + event.routing_key, 'quiet'));
  if (isFollower || !event.waiting_behind_it) return id;
  const unfold = make('button', count(event.waiting_behind_it) + (event.waiting_behind_it === 1 ? ' more waits' : ' more wait') + ' behind it', 'fold');
  unfold.type = 'button';
  unfold.setAttribute('aria-expanded', 'false');
  unfold.addEventListener('click', () => { followers(event, unfold).catch((error) => put('parked-said', 'They cannot be listed: ' + error.message)); });
  id.append(unfold);
  return id;
}

async function followers(event, unfold) {
  const row = unfold.closest('tr');
  if (unfold.getAttribute('aria-expanded') === 'true') {
    unfold.setAttribute('aria-expanded', 'false');
    while (row.nextElementSibling && row.nextElementSibling.classList.contains('follower')) row.nextElementSibling.remove();
    return;
  }
  unfold.setAttribute('aria-expanded', 'true');
  const told = await fetched('parked?behind=' + event.seq);
  const all = told.events.map((one) => line(one, new Map(), true));
  if (told.has_more) {
    const rest = make('tr', null, 'follower');
    const said = make('td', count(event.waiting_behind_it - told.events.length) + ' more; pgoutbox parked list --waiting --aggregate has all', 'quiet');
    said.colSpan = 7; rest.append(said); all.push(rest);
  }
  row.after(...all);
}

function line(event, said, isFollower) {
  const row = make('tr', null, isFollower ? 'follower' : '');
  const box = make('input'); box.type = 'checkbox'; box.hidden = !hasActions;
  box.dataset.seq = event.seq; box.checked = chosen.has(event.seq);
  box.setAttribute('aria-label', 'Choose event ' + event.seq);
  box.addEventListener('change', () => { if (box.checked) chosen.add(event.seq); else chosen.delete(event.seq); choice(); });
  const first = make('td'); first.append(box);
  const why = make('td', event.state === 'queued' ? 'waits behind another of its aggregate' : event.reason || '–');
  if (event.last_error) why.append(make('div', event.last_error, 'quiet'));
  // What its reason says above is not said again.
  if (event.hint && event.hint !== said.get(event.reason)) why.append(hint(event.hint));
  const next = event.next_in_seconds === null || event.state !== 'parked' ? '' : ', next in ' + span(Math.max(0, Math.ceil(event.next_in_seconds)));
  row.append(first, cell(event, isFollower), make('td', event.aggregate || '–'), make('td', event.state, 'narrow'), why,
    make('td', event.attempts + next), make('td', span(Math.floor(event.age_seconds)), 'narrow'));
  return row;
}

function rows(events) {
  const seqs = new Set(events.map((event) => event.seq));
  for (const seq of chosen) if (!seqs.has(seq)) chosen.delete(seq);
  $('parked-table').hidden = !events.length;
  $('parked-tools').hidden = !events.length || !hasActions;
  $('choose-all').hidden = !hasActions;
  const said = new Map(groupsHeld.map((one) => [one.reason, one.hint]));
  $('parked-rows').replaceChildren(...events.map((event) => line(event, said, false)));
  choice();
}

function choice() {
  $('retry').disabled = $('discard').disabled = !chosen.size;
  $('choose-all').checked = chosen.size > 0 && chosen.size === $('parked-rows').rows.length;
  put('chosen', chosen.size ? count(chosen.size) + ' chosen' : '');
}
$('choose-all').addEventListener('change', (event) => {
  for (const box of $('parked-rows').querySelectorAll('input')) {
    box.checked = event.target.checked;
    if (box.checked) chosen.add(Number(box.dataset.seq)); else chosen.delete(Number(box.dataset.seq));
  }
  choice();
});

// One event.

function facts(event) {
  const record = event.parked || {}; const message = event.message || {};
  const tried = event.tries.map((one) => clock(new Date(one.first)) + (one.times > 1 ? ', ' + count(one.times) + ' times' : '') + ': ' + one.error);
  return [
    ['table', event.table], ['aggregate', event.aggregate],
    ['occurred', event.row && event.row.occurred_at], ['committed', event.committed_at], ['commit', event.commit],
    ['exchange', event.exchange === '' ? '(default)' : event.exchange], ['routing key', event.routing_key],
    ['seq', record.seq], ['parked', record.parked_at], ...tried.map((text) => ['tried', text]), ['hint', record.hint],
    ['changed', record.changed_by && 'by ' + record.changed_by + ', ' + record.changed_at], ['note', record.note],
    ...Object.entries((message.properties || {}).headers || {}).map(([name, value]) => ['header', name + ' = ' + (typeof value === 'string' ? value : JSON.stringify(value))]),
    ['body', message.body_bytes === undefined ? null : bytes(message.body_bytes)], ['message', message.why_not],
  ].filter(([, value]) => value !== null && value !== undefined && value !== '');
}

function found(event) {
  const it = make('article');
  it.append(make('h3', event.event_id === null ? 'unreadable id' : event.event_id), make('p', event.state + ': ' + event.what));
  const list = make('dl', null, 'facts');
  for (const [name, value] of facts(event)) list.append(make('dt', name), make('dd', String(value)));
  it.append(list);
  return it;
}

$('find').addEventListener('submit', async (submit) => {
  submit.preventDefault();
  const id = $('find-id').value.trim();
  if (!id) return;
  $('found').replaceChildren();
  put('find-said', 'looking …');
  try {
    const told = await fetched('event?id=' + encodeURIComponent(id));
    $('found').replaceChildren(...told.events.map(found));
    put('find-said', [...told.unknown.map((one) => one.what), ...told.notes].join(' · ') || '');
  } catch (error) { put('find-said', 'It cannot be looked for: ' + error.message); }
});

let act = null;
function ask(path, word, title, text, asked, then) {
  put('ask-title', title);
  put('ask-text', text); put('ask-yes', word); put('ask-said', '');
  $('ask-token-row').hidden = Boolean(token);
  $('ask-note').value = '';
  act = async () => {
    if (!token) { token = $('ask-token').value.trim(); $('ask-token').value = ''; }
    const answer = await fetch(path, {
      method: 'POST', cache: 'no-store', headers: { ...headers(), 'Content-Type': 'application/json' },
      body: JSON.stringify({ ...asked, note: $('ask-note').value }),
    });
    if (answer.status === 401) { token = ''; $('ask-token-row').hidden = false; put('ask-said', 'That is not the token.'); return; }
    if (!answer.ok) {
      const told = await answer.text();
      let text = told; try { text = said(JSON.parse(told)); } catch { /* plain text */ }
      put('ask-said', text); return;
    }
    const done = await answer.json();
    $('ask').close();
    await then(done);
  };
  $('ask').showModal();
}

function askParked(path, word, text) {
  const seqs = [...chosen];
  const title = word + ' ' + count(seqs.length) + (seqs.length === 1 ? ' event?' : ' events?');
  ask(path, word, title, text, { seqs }, async (done) => {
    chosen.clear();
    await list();
    put('parked-said', word + ': ' + count(done.events) + ' events' + (done.freed ? '; ' + count(done.freed) + ' behind them are tried now' : '') + '.');
  });
}
$('retry').addEventListener('click', () => askParked('parked/retry', 'Retry',
  'They are published at once. One that waits behind another of its aggregate waits on.'));
$('discard').addEventListener('click', () => askParked('parked/discard', 'Discard',
  'They are not delivered. The record stays; what waits behind them goes on.'));
$('pause').addEventListener('click', () => ask('pause', 'Pause', 'Pause the relay?',
  'Nothing more is published until it is resumed, by whichever process. The slot keeps the WAL meanwhile.', {},
  () => put('pause-said', 'It will pause at once.')));
$('resume').addEventListener('click', () => ask('resume', 'Resume', 'Resume the relay?',
  'It publishes what has waited, in order.', {},
  (done) => put('pause-said', done.was_paused ? 'It goes on.' : 'It was not paused.')));
$('ask-yes').addEventListener('click', async () => {
  $('ask-yes').disabled = true;
  try { await act(); } catch (error) { put('ask-said', String(error.message)); }
  $('ask-yes').disabled = false;
});
$('ask-no').addEventListener('click', () => $('ask').close());

// Plots.

const SVG = 'http://www.w3.org/2000/svg';
function draw(name, attributes, text) {
  const it = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) it.setAttribute(key, value);
  if (text !== undefined) it.textContent = text;
  return it;
}

// The least round number that is not below.
function round(n) {
  if (!(n > 0)) return 1;
  const ten = 10 ** Math.floor(Math.log10(n));
  return [1, 2, 5, 10].map((step) => step * ten).find((step) => step >= n * 0.999);
}

// Bytes are told in steps of 1024, and so are round in them.
function roundBytes(n) { let most = 1024; while (most < n) most *= 2; return most; }

// Ten times as much a step: what is usual is seen beside what is rare.
function decades(values) {
  const known = values.some((value) => value > 0) ? values.filter((value) => value > 0) : [0.001, 1];
  const low = Math.floor(Math.log10(Math.min(...known, 1)));
  const most = Math.max(low + 1, Math.ceil(Math.log10(Math.max(...known, 10 ** low)) - 1e-9));
  const step = Math.ceil((most - low) / 4);
  const high = low + step * Math.ceil((most - low) / step);
  const ticks = [];
  for (let at = high; at >= low; at -= step) ticks.push(10 ** at);
  return { ticks, share: (value) => Math.max(0, (Math.log10(Math.max(value, 10 ** low)) - low) / (high - low)) };
}

function even(values, round) {
  const most = round(Math.max(0, ...values));
  return { ticks: [0, most / 2, most], share: (value) => value / most };
}

// What kept events from being delivered, and when: behind every plot.
const CALM = { paused: 'paused', catching_up: 'catching up', standby: 'standby' };
function outages() {
  const all = [];
  points.forEach((point, at) => {
    const blocked = point[columns.blocked]; const state = point[columns.state];
    const name = blocked || CALM[state];
    const last = all[all.length - 1];
    const end = at + 1 < points.length ? points[at + 1][0] : Math.max(0, point[0] - 5);
    if (!name) return;
    if (last && last.name === name && last.end === point[0]) { last.end = end; return; }
    all.push({ name, isBad: Boolean(blocked), begin: point[0], end });
  });
  return all;
}

function bands(x, top, bottom) {
  return outages().map((one) => {
    const band = draw('rect', { class: 'band ' + (one.isBad ? 'bad' : 'calm'), x: x(one.begin), y: top,
      width: Math.max(1.5, x(one.end) - x(one.begin)), height: bottom - top });
    band.append(draw('title', {}, one.name + ' for ' + span(Math.round(one.begin - one.end)) + ', ' + span(Math.round(one.begin)) + ' ago'));
    return band;
  });
}

function legend() {
  const told = outages().map((one) => one.name + ' for ' + span(Math.round(one.begin - one.end)) + ', ' + span(Math.round(one.begin)) + ' ago');
  put('bands', told.length ? 'Shaded: ' + told.slice(-4).join('; ') + (told.length > 4 ? '; and ' + count(told.length - 4) + ' before' : '') + '.' : '');
}

function plot(id, names, format) {
  const svg = $(id);
  const width = svg.clientWidth || 320; const height = svg.clientHeight || 150;
  const left = 52; const bottom = 18; const top = 8;
  const values = points.flatMap((point) => names.map((name) => point[columns[name]])).filter((value) => value !== null);
  const scale = format === span ? decades(values) : even(values, format === bytes ? roundBytes : round);
  // A young process has no hour to show.
  const whole = points.length ? [300, 900, 1800].find((most) => points[0][0] <= most) || 3600 : 3600;
  const x = (ago) => left + (width - left - 4) * (1 - Math.min(1, ago / whole));
  const y = (value) => top + (height - top - bottom) * (1 - scale.share(value));
  const parts = bands(x, top, height - bottom);
  const label = format === span ? (tick) => tick < 1 ? span(tick) : count(tick) + ' s' : format;
  for (const tick of scale.ticks) {
    parts.push(draw('line', { class: 'grid', x1: left, x2: width - 4, y1: y(tick), y2: y(tick) }));
    parts.push(draw('text', { x: left - 6, y: y(tick) + 4, 'text-anchor': 'end' }, label(tick)));
  }
  for (const [ago, text, anchor] of [[whole, span(whole) + ' ago', 'start'], [whole / 2, span(whole / 2), 'middle'], [0, 'now', 'end']]) {
    parts.push(draw('text', { x: x(ago), y: height - 4, 'text-anchor': anchor }, text));
  }
  names.forEach((name, index) => {
    const runs = [[]];
    for (const point of points) {
      const value = point[columns[name]];
      if (value === null) { if (runs[runs.length - 1].length) runs.push([]); continue; }
      runs[runs.length - 1].push([x(point[0]), y(value)]);
    }
    for (const run of runs.filter((run) => run.length)) {
      const line = run.map(([a, b]) => a.toFixed(1) + ',' + b.toFixed(1));
      if (run.length === 1) line.push((run[0][0] + 1.5).toFixed(1) + ',' + run[0][1].toFixed(1));
      if (names.length === 1) {
        parts.push(draw('polygon', { class: 'area', points: [...line, run[run.length - 1][0].toFixed(1) + ',' + y(0), run[0][0].toFixed(1) + ',' + y(0)].join(' ') }));
      }
      parts.push(draw('polyline', { class: index ? 'two' : 'one', points: line.join(' ') }));
    }
  });
  svg.setAttribute('viewBox', '0 0 ' + width + ' ' + height);
  svg.replaceChildren(...parts);
  svg.onpointermove = (event) => {
    const box = svg.getBoundingClientRect();
    const ago = whole * (1 - (event.clientX - box.left - left) / (width - left - 4));
    const near = points.reduce((best, point) => (best === null || Math.abs(point[0] - ago) < Math.abs(best[0] - ago) ? point : best), null);
    svg.querySelectorAll('.cursor').forEach((line) => line.remove());
    if (!near) return;
    svg.append(draw('line', { class: 'cursor', x1: x(near[0]), x2: x(near[0]), y1: top, y2: height - bottom }));
    put(id + '-at', names.map((name) => format(near[columns[name]])).join(' / ') + ', ' + span(Math.round(near[0])) + ' ago');
  };
  svg.onpointerleave = () => { svg.querySelectorAll('.cursor').forEach((line) => line.remove()); put(id + '-at', ''); };
}

function plots() {
  plot('plot-rate', ['delivered_per_second'], count);
  plot('plot-latency', ['p50_seconds', 'p99_seconds'], span);
  plot('plot-lag', ['confirmed_lag_bytes'], bytes);
  legend();
  const last = points[points.length - 1];
  if (!last) return;
  put('rate', count(last[columns.delivered_per_second]) + ' /s');
  const [p50, p99] = [last[columns.p50_seconds], last[columns.p99_seconds]];
  put('latency', span(p50));
  put('latency-most', p99 === null ? '' : '99 %: ' + span(p99));
  put('trend', trend());
}

async function history() {
  try {
    const told = await fetched('history');
    columns = Object.fromEntries(told.columns.map((name, index) => [name, index]));
    points = told.points;
    plots();
  } catch { /* the next point asks again */ }
}
addEventListener('resize', () => { if (points.length) plots(); });

// Live.

let heardAt = null;
function link(text, isLost) {
  put('link', text); $('link').className = isLost ? 'offline' : 'quiet';
  document.body.classList.toggle('stale', isLost);
  if (isLost) document.title = 'No answer · pgoutbox';
}
function lost() { link(heardAt ? 'no answer: this is how it stood at ' + clock(heardAt) : 'no answer', true); }
function heard(status) { heardAt = new Date(); show(status); }

async function listen() {
  const answer = await fetch('events', { headers: headers(), cache: 'no-store' });
  if (answer.status === 401) { shut(); await wait(); return; }
  if (answer.status === 503) {
    heard(await fetched('status'));
    link('too many pages listen: this one asks every few seconds', false);
    await new Promise((resolve) => setTimeout(resolve, 4000));
    return;
  }
  if (!answer.ok) throw new Error(await answer.text());
  link('live', false);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  for (;;) {
    // Silence for long is no link, whatever the browser thinks of it. In this order: a read that is
    // cancelled first looks like the end of the stream, and the silence would not be shown.
    let timer;
    const silence = new Promise((_, reject) => { timer = setTimeout(() => { reject(new Error('silence')); reader.cancel(); }, 15000); });
    const { value, done } = await Promise.race([reader.read(), silence]).finally(() => clearTimeout(timer));
    if (done) return;
    const all = (rest + value).split('\n\n');
    rest = all.pop();
    for (const one of all) if (one.startsWith('data: ')) heard(JSON.parse(one.slice(6)));
  }
}

(async () => {
  for (;;) {
    try { await listen(); } catch { lost(); }
    await new Promise((resolve) => setTimeout(resolve, token ? 500 : 1500));
  }
})();
