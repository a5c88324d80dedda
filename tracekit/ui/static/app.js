// Pages by address, keys, the theme, and the stream of events. The address after "#" is a deep link:
//   #/?q=SEARCH   #/trace/ID/SPAN   #/map   #/compare/ID/ID

import { $, api, count, plural } from "./dom.js";
import { ComparePage } from "./compare.js";
import { ListPage } from "./list.js";
import { MapPage } from "./map.js";
import { TracePage } from "./trace.js";

const main = $("main");
let page = null;
let status = null;
let isLive = true;
let pausedAt = 0;

function route() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const parts = path.split("/").map(decoded);
  page?.close();
  document.title = "tracekit";
  let name = "list";
  const search = new URLSearchParams(query ?? "").get("q") ?? "";
  if (parts[0] === "trace" && parts[1]) {
    name = "trace";
    page = new TracePage(main, parts[1], parts[2]);
  } else if (parts[0] === "map") {
    name = "map";
    page = new MapPage(main, status);
  } else if (parts[0] === "compare") {
    name = "compare";
    page = new ComparePage(main, parts[1], parts[2]);
  } else {
    sessionStorage.setItem("list", location.hash || "#/");
    $("search").value = search;
    page = new ListPage(main, search, status);
  }
  page.isPaused = !isLive;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.dataset.page === name || (name === "trace" && link.dataset.page === "list")) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function receive(event) {
  status = JSON.parse(event.data);
  showLive(true);
  if (isLive) page?.live?.(status);
}

function showLive(isConnected) {
  const button = $("live");
  button.className = `live ${isConnected ? (isLive ? "on" : "paused") : "off"}`;
  const spans = status?.stored ? ` · ${count(status.stored)} received` : "";
  const missed = !isLive && status?.last > pausedAt ? ` · ${plural(status.last - pausedAt, "new span")}` : "";
  button.lastElementChild.textContent = isConnected ? (isLive ? `live${spans}` : `paused${missed}`) : "not connected";
  button.setAttribute("aria-pressed", String(isLive));
  const losses = ["rejected", "evicted", "failed_requests"].filter((name) => status?.[name]).map((name) => `${count(status[name])} ${name.replace("_", " ")}`);
  button.title = ["Pause or follow (p)", ...losses].join("\n");
  button.classList.toggle("losing", Boolean(status?.rejected || status?.failed_requests));
}

function setLive(wanted) {
  isLive = wanted;
  if (page) page.isPaused = !isLive;
  pausedAt = page?.last ?? status?.last ?? 0; // the list may be ahead of the last event
  showLive(true);
  if (isLive && status) page?.live?.(status);
}

function setTheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  try {
    if (theme) localStorage.setItem("theme", theme);
  } catch {
    // storage may be off
  }
}

function toggleTheme() {
  const root = document.documentElement;
  const isDark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  setTheme(isDark ? "light" : "dark");
  page?.drawOverview?.();
}

function key(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || $("help").open) return;
  const isTyping = event.target.closest("input, textarea, select");
  if (isTyping && event.target.type !== "checkbox") {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  if (event.key === "Enter" && event.target.closest("a, button, summary, input")) return;
  let isOurs = true;
  if (event.key === "/") {
    $("search").focus();
    $("search").select();
  } else if (event.key === "?") $("help").showModal();
  else if (event.key === "t") toggleTheme();
  else if (event.key === "p") setLive(!isLive);
  else if (event.key === "m") location.hash = "#/map";
  else isOurs = page?.key?.(event.key) ?? false;
  if (isOurs) event.preventDefault();
}

try {
  setTheme(localStorage.getItem("theme"));
} catch {
  // storage may be off
}
$("search-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("search").value.trim();
  const target = text ? `#/?q=${encodeURIComponent(text)}` : "#/";
  if (location.hash === target) route();
  else location.hash = target;
  $("search").blur();
});
$("theme").addEventListener("click", toggleTheme);
$("live").addEventListener("click", () => setLive(!isLive));
$("help-button").addEventListener("click", () => $("help").showModal());
document.addEventListener("keydown", key);
window.addEventListener("hashchange", route);

let events = null;

/** Follow the store while the page is visible: a browser has six connections to a server for all of its tabs. */
function follow() {
  events?.close();
  events = document.hidden ? null : new EventSource("api/live");
  events?.addEventListener("spans", receive);
  events?.addEventListener("error", () => showLive(false));
}

document.addEventListener("visibilitychange", follow);
follow();
api("status").then((found) => {
  status ??= found;
  if (page) page.status = status;
  page?.drawFoot?.([...page.traces.values()]);
}).catch(() => {});
route();
