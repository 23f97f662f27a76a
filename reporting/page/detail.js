// The chosen rollout: its verdict, its numbers, its prompt, and its completion in one of four views.

const BOUNDS = [0.9, 0.5, 0.2, 0.05, 0.01]; // of probability: a token below the k-th has shade k
const LOGPROB_UNIT = 1e4; // they come as whole numbers
let view = "logprob";
const ofTask = new Map(); // task: its rollouts' numbers, in order of their steps
rollouts.forEach((one, i) => (ofTask.has(one.task) ? ofTask.get(one.task).push(i) : ofTask.set(one.task, [i])));
const sizes = rollouts.map((one) => Math.abs(one.advantage || 0)).filter(Boolean).sort((a, b) => a - b);
const largeAdvantage = sizes.length ? sizes[Math.floor(0.9 * (sizes.length - 1))] : 1; // what has the darkest shade

function textOf(one) {
  if (known(one.completion)) return one.completion;
  const all = one.tokens.map((k) => data.tokens[k]);
  if (all[all.length - 1][2]) all.pop(); // the token that ended it
  return all.map((token) => token[1]).join("");
}

function logprobOf(one, i) {
  return one.logprobs && known(one.logprobs[i]) ? one.logprobs[i] / LOGPROB_UNIT : null;
}

function advantageOf(one, i) {
  return one.token_advantages ? one.token_advantages[i] : one.advantage;
}

const logprobShade = (logprob) => BOUNDS.filter((bound) => Math.exp(logprob) < bound).length;

function advantageShade(advantage) {
  if (!advantage) return "";
  const share = Math.abs(advantage) / largeAdvantage;
  return (advantage > 0 ? "p" : "n") + (share > 0.67 ? 3 : share > 0.33 ? 2 : 1);
}

function aboutToken(one, i) {
  const [id, piece] = data.tokens[one.tokens[i]];
  const said = [`token ${i + 1} of ${one.tokens.length}: ${JSON.stringify(visible(piece))}`, `id ${id}`];
  const logprob = logprobOf(one, i);
  if (known(logprob)) {
    const p = Math.exp(logprob);
    said.push(`log-prob ${fixed(logprob, 3)}`, `probability ${p < 0.001 ? p.toExponential(1) : p.toFixed(3)}`);
  }
  const advantage = advantageOf(one, i);
  if (known(advantage)) said.push(`advantage ${signed(advantage)}`);
  return said.join(" \u00b7 ");
}

function showTokens(one, box) {
  one.tokens.forEach((k, i) => {
    const [, piece, special] = data.tokens[k];
    const token = put(make("span", "t"), piece);
    if (special) token.classList.add("special");
    if (piece === "") token.classList.add("part"); // of a character that the next tokens complete
    if (/^\n/.test(piece)) token.classList.add("newline");
    let shade = "";
    if (view === "logprob" && known(logprobOf(one, i))) shade = "s" + logprobShade(logprobOf(one, i));
    if (view === "advantage") shade = advantageShade(advantageOf(one, i));
    if (shade) token.classList.add(shade);
    token.title = aboutToken(one, i);
    box.append(token);
  });
}

function showDiff(one, box, other) {
  if (other === null) return put(box, textOf(one));
  for (const [kind, text] of changes(textOf(rollouts[other]), textOf(one))) {
    if (kind === "=") put(box, text);
    else box.append(put(make(kind === "+" ? "ins" : "del"), text));
  }
}

function showLegend(one) {
  const box = byId("legend");
  box.replaceChildren();
  const add = (className, text, tag = "span") => box.append(make(tag, className, text));
  if (view === "diff") {
    if (byId("against").value === "") return box.append("There is no other completion of this task.");
    add("", "only there:");
    add("", "gone", "del");
    add("", "only here:");
    add("", "new", "ins");
  } else if (!one.tokens) {
    if (view !== "plain") box.append("No tokens are recorded: text alone.");
  } else if (view === "logprob") {
    if (!one.logprobs) return box.append("No log-probabilities are recorded.");
    add("", "probability below");
    BOUNDS.forEach((bound, i) => add("t s" + (i + 1), "\u00a0" + bound + "\u00a0"));
  } else if (view === "advantage") {
    for (const [className, text] of [["n3", "below 0"], ["n1", "little"], ["p1", "little"], ["p3", "above 0"]]) {
      add("t " + className, text);
    }
    if (!one.token_advantages) add("", "(one for all tokens)");
  }
}

function showCompletion() {
  const one = rollouts[selected];
  const box = byId("completion");
  box.replaceChildren();
  byId("token").textContent = "";
  byId("against-box").hidden = view !== "diff";
  for (const button of byId("views").children) button.setAttribute("aria-pressed", button.dataset.view === view);
  if (view === "diff") showDiff(one, box, byId("against").value === "" ? null : Number(byId("against").value));
  else if (one.tokens && view !== "plain") showTokens(one, box);
  else put(box, textOf(one));
  if (one.tokens && known(one.completion) && view !== "plain" && view !== "diff") {
    byId("token").textContent = "Judged was the text up to a stop string, as in the plain view; these are all tokens.";
  }
  showLegend(one);
}

// The rollout of the step before that had this task, at the same place among that step's.
function before(index) {
  const one = rollouts[index];
  const all = ofTask.get(one.task);
  const earlier = all.filter((i) => rollouts[i].step < one.step);
  if (!earlier.length) return all.length > 1 ? all.find((i) => i !== index) : null;
  const step = rollouts[earlier[earlier.length - 1]].step;
  const there = earlier.filter((i) => rollouts[i].step === step);
  const place = all.filter((i) => rollouts[i].step === one.step).indexOf(index);
  return there[Math.min(place, there.length - 1)];
}

function fillAgainst(index) {
  const chosen = before(index);
  byId("against").replaceChildren();
  const near = ofTask.get(rollouts[index].task).filter((i) => i !== index).slice(-500);
  if (chosen !== null && !near.includes(chosen)) near.unshift(chosen);
  for (const i of near) {
    const { step, status, reward } = rollouts[i];
    const one = option(i, `step ${step}, ${verdict(status)[1]}, ${fixed(reward, 3)}`);
    one.selected = i === chosen;
    byId("against").append(one);
  }
}

function fact(name, text) {
  const pair = make("div");
  pair.append(make("dt", "", name), make("dd", "", text));
  byId("facts").append(pair);
}

function showDetail(index) {
  const one = rollouts[index];
  const [className, said] = verdict(one.status);
  byId("verdict").className = className;
  byId("verdict").textContent = visible(said);
  byId("which").textContent = visible(data.tasks[one.task]) + ", step " + one.step;
  byId("reason").textContent = visible(one.reason || "");
  byId("reason").hidden = !one.reason;
  const all = ofTask.get(one.task);
  const at = all.indexOf(index);
  byId("place").textContent = `${at + 1} of ${all.length} of this task`;
  byId("previous").disabled = at === 0;
  byId("next").disabled = at === all.length - 1;
  byId("facts").replaceChildren();
  fact("reward", fixed(one.reward, 3));
  fact("advantage", signed(one.advantage));
  fact("ratio", fixed(one.ratio, 3));
  fact("length", known(one.length) ? one.length + " tokens" : "\u2013");
  const logprobs = (one.logprobs || []).filter(known);
  const sum = logprobs.reduce((a, b) => a + b, 0) / LOGPROB_UNIT;
  if (logprobs.length) fact("mean log-prob", fixed(sum / logprobs.length, 3));
  for (const name in one.parts || {}) fact(name, short(one.parts[name]));
  byId("prompt-box").hidden = !known(one.prompt);
  byId("prompt").replaceChildren();
  if (known(one.prompt)) put(byId("prompt"), data.prompts[one.prompt]);
  fillAgainst(index);
  showCompletion();
  byId("detail").scrollTop = 0;
  byId("spoken").textContent = `${byId("which").textContent}: ${byId("verdict").textContent}`;
}

// To the next (1) or previous (-1) rollout of the same task, whether or not the filters let it through.
function alongTask(direction) {
  const all = ofTask.get(rollouts[selected].task);
  const next = all[all.indexOf(selected) + direction];
  if (known(next)) select(next);
}

function startDetail() {
  for (const button of byId("views").children) button.addEventListener("click", () => setView(button.dataset.view));
  byId("against").addEventListener("change", showCompletion);
  byId("previous").addEventListener("click", () => alongTask(-1));
  byId("next").addEventListener("click", () => alongTask(1));
  byId("completion").addEventListener("pointerover", (event) => {
    const token = event.target.closest(".t");
    if (token) byId("token").textContent = token.title;
  });
}

function setView(name) {
  view = name;
  showCompletion();
}
