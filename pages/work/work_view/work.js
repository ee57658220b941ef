// A bar and small curves that are kept and moved, never rebuilt: a training reports twice a second.

const SVG = "http://www.w3.org/2000/svg";

function draw(figure, plot) {
  figure.className = plot.role;
  figure.querySelector("figcaption span").textContent = plot.title;
  figure.querySelector("figcaption b").textContent = plot.value;
  const svg = figure.querySelector("svg");
  svg.setAttribute("aria-label", plot.alt);
  const range = (name) => {
    const all = plot.lines.flatMap((line) => line[name]);
    return [Math.min(...all), Math.max(...all)];
  };
  const [[left, right], [low, high]] = [range("x"), range("y")];
  while (svg.children.length < plot.lines.length) svg.append(document.createElementNS(SVG, "path"));
  while (svg.children.length > plot.lines.length) svg.lastChild.remove();
  plot.lines.forEach((line, i) => {
    const points = line.x.map((x, j) => {
      const [h, v] = [(x - left) / (right - left || 1), (line.y[j] - low) / (high - low || 1)];
      return `${(100 * h).toFixed(2)},${(96 - 92 * v).toFixed(2)}`;
    });
    svg.children[i].setAttribute("d", `M${points.join("L")}`);
    svg.children[i].classList.toggle("second", i > 0);
  });
}

export default function ({ data, parentElement }) {
  const find = (selector) => parentElement.querySelector(selector);
  find(".bar i").style.transform = `scaleX(${data.share})`;
  find(".bar").dataset.share = data.share;
  find(".bar").setAttribute("aria-valuenow", Math.round(100 * data.share));
  find(".bar").setAttribute("aria-label", data.left || "stopped");
  for (const name of ["left", "right"]) find(`.${name}`).textContent = data[name];
  find(".line").hidden = !data.left && !data.right;
  const plots = find(".plots");
  while (plots.children.length > data.plots.length) plots.lastChild.remove();
  while (plots.children.length < data.plots.length) {
    const figure = document.createElement("figure");
    figure.innerHTML = `<figcaption><span></span><b></b></figcaption>
      <svg viewBox="0 0 100 100" preserveAspectRatio="none" role="img"></svg>`;
    plots.append(figure);
  }
  data.plots.forEach((plot, i) => draw(plots.children[i], plot));
}
