// The list of rollouts: filtered, sorted, and only as many rows in the document as are in sight.

const ROW = 25; // pixels, as in the style
const COLUMNS = [
  // key, heading, what it sorts by, whether it begins with the largest
  ["step", "step", (one) => one.step, false],
  ["task", "task", (one) => data.tasks[one.task], false],
  ["verdict", "verdict", (one) => one.status, false],
  ["reward", "reward", (one) => one.reward, true],
  ["advantage", "advantage", (one) => one.advantage, true],
  ["length", "length", (one) => one.length, true],
  ["ratio", "ratio", (one) => one.ratio, true],
];
let selected = 0; // number of the rollout that is shown
let order = []; // numbers of the rollouts that the filters let through, as they are listed
let sorting = { column: COLUMNS[0], down: false };

function sortedBy({ column, down }, chosen) {
  const value = column[2];
  const sign = down ? -1 : 1;
  return chosen.sort((i, j) => {
    const a = value(rollouts[i]), b = value(rollouts[j]);
    if (!known(a) || !known(b)) return known(a) ? -1 : known(b) ? 1 : i - j; // what has none stands last
    return a < b ? -sign : a > b ? sign : i - j;
  });
}

function refresh() {
  const status = byId("filter-status").value;
  const step = byId("filter-step").value;
  const task = byId("filter-task").value.trim().toLowerCase();
  order = [];
  rollouts.forEach((one, i) => {
    if (status !== "" && one.status !== statuses[status]) return;
    if (step !== "" && one.step !== Number(step)) return;
    if (task && !data.tasks[one.task].toLowerCase().includes(task)) return;
    order.push(i);
  });
  sortedBy(sorting, order);
  byId("count").textContent = `${short(order.length)} of ${short(rollouts.length)}`;
  byId("rows").style.height = order.length * ROW + "px";
  if (order.length && !order.includes(selected)) select(order[0]);
  else reveal();
}

function rowOf(index, place) {
  const one = rollouts[index];
  const row = make("div", "row");
  row.id = "rollout-" + index;
  row.setAttribute("role", "option");
  row.setAttribute("aria-selected", index === selected);
  row.setAttribute("aria-posinset", place + 1);
  row.setAttribute("aria-setsize", order.length);
  row.dataset.index = index;
  row.style.top = place * ROW + "px";
  const [className, said] = verdict(one.status);
  row.append(
    make("span", "", one.step), make("span", "text", data.tasks[one.task]), make("span", "text " + className, said),
    make("span", "", fixed(one.reward, 3)), make("span", "", signed(one.advantage)),
    make("span", "", known(one.length) ? one.length : "\u2013"), make("span", "", fixed(one.ratio, 2)),
  );
  row.children[1].title = visible(data.tasks[one.task]);
  return row;
}

function renderRows() {
  const list = byId("list");
  const first = Math.max(0, Math.floor(list.scrollTop / ROW) - 5);
  const last = Math.min(order.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW) + 5);
  const rows = [];
  for (let place = first; place < last; place++) rows.push(rowOf(order[place], place));
  byId("rows").replaceChildren(...rows);
  if (byId("rollout-" + selected)) list.setAttribute("aria-activedescendant", "rollout-" + selected);
  else list.removeAttribute("aria-activedescendant");
}

// Scrolls no further than the chosen row needs.
function reveal() {
  const list = byId("list");
  const top = order.indexOf(selected) * ROW;
  if (top >= 0 && top < list.scrollTop) list.scrollTop = top;
  if (top + ROW > list.scrollTop + list.clientHeight) list.scrollTop = top + ROW - list.clientHeight;
  renderRows();
}

function select(index) {
  selected = index;
  reveal();
  showDetail(index);
  markStep(rollouts[index].step);
}

function move(by) {
  if (!order.length) return;
  const place = order.indexOf(selected);
  select(order[Math.max(0, Math.min(order.length - 1, place < 0 ? 0 : place + by))]);
}

function jumpTo(step) {
  byId("filter-status").value = byId("filter-task").value = "";
  byId("filter-step").value = step;
  selected = rollouts.findIndex((one) => one.step === step);
  refresh();
  select(selected);
}

function sortBy(column) {
  sorting = { column, down: sorting.column === column ? !sorting.down : column[3] };
  markSorting();
  byId("list").scrollTop = 0;
  refresh();
  if (order.length) select(order[0]);
}

function markSorting() {
  COLUMNS.forEach((column, i) => {
    const button = byId("columns").children[i];
    const on = column === sorting.column;
    button.setAttribute("aria-pressed", on);
    button.textContent = column[1] + (on ? (sorting.down ? " \u2193" : " \u2191") : "");
    button.setAttribute("aria-label", column[1] + (on ? (sorting.down ? ", largest first" : ", smallest first") : ""));
  });
}

const statuses = [...new Set(rollouts.map((one) => one.status))].sort();

function option(value, text) {
  const element = make("option", "", text);
  element.value = value;
  return element;
}

function fillFilters() {
  const count = (status) => rollouts.filter((one) => one.status === status).length;
  const each = statuses.map((status, i) => option(i, `${status} (${count(status)})`));
  byId("filter-status").append(option("", "all"), ...each);
  byId("filter-step").append(option("", "all"), ...recorded.map((step) => option(step, String(step))));
}

function keyPressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select")) return;
  const page = Math.floor(byId("list").clientHeight / ROW) - 1;
  const act = {
    j: () => move(1), k: () => move(-1), n: () => alongTask(1), p: () => alongTask(-1),
    1: () => setView("logprob"), 2: () => setView("advantage"), 3: () => setView("plain"), 4: () => setView("diff"),
    "/": () => byId("filter-task").focus(),
  };
  if (event.target === byId("list") || event.target === document.body) {
    Object.assign(act, { ArrowDown: act.j, ArrowUp: act.k });
  }
  if (event.target === byId("list")) {
    Object.assign(act, { PageDown: () => move(page), PageUp: () => move(-page) });
    Object.assign(act, { Home: () => move(-order.length), End: () => move(order.length) });
  }
  if (!Object.hasOwn(act, event.key)) return;
  event.preventDefault();
  act[event.key]();
}

function startList() {
  for (const column of COLUMNS) {
    const button = make("button", column[0] === "task" || column[0] === "verdict" ? "text" : "");
    button.type = "button";
    button.dataset.sort = column[0];
    button.addEventListener("click", () => sortBy(column));
    byId("columns").append(button);
  }
  markSorting();
  fillFilters();
  for (const id of ["filter-status", "filter-step"]) byId(id).addEventListener("change", refresh);
  byId("filter-task").addEventListener("input", refresh);
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("rows").addEventListener("click", (event) => {
    const row = event.target.closest(".row");
    if (row) select(Number(row.dataset.index));
  });
  let asked = false;
  byId("list").addEventListener("scroll", () => {
    if (!asked) requestAnimationFrame(() => ((asked = false), renderRows()));
    asked = true;
  });
  addEventListener("resize", renderRows);
  document.addEventListener("keydown", keyPressed);
  byId("browser").hidden = false;
  refresh();
  select(order[0]);
}

function startHeader() {
  byId("name").textContent = visible(data.name);
  byId("method").textContent = data.method + (data.going ? ", not finished" : "");
  const counts = [plural(data.steps, "step")];
  if (known(data.sampled)) counts.push(`${short(data.sampled)} tokens sampled`);
  if (rollouts.length) counts.push(`${plural(rollouts.length, "rollout")}, ${plural(data.tasks.length, "task")}`);
  if (known(data.seconds)) counts.push(`${(data.seconds / 60).toFixed(1)} minutes`);
  byId("counts").textContent = counts.join(" \u00b7 ");
  const pair = (list, name, text) => {
    const line = make("div");
    line.append(make("dt", "", name), make("dd", "", text));
    byId(list).append(line);
    return line;
  };
  for (const row of data.settings) {
    const line = pair("settings", row.name, row.value);
    if (!row.differs) continue;
    line.className = "differs";
    line.append(make("dd", "default", `default ${row.default}`));
    if (row.name === "output_dir") continue; // every run has its own
    const item = make("li", "", row.name + " ");
    item.append(make("b", "", row.value));
    item.title = visible(`the script's default is ${row.default}`);
    byId("changed").append(item);
  }
  for (const [name, text] of data.machine) pair("machine", name, text);
  for (const note of data.notes) byId("notes").append(make("li", "", note));
  byId("notes").hidden = data.notes.length === 0;
}

startHeader();
startCurves();
startDetail();
if (rollouts.length) startList();
performance.mark("ready");
