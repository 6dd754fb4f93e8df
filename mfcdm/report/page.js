// Tabs, and the search in the configuration. curves.js and samples.js follow, and share this scope.

const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const dark = matchMedia("(prefers-color-scheme: dark)");
const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const made = (tag, text = "", kind = "") =>
  Object.assign(document.createElement(tag), { textContent: text, className: kind });
// Plotly reads names and titles as a kind of html.
const plain = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

// ---- Tabs: one panel at a time; the address remembers which.
const tabs = [...document.querySelectorAll("[role=tab]")];
const panel = (tab) => byId(tab.getAttribute("aria-controls"));
const waiting = { curves: drawCurves, samples: drawSamples }; // a panel that is hidden has no width to draw in

function show(tab) {
  for (const each of tabs) {
    each.setAttribute("aria-selected", String(each === tab));
    each.tabIndex = each === tab ? 0 : -1;
    panel(each).hidden = each !== tab;
  }
  const name = panel(tab).id;
  const draw = waiting[name];
  delete waiting[name];
  if (draw) draw();
}

function remember(tab) {
  show(tab);
  try { history.replaceState(null, "", `#${panel(tab).id}`); } catch { /* a browser may forbid it to files */ }
}

tabs.forEach((tab, at) => {
  tab.addEventListener("click", () => remember(tab));
  tab.addEventListener("keydown", (event) => {
    const next = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: tabs.length - 1 }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    const chosen = tabs[(next + tabs.length) % tabs.length];
    chosen.focus();
    remember(chosen);
  });
});

// ---- Configuration: the search leaves the rows that hold every word.
byId("search").addEventListener("input", (event) => {
  const words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const group of document.querySelectorAll("details.group")) {
    let left = 0;
    for (const row of group.querySelectorAll("tr")) {
      row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word));
      left += !row.hidden;
    }
    group.hidden = left === 0;
  }
});

function start() {
  startCurves();
  dark.addEventListener("change", () => drawn.forEach(redraw));
  show(tabs.find((tab) => `#${panel(tab).id}` === location.hash) || tabs[0]);
}
