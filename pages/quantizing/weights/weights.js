// A layer's weights and the grid over them. The Dial tells the window of every value that it passes; what is known at
// that many bits is then drawn, from grids and counts that came with the last message. No round trip while dragging.

const EDGE = { left: 40, right: 10, top: 6, axis: 38 }; // px around the two parts
const COMB = 0.3; // share of the height for the grids, a row each
const GAP = 10; // px between histogram and grids
const FINE = 1.5; // px: points that are nearer are drawn as one band
const CLEAR = 4; // px: points that are nearer would hide the histogram
const LEAST = 0.7; // counts begin here on the logarithmic axis, so that a single weight is seen
const views = new WeakMap(); // root node → state, kept between messages

export default function ({ data, parentElement }) {
  const view = views.get(parentElement) ?? mount(parentElement);
  view.data = data;
  view.section.style.setProperty("--paint", data.paint);
  view.canvas.setAttribute("aria-label", data.alt);
  show(view, data.bits);
  return () => {
    globalThis.removeEventListener("modelopt-dial", view.hear);
    view.watch.disconnect();
    views.delete(parentElement);
  };
}

function mount(root) {
  const find = (selector) => root.querySelector(selector);
  const view = { section: find(".weights"), canvas: find("canvas"), row: null };
  for (const name of ["bits", "points", "noise", "lines"]) view[name] = find(`.${name}`);
  view.hear = ({ detail }) => detail.symbol === view.data.symbol && detail.value !== view.at && show(view, detail.value);
  globalThis.addEventListener("modelopt-dial", view.hear);
  view.watch = new ResizeObserver(() => view.data && draw(view));
  view.watch.observe(view.canvas);
  view.canvas.addEventListener("pointermove", (event) => point(view, event.offsetY));
  view.canvas.addEventListener("pointerleave", () => point(view, -1));
  views.set(root, view);
  return view;
}

/** The picture at so many bits. */
function show(view, bits) {
  view.at = bits;
  view.known = view.data.at[bits];
  draw(view);
}

/** The pointer chooses whose points go through the histogram. */
function point(view, y) {
  const { top, bottom } = parts(view).comb;
  const count = view.known?.grids?.length ?? 0;
  const row = y >= top && y < bottom ? Math.floor(((y - top) / (bottom - top)) * count) : null;
  if (row === view.row) return;
  view.row = row;
  draw(view);
}

function parts({ data }) {
  const bottom = data.height - EDGE.axis;
  const middle = EDGE.top + (1 - COMB) * (bottom - EDGE.top);
  return { bars: { top: EDGE.top, bottom: middle - GAP }, comb: { top: middle, bottom } };
}

// --- drawing ----------------------------------------------------------------------------------------------------

function draw(view) {
  const { canvas, data, known } = view;
  const [width, ratio] = [canvas.clientWidth, globalThis.devicePixelRatio || 1];
  if (!width) return;
  canvas.style.height = `${data.height}px`;
  Object.assign(canvas, { width: Math.round(width * ratio), height: Math.round(data.height * ratio) });
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  const style = getComputedStyle(view.section);
  const ink = Object.fromEntries(["ink", "muted", "line", "paint"].map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
  const { bars, comb } = parts(view);
  const span = width - EDGE.left - EDGE.right;
  const x = (value) => EDGE.left + ((value - data.low) / (data.high - data.low)) * span;
  const most = Math.log10(Math.max(10, ...data.before, ...(known?.after ?? [])) / LEAST);
  const y = (count) => bars.bottom - (Math.max(0, Math.log10(count / LEAST)) / most) * (bars.bottom - bars.top);
  pen.font = `12px ${style.fontFamily}`;
  axes(pen, ink, { ...data, x, y, bars, comb, width });
  const rows = grids(known);
  const chosen = view.row ?? rows.length >> 1;
  const through = rows.length > 0 && wide(rows[chosen], x, CLEAR);
  pen.globalAlpha = 0.6;
  if (through) ticks(pen, ink.paint, rows[chosen], x, bars.top, bars.bottom);
  histogram(pen, data.before, x, y, data, ink.muted, 0.45, 0.04);
  if (known) histogram(pen, known.after, x, y, data, ink.paint, 0.85, 0.28);
  const high = (comb.bottom - comb.top) / Math.max(1, rows.length);
  rows.forEach((row, i) => {
    pen.globalAlpha = i === chosen ? 1 : 0.6;
    ticks(pen, ink.paint, row, x, comb.top + i * high, comb.top + (i + 1) * high);
  });
  pen.globalAlpha = 1;
  say(view, rows.length, chosen, through);
}

function axes(pen, ink, { low, high, x, y, bars, comb, width }) {
  Object.assign(pen, { strokeStyle: ink.line, fillStyle: ink.muted, lineWidth: 1, textBaseline: "middle", textAlign: "right" });
  for (let count = 1; y(count) > bars.top + 4; count *= 10) {
    stroke(pen, EDGE.left, y(count), width - EDGE.right, y(count));
    pen.fillText(count < 1000 ? count : `${count / 1000} k`, EDGE.left - 6, y(count));
  }
  Object.assign(pen, { textBaseline: "top", textAlign: "center" });
  const step = nice((high - low) / 6);
  for (let i = Math.ceil(low / step); i * step < high; i += 1)
    pen.fillText(Number((i * step).toPrecision(6)).toString().replace("-", "−"), x(i * step), comb.bottom + 5);
  pen.fillText("weight", (EDGE.left + width - EDGE.right) / 2, comb.bottom + 22);
}

function histogram(pen, counts, x, y, { low, high }, paint, alpha, inset) {
  const bin = (high - low) / counts.length;
  Object.assign(pen, { fillStyle: paint, globalAlpha: alpha });
  counts.forEach((count, i) => {
    if (!count) return;
    const [left, right] = [x(low + (i + inset) * bin), x(low + (i + 1 - inset) * bin)];
    pen.fillRect(left, y(count), right - left, y(0.1) - y(count));
  });
  pen.globalAlpha = 1;
}

/** Are the points of a grid so many px apart? */
const wide = ({ step, points }, x, px) => Boolean(points) || x(step) - x(0) >= px;

/** A grid's points as upright lines; where they are too near, a band from the first to the last. */
function ticks(pen, paint, { first, step, count, points }, x, top, bottom) {
  Object.assign(pen, { strokeStyle: paint, fillStyle: paint, lineWidth: wide({ step, points }, x, CLEAR) ? 1.5 : 1 });
  if (!wide({ step, points }, x, FINE)) {
    const alpha = pen.globalAlpha;
    pen.globalAlpha = alpha * 0.4;
    pen.fillRect(x(first), top, x(first + (count - 1) * step) - x(first), bottom - top);
    pen.globalAlpha = alpha;
    return;
  }
  pen.beginPath();
  for (let q = 0; q < count; q += 1) {
    const at = x(points ? points[q] : first + q * step);
    pen.moveTo(at, top);
    pen.lineTo(at, bottom);
  }
  pen.stroke();
}

function stroke(pen, x0, y0, x1, y1) {
  pen.beginPath();
  pen.moveTo(x0, Math.round(y0) + 0.5);
  pen.lineTo(x1, Math.round(y1) + 0.5);
  pen.stroke();
}

// --- what is drawn, and what is said ----------------------------------------------------------------------------

/** One row of points for each grid that is listed. */
function grids(known) {
  if (!known?.levels) return [];
  if (known.points) return known.points.length ? [{ points: known.points, count: known.points.length }] : [];
  return known.scale.map((scale, i) => ({ first: -known.zero_point[i] * scale, step: scale, count: known.levels }));
}

function say(view, rows, chosen, through) {
  const { data, known, at } = view;
  view.bits.textContent = `${data.symbol} = ${at} bit${at === 1 ? "" : "s"}`;
  const each = data.unit === "tensor" ? "" : ` a ${data.unit}`;
  view.points.textContent = !known ? "not measured yet" : known.levels ? `${whole(known.levels)} points${each}` : "keeps its floats";
  view.noise.textContent = !known ? "" : known.snr_db === null ? "no error" : `signal to noise ${known.snr_db.toFixed(1)} dB`;
  view.lines.textContent = rows > 1 ? told(data.unit, known, chosen, through) : rows ? "lines: the points" : "";
}

/** What the rows below are, and whose lines go through the histogram. */
function told(unit, known, chosen, through) {
  const below = `below: the points of ${known.grids.length < known.of ? known.grids.length : "all"} ${unit}s, the finest first`;
  return through ? `${below}; lines: ${unit} ${whole(known.grids[chosen] + 1)} of ${whole(known.of)}` : below;
}

const whole = (n) => n.toLocaleString("en");

/** 1, 2 or 5 times a power of ten, at least x. */
function nice(x) {
  const power = 10 ** Math.floor(Math.log10(x));
  return power * [1, 2, 5, 10].find((m) => m * power >= x);
}
