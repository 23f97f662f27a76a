// The learning curves: a panel a figure; raw values as faint points, their mean over some steps as a line.

const TITLES = {
  base_reward: "pass rate", gen_len: "length, tokens", kl_reference: "KL to the reference", cut_off: "cut off",
  grad_norm: "gradient norm", valid_pass_rate: "validation pass rate",
};
const SHARES = new Set(["base_reward", "cut_off", "valid_pass_rate", "accuracy", "tied_groups", "clip_fraction"]);
const HEIGHT = 92, LEFT = 46, RIGHT = 6, TOP = 7, BOTTOM = 14;
const panels = [];
const recorded = [...new Set(rollouts.map((one) => one.step))].sort((a, b) => a - b);

const shown = (name, value) => (SHARES.has(name) && known(value) ? minus((100 * value).toFixed(1)) + "%" : short(value));

const rounded = (text) => text.replace(/\.0(?=%?$)/, "");

function shape(tag, attributes, parent) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const name in attributes) element.setAttribute(name, attributes[name]);
  if (parent) parent.append(element);
  return element;
}

function nearest(sorted, value) {
  return sorted.reduce((best, one) => (Math.abs(one - value) < Math.abs(best - value) ? one : best), sorted[0]);
}

function addPanel(name, parent) {
  const figure = data.figures[name];
  const box = make("figure", recorded.length ? "panel jumps" : "panel");
  const caption = make("figcaption");
  const readout = make("span", "readout");
  caption.append(make("span", "title", TITLES[name] || name.replaceAll("_", " ")), readout);
  const ends = [figure.first, figure.last].map((value) => shown(name, value));
  const title = `${name}: ${ends[0]} in the first tenth of its steps, ${ends[1]} in the last`;
  const svg = shape("svg", { role: "img", "aria-label": title });
  box.append(caption, svg);
  box.dataset.figure = name;
  parent.append(box);
  const panel = { name, figure, svg, readout, at: new Map(figure.x.map((step, i) => [step, figure.y[i]])) };
  panels.push(panel);
  draw(panel);
  rest(panel);
  svg.addEventListener("pointermove", (event) => point(stepAt(panel, event)));
  svg.addEventListener("pointerleave", () => point(null));
  svg.addEventListener("click", (event) => recorded.length && jumpTo(nearest(recorded, stepAt(panel, event))));
}

function draw(panel) {
  const { svg, figure, name } = panel;
  const width = svg.clientWidth || 300;
  svg.replaceChildren();
  svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
  let low = figure.y.reduce((a, b) => Math.min(a, b)), high = figure.y.reduce((a, b) => Math.max(a, b));
  if (SHARES.has(name)) [low, high] = [0, high > 0.25 ? 1 : high];
  if (low === high) [low, high] = [low - 0.5, high + 0.5];
  const first = data.firstStep, last = Math.max(data.steps, first + 1);
  panel.x = (step) => LEFT + ((width - LEFT - RIGHT) * (step - first)) / (last - first);
  panel.y = (value) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - (value - low) / (high - low));
  panel.step = (x) => first + ((last - first) * (x - LEFT)) / (width - LEFT - RIGHT);
  shape("path", { class: "frame", d: `M${LEFT} ${TOP}V${HEIGHT - BOTTOM}H${width - RIGHT}` }, svg);
  const label = (text, x, y, anchor) => (shape("text", { x, y, "text-anchor": anchor }, svg).textContent = text);
  label(rounded(shown(name, high)), LEFT - 4, TOP + 4, "end");
  label(rounded(shown(name, low)), LEFT - 4, HEIGHT - BOTTOM, "end");
  label(first, LEFT, HEIGHT - 3, "start");
  label("step " + last, width - RIGHT, HEIGHT - 3, "end");
  const ticks = recorded.map((step) => `M${panel.x(step).toFixed(1)} ${HEIGHT - BOTTOM}v3`).join("");
  shape("path", { class: "recorded", d: ticks }, svg);
  const place = (values, i) => `${panel.x(figure.x[i]).toFixed(1)} ${panel.y(values[i]).toFixed(1)}`;
  shape("path", { class: "points", d: figure.y.map((_, i) => `M${place(figure.y, i)}h.01`).join("") }, svg);
  shape("path", { class: "line", d: "M" + figure.line.map((_, i) => place(figure.line, i)).join("L") }, svg);
  panel.chosen = shape("path", { class: "chosen" }, svg);
  panel.cross = shape("path", { class: "cross" }, svg);
  panel.dot = shape("circle", { class: "dot", r: 0 }, svg);
}

function stepAt(panel, event) {
  const inside = event.clientX - panel.svg.getBoundingClientRect().left;
  return nearest(panel.figure.x, panel.step(inside));
}

const upright = (panel, step) => `M${panel.x(step).toFixed(1)} ${TOP}V${HEIGHT - BOTTOM}`;

// The values of a step, in all panels; null: no step.
function point(step) {
  for (const panel of panels) {
    panel.cross.setAttribute("d", step === null ? "" : upright(panel, step));
    const value = panel.at.get(step);
    panel.dot.setAttribute("r", known(value) ? 2.5 : 0);
    if (step === null) rest(panel);
    else {
      panel.readout.replaceChildren(`step ${step}: `, make("b", "", shown(panel.name, value)));
      if (known(value)) {
        panel.dot.setAttribute("cx", panel.x(step));
        panel.dot.setAttribute("cy", panel.y(value));
      }
    }
  }
}

function rest(panel) {
  const { first, last } = panel.figure;
  panel.readout.replaceChildren(shown(panel.name, first) + " \u2192 ", make("b", "", shown(panel.name, last)));
}

function markStep(step) {
  for (const panel of panels) panel.chosen.setAttribute("d", upright(panel, step));
}

function startCurves() {
  const names = Object.keys(data.figures);
  const others = names.filter((name) => !data.main.includes(name));
  data.firstStep = Math.min(...names.map((name) => data.figures[name].x[0]), data.steps);
  byId("curves").hidden = names.length === 0;
  for (const name of data.main) addPanel(name, byId("panels"));
  byId("more").hidden = others.length === 0;
  byId("more").addEventListener("toggle", () => {
    for (const name of others.splice(0)) addPanel(name, byId("more-panels"));
    if (rollouts.length) markStep(rollouts[selected].step);
  });
  byId("curves-note").textContent =
    `Line: mean of ${data.smooth} steps or fewer. Right of each name: mean of the first tenth of its steps \u2192 ` +
    "of the last." +
    (recorded.length ? " Ticks: steps with rollouts; a click goes to the nearest." : "");
  let waiting = 0;
  addEventListener("resize", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      panels.forEach(draw);
      if (rollouts.length) markStep(rollouts[selected].step);
    }, 100);
  });
}
