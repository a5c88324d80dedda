// The list of traces: what a search finds, newest first; a picture of durations over time; marks for a comparison.

import { ago, api, chip, clip, clock, colour, count, duration, h, millis, plural, s, toast } from "./dom.js";

const COLUMNS = [
  { key: "time", title: "Started", of: (trace) => millis(trace.start_ns) },
  { key: "duration", title: "Duration", of: (trace) => trace.duration_ns },
  { key: "spans", title: "Spans", of: (trace) => trace.spans },
  { key: "errors", title: "Errors", of: (trace) => trace.errors },
];
const PAGE = 50;
const LIVE = 200;
const MOST = 1000;
const FRESH = 10; // more new rows at once are not marked: all of the list would be

export class ListPage {
  constructor(main, query, status) {
    this.main = main;
    this.query = query;
    this.status = status;
    this.traces = new Map();
    this.sort = { key: "time", down: true };
    this.last = 0;
    this.store = "";
    this.selected = null;
    this.marks = [];
    this.next = null;
    this.reached = null;
    this.isSearching = false;
    this.isClosed = false;
    this.fresh = new Set();
    this.draw();
    this.search();
  }

  close() {
    this.isClosed = true;
  }

  /** Find more traces, until a page of them is there or the store is at its end. */
  async search(more = false) {
    if (this.isSearching) return;
    this.isSearching = true;
    const goal = (more ? this.traces.size : 0) + PAGE;
    try {
      let before = more ? this.next : null;
      do {
        const found = await this.ask(before);
        if (before === null) ({ last: this.last, store: this.store } = found);
        this.add(found.traces);
        before = this.next = found.next;
        this.reached = found.reached_ns;
        this.fillRows();
      } while (this.next !== null && this.traces.size < goal && !this.isClosed);
      this.wrong = null;
    } catch (error) {
      if (error.name === "AbortError") return;
      this.wrong = error;
    } finally {
      this.isSearching = false;
      if (!this.isClosed) {
        this.fillRows();
        if (this.isStale && !this.isPaused) this.live(this.status); // spans have arrived since the store was read
      }
    }
  }

  ask(before, after = 0) {
    const parameters = new URLSearchParams({ q: this.query, limit: after ? LIVE : PAGE, after });
    if (before !== null) parameters.set("before", before);
    return api(`traces?${parameters}`);
  }

  add(traces, isFresh = false) {
    for (const trace of traces) {
      if (isFresh && !this.traces.has(trace.trace_id)) this.fresh.add(trace.trace_id);
      this.traces.set(trace.trace_id, trace);
    }
    if (this.traces.size > MOST) {
      const old = [...this.traces.values()].sort((a, b) => millis(a.start_ns) - millis(b.start_ns));
      for (const trace of old.slice(0, this.traces.size - MOST)) this.traces.delete(trace.trace_id);
    }
  }

  /** Spans have arrived: look at the newest again. */
  async live(status) {
    this.status = status;
    if (this.isSearching || this.isRefreshing) {
      this.isStale = true;
      return;
    }
    this.isRefreshing = true;
    try {
      do {
        this.isStale = false;
        let found = await this.ask(null, this.last);
        const isOther = found.store !== this.store; // another file at the same path
        if (isOther) found = await this.ask(null);
        const { last, store, traces } = found;
        // More may have arrived than one answer has: the list has no gap.
        while (!isOther && found.next !== null && traces.length < MOST && !this.isClosed) {
          found = await this.ask(found.next, this.last);
          traces.push(...found.traces);
        }
        if (this.isClosed || this.isPaused) break;
        if (isOther || found.next !== null) {
          this.traces.clear();
          ({ next: this.next, reached_ns: this.reached } = found);
        }
        Object.assign(this, { last, store, wrong: null });
        this.add(traces, true);
        this.fillRows();
        await new Promise((done) => setTimeout(done, 400)); // at most twice a second
      } while (this.isStale && !this.isClosed && !this.isPaused);
    } catch {
      // the next event tries again
    } finally {
      this.isRefreshing = false;
    }
  }

  draw() {
    this.chart = s("svg", { class: "scatter", role: "img", "aria-label": "Durations of the listed traces over time" });
    this.scale = [h("span", {}), h("span", {})];
    this.picture = h("div", { class: "picture" }, this.chart, this.scale);
    this.head = h("thead");
    this.body = h("tbody");
    this.foot = h("div", { class: "foot" });
    this.bar = h("div", { class: "marks", hidden: true });
    this.table = h("table", { class: "traces" }, this.head, this.body);
    this.empty = h("div", { class: "empty", hidden: true });
    this.scroller = h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Traces" },
      this.picture, this.table, this.empty, this.foot);
    this.main.replaceChildren(h("h1", { class: "hidden" }, "Traces"), this.bar, this.scroller);
    this.scroller.addEventListener("scroll", () => {
      const left = this.scroller.scrollHeight - this.scroller.scrollTop - this.scroller.clientHeight;
      if (left < 200 && this.next !== null && this.traces.size < MOST) this.search(true);
    });
    this.drawHead();
  }

  drawHead() {
    const sorter = ({ key, title }) => {
      const isThis = this.sort.key === key;
      return h("th", { class: `n ${key}`, scope: "col", "aria-sort": isThis ? (this.sort.down ? "descending" : "ascending") : null },
        h("button", { type: "button", onclick: () => this.sortBy(key) }, title,
          h("span", { class: "arrow", "aria-hidden": "true" }, isThis ? (this.sort.down ? "↓" : "↑") : "")));
    };
    const [time, ...numbers] = COLUMNS;
    this.head.replaceChildren(h("tr", {},
      h("th", { class: "mark", scope: "col" }, h("span", { class: "hidden" }, "Compare")),
      sorter(time),
      h("th", { scope: "col" }, "Trace"),
      ...numbers.map(sorter),
      h("th", { scope: "col", class: "services" }, "Services"),
      h("th", { scope: "col", class: "id" }, "Id")));
  }

  sortBy(key) {
    this.sort = { key, down: this.sort.key === key ? !this.sort.down : true };
    this.drawHead();
    this.fillRows();
  }

  sorted() {
    const { of } = COLUMNS.find((column) => column.key === this.sort.key);
    const sign = this.sort.down ? -1 : 1;
    return [...this.traces.values()].sort((a, b) => sign * (of(a) - of(b)) || (a.trace_id < b.trace_id ? -1 : 1));
  }

  fillRows() {
    const rows = this.sorted();
    const longest = Math.max(1, ...rows.map((trace) => trace.duration_ns));
    this.body.replaceChildren(...rows.map((trace) => this.row(trace, longest)));
    this.table.hidden = this.picture.hidden = rows.length === 0;
    this.drawChart(rows, longest);
    this.drawFoot(rows);
    this.drawMarks();
    this.fresh.clear();
  }

  row(trace, longest) {
    const isSelected = trace.trace_id === this.selected;
    const share = s("svg", { class: "share", viewBox: "0 0 100 4", preserveAspectRatio: "none", "aria-hidden": "true" },
      s("rect", { class: colour(trace.service), width: Math.max(0.8, (100 * trace.duration_ns) / longest), height: 4, rx: 1 }));
    const services = trace.services.slice(0, 4).map(([name]) => chip(name));
    if (trace.services.length > 4) services.push(h("span", { class: "dim" }, `+${trace.services.length - 4}`));
    const mark = h("input", {
      type: "checkbox", "aria-label": `Compare ${clip(trace.name, 60)} ${trace.trace_id.slice(0, 8)}`,
      onclick: (event) => { event.stopPropagation(); this.mark(trace.trace_id); },
    });
    mark.checked = this.marks.includes(trace.trace_id);
    return h("tr", {
      class: [trace.status, isSelected ? "selected" : "", this.fresh.size <= FRESH && this.fresh.has(trace.trace_id) ? "fresh" : ""].join(" "),
      "data-id": trace.trace_id,
      onclick: (event) => { if (!event.target.closest("a, input")) location.hash = `#/trace/${trace.trace_id}`; },
    },
      h("td", { class: "mark" }, mark),
      h("td", { class: "n time", title: clock(trace.start_ns) }, ago(trace.start_ns)),
      h("td", { class: "name" },
        h("i", { class: `status ${trace.status}`, role: "img", "aria-label": `status ${trace.status}` }),
        h("a", { href: `#/trace/${trace.trace_id}` }, trace.name || "(no name)"),
        trace.calls && trace.calls !== trace.name && h("span", { class: "dim" }, ` → ${trace.calls}`),
        !trace.has_root && h("span", { class: "tag", title: "The root span is not in the store" }, "no root")),
      h("td", { class: "n duration" }, duration(trace.duration_ns), share),
      h("td", { class: "n" }, count(trace.spans)),
      h("td", { class: "n errors" }, trace.errors ? count(trace.errors) : ""),
      h("td", { class: "services" }, services),
      h("td", { class: "id" }, trace.trace_id.slice(0, 8)));
  }

  drawChart(rows, longest) {
    const width = 1000;
    const height = 84;
    this.chart.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.chart.setAttribute("preserveAspectRatio", "none");
    if (rows.length === 0) return;
    const times = rows.map((trace) => millis(trace.start_ns));
    const first = Math.min(...times);
    const wide = Math.max(1, Math.max(...times) - first);
    const shortest = Math.max(1, Math.min(...rows.map((trace) => Math.max(1, trace.duration_ns))));
    const span = Math.max(1e-9, Math.log(longest / shortest));
    const dots = rows.slice(0, 400).map((trace, index) => {
      const x = 8 + ((times[index] - first) / wide) * (width - 16);
      const y = height - 10 - (Math.log(Math.max(1, trace.duration_ns) / shortest) / span) * (height - 22);
      // A line of no length with a round cap stays a circle however the picture is stretched.
      return s("path", { class: `dot ${trace.status === "error" ? "error" : colour(trace.service)}`, d: `M${x} ${y}h0.001`,
        onclick: () => { location.hash = `#/trace/${trace.trace_id}`; } },
        s("title", {}, `${clip(trace.name, 100)}  ${duration(trace.duration_ns)}  ${clock(trace.start_ns)}`));
    });
    const lines = [10, height - 10].map((y) => s("path", { class: "rule", d: `M0 ${y}H${width}` }));
    this.scale[0].textContent = duration(longest);
    this.scale[1].textContent = duration(shortest);
    this.chart.replaceChildren(...lines, ...dots);
  }

  drawFoot(rows) {
    this.empty.hidden = rows.length > 0 || (this.isSearching && !this.wrong);
    if (!this.empty.hidden) this.empty.replaceChildren(...this.emptiness());
    const parts = [];
    if (rows.length) parts.push(plural(rows.length, "trace"));
    if (this.isSearching) parts.push("searching …");
    if (this.next !== null && this.reached && this.reached !== "0") parts.push(`back to ${clock(this.reached)}`);
    const older = this.next !== null && !this.isSearching &&
      h("button", { type: "button", onclick: () => this.search(true) }, "Search further back");
    this.foot.replaceChildren(h("span", {}, parts.join(" · ")), older || "");
  }

  emptiness() {
    if (this.wrong) {
      const title = this.wrong.status === 400 ? "This search cannot be understood" : "The store cannot be read";
      return [h("h2", {}, title), h("p", {}, this.wrong.message)];
    }
    if (this.query && this.next !== null) {
      return [h("h2", {}, "Nothing found yet"), h("p", {}, "Older spans have not been searched.")];
    }
    if (this.query) {
      return [h("h2", {}, "No trace fits"), h("p", {}, "One span must meet every condition. ", h("a", { href: "#/" }, "Show all traces"))];
    }
    return welcome(this.status);
  }

  drawMarks() {
    this.bar.hidden = this.marks.length === 0;
    this.bar.replaceChildren(
      h("span", {}, this.marks.length === 1 ? "One trace is marked: mark another one to compare." : ""),
      h("button", { type: "button", onclick: () => { this.marks = []; this.fillRows(); } }, "Clear"));
  }

  mark(id) {
    this.marks = this.marks.includes(id) ? this.marks.filter((other) => other !== id) : [...this.marks, id];
    if (this.marks.length === 2) location.hash = `#/compare/${this.marks.join("/")}`;
    else this.fillRows();
  }

  move(step) {
    const rows = this.sorted();
    if (!rows.length) return;
    const at = rows.findIndex((trace) => trace.trace_id === this.selected);
    const to = at < 0 ? 0 : Math.min(rows.length - 1, Math.max(0, at + step));
    this.selected = rows[to].trace_id;
    for (const row of this.body.children) row.classList.toggle("selected", row.dataset.id === this.selected);
    this.body.children[to]?.scrollIntoView({ block: "nearest" });
  }

  key(key) {
    if (key === "j" || key === "ArrowDown") this.move(1);
    else if (key === "k" || key === "ArrowUp") this.move(-1);
    else if (key === "G") this.move(MOST);
    else if (key === "g") this.move(-MOST);
    else if (key === "Enter" && this.selected) location.hash = `#/trace/${this.selected}`;
    else if (key === "c" && this.selected) this.mark(this.selected);
    else if (key === "Escape" && this.query) location.hash = "#/";
    else if (key === "s") {
      const at = COLUMNS.findIndex((column) => column.key === this.sort.key);
      const { key: next, title } = COLUMNS[(at + 1) % COLUMNS.length];
      this.sortBy(next);
      toast(`Sorted by ${title.toLowerCase()}`);
    } else return false;
    return true;
  }
}

function welcome(status) {
  const { http, grpc } = status?.urls ?? {};
  const parts = [h("h2", {}, "No traces yet"), h("p", {}, "They appear here as they arrive.")];
  const step = (title, code) => h("section", {}, h("h3", {}, title), h("pre", { tabindex: "0" }, code));
  if (http) {
    parts.push(h("div", { class: "steps" },
      step("Python with tracekit", "import tracekit\nfrom tracekit.exporters.otlp import OTLPExporter\n\n" +
        `tracekit.configure(service="shop", exporter=OTLPExporter("${http}/v1/traces"))`),
      step("Any language with OpenTelemetry", `export OTEL_EXPORTER_OTLP_ENDPOINT=${http}\nexport OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf` +
        (grpc ? `\n\n# or gRPC\nexport OTEL_EXPORTER_OTLP_ENDPOINT=${grpc}` : "")),
      step("A demo", status.path ? `tracekit demo --db ${status.path}` : "tracekit demo")));
  } else if (status?.path) {
    parts.push(h("p", {}, "This viewer shows the file ", h("code", {}, status.path)));
  }
  return parts;
}
