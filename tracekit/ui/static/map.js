// The map of services: the calls between them from left to right, with rates, errors and percentiles.

import { api, clip, colour, count, duration, failure, h, plural, s } from "./dom.js";

const WIDE = 190;
const HIGH = 74;
const GAP_X = 150;
const GAP_Y = 34;
const MOST_LABELS = 6;
const FAILING = 0.05;

export class MapPage {
  constructor(main, status) {
    this.main = main;
    this.status = status;
    this.load();
  }

  close() {
    this.isClosed = true;
  }

  async load() {
    try {
      const map = await api("map", "map");
      if (!this.isClosed) this.draw(map);
    } catch (error) {
      if (!this.isClosed && error.name !== "AbortError") this.main.replaceChildren(failure(error));
    }
  }

  /** Spans have arrived: compute the map again, at most every two seconds. */
  live() {
    if (this.isWaiting) return;
    this.isWaiting = true;
    setTimeout(() => { this.isWaiting = false; if (!this.isClosed) this.load(); }, 2000);
  }

  draw(map) {
    const top = h("div", { class: "map-top" }, h("h1", {}, "Service map"),
      h("span", { class: "dim" }, map.spans ? `${plural(map.spans, "span")}, the newest, over ${duration(map.seconds * 1e9)}` : ""));
    if (!map.services.length) {
      this.main.replaceChildren(top, h("div", { class: "empty" }, h("h2", {}, "No services yet"),
        h("p", {}, "The map shows the services whose spans are in the store. ", h("a", { href: "#/" }, "How to send spans"))));
      return;
    }
    this.main.replaceChildren(h("div", { class: "scroll map", tabindex: "0", role: "region", "aria-label": "Service map" },
      top, picture(map), numbers(map)));
  }

  key(key) {
    if (key === "Escape") location.hash = "#/";
    else return false;
    return true;
  }
}

/** The column of each service: one more than its callers', where calls in a circle are left out. */
function columns(map) {
  const callees = new Map(map.services.map(({ name }) => [name, []]));
  for (const call of map.calls) callees.get(call.from)?.push(call.to);
  const column = new Map();
  const called = new Set(map.calls.map((call) => call.to));
  const roots = map.services.filter(({ name }) => !called.has(name)).map(({ name }) => name);
  const path = new Set();
  let steps = 0;
  const visit = (name, at) => {
    if (path.has(name) || (column.get(name) ?? -1) >= at || ++steps > 20000) return;
    column.set(name, at);
    path.add(name);
    for (const callee of callees.get(name) ?? []) visit(callee, at + 1);
    path.delete(name);
  };
  for (const name of roots) visit(name, 0);
  for (const { name } of map.services) if (!column.has(name)) visit(name, 0);
  return column;
}

function picture(map) {
  const column = columns(map);
  const heights = [];
  const place = new Map();
  const last = Math.max(...column.values());
  for (let x = 0; x <= last; x++) {
    // Near its callers: fewer lines cross.
    const weight = (name) => {
      const above = map.calls.filter((call) => call.to === name && place.has(call.from)).map((call) => place.get(call.from).y);
      return above.length ? above.reduce((sum, y) => sum + y, 0) / above.length : 0;
    };
    const names = map.services.map(({ name }) => name).filter((name) => column.get(name) === x);
    const weights = new Map(names.map((name) => [name, weight(name)]));
    names.sort((a, b) => weights.get(a) - weights.get(b));
    names.forEach((name, y) => place.set(name, { x, y }));
    heights[x] = names.length;
  }
  const most = Math.max(...heights.filter(Boolean));
  const width = heights.length * WIDE + (heights.length - 1) * GAP_X + 40;
  const height = most * (HIGH + GAP_Y) + 30;
  for (const spot of place.values()) {
    const free = (most - heights[spot.x]) / 2;
    spot.left = 20 + spot.x * (WIDE + GAP_X);
    spot.top = 20 + (spot.y + free) * (HIGH + GAP_Y);
  }
  const isSparse = map.calls.length <= MOST_LABELS;
  const busiest = Math.max(1, ...map.calls.map((call) => call.count));
  const edges = map.calls.map((call) => edge(call, place.get(call.from), place.get(call.to), busiest, isSparse));
  const nodes = map.services.map((service) => node(service, place.get(service.name)));
  return s("svg", { class: "graph", viewBox: `0 0 ${width} ${height}`, width, height, role: "group", "aria-label": "Services and calls" },
    s("defs", {}, s("marker", { id: "tip", viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 9, markerHeight: 9, markerUnits: "userSpaceOnUse", orient: "auto" },
      s("path", { class: "tip", d: "M0 0L8 4L0 8z" }))),
    edges, nodes);
}

function edge(call, from, to, busiest, isLabelled) {
  const forward = to.left > from.left;
  const [x1, y1] = [from.left + WIDE, from.top + HIGH / 2];
  const [x2, y2] = forward ? [to.left - 3, to.top + HIGH / 2] : [to.left + WIDE + 3, to.top + HIGH / 2 + 10];
  const bend = forward ? (x2 - x1) / 2 : 70;
  const path = forward ? `M${x1} ${y1}C${x1 + bend} ${y1} ${x2 - bend} ${y2} ${x2} ${y2}`
    : `M${x1} ${y1}C${x1 + bend} ${y1 + 40} ${x2 + bend} ${y2 + 40} ${x2} ${y2}`;
  const thick = 1 + 2.5 * Math.sqrt(call.count / busiest);
  const middle = forward ? [(x1 + x2) / 2, (y1 + y2) / 2] : [Math.max(x1, x2) + 40, (y1 + y2) / 2 + 30];
  return s("g", { class: call.errors >= call.count * FAILING ? "edge error" : "edge" },
    s("title", {}, `${call.from} → ${call.to}: ${describe(call)}`),
    s("path", { d: path, "stroke-width": thick, "marker-end": "url(#tip)" }),
    isLabelled && s("text", { x: middle[0], y: middle[1] - 8 }, `${rate(call.per_s)} · p95 ${duration(call.p95_ns)}`));
}

function node(service, { left, top }) {
  const share = service.count ? service.errors / service.count : 0;
  return s("a", { href: `#/?q=${encodeURIComponent(`service:${quoted(service.name)}`)}`, class: "node" },
    s("rect", { class: "box", x: left, y: top, width: WIDE, height: HIGH, rx: 8 }, s("title", {}, `${service.name}: ${describe(service)}`)),
    s("rect", { class: colour(service.name), x: left, y: top + 10, width: 4, height: HIGH - 20, rx: 2 }),
    s("text", { class: "name", x: left + 16, y: top + 25 }, clip(service.name, 22)),
    s("text", { class: "small", x: left + 16, y: top + 44 }, service.count ? `${rate(service.per_s)} · p50 ${duration(service.p50_ns)}` : "calls only"),
    s("text", { class: "small", x: left + 16, y: top + 61 }, service.count ? `p95 ${duration(service.p95_ns)}` : ""),
    share > 0 && s("text", { class: "small error", x: left + WIDE - 12, y: top + 61, "text-anchor": "end" }, `${percent(share)} errors`));
}

function numbers(map) {
  const head = ["", "Calls", "Rate", "Errors", "p50", "p95", "p99"].map((title, index) =>
    h(index ? "th" : "td", { scope: index ? "col" : null, class: index ? "n" : "" }, title));
  const cells = (part) => [count(part.count), rate(part.per_s), part.errors ? `${count(part.errors)} (${percent(part.errors / part.count)})` : "0",
    duration(part.p50_ns), duration(part.p95_ns), duration(part.p99_ns)].map((text) => h("td", { class: "n" }, text));
  return h("table", { class: "numbers" }, h("thead", {}, h("tr", {}, head)), h("tbody", {},
    map.services.map((service) => h("tr", {}, h("th", { scope: "row" }, clip(service.name, 60)), cells(service))),
    map.calls.map((call) => h("tr", {}, h("th", { scope: "row" }, `${clip(call.from, 40)} → ${clip(call.to, 40)}`), cells(call)))));
}

export function quoted(text) {
  return /^[\w./-]+$/.test(text) ? text : `"${text.replace(/["\\]/g, "\\$&")}"`;
}

const rate = (perSecond) => (perSecond >= 1 ? `${perSecond.toFixed(perSecond < 10 ? 1 : 0)}/s` : `${(perSecond * 60).toFixed(1)}/min`);
const percent = (share) => `${(100 * share).toFixed(share < 0.1 ? 1 : 0)}%`;
const describe = (part) =>
  `${plural(part.count, "call")}, ${plural(part.errors, "error")}, p50 ${duration(part.p50_ns)}, p95 ${duration(part.p95_ns)}, p99 ${duration(part.p99_ns)}`;
