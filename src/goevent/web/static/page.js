// The live page of a goevent bus. It reads frames from `events` and draws them.
// Each text of the bus is set as text of a node, never as markup: names and errors are hostile.
"use strict";

const PAGE_ROWS = 100;
const TREND_POINTS = 60;
const HISTORY_POINTS = 120;
const FAILING_SECONDS = 10;
const STALE_SECONDS = 6;
const LETTERS_SECONDS = 5;
const KEPT_ERRORS = 50;
const RETRY_SECONDS = 5;
const SVG = "http://www.w3.org/2000/svg";
const $ = (id) => document.getElementById(id);

const model = {
  number: 0, time: 0, wall: 0, frameAt: 0, hasRates: false, state: "wait",
  listeners: [], events: new Map(), backlogs: [], ledger: [0, 0, 0, 0, 0], counts: [0, 0, 0],
  errorCount: 0, errors: [], history: [], driver: null, actions: false, keep: false, connected: null,
};

// -- nodes and numbers

function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function put(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function mark(node, name, on) {
  if (node.classList.contains(name) !== on) node.classList.toggle(name, on);
}

const whole = new Intl.NumberFormat("en-US");

function count(value) {
  if (value < 1e5) return whole.format(value);
  return value < 1e6 ? `${(value / 1e3).toFixed(0)}k` : `${(value / 1e6).toFixed(value < 1e7 ? 2 : 1)}M`;
}

// The requests of an event have a reserved name.
const REQUESTS = "goevent.requests.";

function shownEvent(name) {
  return name.startsWith(REQUESTS) ? `requests of ${name.slice(REQUESTS.length)}` : name;
}

function heardBy(name) {
  return name.startsWith(REQUESTS) ? `responds to ${name.slice(REQUESTS.length)}` : name;
}

function rate(value) {
  if (value === null) return "–";
  if (value === 0) return "0";
  if (value < 10) return value.toFixed(1);
  return value < 1e4 ? whole.format(Math.round(value)) : count(Math.round(value));
}

function age(seconds) {
  if (seconds === null) return "–";
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 120) return `${Math.round(seconds)} s`;
  return seconds < 7200 ? `${Math.round(seconds / 60)} min` : `${Math.round(seconds / 3600)} h`;
}

function clock(wall) {
  return wall ? new Date(wall * 1000).toLocaleTimeString([], { hour12: false }) : "";
}

// -- frames

function apply(frame) {
  const before = model.time, gap = frame.time - before;
  const follows = frame.number > model.number && model.number > 0 && gap > 0 && gap < 30;
  if (frame.type === "full") {
    const old = new Map(model.listeners.map((each) => [each.key, each]));
    model.listeners = frame.listeners.map(([name, events, inline], place) => {
      const key = `${name}\n${events.join("\n")}\n${place}`;
      const known = old.get(key);
      return known ?? {
        key, name, events, inline, place, rate: null, failRate: 0, failedAt: -Infinity, trend: [], chosenAt: -Infinity,
        depth: 0, oldest: 0, inFlight: 0, done: 0, failed: 0, lost: 0, state: "idle", restarts: 0, strays: 0,
        find: `${name} ${events.join(" ")}`.toLowerCase(), seen: false,
      };
    });
    const oldEvents = model.events;
    model.events = new Map();
    for (const [name] of frame.events) if (oldEvents.has(name)) model.events.set(name, oldEvents.get(name));
    for (const name of ["driver", "actions", "keep"]) model[name] = frame[name];
    model.errors = [];
    model.history = frame.history.map(([time, ended, depth, inFlight, failed, oldest]) => ({ time, ended, depth, inFlight, failed, oldest }));
  }
  for (const name of ["number", "time", "wall", "state", "ledger", "counts", "errorCount", "connected", "backlogs"]) model[name] = frame[name];

  const changed = new Map(frame.rows.map((row) => [row[0], row]));
  let depth = 0, inFlight = 0, oldest = 0;
  for (const each of model.listeners) {
    const row = changed.get(each.place);
    const was = each.done, hadFailed = each.failed, hadLost = each.lost;
    if (row) {
      [, each.depth, each.oldest, each.inFlight, each.done, each.failed] = row;
      each.lost = row[6] + row[7];
      [, , , , , , , , each.state, each.restarts, each.strays] = row;
    }
    if (follows && each.seen) {
      const ended = each.done + each.failed + each.lost - was - hadFailed - hadLost;
      each.rate = Math.max(0, ended / gap);
      each.failRate = Math.max(0, (each.failed - hadFailed) / gap);
      each.trend.push(each.rate);
      if (each.trend.length > TREND_POINTS) each.trend.shift();
      if (each.failed > hadFailed) each.failedAt = frame.time;
    }
    each.seen = true;
    depth += each.depth;
    inFlight += each.inFlight;
    oldest = Math.max(oldest, each.oldest);
  }
  for (const [name, dispatched, listeners] of frame.events) {
    const known = model.events.get(name);
    const step = known && follows ? (dispatched - known.dispatched) / gap : null;
    model.events.set(name, { name, dispatched, listeners, rate: step === null ? null : Math.max(0, step), at: frame.number });
  }
  if (follows) for (const each of model.events.values()) if (each.at !== frame.number) each.rate = 0;
  if (frame.type === "delta") {
    const [, completed, failed, dropped, abandoned] = frame.ledger;
    model.history.push({ time: frame.time, ended: completed + failed + dropped + abandoned, depth, inFlight, failed, oldest });
    if (model.history.length > HISTORY_POINTS) model.history.shift();
  }
  if (frame.errors) model.errors = [...model.errors, ...frame.errors].slice(-KEPT_ERRORS);
  if (follows) model.hasRates = true;
  model.frameAt = performance.now();
  draw(Boolean(frame.errors) || frame.type === "full");
}

function series(pick) {
  return model.history.map(pick);
}

function perSecond(name) {
  const found = [];
  for (let i = 1; i < model.history.length; i++) {
    const gap = model.history[i].time - model.history[i - 1].time;
    // A new opening of the bus starts its ledger at zero.
    if (gap > 0) found.push(Math.max(0, (model.history[i][name] - model.history[i - 1][name]) / gap));
  }
  return found;
}

// -- small charts

function chart(width, height) {
  const area = svg("path", { class: "area" }), line = svg("path", { class: "line" });
  const node = svg("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", "aria-hidden": "true" }, area, line);
  return {
    node,
    show(values, points) {
      if (values.length < 2) { area.setAttribute("d", ""); line.setAttribute("d", ""); return; }
      const top = Math.max(...values, 1e-9), step = width / (points - 1), left = width - step * (values.length - 1);
      const path = values.map((value, i) => `${i ? "L" : "M"}${(left + i * step).toFixed(1)} ${(height - 1.5 - (value / top) * (height - 4)).toFixed(1)}`).join("");
      line.setAttribute("d", path);
      area.setAttribute("d", `${path}L${width} ${height}L${left.toFixed(1)} ${height}Z`);
    },
  };
}

// -- tiles

const tiles = new Map();

function tile(name, value, unit, sub, values, bad = false) {
  let found = tiles.get(name);
  if (!found) {
    const small = el("small"), number = document.createTextNode(""), under = el("p", { class: "sub" }), drawn = chart(180, 38);
    const node = el("div", { class: "tile", "data-tile": name }, el("h2", {}, name), el("p", { class: "value" }, number, small), under, drawn.node);
    found = { node, number, small, under, drawn };
    tiles.set(name, found);
    $("tiles").append(node);
  }
  put(found.number, value);
  put(found.small, unit);
  put(found.under, sub);
  mark(found.node, "bad", bad);
  found.drawn.show(values, HISTORY_POINTS);
}

function drawTiles() {
  const last = model.history.at(-1) ?? { depth: 0, inFlight: 0, oldest: 0 };
  const rates = perSecond("ended"), failures = perSecond("failed");
  const [accepted, completed, failed, dropped, abandoned] = model.ledger;
  const recent = failures.slice(-FAILING_SECONDS).some((value) => value > 0);
  tile("Deliveries", rates.length ? rate(rates.at(-1)) : "–", "/s", `${count(completed)} completed of ${count(accepted)}`, rates);
  tile("Waiting", count(last.depth), "", last.depth ? `the oldest for ${age(last.oldest)}` : "mailboxes are empty", series((each) => each.depth));
  tile("In flight", count(last.inFlight), "", "deliveries under way", series((each) => each.inFlight));
  const share = accepted ? (100 * failed) / accepted : 0;
  tile("Failed", count(failed), "", failed ? `${share < 0.1 ? "< 0.1" : share.toFixed(1)} % of deliveries${failures.at(-1) > 0 ? `, ${rate(failures.at(-1))}/s now` : ""}` : "no listener has failed", failures, recent);
  if (dropped || abandoned || tiles.has("Not run")) tile("Not run", count(dropped + abandoned), "", `${count(dropped)} dropped, ${count(abandoned)} abandoned`, []);
  if (model.backlogs.length || tiles.has("Backlog")) {
    const known = model.backlogs.filter((each) => each[1] !== null);
    const lag = known.reduce((sum, each) => sum + each[1], 0), pending = model.backlogs.reduce((sum, each) => sum + each[2], 0);
    backlogTrend.push(lag + pending);
    if (backlogTrend.length > HISTORY_POINTS) backlogTrend.shift();
    tile("Backlog", count(lag + pending), "", known.length ? `${count(lag)} not read, ${count(pending)} pending` : `${count(pending)} pending`, backlogTrend);
  }
}

const backlogTrend = [];

// -- the header

function drawHeader() {
  const state = $("state");
  put(state, model.state);
  state.dataset.state = model.state;
  const { name, alone, durable } = model.driver;
  const link = model.connected === false ? "not connected" : model.connected ? "connected" : "";
  put($("driver"), alone ? "in this process" : [name, durable ? "durable" : "", link].filter(Boolean).join(" · "));
  const badge = $("nav-errors");
  badge.hidden = model.errorCount === 0;
  put(badge, count(model.errorCount));
  document.title = model.errorCount ? `(${count(model.errorCount)}) goevent` : "goevent";
}

function showLink(kind, text) {
  $("dot").dataset.state = kind;
  put($("live"), text);
}

// -- the picture

const view = { key: "", parts: null, width: 0 };
const isFailing = (each) => model.time - each.failedAt < FAILING_SECONDS;

function chosenListeners(limit) {
  // A listener that was chosen stays for a while, so that the picture does not jump.
  const score = (each) => (isFailing(each) ? 1e9 : 0) + (each.rate ?? 0) * (model.time - each.chosenAt < 15 ? 1.5 : 1) + each.depth * 1e-3;
  const best = [...model.listeners].sort((a, b) => score(b) - score(a) || a.place - b.place).slice(0, limit);
  for (const each of best) each.chosenAt = model.time;
  return best.sort((a, b) => a.place - b.place);
}

function pictureOf(limit) {
  const listeners = chosenListeners(limit);
  const edges = [], names = new Map();
  if (model.events.size) {
    for (const each of model.events.values()) {
      const targets = listeners.filter((listener) => each.listeners.includes(listener.name));
      if (targets.length) names.set(each.name, { name: each.name, rate: each.rate, targets });
    }
  }
  for (const listener of listeners) {
    if ([...names.values()].some((each) => each.targets.includes(listener))) continue;
    for (const name of listener.events) {
      if (!names.has(name)) names.set(name, { name, rate: null, targets: [] });
      names.get(name).targets.push(listener);
    }
  }
  const place = new Map(listeners.map((each, i) => [each, i]));
  const mean = (each) => each.targets.reduce((sum, target) => sum + place.get(target), 0) / each.targets.length;
  const events = [...names.values()].sort((a, b) => (b.rate ?? 0) - (a.rate ?? 0)).slice(0, limit + 4).sort((a, b) => mean(a) - mean(b) || (a.name < b.name ? -1 : 1));
  for (const event of events) for (const target of event.targets) edges.push([event, target]);
  const deaf = [...model.events.values()].filter((each) => !each.listeners.length && each.rate > 0).sort((a, b) => b.rate - a.rate);
  for (const each of deaf.slice(0, 3)) events.push({ name: each.name, rate: each.rate, targets: [] });
  return { events, listeners, edges };
}

function clip(text, chars) {
  return text.length <= chars ? text : `${text.slice(0, Math.max(1, chars - 1))}…`;
}

function nodeOf(kind, x, y, width, height, title, chars) {
  const name = svg("text", { class: "t", x: x + 11, y: y + 16 }), under = svg("text", { class: "s", x: x + 11, y: y + 31 });
  name.textContent = clip(title, chars);
  const node = svg("g", { class: `node ${kind}` }, svg("rect", { x: x + 0.5, y: y + 0.5, width: width - 1, height: height - 1, rx: 7 }), name, under);
  const full = svg("title");
  full.textContent = title;
  node.prepend(full);
  return { node, under };
}

function curve(x1, y1, x2, y2) {
  const bend = (x2 - x1) / 2;
  return `M${x1} ${y1}C${x1 + bend} ${y1} ${x2 - bend} ${y2} ${x2} ${y2}`;
}

function build(picture, width) {
  const narrow = width < 620, hasBroker = !model.driver.alone;
  const high = 40, step = 50, top = 22;
  const most = Math.max(picture.events.length, picture.listeners.length, 1);
  const column = narrow ? Math.floor((width - 34) / 2) : Math.min(260, Math.floor(width * 0.27)) + (hasBroker ? 0 : Math.floor(width * 0.06));
  const brokerWidth = narrow ? width : Math.min(180, Math.floor(width * 0.2));
  const listenerX = narrow ? width - column : hasBroker ? Math.floor((column + width - brokerWidth - column) / 2) : width - column;
  const body = most * step - (step - high), height = top + body + (narrow && hasBroker ? 66 : 0) + 2;
  const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "group", "aria-label": "Events, their listeners and the broker" });
  const lines = svg("g"), nodes = svg("g");
  root.append(lines, nodes);
  const caption = (x, text, anchor = "start") => { const node = svg("text", { class: "caption", x, y: 11, "text-anchor": anchor }); node.textContent = text; root.append(node); };
  const spread = (total) => (i) => top + (body - (total * step - (step - high))) / 2 + i * step;
  const chars = (kind) => Math.floor((column - 20) / (kind === "event" ? 7.7 : 7.2));
  const parts = { events: [], listeners: [], edges: [], ends: [], broker: null };
  const eventAt = spread(picture.events.length), listenerAt = spread(picture.listeners.length), placeOf = new Map();
  caption(0, "Events");
  caption(listenerX, "Listeners");
  picture.events.forEach((each, i) => {
    const y = eventAt(i), made = nodeOf("event", 0, y, column, high, shownEvent(each.name), chars("event"));
    nodes.append(made.node);
    placeOf.set(each, y + high / 2);
    parts.events.push({ ...made, key: each.name });
  });
  picture.listeners.forEach((each, i) => {
    const y = listenerAt(i), made = nodeOf("key", listenerX, y, column, high, each.name, chars("key"));
    made.node.setAttribute("tabindex", "0");
    made.node.setAttribute("role", "button");
    made.node.addEventListener("click", () => find(each.name));
    made.node.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); find(each.name); } });
    nodes.append(made.node);
    placeOf.set(each, y + high / 2);
    parts.listeners.push({ ...made, each });
  });
  // The ends of several edges lie beside each other, in the order of their other ends.
  const port = (list, i) => (i - (list.length - 1) / 2) * Math.min(9, 26 / list.length);
  for (const [event, listener] of picture.edges) {
    const out = picture.edges.filter((each) => each[0] === event), into = picture.edges.filter((each) => each[1] === listener);
    out.sort((a, b) => placeOf.get(a[1]) - placeOf.get(b[1]));
    into.sort((a, b) => placeOf.get(a[0]) - placeOf.get(b[0]));
    const from = placeOf.get(event) + port(out, out.findIndex((each) => each[1] === listener));
    const path = curve(column, from, listenerX, placeOf.get(listener) + port(into, into.findIndex((each) => each[0] === event)));
    const edge = svg("path", { class: "edge", d: path }), flow = svg("path", { class: "flow", d: path });
    lines.append(edge, flow);
    parts.edges.push({ edge, flow, listener, event: event.name });
  }
  if (hasBroker) {
    const x = narrow ? 0 : width - brokerWidth, y = narrow ? top + body + 24 : top + Math.max(0, (body - 76) / 2), tall = narrow ? high : Math.min(76, body);
    const made = nodeOf("broker", x, y, brokerWidth, tall, model.driver.name, Math.floor((brokerWidth - 20) / 7.2));
    const more = svg("text", { class: "s", x: x + 11, y: y + 47 }), last = svg("text", { class: "s", x: x + 11, y: y + 63 });
    if (!narrow) { made.node.append(more, last); caption(width - brokerWidth, "Broker"); }
    nodes.append(made.node);
    parts.broker = { ...made, more, last };
    for (const each of picture.listeners) {
      const from = listenerX + column, path = narrow
        ? `M${listenerX + column / 2} ${placeOf.get(each) + high / 2}L${listenerX + column / 2} ${y}`
        : curve(from, placeOf.get(each), x, y + tall / 2 + port(picture.listeners, picture.listeners.indexOf(each)) * (tall / 40));
      if (narrow && each !== picture.listeners.at(-1)) continue;
      const edge = svg("path", { class: "edge", d: path });
      lines.prepend(edge);
      parts.ends.push({ edge, each });
    }
  }
  $("picture").replaceChildren(root);
  return parts;
}

function drawPicture() {
  const width = Math.floor($("picture").clientWidth - parseFloat(getComputedStyle($("picture")).paddingLeft) * 2);
  if (width < 50) return;
  const limit = width < 620 ? 7 : 9, picture = pictureOf(limit);
  const key = JSON.stringify([width, picture.events.map((each) => each.name), picture.listeners.map((each) => each.key), picture.edges.length, model.driver]);
  if (key !== view.key) { view.parts = build(picture, width); view.key = key; }
  const parts = view.parts, top = Math.max(...model.listeners.map((each) => each.rate ?? 0), 1e-9);
  const thick = (value) => (value > 0 ? 1.5 + 9 * Math.sqrt(Math.min(1, value / top)) : 1.5).toFixed(1);
  const eventRate = new Map(picture.events.map((each) => [each.name, each.rate ?? (each.targets.length ? Math.max(...each.targets.map((target) => (target.events.length === 1 ? target.rate ?? 0 : 0))) : 0)]));
  const unheard = new Set(picture.events.filter((each) => !each.targets.length).map((each) => each.name));
  for (const { under, key: name } of parts.events) put(under, model.hasRates ? `${rate(eventRate.get(name))}/s${unheard.has(name) ? " · no listener" : ""}` : "");
  for (const { node, under, each } of parts.listeners) {
    const bad = isFailing(each);
    mark(node, "bad", bad);
    const facts = [`${rate(each.rate)}/s`];
    if (each.depth) facts.push(`${count(each.depth)} waiting`);
    if (bad) facts.push(each.failRate ? `${rate(each.failRate)} fail/s` : "failed");
    put(under, model.hasRates ? facts.slice(0, view.parts.broker || width > 620 ? 3 : 2).join(" · ") : "");
  }
  for (const { edge, flow, listener, event } of parts.edges) {
    const own = model.events.get(event)?.rate ?? listener.rate ?? 0, bad = isFailing(listener), still = own <= 0;
    edge.setAttribute("stroke-width", thick(Math.min(own, listener.rate ?? own)));
    for (const node of [edge, flow]) { mark(node, "bad", bad); mark(node, "still", still); }
  }
  if (parts.broker) {
    const lost = model.connected === false, pending = model.backlogs.reduce((sum, each) => sum + each[2], 0);
    const lag = model.backlogs.reduce((sum, each) => sum + (each[1] ?? 0), 0);
    mark(parts.broker.node, "bad", lost);
    put(parts.broker.under, lost ? "not connected" : "connected");
    put(parts.broker.more, model.backlogs.length ? `${count(lag)} not read` : "");
    put(parts.broker.last, model.backlogs.length ? `${count(pending)} pending` : "");
    for (const { edge, each } of parts.ends) {
      edge.setAttribute("stroke-width", thick(each.rate ?? 0));
      mark(edge, "bad", lost);
      mark(edge, "still", !each.rate);
    }
  }
  const left = model.listeners.length - picture.listeners.length;
  put($("picture-note"), left > 0 ? `the ${picture.listeners.length} busiest of ${count(model.listeners.length)} listeners` : "");
}

function find(name) {
  $("filter").value = name;
  shown = PAGE_ROWS;
  drawTable();
  $("listeners").scrollIntoView();
  $("filter").focus({ preventScroll: true });
}

// -- the table of listeners

const COLUMNS = [
  ["Listener", "name", (each) => each.name, ""],
  ["Rate", "n", (each) => each.rate ?? 0, "", (each) => `${rate(each.rate)}/s`],
  ["Trend", "n trend wide", null, ""],
  ["Waiting", "n", (each) => each.depth, "", (each) => count(each.depth)],
  ["Oldest", "n wide", (each) => each.oldest, "", (each) => (each.depth ? age(each.oldest) : "–")],
  ["In flight", "n wide", (each) => each.inFlight, "", (each) => count(each.inFlight)],
  ["Done", "n wide", (each) => each.done, "", (each) => count(each.done)],
  ["Failed", "n", (each) => each.failed, "", (each) => count(each.failed)],
  ["State", "wide", (each) => each.state, ""],
];
let shown = PAGE_ROWS, sortBy = 1, downwards = true;
const pool = [];

function makeHead() {
  COLUMNS.forEach(([title, kind, value], i) => {
    const cell = el("th", { scope: "col", class: kind.replace("trend", "").replace("name", "") });
    if (value) {
      const button = el("button", { type: "button" }, title);
      button.addEventListener("click", () => {
        downwards = sortBy === i ? !downwards : i !== 0 && i !== 8;
        sortBy = i;
        drawTable();
      });
      cell.append(button);
    } else cell.append(title);
    $("columns").append(cell);
  });
}

function makeRow() {
  const cells = COLUMNS.map(([, kind]) => el("td", { class: kind }));
  const name = el("span", { class: "a" }), events = el("span", { class: "b" }), pill = el("span", { class: "pill" });
  cells[0].append(name, events);
  const trend = chart(96, 22);
  cells[2].append(trend.node);
  cells[8].append(pill);
  return { row: el("tr", {}, ...cells), cells, name, events, pill, trend };
}

function drawTable() {
  const wanted = $("filter").value.trim().toLowerCase();
  const found = wanted ? model.listeners.filter((each) => each.find.includes(wanted)) : [...model.listeners];
  const value = COLUMNS[sortBy][2], sign = downwards ? -1 : 1;
  found.sort((a, b) => { const x = value(a), y = value(b); return (x < y ? -sign : x > y ? sign : 0) || a.place - b.place; });
  const rows = found.slice(0, shown), body = $("rows");
  while (pool.length < rows.length) pool.push(makeRow());
  rows.forEach((each, i) => {
    const { row, cells, name, events, pill, trend } = pool[i];
    if (row.parentNode !== body) body.append(row);
    put(name, each.name);
    name.title = each.name;
    put(events, `${each.events.map(heardBy).join(", ")}${each.inline ? " · inline" : ""}`);
    for (const place of [1, 3, 4, 5, 6, 7]) {
      put(cells[place], COLUMNS[place][4](each));
      mark(cells[place], "zero", !COLUMNS[place][2](each));
    }
    mark(cells[7], "alarm", isFailing(each));
    mark(cells[2], "bad", isFailing(each));
    trend.show(each.trend, TREND_POINTS);
    put(pill, each.restarts ? `${each.state} · ${each.restarts} restarts` : each.state);
    pill.dataset.state = each.state;
  });
  for (const { row } of pool.slice(rows.length)) row.remove();
  [...$("columns").children].forEach((cell, i) => {
    if (i === sortBy) cell.setAttribute("aria-sort", downwards ? "descending" : "ascending");
    else cell.removeAttribute("aria-sort");
  });
  const total = model.listeners.length;
  put($("listeners-note"), wanted ? `${count(found.length)} of ${count(total)}` : rows.length < total ? `${count(rows.length)} of ${count(total)}` : count(total));
  $("more").hidden = found.length <= rows.length;
}

// -- failures

const failureNodes = new Map();

function drawErrors() {
  const groups = new Map();
  for (const [number, wall, event, listener, outcome, attempts, reason] of model.errors) {
    const key = JSON.stringify([event, listener, outcome, reason.split(":", 1)[0]]);
    const found = groups.get(key) ?? { key, times: 0 };
    groups.delete(key);
    groups.set(key, Object.assign(found, { number, wall, event, listener, outcome, attempts, reason, times: found.times + 1 }));
  }
  const list = $("error-list"), wanted = [...groups.values()].reverse();
  for (const [key, made] of failureNodes) if (!groups.has(key)) { made.node.remove(); failureNodes.delete(key); }
  let before = list.firstChild;
  for (const group of wanted) {
    const made = failureNodes.get(group.key) ?? makeFailure(group.key);
    made.number = group.number;
    put(made.who, group.listener);
    put(made.what, `${group.outcome} on ${group.event || "the driver"}${group.attempts > 1 ? ` after ${group.attempts} attempts` : ""}`);
    put(made.when, group.wall ? clock(group.wall) : "earlier");
    put(made.why, group.reason);
    made.times.hidden = group.times < 2;
    put(made.times, `× ${group.times}`);
    if (made.node !== before) list.insertBefore(made.node, before); else before = before.nextSibling;
  }
  $("no-errors").hidden = model.errorCount > 0;
  put($("errors-note"), model.errorCount && !model.errors.length ? `all ${count(model.errorCount)} were cleared` : model.errorCount > model.errors.length ? `the newest ${model.errors.length} of ${count(model.errorCount)}` : model.errorCount ? count(model.errorCount) : "");
}

function makeFailure(key) {
  const who = el("span", { class: "who" }), when = el("span", { class: "when" }), times = el("span", { class: "times" });
  const what = el("p", { class: "muted" }), why = el("p", { class: "why" }), text = el("pre", { tabindex: "0" });
  const open = el("details", {}, el("summary", {}, "Traceback"), text);
  const made = { node: el("li", {}, el("div", { class: "top" }, who, times, when), what, why, open), who, when, times, what, why, number: 0 };
  open.addEventListener("toggle", async () => {
    if (!open.open) return;
    put(text, "…");
    const answer = await ask(`api/errors/${made.number}`);
    put(text, answer.error ?? answer.details);
  });
  failureNodes.set(key, made);
  return made;
}

// -- the broker

function drawBacklogs() {
  $("backlog").hidden = model.driver.alone || !(model.driver.durable || model.backlogs.length);
  $("no-backlog").hidden = model.backlogs.length > 0;
  put($("backlog-note"), model.connected === false ? "not connected, so these are the last known" : "");
  const body = $("backlogs");
  while (body.children.length < model.backlogs.length) body.append(el("tr", {}, el("td", { class: "mono name" }), el("td", { class: "n" }), el("td", { class: "n" }), el("td", { class: "n" })));
  while (body.children.length > model.backlogs.length) body.lastChild.remove();
  model.backlogs.forEach(([name, lag, pending, oldestPending, oldestWaiting], i) => {
    const cells = body.children[i].children;
    put(cells[0], shownEvent(name));
    put(cells[1], lag === null ? "unknown" : count(lag));
    put(cells[2], count(pending));
    const oldest = Math.max(oldestPending, oldestWaiting ?? 0);
    put(cells[3], oldest > 0 ? age(oldest) : "–");
    for (const place of [1, 2, 3]) mark(cells[place], "zero", ["0", "–"].includes(cells[place].textContent));
  });
}

const letters = { known: new Map(), count: 0, askedAt: -Infinity, asking: false, busy: false, dead: -1 };

async function readLetters() {
  if (!model.keep || letters.asking) return;
  letters.asking = true;
  letters.askedAt = performance.now();
  try {
    const answer = await ask("api/dead-letters");
    if (answer.error) { put($("letters-told"), answer.error); return; }
    letters.count = answer.count;
    drawLetters(answer.letters);
  } finally { letters.asking = false; }
}

function drawLetters(found) {
  const list = $("letter-list"), ids = new Set(found.map((each) => each.id));
  for (const [id, made] of letters.known) if (!ids.has(id)) { made.node.remove(); letters.known.delete(id); }
  for (const each of found) if (!letters.known.has(each.id)) { const made = makeLetter(each); letters.known.set(each.id, made); list.append(made.node); }
  $("no-letters").hidden = letters.count > 0;
  put($("letters-note"), letters.count > found.length ? `the oldest ${found.length} of ${count(letters.count)}` : letters.count ? count(letters.count) : "");
  const badge = $("nav-letters-count");
  badge.hidden = letters.count === 0;
  put(badge, count(letters.count));
  drawChoice();
}

function makeLetter(each) {
  const box = el("input", { type: "checkbox", "aria-label": `Choose the dead letter ${each.id}` });
  box.addEventListener("change", drawChoice);
  const who = el("span", { class: "who mono" }, each.event_name);
  const when = el("span", { class: "when" }, new Date(each.time * 1000).toLocaleString([], { hour12: false, dateStyle: "medium", timeStyle: "medium" }));
  const what = el("p", { class: "muted" }, `${each.deliveries} ${each.deliveries === 1 ? "delivery" : "deliveries"} · ${count(each.size)} bytes · ${each.id}`);
  const body = el("div", { class: "body" }, el("div", { class: "top" }, who, when), el("p", { class: "why" }, each.reason), what);
  if (each.details) body.append(el("details", {}, el("summary", {}, "Traceback"), el("pre", { tabindex: "0" }, each.details)));
  if (each.data !== null) body.append(el("details", {}, el("summary", {}, "Data"), el("pre", { tabindex: "0" }, each.data)));
  return { node: el("li", { "data-id": each.id }, ...(model.actions ? [box] : []), body), box };
}

const chosenLetters = () => [...letters.known].filter(([, made]) => made.box.checked).map(([id]) => id);

function drawChoice() {
  const chosen = chosenLetters().length, all = letters.count;
  $("actions").hidden = !model.actions || !all;
  put($("replay"), chosen ? `Replay ${chosen}` : `Replay all ${count(all)}`);
  put($("discard"), chosen ? `Discard ${chosen}` : "Discard");
  $("replay").disabled = letters.busy || !all;
  $("discard").disabled = letters.busy || !chosen;
}

async function settle(action, body) {
  letters.busy = true;
  drawChoice();
  const answer = await ask(`api/dead-letters/${action}`, body);
  letters.busy = false;
  put($("letters-told"), answer.error ?? `${count(answer.done)} ${action === "replay" ? "replayed" : "discarded"}`);
  await readLetters();
  drawChoice();
}

async function ask(address, body) {
  const options = body ? { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) } : {};
  try {
    const answer = await fetch(address, options);
    const value = await answer.json();
    return answer.ok ? value : { error: value.error ?? `the page answered ${answer.status}` };
  } catch {
    return { error: "the page does not answer" };
  }
}

// -- messages, from the AsyncAPI document

function resolve(whole_, value, depth = 0) {
  if (depth > 8 || !value || typeof value !== "object" || typeof value.$ref !== "string") return value;
  const path = value.$ref.replace(/^#\//, "").split("/").map((part) => part.replaceAll("~1", "/").replaceAll("~0", "~"));
  return resolve(whole_, path.reduce((at, part) => (at && Object.hasOwn(at, part) ? at[part] : undefined), whole_), depth + 1);
}

function typeOf(whole_, value, depth = 0) {
  const found = resolve(whole_, value) ?? {};
  if (depth > 3) return "…";
  if (found.const !== undefined) return JSON.stringify(found.const);
  if (Array.isArray(found.enum)) return found.enum.map((each) => JSON.stringify(each)).join(" | ");
  const either = found.anyOf ?? found.oneOf;
  if (Array.isArray(either)) return either.map((each) => typeOf(whole_, each, depth + 1)).join(" | ");
  if (found.type === "array") return `${typeOf(whole_, found.items, depth + 1)}[]`;
  if (found.title && found.type === "object") return found.title;
  const type = Array.isArray(found.type) ? found.type.join(" | ") : found.type ?? "any";
  return found.format ? `${type} (${found.format})` : type;
}

function eventSchema(whole_, payload) {
  let schema = resolve(whole_, payload) ?? {};
  if (schema.schema) schema = resolve(whole_, schema.schema) ?? {};
  // The envelope of goevent holds the event in `event_data`.
  for (const part of [schema, ...(Array.isArray(schema.allOf) ? schema.allOf : [])].reverse()) {
    const data = resolve(whole_, part)?.properties?.event_data;
    if (data) return resolve(whole_, data) ?? {};
  }
  return schema;
}

async function readMessages() {
  const home = $("messages"), whole_ = await ask("asyncapi.json");
  if (whole_.error) { home.replaceChildren(el("p", {}, whole_.error)); return; }
  const uses = new Map();
  for (const each of Object.values(whole_.operations ?? {})) {
    const name = each.channel?.$ref?.split("/").at(-1)?.replaceAll("~1", "/").replaceAll("~0", "~");
    if (!uses.has(name)) uses.set(name, new Map());
    const found = uses.get(name);
    if (!found.has(each.action)) found.set(each.action, []);
    if (each.action === "receive" && each.title) found.get(each.action).push(each.title);
  }
  const cards = [];
  for (const [key, channel] of Object.entries(whole_.channels ?? {})) {
    for (const given of Object.values(channel.messages ?? {})) {
      const message = resolve(whole_, given) ?? {};
      const schema = eventSchema(whole_, message.payload);
      const card = el("article", { class: "message" }, el("h3", {}, shownEvent(message.name ?? channel.address ?? key)));
      const text = [...(uses.get(key) ?? [])].map(([action, who]) => (action === "send" ? "sent" : who.length ? `received by ${who.slice(0, 3).join(", ")}${who.length > 3 ? ` and ${who.length - 3} more` : ""}` : "received"));
      const said = message.summary ?? message.description ?? schema.description;
      if (said) card.append(el("p", {}, said));
      if (text.length) card.append(el("p", {}, text.join(" · ")));
      const fields = schema.properties ?? {};
      const list = el("dl");
      for (const [name, field] of Object.entries(fields)) {
        list.append(el("dt", {}, (schema.required ?? []).includes(name) ? name : `${name}?`), el("dd", {}, typeOf(whole_, field)));
      }
      if (list.children.length) card.append(list);
      cards.push(card);
    }
  }
  home.replaceChildren(...(cards.length ? cards : [el("p", {}, "No event types are registered.")]));
}

// -- drawing, and the stream

function draw(errorsChanged) {
  drawHeader();
  drawTiles();
  drawPicture();
  drawTable();
  if (errorsChanged) drawErrors();
  drawBacklogs();
  $("letters").hidden = $("nav-letters").hidden = !model.keep;
  const dead = model.counts[1] !== letters.dead;
  letters.dead = model.counts[1];
  if (dead || performance.now() - letters.askedAt > LETTERS_SECONDS * 1000) readLetters();
}

let stream = null;

function listen() {
  stream = new EventSource("events");
  stream.addEventListener("frame", (event) => {
    const frame = JSON.parse(event.data);
    if (frame.state !== "closed") showLink("live", "live");
    apply(frame);
  });
  // The bus may be opened again, or the program started again.
  stream.addEventListener("end", () => { leave(); showLink("lost", "closed"); listenLater(); });
  stream.addEventListener("error", () => {
    showLink("lost", "reconnecting");
    // A refusal ends the source for good: the token has changed, or too many browsers listen.
    if (stream?.readyState === EventSource.CLOSED) { leave(); listenLater(); }
  });
}

function listenLater() {
  setTimeout(() => { if (!stream && !document.hidden) listen(); }, RETRY_SECONDS * 1000);
}

function leave() {
  stream?.close();
  stream = null;
}

makeHead();
$("filter").addEventListener("input", () => { shown = PAGE_ROWS; drawTable(); });
$("more").addEventListener("click", () => { shown += 2 * PAGE_ROWS; drawTable(); });
$("replay").addEventListener("click", () => { const ids = chosenLetters(); settle("replay", ids.length ? { ids } : { all: true }); });
$("discard").addEventListener("click", () => {
  const ids = chosenLetters(), dialog = $("confirm");
  put($("confirm-text"), `Discard ${ids.length} dead ${ids.length === 1 ? "letter" : "letters"}? The events are lost.`);
  dialog.returnValue = "no";
  dialog.onclose = () => { if (dialog.returnValue === "yes") settle("discard", { ids }); };
  dialog.showModal();
});
// A page that nobody looks at costs the bus nothing.
document.addEventListener("visibilitychange", () => {
  if (document.hidden) { leave(); showLink("wait", "paused"); } else if (!stream) listen();
});
new ResizeObserver(() => { if (model.number) drawPicture(); }).observe($("picture"));
setInterval(() => { if (stream && model.number && performance.now() - model.frameAt > STALE_SECONDS * 1000) showLink("lost", "no answer"); }, 1000);
listen();
readMessages();
