// The replay of a run: one group of completions at a step, and what other weights would have pushed.
// Everything a model wrote goes through textContent.  The first part has no page, so that it can be tested alone.
"use strict";

const TIE = 1e-6; // rewards of a group that differ by less are equal, as in minirft.advantages

function std(values) {
  const mean = values.reduce((a, b) => a + b, 0) / values.length;
  return Math.sqrt(values.reduce((a, b) => a + (b - mean) ** 2, 0) / (values.length - 1));
}

// parts {name: B numbers}, weights {name: w} -> rewards and advantages of the G completions from `first` on.
function recompute(parts, weights, first, size, scale, eps) {
  const names = Object.keys(parts);
  const all = parts[names[0]].map((_, b) => names.reduce((sum, name) => sum + weights[name] * parts[name][b], 0));
  const rewards = all.slice(first, first + size);
  if (scale === "none") return { rewards, advantages: rewards };
  if (Math.max(...rewards) - Math.min(...rewards) <= TIE) return { rewards, advantages: rewards.map(() => 0) };
  const mean = rewards.reduce((a, b) => a + b, 0) / size;
  const by = scale === "mean" ? 1 : (scale === "batch" ? std(all) : std(rewards)) + eps;
  return { rewards, advantages: rewards.map((r) => (r - mean) / by) };
}

function make(tag, text, className) {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  if (className) node.className = className;
  return node;
}

function signed(x) {
  const text = Math.abs(x).toFixed(2);
  return text === "0.00" ? text : (x > 0 ? "+" : "\u2212") + text;
}

// Of a number as it is shown, with two decimals.
function sign(x) {
  return Math.sign(Math.round(100 * x)) + 0;
}

function outline(layer, box, className) {
  const [x1, y1, x2, y2] = box;
  const rect = document.createElementNS("http://www.w3.org/2000/svg", "rect");
  for (const [name, value] of [["x", x1], ["y", y1], ["width", x2 - x1], ["height", y2 - y1]])
    rect.setAttribute(name, value);
  rect.setAttribute("class", className);
  layer.append(rect);
}

function start(root, runs) {
  const at = (id) => root.querySelector(`[data-part="${id}"]`);
  const state = { run: runs[0], weights: {}, scale: "std", chosen: 0 };
  const slider = at("step"), scale = at("scale"), choice = at("run");

  function reset() {
    state.weights = { ...state.run.weights };
    scale.value = state.scale = state.run.scale;
    at("weights").replaceChildren(...Object.keys(state.weights).map(weight));
    draw();
  }

  function weight(name) {
    const label = make("label"), input = make("input"), shown = make("output");
    Object.assign(input, { type: "range", min: 0, max: 3, step: 0.1, value: state.weights[name], name });
    shown.textContent = state.weights[name].toFixed(1);
    input.addEventListener("input", () => {
      state.weights[name] = Number(input.value);
      shown.textContent = state.weights[name].toFixed(1);
      draw();
    });
    label.append(make("span", `weight of ${name}`), input, shown);
    return label;
  }

  function row(moment, found, i) {
    const line = make("tr", undefined, i === state.chosen ? "best" : "");
    const numbers = [i + 1, ...Object.values(moment.parts).map((part) => part[moment.first + i].toFixed(2))];
    numbers.push(found.rewards[i].toFixed(2), signed(moment.advantages[i]), signed(found.advantages[i]));
    line.append(...numbers.map((value) => make("td", value, "n")));
    const other = sign(found.advantages[i]) !== sign(moment.advantages[i]);
    const way = { 1: "more likely", "-1": "less likely", 0: "not pushed" }[sign(found.advantages[i])];
    line.append(make("td", way, other ? "other" : ""));
    const why = moment.failures[i] ? `\n(${moment.failures[i]})` : "";
    line.append(make("td", moment.texts[i] + why, "text"));
    line.addEventListener("click", () => { state.chosen = i; draw(); });
    return line;
  }

  function draw() {
    const moment = state.run.moments[Number(slider.value)], size = moment.texts.length;
    state.chosen = Math.min(state.chosen, size - 1);
    const found = recompute(moment.parts, state.weights, moment.first, size, state.scale, state.run.eps);
    at("where").textContent = `step ${moment.step}: ${moment.sample}`;
    at("question").textContent = moment.question;
    const picture = at("picture"), layer = at("boxes");
    picture.hidden = !moment.picture;
    if (moment.picture) picture.src = moment.picture;
    layer.replaceChildren();
    moment.boxes.forEach((boxes, i) => i !== state.chosen && boxes.forEach((box) => outline(layer, box, "faint")));
    moment.truth.forEach((box) => { outline(layer, box, "under"); outline(layer, box, "truth"); });
    moment.boxes[state.chosen].forEach((box) => outline(layer, box, "found"));
    const heads = ["#", ...Object.keys(moment.parts), "reward", "A in the run", "A now", "pushed", "completion"];
    at("head").replaceChildren(...heads.map((name) => make("th", name)));
    at("rows").replaceChildren(...moment.texts.map((_, i) => row(moment, found, i)));
    const turned = at("rows").querySelectorAll(".other").length;
    at("turned").textContent = `${turned} of ${size} completions pushed another way than in the run`;
  }

  function open(run) {
    state.run = run;
    slider.max = run.moments.length - 1;
    slider.value = 0;
    reset();
  }

  choice.append(...runs.map((run, i) => Object.assign(make("option", run.name), { value: i })));
  choice.parentElement.hidden = runs.length < 2;
  choice.addEventListener("change", () => open(runs[Number(choice.value)]));
  slider.addEventListener("input", draw);
  scale.addEventListener("change", () => { state.scale = scale.value; draw(); });
  at("reset").addEventListener("click", reset);
  open(runs[0]);
}

if (typeof document !== "undefined")
  start(document.getElementById("replay"), JSON.parse(document.getElementById("replay-data").textContent));
if (typeof module !== "undefined") module.exports = { recompute };
