// One trace: a waterfall that draws only the visible rows, and everything about the selected span.

import { api, chip, clip, clock, colour, copy, count, duration, failure, h, plural, toast } from "./dom.js";

const ROW = 28;
const SPARE = 12;
const TICKS = 5;
const LONG = 200;

export class TracePage {
  constructor(main, traceId, spanId) {
    this.main = main;
    this.traceId = traceId;
    this.wanted = spanId;
    this.collapsed = new Set(); // of row ids: a trace that grows is read again
    this.rows = [];
    this.pool = new Map();
    this.selected = null;
    this.text = "";
    this.isClosed = false;
    this.isLoading = true;
    this.load().then(() => {
      this.isLoading = false;
      if (this.isStale && !this.isPaused) this.live();
    });
  }

  close() {
    this.isClosed = true;
    this.observer?.disconnect();
  }

  async load() {
    try {
      const trace = await api(`traces/${encodeURIComponent(this.traceId)}`);
      if (this.isClosed) return;
      this.use(trace);
    } catch (error) {
      if (!this.isClosed) this.main.replaceChildren(failure(error));
    }
  }

  /** Spans or log records have arrived: draw again if some are of this trace. */
  async live() {
    this.isStale = true;
    if (this.isLoading) return;
    this.isLoading = true;
    try {
      while (this.isStale && !this.isClosed && !this.isPaused) {
        this.isStale = false; // an event that comes while the store is read makes it true again
        const found = await api(`traces?q=trace:${this.traceId}&limit=1`);
        const [now] = found.traces;
        // Without a trace, the page was opened before its first span had arrived.
        const hasMore = now && (!this.trace || now.logs !== this.trace.logs || (now.spans !== this.trace.spans.length && !this.trace.is_cut));
        if (hasMore && !this.isClosed && !this.isPaused) await this.load();
      }
    } catch {
      // the next event tries again
    } finally {
      this.isLoading = false;
    }
  }

  use(trace) {
    const isFirst = !this.trace;
    const at = this.selected?.span_id ?? this.wanted;
    this.trace = trace;
    arrange(trace);
    this.total = Math.max(1, ...trace.spans.map((span) => span.end));
    document.title = `${clip(trace.name, 60)} · tracekit`;
    this.draw();
    const span = at && trace.spans.find((span) => span.span_id === at);
    if (span) this.select(span, true);
    else if (isFirst && this.wanted) toast("That span is not in this trace");
  }

  draw() {
    const { trace } = this;
    const focused = [this.find, this.tree].indexOf(document.activeElement);
    const back = h("a", { class: "back", href: "#/", title: "Back (Esc)", "aria-label": "Back to the list", onclick: (event) => { event.preventDefault(); this.back(); } }, "←");
    const facts = [
      duration(trace.duration_ns), plural(trace.spans.length, "span"), trace.errors ? plural(trace.errors, "error") : null,
      clock(trace.start_ns),
    ].filter(Boolean);
    this.find ??= h("input", { type: "search", placeholder: "Find in this trace", "aria-label": "Find in this trace",
      oninput: (event) => { this.text = event.target.value.toLowerCase(); this.render(); },
      onkeydown: (event) => { if (event.key === "Enter") { event.preventDefault(); this.jump((span) => this.matches(span)); } } });
    const top = h("div", { class: "trace-top" },
      h("div", { class: "title" }, back, h("i", { class: `status ${trace.status}`, role: "img", "aria-label": `status ${trace.status}` }),
        h("h1", {}, trace.name || "(no name)"),
        h("button", { type: "button", class: "quiet mono", title: "Copy the trace id", onclick: () => copy(trace.trace_id) }, trace.trace_id)),
      h("div", { class: "facts" }, h("span", {}, facts.join(" · ")), trace.services.map(([name, spans]) => chip(name, `${name} ${count(spans)}`)),
        !trace.has_root && h("span", { class: "tag" }, "no root span"),
        trace.is_cut && h("span", { class: "tag" }, `the first ${count(trace.spans.length)} of ${count(trace.span_count)} spans`),
        h("span", { class: "space" }), this.find,
        trace.logs > 0 && h("button", { type: "button", title: "The log records of the trace (o)", onclick: () => this.showLogs() }, plural(trace.logs, "log record")),
        h("a", { class: "button", href: `#/compare/${trace.trace_id}` }, "Compare")));
    this.overview = h("canvas", { class: "overview", height: 48, "aria-hidden": "true" });
    this.ticks = h("div", { class: "ticks", "aria-hidden": "true" },
      Array.from({ length: TICKS }, (_, index) => h("span", {}, duration(Math.round((this.total * index) / (TICKS - 1))))));
    this.tree = h("div", { class: "tree", role: "tree", "aria-label": "Spans", tabindex: "0" });
    this.scroller = h("div", { class: "scroll waterfall" }, this.tree);
    this.aside = h("aside", { "aria-label": "Span", hidden: true });
    const head = h("div", { class: "waterfall-head" }, h("span", { class: "dim" }, "Service and operation"), this.ticks);
    this.pool.clear();
    const top0 = this.oldTop ?? 0;
    this.main.replaceChildren(h("div", { class: "trace" }, top,
      h("div", { class: "split" }, h("div", { class: "left" }, this.overview, head, this.scroller), this.aside)));
    this.scroller.addEventListener("scroll", () => { this.oldTop = this.scroller.scrollTop; this.schedule(); });
    this.tree.addEventListener("click", (event) => this.click(event));
    this.observer?.disconnect();
    this.observer = new ResizeObserver(() => { this.drawOverview(); this.schedule(); });
    this.observer.observe(this.scroller);
    this.fold();
    this.scroller.scrollTop = top0;
    [this.find, this.tree][focused]?.focus({ preventScroll: true });
    this.drawOverview();
  }

  /** Compute the visible rows from the collapsed spans. */
  fold() {
    this.rows = [];
    const waiting = [...this.trace.roots].reverse();
    while (waiting.length) {
      const span = waiting.pop();
      span.row = this.rows.length;
      this.rows.push(span);
      if (!this.collapsed.has(span.id)) for (let at = span.children.length - 1; at >= 0; at--) waiting.push(span.children[at]);
      else hide(span);
    }
    this.tree.style.height = `${this.rows.length * ROW}px`;
    for (const element of this.pool.values()) element.remove();
    this.pool.clear();
    this.render();
  }

  schedule() {
    if (this.isScheduled) return;
    this.isScheduled = true;
    requestAnimationFrame(() => { this.isScheduled = false; if (!this.isClosed) this.render(); });
  }

  render() {
    const first = Math.max(0, Math.floor(this.scroller.scrollTop / ROW) - SPARE);
    const last = Math.min(this.rows.length, Math.ceil((this.scroller.scrollTop + this.scroller.clientHeight) / ROW) + SPARE);
    for (const [row, element] of this.pool) {
      if (row < first || row >= last) { element.remove(); this.pool.delete(row); }
    }
    for (let row = first; row < last; row++) {
      const span = this.rows[row];
      let element = this.pool.get(row);
      if (!element) {
        element = this.row(span, row);
        this.pool.set(row, element);
        this.tree.append(element);
      }
      const isSelected = span === this.selected;
      element.classList.toggle("selected", isSelected);
      element.setAttribute("aria-selected", String(isSelected));
      element.classList.toggle("faded", this.text !== "" && !this.matches(span));
    }
    if (this.selected && this.pool.has(this.selected.row)) this.tree.setAttribute("aria-activedescendant", `row-${this.selected.row}`);
    else this.tree.removeAttribute("aria-activedescendant");
  }

  row(span, row) {
    const isOpen = !this.collapsed.has(span.id);
    const name = h("div", { class: "what" },
      h("span", { class: "caret", "aria-hidden": "true" }, span.children.length ? (isOpen ? "▾" : "▸") : ""),
      h("span", { class: `stripe ${colour(span.service)}` }),
      h("span", { class: "operation" }, span.name || "(no name)"),
      h("span", { class: "dim" }, clip(span.service, 40)),
      span.status !== "unset" && h("span", { class: "hidden" }, span.status),
      !isOpen && h("span", { class: "tag" }, `+${count(span.below)}`),
      span.logs > 0 && h("span", { class: "tag", title: plural(span.logs, "log record") }, `${count(span.logs)} log${span.logs === 1 ? "" : "s"}`),
      Boolean(span.has_links) && h("span", { class: "tag", title: "has links" }, "link"));
    name.style.paddingLeft = `${6 + Math.min(span.depth, 24) * 14}px`;
    const length = Math.max(0, span.end - span.start);
    const left = (100 * Math.max(0, span.start)) / this.total;
    const width = (100 * length) / this.total;
    const bar = h("span", { class: `bar ${colour(span.service)} ${span.status}` });
    bar.style.left = `min(${left}%, 100% - 2px)`;
    bar.style.width = `max(2px, ${width}%)`;
    const label = h("span", { class: "label" }, duration(length));
    label.style.left = `calc(max(${left + width}%, ${left}% + 2px) + 6px)`;
    const element = h("div", {
      class: `row ${span.status}`, role: "treeitem", id: `row-${row}`, "data-row": row, "aria-level": span.depth + 1,
      "aria-expanded": span.children.length ? String(isOpen) : null, "aria-selected": "false",
    }, name, h("div", { class: "line" }, bar, label));
    element.style.transform = `translateY(${row * ROW}px)`;
    return element;
  }

  click(event) {
    const element = event.target.closest(".row");
    if (!element) return;
    const span = this.rows[Number(element.dataset.row)];
    if (event.target.closest(".caret") && span.children.length) this.toggle(span);
    else this.select(span);
  }

  toggle(span, isOpen = this.collapsed.has(span.id)) {
    if (isOpen) this.collapsed.delete(span.id);
    else this.collapsed.add(span.id);
    this.fold();
  }

  matches(span) {
    return span.name.toLowerCase().includes(this.text) || span.service.toLowerCase().includes(this.text) ||
      span.kind === this.text || span.status === this.text || span.span_id.startsWith(this.text);
  }

  /** Select the next span that *test* accepts, from the selected one on and around the end. */
  jump(test, missing = "No span fits") {
    const { order } = this.trace;
    const at = this.selected ? order.indexOf(this.selected) : -1;
    for (let step = 1; step <= order.length; step++) {
      const span = order[(at + step) % order.length];
      if (test(span)) { this.select(span, true); return; }
    }
    toast(missing);
  }

  select(span, isFar = false) {
    for (let at = span.parent; at; at = at.parent) this.collapsed.delete(at.id);
    if (span.row < 0) this.fold();
    this.selected = span;
    history.replaceState(null, "", `#/trace/${this.traceId}/${span.span_id}`);
    this.show(span);
    const top = span.row * ROW;
    const height = this.scroller.clientHeight;
    if (top < this.scroller.scrollTop || top + ROW > this.scroller.scrollTop + height) {
      this.scroller.scrollTop = isFar ? top - height / 2 : top < this.scroller.scrollTop ? top : top + ROW - height;
    }
    this.render();
  }

  unselect() {
    this.selected = null;
    this.aside.hidden = true;
    history.replaceState(null, "", `#/trace/${this.traceId}`);
    this.render();
  }

  async show(span) {
    this.aside.hidden = false;
    try {
      const found = await api(`traces/${this.traceId}/spans/${span.id}`, "span");
      if (this.selected === span && !this.isClosed) this.aside.replaceChildren(...details(found, span, this));
    } catch (error) {
      if (error.name !== "AbortError") this.aside.replaceChildren(failure(error));
    }
  }

  /** Every log record of the trace, beside the waterfall; each leads to its span. */
  async showLogs() {
    this.unselect();
    this.aside.hidden = false;
    try {
      const found = await api(`traces/${this.traceId}/logs`, "span");
      if (this.selected || this.isClosed) return;
      const spans = new Map(this.trace.spans.map((span) => [span.span_id, span]));
      const lead = (record) => {
        const span = spans.get(record.span_id);
        return span && h("button", { type: "button", class: "quiet", title: "Go to the span", onclick: () => this.select(span, true) }, clip(span.name || "(no name)", 40));
      };
      this.aside.replaceChildren(
        h("div", { class: "aside-top" }, h("h2", {}, "Log records"),
          h("button", { type: "button", class: "icon", "aria-label": "Close", onclick: () => this.unselect() }, "×")),
        ...records(found.logs, found.is_cut, lead));
    } catch (error) {
      if (error.name !== "AbortError") this.aside.replaceChildren(failure(error));
    }
  }

  drawOverview() {
    const canvas = this.overview;
    const width = canvas.clientWidth;
    if (!width) return;
    const ratio = window.devicePixelRatio || 1;
    canvas.width = width * ratio;
    canvas.height = 48 * ratio;
    const context = canvas.getContext("2d");
    context.scale(ratio, ratio);
    const { order } = this.trace;
    const high = Math.max(1, Math.min(4, 44 / order.length));
    const styles = new Map();
    order.forEach((span, index) => {
      const name = span.status === "error" ? "error" : colour(span.service);
      if (!styles.has(name)) styles.set(name, this.paint(name));
      context.fillStyle = styles.get(name);
      const x = (span.start / this.total) * width;
      context.fillRect(x, 2 + (index / order.length) * 44, Math.max(1, ((span.end - span.start) / this.total) * width), high);
    });
  }

  /** The colour of a class as the theme has it; the value of a custom property would be its formula. */
  paint(name) {
    const probe = h("i", { class: `bar ${name}` });
    this.overview.after(probe);
    const { backgroundColor } = getComputedStyle(probe);
    probe.remove();
    return backgroundColor;
  }

  back() {
    location.hash = sessionStorage.getItem("list") ?? "#/";
  }

  move(step) {
    const at = this.selected ? this.selected.row : -1;
    const to = Math.min(this.rows.length - 1, Math.max(0, at + step));
    if (this.rows[to]) this.select(this.rows[to]);
  }

  key(key) {
    const span = this.selected;
    if (key === "j" || key === "ArrowDown") this.move(1);
    else if (key === "k" || key === "ArrowUp") this.move(-1);
    else if (key === "PageDown") this.move(20);
    else if (key === "PageUp") this.move(-20);
    else if (key === "g" || key === "Home") this.move(-this.rows.length - 1);
    else if (key === "G" || key === "End") this.move(this.rows.length);
    else if (key === "e") this.jump((other) => other.status === "error", "No span has an error");
    else if (key === "o" && this.trace.logs) this.showLogs();
    else if (key === "c") location.hash = `#/compare/${this.traceId}`;
    else if (key === "Enter" && !span) this.move(1);
    else if (key === "Enter" && span.children.length) this.toggle(span);
    else if (span && (key === "h" || key === "ArrowLeft")) {
      if (span.children.length && !this.collapsed.has(span.id)) this.toggle(span, false);
      else if (span.parent) this.select(span.parent);
    } else if (span && (key === "l" || key === "ArrowRight")) {
      if (this.collapsed.has(span.id)) this.toggle(span, true);
      else if (span.children[0]) this.select(span.children[0]);
    } else if (key === "Escape") {
      if (span) this.unselect();
      else this.back();
    } else return false;
    return true;
  }
}

/** Make a tree of the spans: no parent, a missing one and a circle of parents all make a root. */
function arrange(trace) {
  trace.span_count = trace.spans.length;
  const byId = new Map();
  for (const span of trace.spans) {
    Object.assign(span, { children: [], parent: null, depth: -1, row: -1, below: 0 });
    span.name = String(span.name);
    span.service = String(span.service);
    if (!byId.has(span.span_id)) byId.set(span.span_id, span);
  }
  trace.roots = [];
  for (const span of trace.spans) {
    const parent = byId.get(span.parent_id);
    if (parent && parent !== span) { parent.children.push(span); span.parent = parent; } else trace.roots.push(span);
  }
  trace.order = [];
  const visit = (root) => {
    const waiting = [root];
    root.depth = 0;
    while (waiting.length) {
      const span = waiting.pop();
      trace.order.push(span);
      for (let at = span.children.length - 1; at >= 0; at--) {
        span.children[at].depth = span.depth + 1;
        waiting.push(span.children[at]);
      }
    }
  };
  trace.roots.forEach(visit);
  for (const span of trace.spans) {
    if (span.depth >= 0) continue;
    span.parent.children = span.parent.children.filter((child) => child !== span);
    span.parent = null;
    trace.roots.push(span);
    visit(span);
  }
  for (const span of [...trace.order].reverse()) if (span.parent) span.parent.below += span.below + 1;
}

function hide(span) {
  const waiting = [...span.children];
  while (waiting.length) {
    const child = waiting.pop();
    child.row = -1;
    waiting.push(...child.children);
  }
}

function details(found, span, page) {
  const parts = [
    h("div", { class: "aside-top" }, h("h2", {}, found.name || "(no name)"),
      h("button", { type: "button", class: "icon", "aria-label": "Close", onclick: () => page.unselect() }, "×")),
    h("div", { class: "facts" }, chip(found.service), h("span", { class: "tag" }, found.kind),
      found.status !== "unset" && h("span", { class: `tag ${found.status}` }, found.status),
      h("span", {}, duration(found.duration_ns)), h("span", { class: "dim" }, `after ${duration(span.start)}`)),
  ];
  if (found.description) parts.push(h("p", { class: `message ${found.status}` }, found.description));
  parts.push(section("Attributes", found.attributes));
  if (found.events.length) parts.push(h("section", {}, h("h3", {}, `Events ${found.events.length}`), found.events.map(event)));
  if (found.logs.length) parts.push(h("section", {}, h("h3", {}, `Logs ${found.logs.length}`), records(found.logs, found.logs_are_cut)));
  if (found.links.length) parts.push(h("section", {}, h("h3", {}, `Links ${found.links.length}`), found.links.map(link)));
  parts.push(section("Labels", found.labels), section("Resource", found.resource, false));
  const library = found.instrumentation;
  const facts = { span_id: found.span_id, parent_id: found.parent_id ?? "none", trace_id: found.trace_id, started: clock(found.start_ns), start_ns: found.start_ns };
  if (found.parent_is_remote) facts.parent = "in another process";
  if (library.name) facts.library = `${library.name} ${library.version ?? ""}`.trim();
  if (found.state) facts.tracestate = found.state;
  for (const name of ["attributes", "events", "links"]) if (found[`dropped_${name}`]) facts[`dropped ${name}`] = found[`dropped_${name}`];
  if (found.truncated_values) facts["truncated values"] = found.truncated_values;
  parts.push(section("Span", facts, false));
  return parts.filter(Boolean);
}

function section(title, values, isOpen = true) {
  const entries = Object.entries(values ?? {});
  if (!entries.length) return null;
  return h("details", { open: isOpen }, h("summary", {}, h("h3", {}, title), h("span", { class: "dim" }, count(entries.length))), table(entries));
}

function table(entries) {
  return h("dl", { class: "pairs" }, entries.map(([key, value]) => {
    const text = shown(value);
    const name = text.length > LONG || text.includes("\n") ? "long" : "";
    return [h("dt", { class: name }, key), h("dd", { class: name }, text)];
  }));
}

function shown(value) {
  return typeof value === "string" ? value : JSON.stringify(value, null, 1);
}

function event(found) {
  const attributes = Object.entries(found.attributes ?? {});
  return h("div", { class: "event" },
    h("div", {}, h("b", {}, shown(found.name ?? "")), h("span", { class: "dim" }, ` after ${duration(found.offset_ns)}`)),
    attributes.length ? table(attributes) : null);
}

/** Log records, a line each; *lead* makes an element that leads from a record to its span. */
function records(logs, isCut, lead = () => null) {
  const lines = logs.map((record) => {
    const severity = record.severity >= 17 ? "error" : record.severity >= 13 ? "warn" : "";
    const attributes = Object.entries(record.attributes ?? {});
    return h("div", { class: `log ${severity}` },
      h("div", { class: "log-top" }, h("span", { class: "dim mono" }, duration(record.offset_ns)), h("b", {}, record.level || "LOG"),
        h("span", { class: "dim" }, clip(record.logger || record.service, 40)), lead(record)),
      h("div", { class: "log-body" }, record.event && `${record.event}: `, shown(record.body ?? "")),
      attributes.length ? h("details", {}, h("summary", { class: "dim" }, plural(attributes.length, "attribute")), table(attributes)) : null);
  });
  if (isCut) lines.push(h("p", { class: "dim" }, `the first ${count(logs.length)}`));
  return lines;
}

function link(found) {
  const target = `#/trace/${encodeURIComponent(found.trace_id)}/${encodeURIComponent(found.span_id)}`;
  return h("div", { class: "event" }, h("a", { class: "mono", href: target }, `${found.trace_id} / ${found.span_id}`),
    Object.keys(found.attributes ?? {}).length ? table(Object.entries(found.attributes)) : null);
}
