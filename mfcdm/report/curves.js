// The tab Curves: data.charts, as records.py makes them.

const STOPS = [[0, "8250df"], [0.25, "2f7ff0"], [0.5, "12a594"], [0.75, "e0a100"], [1, "e5484d"]]; // low to high
const KINDS = ["#2f7ff0", "#e5734d", "#12a594", "#b65fd6", "#e0a100", "#6b7785"];
const FEW = 40; // points that are marked, and not smoothed
const touch = matchMedia("(pointer: coarse)").matches;
const drawn = []; // {chart, plot, log}
let axis = "steps";
let smoothing = 0;

// A colour for a curve that stands at this share of an ordered family.
function shade(share) {
  const at = Math.max(1, STOPS.findIndex(([stop]) => share <= stop));
  const [[low, from], [high, to]] = [STOPS[at - 1], STOPS[at]];
  const mixed = [0, 2, 4].map((k) => {
    const [a, b] = [from, to].map((hex) => parseInt(hex.slice(k, k + 2), 16));
    return Math.round(a + ((b - a) * (share - low)) / (high - low));
  });
  return `#${mixed.map((value) => value.toString(16).padStart(2, "0")).join("")}`;
}

const faint = (hex, share) => hex + Math.round(255 * share).toString(16).padStart(2, "0");

// Minutes of training at a step, linear between records.
function minutes(step) {
  const { steps, seconds } = data.clock;
  const at = steps.findIndex((known) => known >= step);
  if (at < 0) return null;
  const [before, then] = at === 0 ? [0, 0] : [steps[at - 1], seconds[at - 1]];
  return steps[at] === step ? seconds[at] / 60
    : (then + ((seconds[at] - then) * (step - before)) / (steps[at] - before)) / 60;
}

// Exponential average, unbiased from its first value on.
function smooth(values) {
  let [sum, weight] = [0, 0];
  return values.map((value) => {
    if (value === null) return null;
    sum = smoothing * sum + (1 - smoothing) * value;
    weight = smoothing * weight + (1 - smoothing);
    return sum / weight;
  });
}

// A curve as Plotly draws it: its interval below it, and where it is smoothed the values themselves, faintly.
function traces(curve, hex, form, several) {
  const name = plain(several ? curve.name.slice(curve.name.lastIndexOf("/") + 1) : curve.name);
  const few = curve.x.length <= FEW;
  const common = {
    type: "scatter", name, legendgroup: name, hoverinfo: "skip",
    x: axis === "minutes" ? curve.x.map(minutes) : curve.x,
  };
  const line = {
    ...common, y: curve.y, mode: few ? "lines+markers" : "lines", line: { color: hex, width: 1.8 }, marker: { size: 6 },
    hoverinfo: "all", hovertemplate: `%{y:${form}}<extra>${name}</extra>`,
  };
  const below = [];
  if (curve.low) {
    const edge = { ...common, mode: "lines", line: { width: 0 }, showlegend: false };
    below.push({ ...edge, y: curve.low }, { ...edge, y: curve.high, fill: "tonexty", fillcolor: faint(hex, 0.2) });
    line.customdata = curve.low.map((low, at) => [low, curve.high[at]]);
    line.hovertemplate = `%{y:${form}} (%{customdata[0]:${form}} to %{customdata[1]:${form}})<extra>${name}</extra>`;
  }
  if (smoothing > 0 && !few) {
    const thin = { color: faint(hex, 0.25), width: 1 };
    below.push({ ...common, y: curve.y, mode: "lines", line: thin, showlegend: false });
    line.y = smooth(curve.y);
  }
  return [...below, line];
}

function layout({ chart, log }) {
  const lines = { gridcolor: color("line"), linecolor: color("line"), zeroline: false, automargin: true };
  const dashed = { color: color("soft"), width: 1, dash: "dash" };
  const best = { type: "line", xref: "paper", x0: 0, x1: 1, y0: chart.best, y1: chart.best, line: dashed };
  const clear = "rgba(0,0,0,0)";
  return {
    paper_bgcolor: clear,
    plot_bgcolor: clear,
    font: { color: color("ink"), size: 12 },
    margin: { l: 10, r: 10, t: 8, b: 10 },
    hovermode: "x unified",
    hoverlabel: { bgcolor: color("back"), bordercolor: color("line"), font: { color: color("ink") } },
    dragmode: touch ? false : "zoom", // a finger scrolls the page
    shapes: chart.best === null ? [] : [best],
    showlegend: chart.curves.length > 1,
    legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, font: { size: 11 }, bgcolor: clear },
    xaxis: {
      ...lines, type: axis === "log" ? "log" : "linear",
      title: { text: axis === "minutes" ? "minutes" : "step", standoff: 4 },
    },
    yaxis: { ...lines, type: log ? "log" : "linear", tickformat: chart.percent ? ".0%" : "" },
  };
}

function redraw(entry) {
  const { curves, ordered, percent } = entry.chart;
  const form = percent ? ".1%" : ".4g";
  const hex = (at) => (ordered ? shade(at / (curves.length - 1)) : KINDS[at % KINDS.length]);
  const all = curves.flatMap((curve, at) => traces(curve, hex(at), form, curves.length > 1));
  return Plotly.react(entry.plot, all, layout(entry), { responsive: true, displayModeBar: false });
}

// One chart with its title and the button of its logarithmic axis, in a grid of its section.
function addChart(chart, grid) {
  const [figure, caption, button] = [made("figure"), made("figcaption"), made("button", "log")];
  const entry = { chart, plot: made("div", "", "chart"), log: chart.log };
  const press = () => button.setAttribute("aria-pressed", String(entry.log));
  button.type = "button";
  button.setAttribute("aria-label", `${chart.title}: logarithmic axis`);
  press();
  button.addEventListener("click", () => {
    entry.log = !entry.log;
    press();
    redraw(entry);
  });
  caption.append(made("span", chart.title), button);
  figure.append(caption, entry.plot);
  grid.append(figure);
  drawn.push(entry);
  redraw(entry);
}

function drawCurves() {
  let [section, grid] = [null, null];
  for (const chart of data.charts) {
    if (chart.section !== section) {
      section = chart.section;
      grid = made("div", "", "charts");
      byId("charts").append(made("h2", section[0].toUpperCase() + section.slice(1)), grid);
    }
    addChart(chart, grid);
  }
  if (data.charts.length === 0) byId("charts").append(made("p", "No records yet."));
}

function startCurves() {
  if (data.clock.steps.length === 0) byId("axis").querySelector("[value=minutes]").remove();
  byId("axis").addEventListener("change", (event) => {
    axis = event.target.value;
    drawn.forEach(redraw);
  });
  byId("smoothing").addEventListener("input", (event) => {
    smoothing = Number(event.target.value);
    drawn.forEach(redraw);
  });
}
