// The tab Samples: two plots that turn together, and small pictures of all pairs to choose from. A browser allows few
// WebGL contexts at a time, and two plots take two.

const COLORS = {
  generated: [[0, "#3b528b"], [0.35, "#21918c"], [0.7, "#5ec962"], [1, "#d9c400"]], // by height
  nearest: [[0, "#8c4bbf"], [0.4, "#d5467a"], [0.75, "#f0803c"], [1, "#e8b93a"]],
};
const VIEWS = Object.keys(COLORS);
// Plotly turns around its z axis, and up is y in a cloud: Plotly's x, y, z are a cloud's z, x, y.
const AXES = { x: "z", y: "x", z: "y" };
const HOME = { eye: { x: 0.98, y: 0.82, z: 0.59 }, up: { x: 0, y: 0, z: 1 }, center: { x: 0, y: 0, z: 0 } };
const SIDE = 300; // pixels of a small picture
const DENSE = 1000; // points from which they are drawn smaller
const HEIGHTS = 0.6; // share of the frame's half side that the colours span
let camera = structuredClone(HOME);
let current = 0;
let leader = ""; // the plot that was touched last
const looking = new Set(); // plots that are being turned by `look`

const live = () => VIEWS.filter((id) => data.pairs[current][id]);

function cloudTrace(cloud, pair, colorscale) {
  const [middle, span] = [pair.center[1], pair.reach * HEIGHTS];
  return {
    type: "scatter3d", mode: "markers", x: cloud[AXES.x], y: cloud[AXES.y], z: cloud[AXES.z], hoverinfo: "skip",
    marker: {
      size: cloud.x.length > DENSE ? 1.5 : 2.2, color: cloud.y, colorscale, cmin: middle - span, cmax: middle + span,
      line: { width: 0 },
    },
  };
}

function sceneLayout(pair) {
  const side = (axis) => {
    const middle = pair.center["xyz".indexOf(AXES[axis])];
    return { visible: false, showspikes: false, range: [middle - pair.reach, middle + pair.reach] };
  };
  return {
    paper_bgcolor: "rgba(0,0,0,0)", margin: { l: 0, r: 0, t: 0, b: 0 }, showlegend: false,
    scene: {
      xaxis: side("x"), yaxis: side("y"), zaxis: side("z"), aspectmode: "cube", dragmode: "turntable",
      camera: structuredClone(camera),
    },
  };
}

// Look at a cloud from where `camera` is: once more where it has moved on in between, and never twice at a time.
async function look(id) {
  if (looking.has(id)) return;
  looking.add(id);
  for (let seen = null; seen !== camera; ) {
    seen = camera;
    await Plotly.relayout(byId(id), { "scene.camera": structuredClone(seen) });
  }
  looking.delete(id);
}

// Look at both clouds from there; `moved` is the plot that looks from there already.
function turnTo(view, moved = "") {
  camera = structuredClone(view);
  live().filter((id) => id !== moved).forEach(look);
}

function turn(degrees) {
  const { x, y, z } = camera.eye;
  const [c, s] = [Math.cos((degrees * Math.PI) / 180), Math.sin((degrees * Math.PI) / 180)];
  turnTo({ ...camera, eye: { x: c * x - s * y, y: s * x + c * y, z } });
}

// A plot goes on turning for a moment once it is let go, and tells nobody: look so many times where it has come to.
function settle(id, times = 15) {
  const view = byId(id)._fullLayout?.scene?._scene?.getCamera?.();
  if (!view || times === 0 || leader !== id) return;
  if (JSON.stringify(view.eye) !== JSON.stringify(camera.eye)) turnTo({ ...HOME, ...view }, id);
  setTimeout(() => settle(id, times - 1), 100);
}

// Have the other plot turn with this one while it is this one that a hand is on.
function follow(id) {
  const take = (event) => {
    const view = event["scene.camera"];
    if (view && leader === id) turnTo({ ...HOME, ...view }, id);
  };
  for (const touched of ["pointerdown", "mousedown", "touchstart", "wheel"]) {
    byId(id).addEventListener(touched, () => { leader = id; }, { capture: true, passive: true });
  }
  byId(id).on("plotly_relayouting", take);
  byId(id).on("plotly_relayout", (event) => {
    take(event);
    settle(id);
  });
}

const short = (value) => (value === null ? "-" : value.toPrecision(3));

function distances({ match, outside }) {
  const found = match === null ? [] : [
    ["to its nearest training shape", short(match.distance)],
    ["from that shape to its own nearest", short(match.neighbour)],
    ["between two samplings of that shape", short(match.floor)],
    ["that shape's number in the data set", String(match.index)],
  ];
  return outside ? [...found, ["stray points outside the frame", String(outside)]] : found;
}

// Show one pair in the two plots.
async function choose(at) {
  current = at;
  const pair = data.pairs[at];
  byId("shown").textContent = `${pair.title}, ${pair.points.toLocaleString("en")} points`;
  byId("beside").hidden = !pair.nearest;
  [...byId("gallery").children].forEach((each, i) => each.setAttribute("aria-pressed", String(i === at)));
  byId("distances").replaceChildren(...distances(pair).map(([name, value]) => {
    const fact = made("div");
    fact.append(made("dt", name), made("dd", value));
    return fact;
  }));
  try {
    for (const id of live()) {
      const first = !byId(id).on;
      const config = { responsive: true, displayModeBar: false, scrollZoom: true };
      await Plotly.react(byId(id), [cloudTrace(pair[id], pair, COLORS[id])], sceneLayout(pair), config);
      if (first) follow(id);
    }
  } catch (error) {
    byId("explained").textContent = `The clouds cannot be turned here, as this browser has no WebGL: ${error.message}`;
  }
}

// A still picture from the side that the plots begin with: far points first.
function paint(canvas, cloud, pair, colorscale) {
  const ratio = Math.min(2, devicePixelRatio || 1);
  canvas.width = canvas.height = SIDE * ratio;
  const pen = canvas.getContext("2d");
  const azimuth = Math.atan2(HOME.eye.y, HOME.eye.x);
  const elevation = Math.atan2(HOME.eye.z, Math.hypot(HOME.eye.x, HOME.eye.y));
  const [ca, sa, ce, se] = [Math.cos(azimuth), Math.sin(azimuth), Math.cos(elevation), Math.sin(elevation)];
  const points = cloud.x.map((_, i) => {
    const [x, y, z] = ["x", "y", "z"].map((axis, d) => (cloud[axis][i] - pair.center[d]) / pair.reach);
    const towards = x * sa + z * ca;
    return { right: x * ca - z * sa, up: y * ce - towards * se, near: y * se + towards * ce, height: y };
  });
  points.sort((a, b) => a.near - b.near);
  const half = canvas.width / 2;
  const dot = ratio * (points.length > DENSE ? 1.5 : 2.4);
  for (const { right, up, height } of points) {
    const share = Math.min(1, Math.max(0, (height / HEIGHTS + 1) / 2));
    pen.fillStyle = colorscale.findLast(([stop]) => stop <= share)[1];
    pen.fillRect(half * (1 + right * 0.9) - dot / 2, half * (1 - up * 0.9) - dot / 2, dot, dot);
  }
}

function addPair(pair, at) {
  const [button, both] = [made("button"), made("span", "", "both")];
  button.type = "button";
  for (const id of VIEWS.filter((view) => pair[view])) {
    paint(both.appendChild(made("canvas")), pair[id], pair, COLORS[id]);
  }
  button.append(both, made("span", pair.title + (pair.match ? `: ${short(pair.match.distance)}` : "")));
  button.addEventListener("click", () => {
    choose(at);
    byId("viewer").scrollIntoView({ block: "start", behavior: "smooth" });
  });
  byId("gallery").append(button);
}

function drawSamples() {
  if (data.pairs.length === 0) return;
  byId("viewer").hidden = false;
  const { match } = data.pairs[0];
  byId("order").hidden = byId("explained").hidden = match === null;
  if (match) byId("compared").textContent = String(match.num_points);
  data.pairs.forEach(addPair);
  const buttons = { left: () => turn(-20), right: () => turn(20), reset: () => turnTo(HOME) };
  for (const [id, act] of Object.entries(buttons)) {
    byId(id).addEventListener("click", () => {
      leader = "";
      act();
    });
  }
  choose(0);
}
