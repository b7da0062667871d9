"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const { tokens, layers, heads, rows, length, pooled } = data;
const packed = atob(data.weights);
const weights = new Uint16Array(packed.length / 2);
for (let i = 0; i < weights.length; i++)
  weights[i] = packed.charCodeAt(2 * i) | (packed.charCodeAt(2 * i + 1) << 8);
const most = Array.from({ length: layers * heads }, (_, i) =>
  weights.subarray(i * rows * length, (i + 1) * rows * length).reduce((a, b) => Math.max(a, b), 1),
);
const state = { layer: 0, head: 0, row: 0, column: 0 };
const element = (id) => document.getElementById(id);
const clamp = (value, most) => Math.max(0, Math.min(most, value));

function weight(layer, head, row, column) {
  const place = ((layer * heads + head) * rows + row) * length + column;
  return weights[place] / 65535;
}
function percent(share) {
  if (share > 0 && share < 0.001) return "<0.1\u00a0%";
  return (100 * share).toFixed(share < 0.0995 ? 1 : 0) + "\u00a0%";
}
// A piece of a word is told by the dot before it.
const name = (i) => (data.inside[i] ? "\u00b7" : "") + tokens[i];
const quoted = (i) => (data.special[i] ? tokens[i] : "\u201c" + name(i) + "\u201d");

// A head as a picture whose opacity is the weight: the page's own colour shines through it, be the
// page light, dark or on paper.
function picture(layer, head, cell, power) {
  const width = cell * length;
  const inner = cell > 7 ? cell - 1 : cell; // a gap between cells that are large enough
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = cell * rows;
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, cell * rows);
  const scale = 65535 / most[layer * heads + head];
  for (let row = 0; row < rows; row++)
    for (let column = 0; column < length; column++) {
      const share = Math.round(255 * (weight(layer, head, row, column) * scale) ** power);
      for (let y = row * cell; y < row * cell + inner; y++)
        for (let x = column * cell; x < column * cell + inner; x++)
          image.data[4 * (y * width + x) + 3] = share;
    }
  context.putImageData(image, 0, 0);
  return canvas.toDataURL();
}

// --- tokens

const items = [...document.querySelectorAll(".token")];
const signed = (value) => {
  const text = Math.abs(value).toFixed(2);
  return Number(text) ? (value > 0 ? "+" : "\u2212") + text : text;
};
function tell(i) {
  const what = data.special[i]
    ? `${tokens[i]} is part of every text`
    : `${quoted(i)} adds ${signed(data.attribution[i])} to ${data.label}`;
  element("word").textContent = what;
}
function select(i, focus) {
  for (const item of items) {
    const here = Number(item.dataset.index) === i;
    item.setAttribute("aria-selected", String(here));
    item.tabIndex = here ? 0 : -1;
    if (here && focus) item.focus();
  }
  tell(i);
  state[pooled ? "column" : "row"] = i;
  mark();
}
for (const item of items) {
  const i = Number(item.dataset.index);
  item.addEventListener("mouseenter", () => tell(i));
  item.addEventListener("mouseleave", () => {
    const chosen = items.findIndex((other) => other.getAttribute("aria-selected") === "true");
    if (chosen < 0) element("word").textContent = "\u00a0";
    else tell(chosen);
  });
  item.addEventListener("click", () => select(i, true));
  item.addEventListener("focus", () => {
    if (item.getAttribute("aria-selected") !== "true") select(i, false);
  });
  item.addEventListener("keydown", (event) => {
    const move = { ArrowRight: i + 1, ArrowDown: i + 1, ArrowLeft: i - 1, ArrowUp: i - 1 };
    const ends = { Home: 0, End: items.length - 1 };
    const to = move[event.key] ?? ends[event.key];
    if (to === undefined) return;
    event.preventDefault();
    select(clamp(to, items.length - 1), true);
  });
}

// --- heads

const buttons = [...document.querySelectorAll(".head")];
function show(layer, head, focus) {
  state.layer = layer;
  state.head = head;
  for (const button of buttons) {
    const here = Number(button.dataset.layer) === layer && Number(button.dataset.head) === head;
    button.setAttribute("aria-checked", String(here));
    button.tabIndex = here ? 0 : -1;
    if (here && focus) button.focus();
  }
  if (!pooled) element("which").textContent = `Layer ${layer + 1}, head ${head + 1}`;
  element("summary").textContent = pooled ? heaviest() : summary(layer, head);
  element("most").textContent = percent(most[layer * heads + head] / 65535);
  draw();
}
// Where a head's attention goes, on average over the tokens.
function summary(layer, head) {
  const shares = new Map([["itself", 0], ["the token before", 0], ["the token after", 0]]);
  if (data.special.includes(true)) shares.set(tokens[0] + " and " + tokens[length - 1], 0);
  let other = 0;
  for (let row = 0; row < length; row++)
    for (let column = 0; column < length; column++) {
      const share = weight(layer, head, row, column) / length;
      const kind =
        column === row ? "itself"
        : data.special[column] ? tokens[0] + " and " + tokens[length - 1]
        : column === row - 1 ? "the token before"
        : column === row + 1 ? "the token after"
        : null;
      if (kind) shares.set(kind, shares.get(kind) + share);
      else other += share;
    }
  const parts = [...shares].sort((a, b) => b[1] - a[1]).map(([k, v]) => `${k} ${percent(v)}`);
  return `On average a token attends to ${parts.join(", ")}, others ${percent(other)}.`;
}
// Which tokens a text as a whole attends to.
function heaviest() {
  const order = tokens.map((_, i) => i).sort((a, b) => weight(0, 0, 0, b) - weight(0, 0, 0, a));
  const parts = order.slice(0, 3).map((i) => `${quoted(i)} ${percent(weight(0, 0, 0, i))}`);
  const rest = order.slice(3).reduce((sum, i) => sum + weight(0, 0, 0, i), 0);
  return `It attends to ${parts.join(", ")}${length > 3 ? `, others ${percent(rest)}` : ""}.`;
}
function step(by) {
  const place = (state.layer * heads + state.head + by + layers * heads) % (layers * heads);
  show(Math.floor(place / heads), place % heads, false);
}
if (length) {
  for (const button of buttons) {
    const [layer, head] = [Number(button.dataset.layer), Number(button.dataset.head)];
    // By the root, since the faint ones make the pattern.
    const mask = `url(${picture(layer, head, Math.max(1, Math.round(72 / length)), 0.5)})`;
    const style = button.firstElementChild.style;
    for (const prefix of ["mask", "-webkit-mask"]) {
      style.setProperty(`${prefix}-image`, mask);
      style.setProperty(`${prefix}-size`, "100% 100%");
    }
    button.addEventListener("click", () => show(layer, head, true));
    button.addEventListener("keydown", (event) => {
      const to = {
        ArrowRight: [layer, head + 1],
        ArrowLeft: [layer, head - 1],
        ArrowDown: [layer + 1, head],
        ArrowUp: [layer - 1, head],
        Home: [layer, 0],
        End: [layer, heads - 1],
      }[event.key];
      if (!to) return;
      event.preventDefault();
      show(clamp(to[0], layers - 1), clamp(to[1], heads - 1), true);
    });
  }
  if (!pooled) {
    element("before").addEventListener("click", () => step(-1));
    element("after").addEventListener("click", () => step(1));
  }
}

// --- the heat map

const SVG = "http://www.w3.org/2000/svg";
let layout = null;
function add(parent, kind, attributes, text) {
  const made = document.createElementNS(SVG, kind);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  parent.append(made);
  return made;
}
const ruler = document.createElement("canvas").getContext("2d");
function draw() {
  const map = element("map");
  const width = Math.min(map.clientWidth || 640, 720);
  const family = getComputedStyle(document.body).fontFamily;
  // Labels take at most a third; where cells are too thin for them, only the chosen ones show.
  const measure = (size) => {
    ruler.font = `600 ${size}px ${family}`;
    return Math.max(...tokens.map((_, i) => ruler.measureText(name(i)).width));
  };
  // A text as a whole is one row, which needs no label.
  const left = (margin) => (pooled ? 1 : margin);
  const fit = (margin) => Math.min(30, (width - left(margin) - 2) / length);
  let margin = Math.min(measure(13) + 8, width / 3.6);
  const all = fit(margin) >= 8;
  const size = all ? Math.min(13, fit(margin) * 0.95) : 11;
  margin = Math.min(measure(size) + 8, width / 3.6);
  const cell = fit(margin);
  ruler.font = `600 ${size}px ${family}`;
  const fits = (text) => ruler.measureText(text).width <= margin - 6;
  const label = (i) => {
    if (fits(name(i))) return name(i);
    const text = [...name(i)];
    while (text.length > 1 && !fits(text.join("") + "\u2026")) text.pop();
    return text.join("") + "\u2026";
  };
  const origin = { x: left(margin), y: margin };
  const tall = pooled ? 30 : cell;
  const box = { width: cell * length, height: tall * rows };
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${width} ${margin + tall * rows + 2}`);
  svg.setAttribute("width", width);
  svg.setAttribute("aria-hidden", "true");
  const mask = add(add(svg, "defs", {}), "mask", { id: "mask", "mask-type": "alpha", style: "mask-type:alpha" });
  add(mask, "image", {
    href: picture(state.layer, state.head, Math.max(1, Math.ceil(2 * cell)), 1),
    ...origin, ...box, preserveAspectRatio: "none",
  });
  add(svg, "rect", { class: "cells", ...origin, ...box, mask: "url(#mask)" });
  add(svg, "rect", {
    class: "frame", x: origin.x - 0.5, y: origin.y - 0.5, width: box.width + 1, height: box.height + 1,
  });
  const labels = { rows: [], columns: [] };
  const common = { "font-size": size, "dominant-baseline": "central", dir: "auto" };
  for (let i = 0; i < length; i++) {
    const x = origin.x + (i + 0.5) * cell;
    const turned = { ...common, transform: `translate(${x} ${origin.y - 6}) rotate(-90)` };
    labels.columns.push(add(svg, "text", turned, label(i)));
    if (pooled) continue;
    const level = { ...common, x: origin.x - 6, y: origin.y + (i + 0.5) * tall, "text-anchor": "end" };
    labels.rows.push(add(svg, "text", level, label(i)));
  }
  const bands = [
    add(svg, "rect", { class: "band", x: origin.x, width: box.width, height: tall }),
    add(svg, "rect", { class: "band", y: origin.y, width: cell, height: box.height }),
  ];
  const here = add(svg, "rect", { class: "here", width: cell, height: tall });
  layout = { origin, cell, tall, all, labels, bands, here, width };
  map.replaceChildren(svg);
  mark();
}
function mark() {
  if (!layout) return;
  const { origin, cell, tall, all, labels, bands, here } = layout;
  const { layer, head, row, column } = state;
  labels.rows.forEach((text, i) => {
    text.setAttribute("class", i === row ? "on" : "");
    text.style.visibility = all || i === row ? "" : "hidden";
  });
  labels.columns.forEach((text, i) => {
    text.setAttribute("class", i === column ? "on" : "");
    text.style.visibility = all || i === column ? "" : "hidden";
  });
  bands[0].setAttribute("y", origin.y + row * tall);
  bands[1].setAttribute("x", origin.x + column * cell);
  here.setAttribute("x", origin.x + column * cell);
  here.setAttribute("y", origin.y + row * tall);
  const share = percent(weight(layer, head, row, column));
  const from = row === column && !pooled ? "itself" : quoted(column);
  const who = pooled ? "The text" : quoted(row);
  element("cell").textContent = `${who} takes ${share} from ${from}`;
}
if (length) {
  const map = element("map");
  const point = (event) => {
    const box = map.firstElementChild.getBoundingClientRect();
    const scale = layout.width / box.width;
    const { origin, cell, tall } = layout;
    state.row = clamp(Math.floor(((event.clientY - box.top) * scale - origin.y) / tall), rows - 1);
    state.column = clamp(Math.floor(((event.clientX - box.left) * scale - origin.x) / cell), length - 1);
    mark();
  };
  map.addEventListener("pointermove", point);
  map.addEventListener("pointerdown", point);
  map.addEventListener("keydown", (event) => {
    const by = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!by) return;
    event.preventDefault();
    state.row = clamp(state.row + by[0], rows - 1);
    state.column = clamp(state.column + by[1], length - 1);
    mark();
  });
  // To begin with, what says most.
  const sizes = data.attribution.map(Math.abs);
  select(sizes.indexOf(Math.max(...sizes)), false);
  show(0, 0, false);
  let last = map.clientWidth;
  new ResizeObserver(() => {
    if (Math.abs(map.clientWidth - last) > 1) {
      last = map.clientWidth;
      draw();
    }
  }).observe(map);
}
