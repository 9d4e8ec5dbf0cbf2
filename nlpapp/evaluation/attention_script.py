"""The script of the attention page: it draws what is in the page and asks for nothing else."""

SCRIPT = r"""
"use strict";
const get = (id) => document.getElementById(id);
const data = JSON.parse(get("numbers").textContent);
const L = data.layers.length, N = data.heads, T = data.queries, K = data.keys, M = data.memory;
const ROW = 22;

function bytes(text) {
  const raw = atob(text), out = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) out[i] = raw.charCodeAt(i);
  return out.buffer;
}
const packedWeights = new Uint16Array(bytes(data.weights));
const weight = (l, h, i, j) => packedWeights[((l * N + h) * T + i) * K + j] / 65535;
const neurons = data.neurons, H = neurons ? neurons.width : 0;
const unpacked = {};
if (neurons) for (const name of ["queries", "keys", "position_queries", "position_keys"])
  if (neurons[name]) unpacked[name] = new Int16Array(bytes(neurons[name].data));
function vector(name, l, h, rows, row) {
  const start = ((l * N + h) * rows + row) * H, out = new Float32Array(H);
  for (let n = 0; n < H; n++) out[n] = unpacked[name][start + n] * neurons[name].step;
  return out;
}

const state = { view: "head", layer: L - 1, head: 0, heads: new Set(), side: null, token: 0,
  query: 0 };
for (let h = 0; h < N; h++) state.heads.add(h);
const percent = (w) => (w * 100).toFixed(w < 0.1 ? 1 : 0) + " %";
/* The colours of Okabe and Ito (2008) while there are enough of them. */
const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];
const colour = (h) => N <= COLOURS.length ? COLOURS[h]
  : `hsl(${Math.round((360 * h) / N)} 75% var(--lum))`;
const make = (tag, parent, text, kind) => {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  if (kind) node.className = kind;
  parent.appendChild(node);
  return node;
};
function option(select, value, text) { make("option", select, text).value = value; }

data.layers.forEach((number, l) => option(get("layer"), l, number));
for (let h = 0; h < N; h++) option(get("head"), h, h);
for (let i = 0; i < T; i++) option(get("query"), i, `${i}: ${data.tokens[M + i]}`);
const parts = [["all", "everything"]];
if (data.segments.includes(1)) parts.push(["00", "first text to first"],
  ["01", "first text to second"], ["10", "second text to first"], ["11", "second text to second"]);
if (M) parts.push(["memory", "to memory"], ["text", "to the text itself"]);
parts.forEach(([value, text]) => option(get("part"), value, text));
get("part-box").hidden = parts.length === 1;
get("special-box").hidden = !data.special.includes(true);
get("tab-neuron").hidden = !neurons;
get("layer").value = state.layer;

function shown(i, j) {
  if (get("special").checked && (data.special[M + i] || data.special[j])) return false;
  const part = get("part").value;
  if (part === "all") return true;
  if (part === "memory") return j < M;
  if (part === "text") return j >= M;
  return data.segments[M + i] === +part[0] && data.segments[j] === +part[1];
}
function meanWeight(i, j) {
  let sum = 0;
  for (const h of state.heads) sum += weight(state.layer, h, i, j);
  return state.heads.size ? sum / state.heads.size : 0;
}

/* Head view */
for (let h = 0; h < N; h++) {
  const button = make("button", get("heads"), h);
  button.style.borderLeftColor = colour(h);
  button.setAttribute("aria-label", `head ${h}`);
  button.onclick = () => {
    if (state.heads.has(h)) state.heads.delete(h); else state.heads.add(h);
    draw();
  };
}
make("button", get("heads"), "all").onclick = () => {
  for (let h = 0; h < N; h++) state.heads.add(h);
  draw();
};
make("button", get("heads"), "none").onclick = () => { state.heads.clear(); draw(); };

function tokenButton(side, index, position) {
  const kinds = ["token", position < M ? "memory" : "", data.segments[position] ? "second" : ""];
  const button = make("button", get(side), data.tokens[position], kinds.join(" "));
  button.tabIndex = index ? -1 : 0;
  button.title = data.tokens[position] + (position < M ? " (memory)" : "");
  if (side === "left" && !index) button.style.marginTop = M * ROW + "px";
  const choose = () => { state.side = side; state.token = index; draw(); };
  button.onfocus = choose;
  button.onmouseenter = () => { if (!document.activeElement.matches(".token")) choose(); };
  button.onclick = choose;
  make("i", button);
}
for (let i = 0; i < T; i++) tokenButton("left", i, M + i);
for (let j = 0; j < K; j++) tokenButton("right", j, j);
document.querySelector(".lines").onmouseleave = () => {
  if (!document.activeElement.matches(".token")) { state.side = null; draw(); }
};
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") {
    if (document.activeElement.matches(".token")) document.activeElement.blur();
    state.side = null;
    draw();
  }
});

function arrows(box, selector, columns, onMove) {
  box.addEventListener("keydown", (event) => {
    const all = [...box.querySelectorAll(selector)].filter((node) => !node.hidden);
    const at = all.indexOf(document.activeElement), width = columns || 1;
    const step = { ArrowUp: -width, ArrowDown: width, ArrowLeft: -1, ArrowRight: 1 }[event.key];
    let to = step === undefined ? undefined : at + step;
    if (event.key === "Home") to = 0;
    if (event.key === "End") to = all.length - 1;
    if (at < 0 || to === undefined) return;
    event.preventDefault();
    if (to < 0 || to >= all.length) return;
    all[at].tabIndex = -1;
    all[to].tabIndex = 0;
    all[to].focus();
    if (onMove) onMove(all[to]);
  });
}
arrows(get("left"), ".token");
arrows(get("right"), ".token");

function drawLines() {
  const svg = get("drawing"), width = svg.clientWidth || 300, height = K * ROW;
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.style.height = height + "px";
  svg.replaceChildren();
  const least = +get("least").value / 100, groups = new Map();
  const middle = width / 2, faint = Math.sqrt(Math.max(1, state.heads.size));
  for (const h of state.heads) for (let i = 0; i < T; i++) {
    if (state.side === "left" && i !== state.token) continue;
    for (let j = 0; j < K; j++) {
      if (state.side === "right" && j !== state.token) continue;
      const w = weight(state.layer, h, i, j);
      if (w < (state.side ? Math.min(least, 0.02) : least) || !shown(i, j)) continue;
      /* One path for all lines of a head that look the same: thousands of elements are slow. */
      const key = h + " " + Math.ceil(w * 12);
      const y = (M + i + 0.5) * ROW, z = (j + 0.5) * ROW;
      const line = `M0 ${y}C${middle} ${y} ${middle} ${z} ${width} ${z}`;
      groups.set(key, (groups.get(key) || "") + line);
    }
  }
  get("no-lines").hidden = groups.size > 0;
  for (const [key, lines] of groups) {
    const [h, level] = key.split(" ").map(Number);
    const path = document.createElementNS(svg.namespaceURI, "path");
    path.setAttribute("d", lines);
    path.style.stroke = colour(h);
    const strength = (level / 12) * (state.side ? 1.5 : 1.2) / Math.sqrt(faint);
    path.style.opacity = Math.min(1, 0.1 + strength);
    svg.appendChild(path);
  }
}
function largest(values, name, format) {
  return values.map((value, index) => [value, index]).sort((a, b) => b[0] - a[0]).slice(0, 5)
    .filter((pair) => pair[0] > 0).map(([value, index]) => `${name(index)} ${format(value)}`)
    .join(", ");
}
function drawHead() {
  [...get("heads").children].slice(0, N).forEach((button, h) =>
    button.setAttribute("aria-pressed", state.heads.has(h)));
  const bars = { left: new Array(T).fill(0), right: new Array(K).fill(0) };
  const other = state.side === "left" ? "right" : "left";
  if (state.side) bars[other].forEach((_, index) => {
    const [i, j] = other === "right" ? [state.token, index] : [index, state.token];
    if (shown(i, j)) bars[other][index] = meanWeight(i, j);
  });
  for (const side of ["left", "right"]) [...get(side).children].forEach((button, index) => {
    button.lastChild.style.width = 100 * bars[side][index] + "%";
    button.setAttribute("aria-pressed", state.side === side && state.token === index);
  });
  drawLines();
  const layer = `Layer ${data.layers[state.layer]}, mean of ${state.heads.size} of ${N} heads. `;
  let text = "Choose a token: on the left one that looks, on the right one that is looked at.";
  if (state.side) {
    const offset = other === "left" ? M : 0, from = state.side === "left" ? M : 0;
    const name = (index) => `\u201c${data.tokens[index]}\u201d`;
    const words = largest(bars[other], (index) => name(index + offset), percent) || "nothing shown";
    const verb = state.side === "left" ? "looks at" : "is looked at by";
    text = `${name(state.token + from)} ${verb} ${words}.`;
  }
  get("head-status").textContent = layer + text;
}

/* Model view */
let mapsDrawn = false;
function drawModel() {
  if (mapsDrawn) return;
  mapsDrawn = true;
  const head = make("tr", get("maps"));
  make("th", head, "layer");
  for (let h = 0; h < N; h++) make("th", head, `head ${h}`);
  for (let l = 0; l < L; l++) {
    const row = make("tr", get("maps"));
    make("th", row, data.layers[l]);
    for (let h = 0; h < N; h++) {
      const button = make("button", make("td", row)), canvas = make("canvas", button);
      button.setAttribute("aria-label", `layer ${data.layers[l]}, head ${h}`);
      button.tabIndex = l || h ? -1 : 0;
      canvas.width = K;
      canvas.height = T;
      const context = canvas.getContext("2d"), image = context.createImageData(K, T);
      for (let i = 0; i < T; i++) for (let j = 0; j < K; j++) {
        const at = 4 * (i * K + j), shade = Math.sqrt(weight(l, h, i, j));
        image.data.set([255 - 247 * shade, 255 - 207 * shade, 255 - 148 * shade, 255], at);
      }
      context.putImageData(image, 0, 0);
      if (M) { context.fillStyle = "rgba(213,94,0,0.6)"; context.fillRect(M - 0.5, 0, 0.5, T); }
      button.onclick = () => {
        state.layer = l;
        state.head = h;
        state.heads = new Set([h]);
        get("layer").value = l;
        get("head").value = h;
        show("head");
        get("tab-head").focus();
      };
    }
  }
  arrows(get("maps"), "button", N);
}

/* Neuron view */
function strip(cell, values, limit) {
  const canvas = make("canvas", cell), context = canvas.getContext("2d");
  canvas.width = H;
  canvas.height = 1;
  const style = getComputedStyle(document.documentElement);
  const [plus, minus] = ["--plus", "--minus"].map((name) => style.getPropertyValue(name).trim());
  for (let n = 0; n < H; n++) {
    const share = Math.min(1, Math.abs(values[n]) / limit);
    context.fillStyle = `rgba(${values[n] > 0 ? plus : minus},${share})`;
    context.fillRect(n, 0, 1, 1);
  }
}
const largestAbsolute = (rows) =>
  rows.reduce((most, row) => row.reduce((m, x) => Math.max(m, Math.abs(x)), most), 1e-9);

function neuronRows(l, h, i) {
  const query = vector("queries", l, h, T, i), rows = [], relative = "position_keys" in unpacked;
  const placed = relative ? vector("position_queries", l, h, T, i) : null;
  for (let j = 0; j < K; j++) {
    const key = vector("keys", l, h, K, j), w = weight(l, h, i, j);
    const content = key.map((value, n) => value * query[n]), distance = M + i - j;
    let position = null;
    if (relative && distance >= 0)
      position = vector("position_keys", l, h, K, distance).map((value, n) => value * placed[n]);
    const masked = (relative && distance < 0) || w === 0;
    let score = 0;
    for (let n = 0; n < H; n++) score += content[n] + (position ? position[n] : 0);
    rows.push({ key, content, position, score: masked ? null : score * neurons.scales[l], w });
  }
  return { query, rows, relative };
}
function drawNeuron() {
  const { layer: l, head: h, query: i } = state, { query, rows, relative } = neuronRows(l, h, i);
  const table = get("neurons");
  table.replaceChildren();
  const keyLimit = largestAbsolute([query, ...rows.map((row) => row.key)]);
  const partLimit = largestAbsolute(
    rows.flatMap((row) => (row.position ? [row.content, row.position] : [row.content])));
  const titles = ["key", `${H} neurons of the key`, "query \u00d7 key"];
  if (relative) titles.push("query \u00d7 distance");
  const first = make("tr", table);
  first.className = "query";
  make("th", first, `query \u201c${data.tokens[M + i]}\u201d`);
  strip(make("td", first), query, keyLimit);
  const header = make("tr", table);
  [...titles, "score", "weight", ""].forEach((text) =>
    make("th", header, text).setAttribute("scope", "col"));
  rows.forEach((row, j) => {
    const line = make("tr", table);
    make("th", line, data.tokens[j] + (j < M ? " (memory)" : "")).setAttribute("scope", "row");
    strip(make("td", line), row.key, keyLimit);
    strip(make("td", line), row.content, partLimit);
    if (relative) {
      const cell = make("td", line);
      if (row.position) strip(cell, row.position, partLimit);
    }
    make("td", line, row.score === null ? "\u2013" : row.score.toFixed(2), "number");
    make("td", line, percent(row.w), "number");
    make("span", make("td", line, undefined, "bar")).style.width = 100 * row.w + "%";
  });
  const sums = new Array(H).fill(0);
  rows.forEach((row) => row.content.forEach((value, n) => { sums[n] += Math.abs(value) * row.w; }));
  get("neuron-status").textContent =
    `Layer ${data.layers[l]}, head ${h}: the score is the sum over neurons times ` +
    `${neurons.scales[l].toFixed(4)}, the weight its softmax; blue is positive, orange negative. ` +
    `\u201c${data.tokens[M + i]}\u201d looks at ` +
    largest(rows.map((row) => row.w), (j) => `\u201c${data.tokens[j]}\u201d`, percent) +
    `; neurons that count most: ` +
    largest(sums, (n) => n, (value) => `(${value.toFixed(2)})`) + ".";
}

/* All views */
function draw() {
  if (state.view === "head") drawHead();
  if (state.view === "model") drawModel();
  if (state.view === "neuron") drawNeuron();
}
function show(view) {
  state.view = view;
  for (const name of ["head", "model", "neuron"]) {
    get("view-" + name).hidden = name !== view;
    const tab = get("tab-" + name);
    tab.setAttribute("aria-selected", name === view);
    tab.tabIndex = name === view ? 0 : -1;
  }
  get("layer-box").hidden = view === "model";
  for (const name of ["head", "query"]) get(name + "-box").hidden = view !== "neuron";
  get("part-box").hidden = view !== "head" || parts.length === 1;
  get("special-box").hidden = view !== "head" || !data.special.includes(true);
  get("least-box").hidden = view !== "head";
  draw();
}
for (const name of ["head", "model", "neuron"])
  get("tab-" + name).onclick = () => show(name);
arrows(document.querySelector("[role=tablist]"), "[role=tab]", 1, (tab) => show(tab.id.slice(4)));
get("layer").onchange = () => { state.layer = +get("layer").value; draw(); };
get("head").onchange = () => { state.head = +get("head").value; draw(); };
get("query").onchange = () => { state.query = +get("query").value; draw(); };
get("part").onchange = draw;
get("special").onchange = draw;
get("least").oninput = () => {
  get("least-value").textContent = get("least").value + " %";
  get("least").setAttribute("aria-valuetext", get("least").value + " percent");
  draw();
};
window.addEventListener("resize", draw);
/* The address may name a view, a layer, a head and a token: #neuron,1,0,3 */
function fromAddress() {
  const [view, ...numbers] = location.hash.slice(1).split(",");
  const [layer, head, token] = numbers.map(Number);
  if (data.layers.includes(layer)) state.layer = data.layers.indexOf(layer);
  if (head >= 0 && head < N) { state.head = head; state.heads = new Set([head]); }
  if (token >= 0 && token < T) { state.query = token; state.side = "left"; state.token = token; }
  get("layer").value = state.layer;
  get("head").value = state.head;
  get("query").value = state.query;
  show(view === "model" || (view === "neuron" && neurons) ? view : "head");
}
window.addEventListener("hashchange", fromAddress);
fromAddress();
"""
