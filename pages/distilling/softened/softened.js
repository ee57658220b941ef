// What temperature does to what a teacher says. The Dial tells the window of every value that it passes; probabilities
// are computed here, entropy and likeness were measured at every stop of the Dial. No round trip while dragging.

const CHOSEN = 3; // examples shown at once
const panels = new WeakMap(); // root node → state, kept between messages

export default function ({ data, parentElement }) {
  const panel = panels.get(parentElement) ?? mount(parentElement);
  const before = panel.data?.examples.map((each) => each.id).join();
  panel.data = data;
  if (before !== data.examples.map((each) => each.id).join()) panel.chosen = first(data.examples);
  panel.section.style.setProperty("--paint", data.paint);
  build(panel);
  show(panel, data.temperature);
  return () => {
    globalThis.removeEventListener("modelopt-dial", panel.hear);
    panels.delete(parentElement);
  };
}

function mount(root) {
  const find = (selector) => root.querySelector(selector);
  const panel = {
    section: find(".softened"), strip: find(".strip"), charts: find(".charts"), grid: find(".grid"), dot: find(".dot"),
    curve: find(".curve"), svg: find("svg"), low: find(".low"), high: find(".high"), list: find("dl"),
  };
  panel.hear = ({ detail }) => detail.symbol === panel.data.symbol && show(panel, detail.value);
  globalThis.addEventListener("modelopt-dial", panel.hear);
  panels.set(root, panel);
  return panel;
}

/** The least sure, one between, the surest. */
const first = (all) => [...new Set([0, all.length >> 1, all.length - 1])].filter((i) => i >= 0).map((i) => all[i].id).slice(0, CHOSEN);

const node = (tag, text = "", name = "") => Object.assign(document.createElement(tag), { textContent: text, className: name });

// --- once per message: what does not move with T ----------------------------------------------------------------

function build(panel) {
  const { data } = panel;
  panel.strip.replaceChildren(...data.examples.map((example) => candidate(panel, example)));
  charts(panel);
  const k = data.labels.length;
  panel.grid.style.gridTemplateColumns = `minmax(1.4em, max-content) repeat(${k}, 1fr)`;
  panel.cells = [];
  const rows = data.labels.flatMap((label, i) => {
    const cells = data.labels.map((_, j) => node("span", "", i === j ? "self" : ""));
    panel.cells.push(...cells);
    return [node("span", label, "name"), ...cells];
  });
  panel.grid.replaceChildren(node("span"), ...data.labels.map((label) => node("span", label, "name")), ...rows);
  const place = (i) => `${position(data, data.stops[i])},${100 - (96 * data.entropy[i]) / data.most}`;
  panel.curve.setAttribute("d", `M${data.stops.map((_, i) => place(i)).join("L")}`);
  panel.svg.setAttribute("aria-label", data.alt);
  panel.low.textContent = `T = ${data.stops[0]}`;
  panel.high.textContent = `T = ${data.stops.at(-1)}`;
}

function candidate(panel, example) {
  const button = node("button");
  button.innerHTML = example.html; // made and escaped in Python
  button.type = "button";
  button.setAttribute("aria-pressed", panel.chosen.includes(example.id));
  button.addEventListener("click", () => {
    if (panel.chosen.includes(example.id)) return;
    panel.chosen = [...panel.chosen, example.id].slice(-CHOSEN);
    [...panel.strip.children].forEach((child, i) =>
      child.setAttribute("aria-pressed", panel.chosen.includes(panel.data.examples[i].id)));
    charts(panel);
    show(panel, panel.temperature);
  });
  return button;
}

function charts(panel) {
  const { data } = panel;
  panel.bars = [];
  const figures = panel.chosen.map((id) => {
    const example = data.examples.find((each) => each.id === id);
    const figure = node("figure"), caption = node("figcaption"), columns = node("div", "", "columns");
    if (example.html.startsWith("<img")) caption.innerHTML = example.html;
    caption.append("truth ", node("b", data.labels[example.truth]));
    const bars = data.labels.map((label, j) => {
      const column = node("div"), value = node("small"), box = node("div", "", "box"), bar = node("i");
      box.append(bar);
      column.append(value, box, node("span", label, j === example.truth ? "truth" : ""));
      columns.append(column);
      return { bar, value };
    });
    panel.bars.push({ example, bars, columns });
    columns.setAttribute("role", "img");
    figure.append(caption, columns);
    return figure;
  });
  panel.charts.replaceChildren(...figures);
}

// --- at every value that the Dial passes ------------------------------------------------------------------------

function show(panel, temperature) {
  const { data } = panel;
  panel.temperature = temperature;
  for (const { example, bars, columns } of panel.bars) {
    const found = softmax(example.logits, temperature);
    bars.forEach(({ bar, value }, j) => {
      bar.style.transform = `scaleY(${found[j]})`;
      say(value, percent(found[j]));
    });
    const said = data.labels.map((label, j) => `${label} ${percent(found[j])}`).join(", ");
    columns.setAttribute("aria-label", `Example ${example.id} at T = ${temperature}: ${said} %`);
  }
  const at = nearest(data.stops, temperature);
  const values = data.alike[at];
  const most = Math.max(...values, 1);
  panel.cells.forEach((cell, i) => {
    if (cell.className) return; // a class beside itself
    const share = Math.round((90 * values[i]) / most);
    say(cell, String(values[i]));
    if (cell.dataset.share === String(share)) return;
    cell.dataset.share = share;
    cell.style.background = `color-mix(in srgb, var(--paint) ${share}%, transparent)`;
    cell.style.color = share > 54 ? "var(--st-background-color)" : "";
  });
  panel.grid.setAttribute("aria-label", likeness(data, values));
  const [x, y] = [position(data, temperature), (96 * data.entropy[at]) / data.most];
  panel.dot.style.left = `${x}%`;
  panel.dot.style.bottom = `calc(var(--height) * ${y / 100})`;
  const effective = data.softens ? data.alpha * temperature ** 2 : data.alpha;
  const rows = [
    ["temperature T", temperature],
    ["entropy", `${data.entropy[at].toFixed(2)} of ${data.most.toFixed(2)} bits`],
    [data.softens ? "α · T²" : "α, T plays no part", effective.toPrecision(3)],
    ["1 − α, labels", (1 - data.alpha).toPrecision(2)],
  ];
  while (panel.list.children.length < 2 * rows.length) panel.list.append(node("dt"), node("dd"));
  rows.flat().forEach((text, i) => say(panel.list.children[i], String(text)));
}

/** Writes only what is new: layout is the dear part of a move. */
function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function softmax(logits, temperature) {
  const most = Math.max(...logits);
  const powers = logits.map((logit) => Math.exp((logit - most) / temperature));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((power) => power / sum);
}

const percent = (share) => (share < 0.0995 ? (100 * share).toFixed(1) : (100 * share).toFixed(0));
const position = (data, t) => (100 * (t - data.stops[0])) / (data.stops.at(-1) - data.stops[0]);

function nearest(stops, value) {
  const gaps = stops.map((stop) => Math.abs(stop - value));
  return gaps.indexOf(Math.min(...gaps));
}

/** The most alike pair, in a sentence. */
function likeness(data, values) {
  const at = values.indexOf(Math.max(...values));
  const k = data.labels.length;
  return `Heat map of likeness; most of all, ${data.labels[Math.floor(at / k)]} is taken for ${data.labels[at % k]}: ${values[at]} %`;
}
