// What the page shows is read from /stats once a second and from /latency/intervals when one has
// ended. Rates are differences of counters, taken here; nothing that comes over the network is ever
// read as HTML.
"use strict";

const POLL_MS = 1000;
// Workers report once a second: a rate is one over at least two of their intervals.
const RATE_MS = 3000;
const RECENT_MS = 60_000;
const SAMPLES_MAX = 600;
const INTERVALS_MAX = 360;
const MESSAGES_MAX = 100;

// By label: what is timed, in words.
const STAGES = {
  handshake: ["Handshake", "accepted until open"],
  encode: ["Encode", "received until encoded and handed on"],
  hop: ["Hop", "posted to another worker until taken"],
  fanout: ["Fan-out", "received until all subscribers' bytes are taken"],
  turn: ["Turn", "how long a worker heard nobody"],
  ping: ["Ping", "sent until the next byte"],
};

const PERCENTILES = ["p50", "p99", "p999"];

const TILES = [
  {
    id: "connections",
    title: "Connections",
    value: (sample) => sample.connections,
    show: count,
    note: (stats) => `of ${count(stats.connections_max)} that may be open`,
  },
  {
    id: "received",
    title: "Messages in",
    rate: "messages_received",
    show: perSecond,
    note: (stats, sample) => `${count(sample.received)} of clients since the start`,
  },
  {
    id: "delivered",
    title: "Messages delivered",
    rate: "messages_delivered",
    show: perSecond,
    note: (stats, sample) =>
      `${count(sample.delivered)} since the start, ${count(sample.dropped)} dropped`,
  },
  {
    id: "sent",
    title: "Bytes out",
    rate: "sent_bytes",
    show: bytesPerSecond,
    note: (stats, sample) => `${bytes(sample.sent)} out, ${bytes(sample.receivedBytes)} in`,
  },
];

const $ = (id) => document.getElementById(id);
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

let samples = [];
let intervals = [];
let token = "";
let dataAddress = "";
let heardAt = performance.now();

// Numbers in words.

function count(value) {
  return whole.format(value);
}

function perSecond(value) {
  return [value < 10 && value > 0 ? value.toFixed(1) : count(value), "/s"];
}

function scaled(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return [unit === 0 || value >= 100 ? count(value) : value.toFixed(1), units[unit]];
}

function bytes(value) {
  return scaled(value).join(" ");
}

function bytesPerSecond(value) {
  const [number, unit] = scaled(value);
  return [number, `${unit}/s`];
}

function span(ns) {
  const units = [["s", 1e9], ["ms", 1e6], ["µs", 1e3]];
  const [unit, size] = units.find(([, size]) => ns >= size) ?? units[2];
  const value = ns / size;
  return `${value >= 100 ? count(value) : value.toPrecision(value >= 10 ? 3 : 2)} ${unit}`;
}

// A power of ten.
function decade(exponent) {
  const units = ["ns", "µs", "ms", "s"];
  const unit = Math.min(Math.floor(exponent / 3), units.length - 1);
  return `${10 ** (exponent - 3 * unit)} ${units[unit]}`;
}

function uptime(seconds) {
  const parts = [["d", 86_400], ["h", 3_600], ["min", 60], ["s", 1]];
  const first = Math.max(0, parts.findIndex(([, size]) => seconds >= size));
  let rest = seconds;
  return parts
    .slice(first, first + 2)
    .map(([unit, size]) => {
      const number = Math.floor(rest / size);
      rest -= number * size;
      return `${number} ${unit}`;
    })
    .join(" ");
}

function words(label) {
  return label.replaceAll("_", " ");
}

// Elements.

function make(name, attributes = {}, ...children) {
  const isDrawing = ["svg", "path", "line", "text"].includes(name);
  const element = isDrawing
    ? document.createElementNS("http://www.w3.org/2000/svg", name)
    : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

// Shows a number, and keeps it as it is for whoever wants to read it.
function put(output, value, shown) {
  output.dataset.value = value;
  const [number, unit] = [shown].flat();
  output.replaceChildren(number, ...(unit ? [make("span", {}, unit)] : []));
}

// Drawings, in pixels: text in them is not stretched.

function path(points) {
  const isThere = (i) => points[i] !== undefined && points[i][1] !== null;
  return points
    .map(([x, y], i) => {
      if (y === null) return "";
      const place = `${x.toFixed(1)} ${y.toFixed(1)}`;
      if (isThere(i - 1)) return `L${place}`;
      // A point alone is seen too.
      return isThere(i + 1) ? `M${place}` : `M${place}h-3`;
    })
    .join("");
}

function drawTrend(svg, values) {
  const { clientWidth: width, clientHeight: height } = svg;
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const max = Math.max(...values, 1) * 1.1;
  const step = width / Math.max(values.length - 1, 60);
  const left = width - step * (values.length - 1);
  const points = values.map((value, i) => [left + i * step, height - (value / max) * (height - 4)]);
  if (points.length < 2) return svg.replaceChildren();
  const area = `${path(points)}L${width} ${height}L${left.toFixed(1)} ${height}Z`;
  svg.replaceChildren(
    make("path", { class: "area", d: area }),
    make("path", { class: "stroke", d: path(points) }),
  );
}

function drawStage(svg, label, minutes) {
  const { clientWidth: width, clientHeight: height } = svg;
  if (width === 0) return;
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const [left, top, bottom] = [48, 6, height - 16];
  const seen = intervals.map((it) => it.stages[label]).filter((it) => it.count > 0);
  // Whole decades, two at least, so that a calm stage looks calm.
  const low = Math.floor(Math.log10(Math.max(1000, Math.min(...seen.map((it) => it.p50), 1e12))));
  const high = Math.ceil(Math.log10(Math.max(...seen.map((it) => it.p999), 1e4)));
  const from = seen.length === 0 ? 3 : Math.min(low, high - 2);
  const to = seen.length === 0 ? 6 : Math.max(high, from + 2);
  const y = (ns) => {
    const part = (Math.log10(Math.max(ns, 10 ** from)) - from) / (to - from);
    return bottom - part * (bottom - top);
  };
  const end = intervals.length > 0 ? intervals.at(-1).start : 0;
  const x = (start) => width - ((end - start) / (minutes * 60)) * (width - left);
  const drawing = [];
  const every = to - from > 4 ? 2 : 1;
  for (let exponent = from; exponent <= to; exponent += every) {
    const at = y(10 ** exponent);
    drawing.push(make("line", { class: "grid", x1: left, x2: width, y1: at, y2: at }));
    const text = { x: left - 6, y: at + 3.5, "text-anchor": "end" };
    drawing.push(make("text", text, decade(exponent)));
  }
  drawing.push(make("text", { x: left, y: height - 3 }, `−${minutes} min`));
  drawing.push(make("text", { x: width, y: height - 3, "text-anchor": "end" }, "now"));
  const shown = intervals.filter((it) => end - it.start <= minutes * 60);
  for (const name of PERCENTILES.toReversed()) {
    const points = shown.map((it) => {
      const stage = it.stages[label];
      return [x(it.start), stage.count > 0 ? y(stage[name]) : null];
    });
    drawing.push(make("path", { class: name, d: path(points) }));
  }
  svg.replaceChildren(...drawing);
}

// What is read.

async function ask(target, options = {}) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const answer = await fetch(target, { cache: "no-store", headers, ...options });
  if (answer.status === 401) {
    $("unlock").hidden = false;
    throw new Error("a token is needed");
  }
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.error ?? `status ${answer.status}`);
  $("unlock").hidden = true;
  return body;
}

function sum(workers, field) {
  return workers.reduce((total, worker) => total + worker[field], 0);
}

function sumByLabel(workers, field) {
  const totals = {};
  for (const worker of workers) {
    for (const [label, number] of Object.entries(worker[field])) {
      totals[label] = (totals[label] ?? 0) + number;
    }
  }
  return totals;
}

function sampleOf(stats) {
  const at = performance.now();
  const workers = stats.workers.map((worker) => ({
    ...worker,
    reportedAt: at - 1000 * worker.report_age_seconds,
  }));
  return {
    at,
    uptime: stats.uptime_seconds,
    connections: stats.connections,
    received: sum(workers, "messages_received"),
    delivered: sum(workers, "messages_delivered"),
    dropped: sum(workers, "messages_dropped"),
    sent: sum(workers, "sent_bytes"),
    receivedBytes: sum(workers, "received_bytes"),
    closed: sumByLabel(workers, "closed"),
    refused: sumByLabel(workers, "refused"),
    workers,
  };
}

// The sample that was the last so long before the one at `index`, or the first.
function before(index, ms) {
  let other = index;
  while (other > 0 && samples[index].at - samples[other].at < ms) other -= 1;
  return samples[other];
}

// How fast a counter of each worker grew, by the times of the reports that it was read from: those of
// this page's questions would count a report too many now and then.
function ratesOf(index, counter) {
  const then = before(index, RATE_MS).workers;
  return samples[index].workers.map((worker, i) => {
    const seconds = then[i] ? (worker.reportedAt - then[i].reportedAt) / 1000 : 0;
    return seconds > 0.1 ? Math.max(0, (worker[counter] - then[i][counter]) / seconds) : 0;
  });
}

function rate(index, counter) {
  return ratesOf(index, counter).reduce((total, of) => total + of, 0);
}

// What is shown.

function showTiles(stats) {
  const last = samples.length - 1;
  for (const tile of TILES) {
    const value = tile.rate ? rate(last, tile.rate) : tile.value(samples[last]);
    put($(tile.id), value, tile.show(value));
    $(`${tile.id}-note`).textContent = tile.note(stats, samples[last]);
    const first = tile.rate ? 1 : 0;
    const trend = samples.map((sample, i) => (tile.rate ? rate(i, tile.rate) : tile.value(sample)));
    drawTrend($(`${tile.id}-trend`), trend.slice(first));
  }
}

function shareCell(value, max, shown) {
  const bar = make("i");
  bar.style.width = max > 0 ? `${(100 * value) / max}%` : "0";
  return make("td", { class: "share" }, make("b", {}, shown), bar);
}

function showWorkers() {
  const last = samples.length - 1;
  const { workers } = samples[last];
  const [delivered, sent] = [ratesOf(last, "messages_delivered"), ratesOf(last, "sent_bytes")];
  const connectionsMax = Math.max(...workers.map((it) => it.connections));
  const deliveredMax = Math.max(...delivered);
  const rows = workers.map((worker, i) => {
    const core = worker.pinned ? `${worker.core}` : `${worker.core}, not pinned`;
    const age = worker.report_age_seconds;
    const row = make(
      "tr",
      {},
      make("td", {}, `${worker.worker}`),
      make("td", { class: "wide" }, core),
      shareCell(worker.connections, connectionsMax, count(worker.connections)),
      shareCell(delivered[i], deliveredMax, count(delivered[i])),
      make("td", { class: "wide" }, `${bytes(sent[i])}`),
      make("td", {}, bytes(worker.send_queue_bytes)),
      make("td", { class: age > 3 ? "wide late" : "wide" }, `${age.toFixed(1)} s ago`),
    );
    row.dataset.connections = worker.connections;
    return row;
  });
  $("workers").tBodies[0].replaceChildren(...rows);
}

function showEnds(field, nothing) {
  const last = samples.length - 1;
  const now = samples[last][field];
  const then = before(last, RECENT_MS)[field];
  const rows = Object.entries(now)
    .filter(([, number]) => number > 0)
    .sort(([, one], [, other]) => other - one)
    .map(([label, number]) => {
      const recent = number - (then[label] ?? 0);
      const row = make(
        "tr",
        {},
        make("td", {}, words(label)),
        make("td", {}, count(number)),
        make("td", recent > 0 ? { class: "recent" } : {}, recent > 0 ? `+${count(recent)}` : "–"),
      );
      row.dataset.reason = label;
      row.dataset.value = number;
      return row;
    });
  const all = Object.values(now).reduce((total, number) => total + number, 0);
  put($(`${field}-total`), all, count(all));
  const none = make("tr", {}, make("td", { class: "nothing" }, nothing));
  $(field).tBodies[0].replaceChildren(...(rows.length > 0 ? rows : [none]));
}

function showStages() {
  const newest = intervals.at(-1);
  const oldest = intervals[0];
  const minutes = newest ? (newest.start - oldest.start) / 60 : 0;
  const scale = [5, 15, 60].find((it) => minutes <= it) ?? 60;
  for (const label of Object.keys(STAGES)) {
    const stage = newest?.stages[label];
    const figures = stage?.count > 0
      ? PERCENTILES.map((name) => make("b", { class: name }, span(stage[name])))
      : [newest ? "nothing in the last 10 s" : "after 10 s"];
    $(`${label}-figures`).replaceChildren(...figures);
    drawStage($(`${label}-chart`), label, scale);
  }
}

function showState(state, text) {
  $("state").dataset.state = state;
  $("state").textContent = text;
}

function show(stats) {
  $("facts").textContent =
    `${stats.version} · ${stats.engine} engine · Linux ${stats.kernel} · up ${uptime(stats.uptime_seconds)}`;
  showState(stats.draining ? "draining" : "serving", stats.draining ? "Draining" : "Serving");
  showTiles(stats);
  showWorkers();
  showEnds("closed", "No connection has ended.");
  showEnds("refused", "No handshake was refused.");
  // Where connections begin with a PROXY header a browser cannot connect.
  const address = stats.data_addresses.find((it) => !stats.proxy_addresses.includes(it)) ?? "";
  dataAddress = address.replace(/^(0\.0\.0\.0|\[::\])(?=:)/, location.hostname);
}

async function poll() {
  try {
    const stats = await ask("/stats");
    const sample = sampleOf(stats);
    // Another process answers, which counts from its own start.
    if (samples.length > 0 && sample.uptime < samples.at(-1).uptime) {
      [samples, intervals] = [[], []];
    }
    samples.push(sample);
    samples = samples.slice(-SAMPLES_MAX);
    heardAt = performance.now();
    show(stats);
    const ended = await ask(`/latency/intervals?after=${intervals.at(-1)?.start ?? 0}`);
    if (ended.intervals.length > 0 || intervals.length === 0) {
      intervals = intervals.concat(ended.intervals).slice(-INTERVALS_MAX);
      showStages();
    }
  } catch (error) {
    const silent = Math.round((performance.now() - heardAt) / 1000);
    showState("silent", `${error.message} (nothing heard for ${silent} s)`);
  }
  setTimeout(poll, POLL_MS);
}

// The box to try a topic.

let socket = null;

function note(id, text, isBad = false) {
  $(id).textContent = text;
  $(id).classList.toggle("bad", isBad);
}

// A browser can send a token nowhere else but here and in the URL, which is written down.
function subprotocols() {
  const clientToken = $("client-token").value.trim();
  return ["ringway.raw.v1", ...(clientToken ? [`ringway.token.${clientToken}`] : [])];
}

// Each segment by itself: slashes are part of a topic.
function topicPath() {
  return $("topic").value.split("/").map(encodeURIComponent).join("/");
}

function addMessage(data) {
  const text = typeof data === "string" ? data : `${data.size} bytes, binary`;
  const time = new Date().toLocaleTimeString("en-GB");
  const shown = text.length > 2000 ? `${text.slice(0, 2000)}…` : text;
  $("messages").prepend(make("li", {}, make("time", {}, time), make("span", {}, shown)));
  while ($("messages").children.length > MESSAGES_MAX) $("messages").lastChild.remove();
}

function openTopic(event) {
  event.preventDefault();
  if (socket) return socket.close(1000);
  if (dataAddress === "") {
    return note("open-note", "Every listener waits for a PROXY header, which a browser lacks.", true);
  }
  let opened;
  try {
    opened = new WebSocket(`ws://${dataAddress}/ws/${topicPath()}`, subprotocols());
  } catch (error) {
    // What it says would show the token.
    const text = error.name === "SyntaxError" ? "This is no topic or no token." : error.message;
    return note("open-note", text, true);
  }
  socket = opened;
  $("open").textContent = "Close";
  note("open-note", `Connecting to ${opened.url}`);
  opened.onopen = () => note("open-note", `Subscribed at ${opened.url}`);
  opened.onmessage = ({ data }) => addMessage(data);
  opened.onclose = ({ code, reason }) => {
    socket = null;
    $("open").textContent = "Open";
    const refused = `Could not connect to ${opened.url}: does it take this page's origin?`;
    const ended = code === 1006 ? refused : `Closed: ${code} ${reason}`.trim();
    note("open-note", ended, code !== 1000 && code !== 1005);
  };
}

async function publish(event) {
  event.preventDefault();
  try {
    const body = $("message").value;
    const answer = await ask(`/publish/${topicPath()}?as=text`, { method: "POST", body });
    const plural = answer.receivers === 1 ? "" : "s";
    note("publish-note", `Taken for ${count(answer.receivers)} subscriber${plural}.`);
  } catch (error) {
    note("publish-note", error.message, true);
  }
}

function build() {
  for (const { id, title } of TILES) {
    const tile = make(
      "div",
      {},
      make("h3", {}, title),
      make("output", { id }, "–"),
      make("p", { id: `${id}-note` }),
      make("svg", { id: `${id}-trend`, role: "img", "aria-label": `${title}, the last minutes` }),
    );
    $("tiles").append(tile);
  }
  for (const [label, [title, what]] of Object.entries(STAGES)) {
    const stage = make(
      "div",
      {},
      make("h3", {}, title, make("span", { id: `${label}-figures` }, "–")),
      make("p", {}, what),
      make("svg", { id: `${label}-chart`, role: "img", "aria-label": `${title} over time` }),
    );
    $("stages").append(stage);
  }
  $("open-form").addEventListener("submit", openTopic);
  $("publish-form").addEventListener("submit", publish);
  $("unlock").addEventListener("submit", (event) => {
    event.preventDefault();
    token = $("token").value.trim();
  });
  new ResizeObserver(showStages).observe($("stages"));
  poll();
}

build();
