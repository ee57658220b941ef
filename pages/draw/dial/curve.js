// The response curve: points in, a Plotly figure out. dial.js, joined below this text, keeps the state.
// Columns: x in the knob's own unit; score, size, latency and the edges of their intervals in %.

const SERIES = ["latency", "size", "score"]; // drawn in this order: the score lies on top
const MARGIN = { left: 56, right: 28, top: 10, bottom: 26 }; // px at text scale 1; the rail below keeps left and right
const MARKERS_UP_TO = 33; // more measured points than this and their dots would merge into the line
const HEADROOM = 105; // % at the top of the y axis; latency above it makes the axis grow by STRIDE, never shrink
const STRIDE = 20;

let plotlyLoading = null;

/** Plotly, loaded once per browser tab from the file in Python's plotly package; the page may have begun (serve.py). */
function loadPlotly(url) {
  plotlyLoading ??= new Promise((resolve, reject) => {
    if (globalThis.Plotly) return resolve(globalThis.Plotly);
    const begun = document.getElementById("plotly");
    const script = begun ?? document.createElement("script");
    script.addEventListener("load", () =>
      globalThis.Plotly ? resolve(globalThis.Plotly) : reject(new Error("empty file")));
    script.addEventListener("error", () => {
      plotlyLoading = null; // the next message tries again
      script.remove();
      reject(new Error("not reachable"));
    });
    if (begun) return;
    script.src = new URL(url, document.baseURI).href;
    document.head.append(script);
  });
  return plotlyLoading;
}

/** The theme's colours as Streamlit gives them in CSS variables, read again at every message. */
function readTheme(node) {
  const style = getComputedStyle(node);
  const read = (name) => style.getPropertyValue(name).trim();
  return {
    score: read("--score"),
    size: read("--size"),
    latency: read("--latency"),
    ink: read("--ink"),
    muted: read("--muted"),
    grid: read("--grid"),
    surface: read("--st-background-color"),
    font: read("--st-font"),
  };
}

function margins(scale) {
  return Object.fromEntries(Object.entries(MARGIN).map(([side, px]) => [side, Math.round(px * scale)]));
}

/** Top of the y axis in %: room for the highest point, and never less than before, so that nothing jumps.
 *  An interval that reaches higher gets room too, but one noisy timing doesn't flatten the picture. */
function ceiling(columns, before) {
  const highest = (cells) => Math.max(0, ...cells.filter(Number.isFinite));
  const point = highest([...columns.size, ...columns.latency]);
  const most = Math.max(point, Math.min(point + STRIDE, highest(columns.latency_high ?? [])));
  return Math.max(before, most <= HEADROOM ? HEADROOM : Math.ceil((most + 2) / STRIDE) * STRIDE);
}

/** What the curves say at x: {exact, measured, score, score_low, …}, linear between two points, null outside them. */
function readingAt(columns, x, toPosition, tolerance) {
  const at = toPosition(x);
  const next = columns.x.findIndex((each) => toPosition(each) > at - tolerance);
  if (next < 0) return null;
  const exact = toPosition(columns.x[next]) < at + tolerance;
  if (!exact && next === 0) return null;
  const [from, to] = [toPosition(columns.x[Math.max(next - 1, 0)]), toPosition(columns.x[next])];
  const share = exact ? 1 : (at - from) / (to - from);
  const row = { exact, measured: exact && (columns.measured?.[next] ?? true) };
  for (const [name, cells] of Object.entries(columns)) {
    if (name === "x" || name === "measured") continue;
    const [a, b] = [cells[Math.max(next - 1, 0)], cells[next]];
    row[name] = exact ? b : a === null || b === null ? null : a + share * (b - a);
  }
  row.disturbed = exact && Number.isFinite(row.noisy);
  if (row.disturbed) row.latency = row.noisy;
  else if (!exact) row.latency = onTheLine(columns, next, at, toPosition);
  return row;
}

/** The latency where the line is at a position before point `next`: between the nearest timings that nobody disturbed. */
function onTheLine({ x, latency }, next, at, toPosition) {
  const right = latency.findIndex((cell, i) => i >= next && cell !== null);
  const left = latency.findLastIndex((cell, i) => i < next && cell !== null);
  if (left < 0 || right < 0) return null;
  const [from, to] = [toPosition(x[left]), toPosition(x[right])];
  return latency[left] + ((at - from) / (to - from)) * (latency[right] - latency[left]);
}

/** The interval as one closed outline: low edge to the right, high edge back. */
function band(columns, name, colour) {
  const [low, high] = [columns[`${name}_low`], columns[`${name}_high`]];
  if (!low || !high) return [];
  const kept = columns.x.map((_, i) => i).filter((i) => low[i] !== null && high[i] !== null);
  const back = [...kept].reverse();
  return [
    {
      x: [...kept, ...back].map((i) => columns.x[i]),
      y: [...kept.map((i) => low[i]), ...back.map((i) => high[i])],
      fill: "toself",
      fillcolor: colour,
      opacity: 0.14,
      line: { width: 0 },
      mode: "lines",
      hoverinfo: "skip",
    },
  ];
}

function line(columns, name, colour, zoomed) {
  const dots = columns.x.length <= MARKERS_UP_TO;
  return {
    name,
    legendrank: SERIES.length - SERIES.indexOf(name), // the order in the hover box: score, size, latency
    x: columns.x,
    y: columns[name],
    cliponaxis: zoomed, // a dot on the edge is shown whole
    mode: dots ? "lines+markers" : "lines",
    connectgaps: name === "latency", // it goes on past timings that were disturbed
    line: { color: colour, width: name === "score" ? 3 : 2.5 },
    marker: {
      size: 5,
      color: colour,
      symbol: columns.x.map((_, i) => ((columns.measured?.[i] ?? true) ? "circle" : "circle-open")),
    },
    hovertemplate: "%{y:.1f} %",
  };
}

/** Timings that were disturbed: off the line, each with its quartiles as a bar; what lies above the plot, at its top. */
function noisy(columns, colour, top, zoomed) {
  const at = columns.x.map((_, i) => i).filter((i) => Number.isFinite(columns.noisy?.[i]));
  if (!at.length) return [];
  const inside = (cells) => at.map((i) => Math.min(cells?.[i] ?? columns.noisy[i], top));
  const [y, low, high] = [columns.noisy, columns.noisy_low, columns.noisy_high].map(inside);
  return [
    {
      name: "noisy latency",
      legendrank: SERIES.length + 1,
      x: at.map((i) => columns.x[i]),
      y,
      customdata: at.map((i) => columns.noisy[i]),
      mode: "markers",
      cliponaxis: zoomed,
      marker: { size: 7, color: colour, symbol: "x-thin-open", line: { width: 1.75 } },
      error_y: {
        type: "data", symmetric: false, array: high.map((edge, i) => edge - y[i]), arrayminus: low.map((edge, i) => y[i] - edge),
        color: colour, thickness: 1, width: 3,
      },
      opacity: 0.75,
      hovertemplate: "%{customdata:.1f} %",
    },
  ];
}

function traces(columns, theme, zoomed, top) {
  return [
    ...noisy(columns, theme.latency, top, zoomed),
    ...SERIES.flatMap((name) => band(columns, name, theme[name])),
    ...SERIES.map((name) => line(columns, name, theme[name], zoomed)),
  ];
}

/** Full range of the x axis, in Plotly's terms: logarithms on a log axis. */
function fullRange(data) {
  return data.scale === "log" ? [Math.log10(data.low), Math.log10(data.high)] : [data.low, data.high];
}

/** What the score is to be beaten or reached, as a band across the plot: [low, value, high] in %, and its name. */
function reference(data, theme, font) {
  if (!data.reference) return {};
  const [low, value, high, text] = data.reference;
  const across = { xref: "paper", x0: 0, x1: 1, layer: "below" };
  return {
    shapes: [
      { ...across, type: "rect", y0: low, y1: high, fillcolor: theme.muted, opacity: 0.16, line: { width: 0 } },
      { ...across, type: "line", y0: value, y1: value, line: { color: theme.muted, width: 1.5, dash: "dash" } },
    ],
    annotations: [{ xref: "paper", x: 1, xanchor: "right", y: high, yanchor: "bottom", text, showarrow: false, font }],
  };
}

function textOf(data, value) {
  const text = data.scale === "log" ? String(value) : inUnits(data, value).toFixed(data.decimals);
  return data.unit ? `${text} ${data.unit}` : text;
}

/** "p = 0.62" on top of the hover box. A stop beyond the even ones is not where it stands: there, its name alone. */
function hoverTitle(data) {
  if (!data.beyond.length) return { unifiedhovertitle: { text: `${data.symbol} = %{x}` } };
  return { labelalias: Object.fromEntries(data.beyond.map((stop, i) => [data.even + (i + 1) * data.step, String(stop)])) };
}

function layout(data, theme, top, scale, hidden) {
  const edge = margins(scale);
  const font = { family: theme.font, size: 12.5 * scale, color: theme.muted };
  const axis = { gridcolor: theme.grid, zeroline: false, ticks: "", tickfont: font, ticklabelstandoff: Math.round(8 * scale) };
  const log = data.scale === "log";
  const ticks = data.ticks
    ? { tickvals: data.ticks.map((t) => t[0]), ticktext: data.ticks.map((t) => t[1]) }
    : log ? { dtick: 1, tickformat: "~g" } : { nticks: 12 };
  return {
    ...(hidden ? {} : reference(data, theme, font)),
    uirevision: "kept", // zoom is the user's; new points don't touch it
    showlegend: false,
    hovermode: hidden ? false : "x unified",
    hoverlabel: { bgcolor: theme.surface, bordercolor: theme.grid, font: { ...font, color: theme.ink } },
    dragmode: "zoom",
    margin: { l: edge.left, r: edge.right, t: edge.top, b: edge.bottom },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font,
    xaxis: {
      ...axis,
      ...ticks,
      type: log ? "log" : "linear",
      range: fullRange(data),
      showspikes: false, // its line would look like the marker
      ...hoverTitle(data),
    },
    yaxis: { ...axis, range: [0, top], ticksuffix: " %", dtick: top <= 140 ? 20 : undefined },
  };
}

/** Knob value → place on the slider: itself, or its logarithm. */
const toPosition = (data) => (data.scale === "log" ? Math.log10 : Number);

/** Place on the rail → what the knob is set to: stops beyond the even ones stand a step apart. */
const inUnits = (data, place) => data.beyond[Math.round((place - data.even) / data.step) - 1] ?? place;

// How numbers are written beside the curve: as Python writes them on the cards.
const percent = (number) => `${number.toFixed(1)} %`;
const bytes = (n) =>
  n < 1e3 ? `${Math.round(n)} B` : n < 1e6 ? `${(n / 1e3).toPrecision(3)} kB` : `${(n / 1e6).toPrecision(3)} MB`;
const milliseconds = (ms) => `${ms.toFixed(ms < 1 ? 3 : ms < 10 ? 2 : 1)} ms`;
