// Elements, numbers and colours. Everything from a span enters the page as text: no function here parses markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.setAttribute("class", value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** An HTML element with attributes, listeners ("onclick") and children; strings become text. */
export function h(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same for SVG. */
export function s(tag, attributes, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

export const $ = (id) => document.getElementById(id);

/** A duration as three digits and a unit. */
export function duration(ns) {
  if (!Number.isFinite(ns)) return "?";
  const sign = ns < 0 ? "−" : "";
  ns = Math.abs(ns);
  if (ns < 1e3) return `${sign}${ns} ns`;
  if (ns < 1e6) return `${sign}${digits(ns / 1e3)} µs`;
  if (ns < 1e9) return `${sign}${digits(ns / 1e6)} ms`;
  if (ns < 60e9) return `${sign}${digits(ns / 1e9)} s`;
  const minutes = Math.floor(ns / 60e9);
  if (minutes < 60) return `${sign}${minutes} min ${Math.floor((ns % 60e9) / 1e9)} s`;
  return `${sign}${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

function digits(number) {
  return number >= 100 ? number.toFixed(0) : number >= 10 ? number.toFixed(1) : number.toFixed(2);
}

export const count = (number) => Number(number).toLocaleString("en");
export const plural = (number, noun) => `${count(number)} ${noun}${number === 1 ? "" : "s"}`;

/** Milliseconds since the epoch; nanoseconds come as text, because they exceed a number's precision. */
export const millis = (ns) => Number(BigInt(ns) / 1000n) / 1000;

export function clock(ns) {
  const date = new Date(millis(ns));
  if (Number.isNaN(date.getTime())) return "?";
  const time = date.toLocaleTimeString("en-GB");
  return date.toDateString() === new Date().toDateString() ? time : `${date.toLocaleDateString("en-CA")} ${time}`;
}

export function ago(ns) {
  const seconds = Math.round((Date.now() - millis(ns)) / 1000);
  if (seconds < 0 || seconds >= 86400) return clock(ns);
  if (seconds < 2) return "now";
  if (seconds < 60) return `${seconds} s ago`;
  return seconds < 3600 ? `${Math.floor(seconds / 60)} min ago` : `${Math.floor(seconds / 3600)} h ago`;
}

// In an order in which neighbours differ well. A service keeps its colour: the browser remembers it.
const SLOTS = [0, 3, 1, 2, 8, 4, 5, 9, 7, 6, 10, 11];
const MOST_REMEMBERED = 200;
const colours = new Map(remembered());

function remembered() {
  try {
    return JSON.parse(localStorage.getItem("colours") ?? "[]");
  } catch {
    return [];
  }
}

/** The colour class of a service. */
export function colour(service) {
  if (!colours.has(service)) {
    colours.set(service, SLOTS[colours.size % SLOTS.length]);
    try {
      localStorage.setItem("colours", JSON.stringify([...colours].slice(0, MOST_REMEMBERED)));
    } catch {
      // storage may be off
    }
  }
  return `c${colours.get(service)}`;
}

export function chip(service, text = service) {
  return h("span", { class: `chip ${colour(service)}`, title: service }, h("i"), clip(text, 32));
}

export const clip = (text, length) => (text.length > length ? `${text.slice(0, length - 1)}…` : text);

export class ServerError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

/** The JSON of the API at *path*; a later call with the same *key* aborts an earlier one. */
export async function api(path, key) {
  const signal = key ? replace(key).signal : undefined;
  const response = await fetch(`api/${path}`, { signal });
  const found = await response.json().catch(() => ({ error: `the server answered ${response.status}` }));
  if (!response.ok) throw new ServerError(found.error ?? `the server answered ${response.status}`, response.status);
  return found;
}

const running = new Map();

function replace(key) {
  running.get(key)?.abort();
  const controller = new AbortController();
  running.set(key, controller);
  return controller;
}

let fading;

export function toast(text) {
  const element = $("toast");
  element.textContent = text;
  element.classList.add("shown");
  clearTimeout(fading);
  fading = setTimeout(() => element.classList.remove("shown"), 2500);
}

export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    toast("Copied");
  } catch {
    toast("The browser does not permit copying");
  }
}

export function failure(error) {
  return h("div", { class: "empty" }, h("h2", {}, "That did not work"), h("p", {}, String(error.message ?? error)));
}
