// The Dial: a slider and the curve above it. A drag moves transforms in an overlay only; Python hears the value once, on
// release, as {value, n}: n counts releases, so that a message written before the last one can't pull the handle back.

const KEYBOARD_PAUSE_MS = 150; // the last arrow key of a burst counts as the release
const dials = new WeakMap(); // root node → state: Streamlit calls the default export again for every message

export default function ({ data, parentElement, setStateValue }) {
  const dial = dials.get(parentElement) ?? mount(parentElement);
  dial.send = (value) => setStateValue("release", { value: inUnits(dial.data, value), n: dial.sent });
  receive(dial, data);
  return () => unmount(dial, parentElement);
}

function mount(root) {
  const find = (selector) => root.querySelector(selector);
  const series = (selector) => Object.fromEntries(SERIES.map((s) => [s, find(`${selector}[data-series=${s}]`)]));
  const dial = {
    section: find(".dial"), plot: find(".plot"), picture: find(".picture"), overlay: find(".overlay"),
    marker: find(".marker"), guessMark: find(".guess"), dots: series("circle"), items: series(".item"),
    how: find(".how"), bar: find(".bar div"), progress: find(".progress"), question: find(".question span"),
    reset: find(".reset"), rail: find(".rail"), fill: find(".fill"), window: find(".window"),
    slider: find("input"), label: find(".label"), note: find(".note"),
    held: false, timer: null, sent: null, agreed: null, waiting: false, top: 0, drawn: null, axes: null,
  };
  const { slider } = dial;
  slider.addEventListener("input", () => {
    dial.held = true;
    schedule(dial);
  });
  slider.addEventListener("change", () => {
    clearTimeout(dial.timer);
    dial.timer = setTimeout(() => settle(dial), KEYBOARD_PAUSE_MS);
  });
  slider.addEventListener("keydown", (event) => {
    if (dial.scale > 1 && event.key.startsWith("Page")) passOn(event);
  });
  slider.addEventListener("pointerdown", () => {
    dial.held = dial.pointer = true;
    const up = () => {
      dial.pointer = false;
      setTimeout(() => settle(dial)); // after the browser's own last "input"
      for (const name of ["pointerup", "pointercancel"]) globalThis.removeEventListener(name, up);
    };
    for (const name of ["pointerup", "pointercancel"]) globalThis.addEventListener(name, up);
  });
  dial.reset.addEventListener("click", () => resetZoom(dial));
  dial.watch = new ResizeObserver(() => resize(dial));
  dial.watch.observe(dial.picture);
  dials.set(root, dial);
  return dial;
}

function unmount(dial, root) {
  clearTimeout(dial.timer);
  dial.watch.disconnect();
  // Plotly redraws a while after it was told of a new size, and then asks for what `purge` takes away.
  if (dial.drawn) Promise.resolve(dial.resizing).finally(() => globalThis.Plotly.purge(dial.plot));
  dial.drawn = null;
  dial.plot.emit = () => {}; // a drawing that is under way still tells that it is done
  dials.delete(root);
}

// --- values -----------------------------------------------------------------------------------------------------

/** The handle's value, rounded as Python rounds it. */
function valueOf(dial) {
  const { scale, decimals } = dial.data;
  const at = Number(dial.slider.value);
  return scale === "log" ? Number((10 ** at).toPrecision(3)) : Number(at.toFixed(decimals));
}

/** Present: a clicker's PageUp and PageDown turn snapshots, even after a drag; the page listens outside of inputs. */
function passOn(event) {
  event.preventDefault();
  event.target.blur();
  document.body.dispatchEvent(new KeyboardEvent("keydown", event));
}

/** The value is decided: tell Python once, if it is news. */
function settle(dial) {
  clearTimeout(dial.timer);
  dial.timer = null;
  if (dial.pointer) return;
  dial.held = false;
  const value = valueOf(dial);
  if (value === dial.agreed && !hidden(dial)) return; // "it breaks where it stands" is a guess as well
  dial.agreed = value;
  dial.sent += 1;
  if (hidden(dial)) reveal(dial, value);
  dial.send(value);
}

// --- messages from Python ---------------------------------------------------------------------------------------

function receive(dial, data) {
  const before = dial.data;
  dial.data = data;
  dial.sent ??= data.seen;
  const position = toPosition(data);
  const { slider } = dial;
  for (const [name, value] of Object.entries({ min: position(data.low), max: position(data.high), step: data.step }))
    if (slider[name] !== String(value)) slider[name] = value;
  slider.setAttribute("aria-label", data.label);
  if (!dial.held && dial.timer === null && data.seen >= dial.sent) {
    dial.agreed = data.value;
    if (valueOf(dial) !== data.value) slider.value = position(data.value);
  }
  if (before?.question !== data.question) Object.assign(dial, { revealed: false, guess: null });
  dial.scale = data.height >= 420 ? 1.3 : 1; // Present: the text grows with the picture
  const edge = margins(dial.scale);
  for (const [name, value] of Object.entries({ left: edge.left, right: edge.right, height: data.height }))
    dial.section.style.setProperty(`--${name}`, `${value}px`);
  dial.section.style.setProperty("--scale", dial.scale);
  dial.picture.setAttribute("aria-label", hidden(dial) ? data.question : data.alt);
  dial.section.classList.toggle("asking", hidden(dial));
  write(dial.question, data.question ?? "");
  showProgress(dial);
  measureRail(dial);
  schedule(dial);
  loadPlotly(data.plotly).then(
    () => draw(dial),
    (error) => (dial.note.textContent = `The curve can't be drawn: plotly.min.js is ${error.message}. The slider works.`),
  );
}

function showProgress(dial) {
  const [done, total] = dial.data.progress ?? [0, 0];
  const busy = done < total;
  dial.section.classList.toggle("busy", busy);
  dial.progress.textContent = busy ? `measuring ${done} of ${total}` : "";
  dial.bar.style.transform = `scaleX(${total ? done / total : 1})`;
}

// --- Learn: first guess, then look ------------------------------------------------------------------------------

const hidden = (dial) => Boolean(dial.data.question) && !dial.revealed;

function reveal(dial, value) {
  Object.assign(dial, { revealed: true, guess: value });
  dial.section.classList.remove("asking");
  dial.picture.setAttribute("aria-label", dial.data.alt);
  if (globalThis.Plotly) draw(dial);
  schedule(dial);
}

// --- the curve: Plotly.react on a kept element, only where points, theme or size changed ------------------------

function draw(dial) {
  const { data, plot, scale } = dial;
  if (!plot.isConnected || !plot.clientWidth) return;
  const theme = readTheme(dial.section);
  const { value, seen, progress, alt, ...figure } = data; // what doesn't change the picture
  const zoomed = !dial.reset.hidden;
  const drawn = JSON.stringify([figure, theme, hidden(dial), zoomed, plot.clientWidth]);
  if (drawn === dial.drawn) return;
  const fresh = dial.drawn === null;
  if (data.columns.x.length < dial.count) dial.top = 0; // another curve, not more of this one
  dial.count = data.columns.x.length;
  if (!zoomed) dial.top = ceiling(data.columns, dial.top);
  dial.drawn = drawn;
  dial.note.textContent = "";
  const shown = hidden(dial) ? [] : traces(data.columns, theme, zoomed, dial.top);
  const options = { displayModeBar: false, doubleClick: "reset", showTips: false };
  globalThis.Plotly.react(plot, shown, layout(data, theme, dial.top, scale, hidden(dial)), options);
  if (fresh) listen(dial);
  measureAxes(dial);
}

function listen(dial) {
  dial.plot.on("plotly_relayout", () => {
    measureAxes(dial);
    draw(dial);
  });
  dial.plot.on("plotly_relayouting", () => schedule(dial));
  dial.plot.on("plotly_click", (click) => {
    dial.slider.value = toPosition(dial.data)(click.points[0].x);
    settle(dial);
    schedule(dial);
  });
}

/** Keep the axes and say where they are zoomed; the overlay asks them for pixels at every frame. */
function measureAxes(dial) {
  if (!dial.drawn) return; // taken off the page meanwhile
  const { xaxis, yaxis } = dial.plot._fullLayout;
  dial.axes = { xaxis, yaxis };
  const [low, high] = fullRange(dial.data);
  const near = (a, b, span) => Math.abs(a - b) < 1e-6 * span;
  const full =
    near(xaxis.range[0], low, high - low) && near(xaxis.range[1], high, high - low) &&
    near(yaxis.range[0], 0, 100) && near(yaxis.range[1], dial.top, 100);
  dial.reset.hidden = full;
  const [from, to] = xaxis.range.map((each) => Math.min(1, Math.max(0, (each - low) / (high - low))));
  dial.window.style.transform = full ? "scaleX(0)" : `translateX(${100 * from}%) scaleX(${to - from})`;
  schedule(dial);
}

function resetZoom(dial) {
  globalThis.Plotly.relayout(dial.plot, { "xaxis.range": fullRange(dial.data), "yaxis.range": [0, dial.top] });
  dial.slider.focus();
}

function resize(dial) {
  measureRail(dial);
  if (dial.drawn && dial.plot.clientWidth)
    dial.resizing = globalThis.Plotly.Plots.resize(dial.plot).then(() => measureAxes(dial));
  else if (globalThis.Plotly && dial.data) draw(dial);
  schedule(dial);
}

// --- one frame of a drag: transforms and text, no layout, no Plotly call ----------------------------------------

function schedule(dial) {
  if (dial.waiting || !dial.data) return;
  dial.waiting = true;
  requestAnimationFrame(() => {
    dial.waiting = false;
    frame(dial);
  });
}

function measureRail(dial) {
  const edge = margins(dial.scale ?? 1);
  dial.railWidth = Math.max(0, dial.rail.clientWidth - edge.left - edge.right);
  dial.railLeft = edge.left;
}

function frame(dial) {
  const { data } = dial;
  const value = valueOf(dial);
  const position = toPosition(data);
  const [low, high] = [position(data.low), position(data.high)];
  const share = (position(value) - low) / (high - low);
  const text = `${data.symbol} = ${textOf(data, value)}`;
  globalThis.dispatchEvent(new CustomEvent("modelopt-dial", { detail: { symbol: data.symbol, value: inUnits(data, value) } })); // for who follows
  dial.fill.style.transform = `scaleX(${share})`;
  dial.label.style.transform = `translateX(${dial.railLeft + share * dial.railWidth}px) translateX(-50%)`;
  write(dial.label, text);
  dial.how.classList.toggle("right", share < 0.5); // out of the label's way
  const reading = hidden(dial) ? null : readingAt(data.columns, value, position, 0.05 * data.step);
  const said = showReading(dial, reading);
  dial.slider.setAttribute("aria-valuetext", said ? `${text}: ${said}` : text);
  if (dial.axes) placeMarker(dial, value, reading);
}

/** The three numbers at the marker; returns them as a sentence for a screen reader. */
function showReading(dial, reading) {
  const about = reading && !reading.exact ? "≈ " : "";
  const words = { score: ["–", ""], size: ["–", ""], latency: ["–", ""] };
  if (Number.isFinite(reading?.score)) {
    const { score_low: low, score_high: high } = reading;
    words.score = [percent(reading.score), Number.isFinite(low) ? `${low.toFixed(1)}–${high.toFixed(1)}` : ""];
  }
  if (Number.isFinite(reading?.size))
    words.size = [percent(reading.size), bytes((reading.size / 100) * dial.data.baseline_bytes)];
  if (Number.isFinite(reading?.latency))
    words.latency = [percent(reading.latency), Number.isFinite(reading.ms) ? milliseconds(reading.ms) : ""];
  for (const name of SERIES) {
    const [, , strong, small] = dial.items[name].children;
    write(strong, words[name][0] === "–" ? "–" : about + words[name][0]);
    write(small, words[name][1]);
  }
  const unknown = dial.data.progress || hidden(dial) ? "" : "not measured";
  write(dial.how, about ? "≈ between two points" : !reading ? unknown : reading.disturbed ? "noisy timing" : reading.measured ? "" : "simulated");
  if (!reading) return "";
  return `${about ? "about " : ""}score ${words.score[0]}, size ${words.size[0]}, latency ${words.latency[0]} of baseline`;
}

/** Assigning textContent rebuilds the text node even where nothing changed; this doesn't. */
function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function placeMarker(dial, value, reading) {
  const { xaxis, yaxis } = dial.axes;
  const [top, bottom] = [yaxis._offset, yaxis._offset + yaxis._length];
  const inside = (px, axis) => px > -1 && px < axis._length + 1;
  const x = xaxis.d2p(value);
  standAt(dial.marker, xaxis._offset + x, top, bottom, inside(x, xaxis));
  for (const name of SERIES) {
    const y = Number.isFinite(reading?.[name]) ? yaxis.d2p(reading[name]) : NaN;
    const dot = dial.dots[name];
    dot.style.transform = `translate(${xaxis._offset + x}px, ${yaxis._offset + y}px)`;
    dot.classList.toggle("hollow", !reading?.measured);
    dot.style.display = inside(x, xaxis) && inside(y, yaxis) ? "" : "none";
  }
  const guess = dial.guess === null || dial.guess === undefined ? NaN : xaxis.d2p(dial.guess);
  standAt(dial.guessMark, xaxis._offset + guess, top, bottom, inside(guess, xaxis) && Math.abs(guess - x) > 2);
}

/** A vertical line (or the group that holds one) at x, from top to bottom of the plot. */
function standAt(node, x, top, bottom, visible) {
  node.style.display = visible ? "" : "none";
  if (!visible) return;
  node.style.transform = `translateX(${x}px)`;
  const upright = node.tagName === "line" ? node : node.querySelector("line");
  for (const [name, y] of [["y1", top], ["y2", bottom]])
    if (upright.getAttribute(name) !== String(y)) upright.setAttribute(name, y);
}
