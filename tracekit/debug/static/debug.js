"use strict";
// A filter for the rows of a page, and an optional reload of its content every two seconds. Pages work without it.
const main = document.querySelector("main");
const form = document.createElement("form");
const filter = document.createElement("input");
filter.type = "search";
filter.placeholder = "filter ( / )";
filter.setAttribute("aria-label", "Filter rows");
const live = document.createElement("input");
live.type = "checkbox";
const label = document.createElement("label");
label.append(live, " live");
form.append(filter, label);
form.addEventListener("submit", event => event.preventDefault());
document.querySelector("header").append(form);

function apply() {
  const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const row of main.querySelectorAll(".families tbody tr, .trace, .row")) {
    const text = row.textContent.toLowerCase();
    row.hidden = !words.every(word => text.includes(word));
  }
}
filter.addEventListener("input", apply);
document.addEventListener("keydown", event => {
  if (event.key === "/" && document.activeElement !== filter && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    filter.focus();
  } else if (event.key === "Escape" && document.activeElement === filter) {
    filter.value = "";
    filter.blur();
    apply();
  }
});

async function reload() {
  try {
    const response = await fetch(location.href, { headers: { Accept: "text/html" } });
    if (!response.ok) throw new Error(String(response.status));
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    const opened = [...main.querySelectorAll("details")].map(details => details.open);
    main.replaceChildren(...page.querySelector("main").childNodes);
    const fresh = [...main.querySelectorAll("details")];
    if (fresh.length === opened.length) fresh.forEach((details, at) => { details.open = opened[at]; });
    apply();
    label.title = "";
  } catch (error) {
    label.title = `not reloaded: ${error.message}`;
  }
  schedule();
}
let timer = 0;
function schedule() {
  clearTimeout(timer);
  if (live.checked) timer = setTimeout(reload, 2000);
}
live.addEventListener("change", () => {
  sessionStorage.setItem("live", live.checked ? "1" : "");
  schedule();
});
live.checked = sessionStorage.getItem("live") === "1";
schedule();
