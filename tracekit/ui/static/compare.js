// Two traces side by side: their spans merged by the path of services and names, with counts and total durations.

import { api, clip, clock, colour, count, duration, failure, h, plural } from "./dom.js";

export class ComparePage {
  constructor(main, first, second) {
    this.main = main;
    this.ids = [first, second];
    if (first && second) this.load();
    else this.choose();
  }

  close() {
    this.isClosed = true;
  }

  async choose() {
    const chosen = this.ids[0];
    this.main.replaceChildren(h("div", { class: "scroll" }, h("div", { class: "map-top" }, h("h1", {}, "Compare"))));
    try {
      const { traces } = await api("traces?limit=50");
      if (this.isClosed) return;
      const others = traces.filter((trace) => trace.trace_id !== chosen);
      const line = (trace) => h("li", {}, h("a", { href: chosen ? `#/compare/${chosen}/${trace.trace_id}` : `#/compare/${trace.trace_id}` },
        h("span", {}, trace.name || "(no name)"), h("span", { class: "dim" }, `${duration(trace.duration_ns)} · ${plural(trace.spans, "span")} · ${clock(trace.start_ns)}`)));
      this.main.replaceChildren(h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Traces to compare" },
        h("div", { class: "map-top" }, h("h1", {}, "Compare"),
          h("span", { class: "dim" }, chosen ? `with ${chosen.slice(0, 8)}: choose the other trace` : "choose the first trace")),
        others.length ? h("ul", { class: "choice" }, others.map(line)) : h("div", { class: "empty" }, h("h2", {}, "No other traces yet"))));
    } catch (error) {
      if (!this.isClosed) this.main.replaceChildren(failure(error));
    }
  }

  async load() {
    const [a, b] = this.ids.map(encodeURIComponent);
    try {
      const [rows, first, second] = await Promise.all([
        api(`compare?a=${a}&b=${b}`), api(`traces?q=trace:${a}&limit=1`), api(`traces?q=trace:${b}&limit=1`)]);
      if (!this.isClosed) this.draw(rows, [first.traces[0], second.traces[0]]);
    } catch (error) {
      if (!this.isClosed) this.main.replaceChildren(failure(error));
    }
  }

  draw(rows, traces) {
    const most = Math.max(1, ...rows.map((row) => Math.abs(row.durations[1] - row.durations[0])));
    const card = (trace, letter) => h("a", { class: "card", href: `#/trace/${trace.trace_id}` }, h("b", {}, letter),
      h("span", {}, trace.name || "(no name)"), h("span", { class: "dim" }, `${duration(trace.duration_ns)} · ${plural(trace.spans, "span")} · ${clock(trace.start_ns)} · ${trace.trace_id.slice(0, 8)}`));
    const body = rows.slice(0, 5000).map((row) => {
      const difference = row.durations[1] - row.durations[0];
      const name = h("th", { scope: "row" }, h("span", { class: `stripe ${colour(String(row.service))}` }), String(row.name), " ", h("span", { class: "dim" }, clip(String(row.service), 40)));
      name.style.paddingLeft = `${12 + Math.min(row.depth, 24) * 14}px`;
      const bar = h("span", { class: difference > 0 ? "slower" : "faster" });
      bar.style.width = `${(50 * Math.abs(difference)) / most}%`;
      const only = row.counts[0] === 0 ? "only in B" : row.counts[1] === 0 ? "only in A" : "";
      return h("tr", { class: only ? "only" : "" }, name,
        ...[0, 1].map((side) => h("td", { class: "n" }, row.counts[side] ? [row.counts[side] > 1 && h("span", { class: "dim" }, `${count(row.counts[side])} spans, `), duration(row.durations[side])] : "—")),
        h("td", { class: "n" }, only ? h("span", { class: "tag" }, only) : `${difference > 0 ? "+" : ""}${duration(difference)}`),
        h("td", { class: "difference" }, h("div", {}, bar)));
    });
    this.main.replaceChildren(h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Comparison" },
      h("div", { class: "map-top" }, h("h1", {}, "Compare"),
        h("a", { class: "button", href: `#/compare/${[...this.ids].reverse().join("/")}` }, "Swap")),
      h("div", { class: "cards" }, card(traces[0], "A"), card(traces[1], "B")),
      h("table", { class: "numbers compare" }, h("thead", {}, h("tr", {}, ["Service and operation", "A", "B", "B − A"].map((title, index) =>
        h("th", { scope: "col", class: index ? "n" : "" }, title)), h("td"))), h("tbody", {}, body))));
  }

  key(key) {
    if (key === "Escape") history.back();
    else return false;
    return true;
  }
}
