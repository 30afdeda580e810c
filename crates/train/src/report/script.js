// Draws the curves and the heat maps from the numbers in the page. No text of the run gets here.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const SVG = "http://www.w3.org/2000/svg";
  const tip = document.getElementById("tip");
  const state = { logX: false, smoothing: 0.6 };

  const element = (name, attributes = {}, text) => {
    const made = document.createElement(name);
    for (const key in attributes) made.setAttribute(key, attributes[key]);
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const shape = (name, attributes, parent) => {
    const made = document.createElementNS(SVG, name);
    for (const key in attributes) made.setAttribute(key, attributes[key]);
    parent.appendChild(made);
    return made;
  };

  // Numbers as people write them.
  const trimmed = (text) => (text.includes(".") ? text.replace(/\.?0+$/, "") : text);
  const scaled = (value, units, base) => {
    for (const [name, power] of units) {
      const unit = base ** power;
      if (Math.abs(value) >= unit) return trimmed((value / unit).toPrecision(3)) + " " + name;
    }
    return trimmed(value.toPrecision(3));
  };
  const plain = (value, digits) => {
    if (value === 0) return "0";
    const size = Math.abs(value);
    if (size >= 1e6 || size < 1e-3) return value.toExponential(Math.max(digits - 2, 0)).replace(/\.?0+e/, "e");
    return trimmed(value.toPrecision(Math.max(digits, Math.ceil(Math.log10(size) + 1e-9))));
  };
  const FORMATS = {
    number: plain,
    count: (value, digits) => (Math.abs(value) < 1e5 ? Math.round(value * 100) / 100 : scaled(value, [["B", 9], ["M", 6], ["k", 3]], 10)).toLocaleString("en"),
    bytes: (value) => scaled(value, [["TiB", 4], ["GiB", 3], ["MiB", 2], ["KiB", 1], ["B", 0]], 1024),
    percent: (value, digits) => plain(value * 100, digits) + " %",
  };
  const steps = (value) => Math.round(value).toLocaleString("en");
  const shortSteps = (value) => (value >= 1e4 ? scaled(value, [["M", 6], ["k", 3]], 10) : String(value));

  const linearTicks = (low, high, count) => {
    const rough = (high - low) / count;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].find((factor) => factor * power >= rough) * power;
    const ticks = [];
    for (let at = Math.ceil(low / step) * step; at <= high + step * 1e-9 && ticks.length < 50; at += step) {
      ticks.push(Math.abs(at) < step * 1e-9 ? 0 : at);
    }
    return ticks;
  };
  const logTicks = (low, high) => {
    const first = Math.floor(Math.log10(low)), last = Math.ceil(Math.log10(high));
    const factors = last - first <= 2 ? [1, 2, 5] : [1];
    const stride = Math.max(1, Math.ceil((last - first) / 6));
    const ticks = [];
    for (let power = first; power <= last; power += stride) {
      for (const factor of factors) {
        const at = factor * 10 ** power;
        if (at >= low * 0.999 && at <= high * 1.001) ticks.push(at);
      }
    }
    return ticks.length > 1 ? ticks : linearTicks(low, high, 4).filter((at) => at > 0);
  };

  // Exponential moving mean, free of the pull of its start.
  const smooth = (values, share) => {
    let sum = 0, weight = 0;
    return values.map((value) => {
      sum = share * sum + (1 - share) * value;
      weight = share * weight + (1 - share);
      return sum / weight;
    });
  };

  const range = (chart, shown, logY) => {
    let low = Infinity, high = -Infinity;
    for (const series of shown) {
      // A lone spike must not flatten the rest; what lies outside is clipped.
      const values = [...series.mean, ...series.low, ...series.high].filter((value) => !logY || value > 0).sort((a, b) => a - b);
      if (!values.length) continue;
      const top = values[values.length - 1], usual = values[Math.floor((values.length - 1) * 0.99)];
      const bottom = values[0], spread = usual - bottom;
      high = Math.max(high, !logY && top > usual + 2 * spread && spread > 0 ? usual + 0.3 * spread : top);
      low = Math.min(low, bottom);
    }
    if (low > high) return logY ? [0.1, 10] : [0, 1];
    if (logY) return low === high ? [low / 2, high * 2] : [low / 1.1, high * 1.1];
    if (low === high) return [low - Math.abs(low || 1) * 0.1, high + Math.abs(high || 1) * 0.1];
    const room = (high - low) * 0.06;
    return [low >= 0 ? Math.max(0, low - room) : low - room, high + room];
  };

  const makeChart = (chart, parent) => {
    const card = element("div", { class: chart.wide ? "card wide" : "card" });
    const head = element("div", { class: "card-head" });
    head.appendChild(element("h3", {}, chart.title));
    const hidden = new Set();
    const own = { logY: chart.log_y };
    if (chart.series.length > 1) {
      for (const series of chart.series) {
        const key = element("button", { class: "key", type: "button", "aria-pressed": "true", style: `--series: var(--c${series.color})` }, series.name);
        key.onclick = () => {
          hidden.has(series) ? hidden.delete(series) : hidden.add(series);
          key.setAttribute("aria-pressed", String(!hidden.has(series)));
          draw();
        };
        head.appendChild(key);
      }
    }
    const axis = element("button", { class: "axis", type: "button", "aria-pressed": String(own.logY), title: "Logarithmic values" }, "log");
    axis.onclick = () => {
      own.logY = !own.logY;
      axis.setAttribute("aria-pressed", String(own.logY));
      draw();
    };
    head.appendChild(axis);
    card.appendChild(head);
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", chart.title);
    card.appendChild(svg);
    parent.appendChild(card);

    let view = null;
    const draw = () => {
      const width = Math.max(svg.clientWidth, 200), height = chart.wide ? Math.min(380, Math.max(240, width * 0.34)) : 210;
      svg.replaceChildren();
      svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
      svg.style.height = height + "px";
      const shown = chart.series.filter((series) => !hidden.has(series));
      view = frame(svg, chart, shown, own.logY, width, height);
      for (const series of shown) drawSeries(svg, view, series, chart.id);
      view.cursor = shape("line", { class: "cursor", y1: view.top, y2: view.bottom, visibility: "hidden" }, svg);
      view.dots = shown.map((series) => shape("circle", { r: 3.5, visibility: "hidden", style: `fill: var(--c${series.color})` }, svg));
    };

    svg.onpointermove = (event) => {
      const box = svg.getBoundingClientRect();
      const at = view.stepAt(event.clientX - box.left);
      const found = view.shown.map((series) => nearest(series, at));
      const closest = found.filter((hit) => hit).sort((a, b) => Math.abs(view.x(a.step) - view.x(at)) - Math.abs(view.x(b.step) - view.x(at)))[0];
      if (!closest) return;
      const x = view.x(closest.step);
      view.cursor.setAttribute("x1", x);
      view.cursor.setAttribute("x2", x);
      view.cursor.setAttribute("visibility", "visible");
      const rows = [];
      view.shown.forEach((series, index) => {
        // A sparse curve speaks only where it has a point.
        const hit = found[index], near = hit && (!series.sparse || view.shown.length === 1 || Math.abs(view.x(hit.step) - x) < 12);
        view.dots[index].setAttribute("visibility", near ? "visible" : "hidden");
        if (!near) return;
        view.dots[index].setAttribute("cx", view.x(hit.step));
        view.dots[index].setAttribute("cy", view.y(hit.mean));
        const spread = hit.low !== hit.high ? ` (${FORMATS[chart.unit](hit.low, 4)} to ${FORMATS[chart.unit](hit.high, 4)})` : "";
        rows.push([series.name, FORMATS[chart.unit](hit.mean, 5) + spread, series.color]);
      });
      showTip(event, "Step " + steps(closest.step), rows);
    };
    svg.onpointerleave = () => {
      tip.hidden = true;
      view.cursor.setAttribute("visibility", "hidden");
      view.dots.forEach((dot) => dot.setAttribute("visibility", "hidden"));
    };
    return { svg, draw };
  };

  const nearest = (series, step) => {
    const list = series.step;
    if (!list.length) return null;
    let from = 0, to = list.length - 1;
    while (from < to) {
      const middle = (from + to) >> 1;
      if (list[middle] < step) from = middle + 1; else to = middle;
    }
    if (from > 0 && step - list[from - 1] < list[from] - step) from -= 1;
    const mean = series.mean[from];
    return { step: list[from], mean, low: series.low.length ? series.low[from] : mean, high: series.high.length ? series.high[from] : mean };
  };

  // Axes, grid and marks; returns how steps and values become places.
  const frame = (svg, chart, shown, logY, width, height) => {
    const all = chart.series.flatMap((series) => [series.step[0], series.step[series.step.length - 1], ...series.not_finite]).filter((step) => step !== undefined);
    let first = Math.min(...all), last = Math.max(...all);
    const logX = state.logX && last > 1;
    if (logX) first = Math.max(1, first);
    if (last <= first) { first = Math.max(0, first - 1); last = first + 2; if (logX) first = Math.max(1, first); }
    const [low, high] = range(chart, shown, logY);
    // Ticks of bytes are round in the unit that they are written in.
    const unit = chart.unit === "bytes" ? 1024 ** Math.floor(Math.log(Math.max(high, 1)) / Math.log(1024)) : 1;
    const yTicks = logY ? logTicks(low, high) : linearTicks(low / unit, high / unit, height / 45).map((tick) => tick * unit);
    const labels = yTicks.map((tick) => FORMATS[chart.unit](tick, 3));
    const left = 12 + 6.6 * Math.max(3, ...labels.map((label) => label.length)), right = width - 8, top = 8, bottom = height - 24;
    const toX = (step) => (logX ? Math.log(Math.max(step, 1) / first) / Math.log(last / first) : (step - first) / (last - first));
    const toY = (value) => (logY ? Math.log(value / low) / Math.log(high / low) : (value - low) / (high - low));
    const view = {
      shown, left, right, top, bottom, logY,
      x: (step) => left + toX(step) * (right - left),
      y: (value) => (logY && value <= 0 ? bottom : bottom - toY(value) * (bottom - top)),
      stepAt: (place) => {
        const share = Math.min(1, Math.max(0, (place - left) / (right - left)));
        return logX ? first * (last / first) ** share : first + share * (last - first);
      },
    };
    yTicks.forEach((tick, index) => {
      const y = view.y(tick);
      shape("line", { class: "grid", x1: left, x2: right, y1: y, y2: y }, svg);
      shape("text", { x: left - 6, y: y + 4, "text-anchor": "end" }, svg).textContent = labels[index];
    });
    const xTicks = logX ? logTicks(first, last) : linearTicks(first, last, (right - left) / 90).filter((tick) => Number.isInteger(tick));
    for (const tick of xTicks) {
      const x = view.x(tick), anchor = x > right - 20 ? "end" : "middle";
      shape("line", { class: "base", x1: x, x2: x, y1: bottom, y2: bottom + 4 }, svg);
      shape("text", { x, y: bottom + 17, "text-anchor": anchor }, svg).textContent = shortSteps(tick);
    }
    shape("line", { class: "base", x1: left, x2: right, y1: bottom, y2: bottom }, svg);
    for (const kind of ["resumed", "skipped"]) {
      for (const step of chart[kind]) {
        if (step < first || step > last) continue;
        const mark = shape("line", { class: kind, x1: view.x(step), x2: view.x(step), y1: top, y2: bottom }, svg);
        shape("title", {}, mark).textContent = `${kind} at step ${steps(step)}`;
      }
    }
    return view;
  };

  const path = (view, list, values) => {
    let text = "";
    for (let index = 0; index < list.length; index += 1) {
      text += (index ? "L" : "M") + view.x(list[index]).toFixed(1) + " " + view.y(values[index]).toFixed(1);
    }
    return text;
  };

  const drawSeries = (svg, view, series, id) => {
    const color = `var(--c${series.color})`, clip = `clip-${id}-${series.color}`;
    const box = shape("clipPath", { id: clip }, svg);
    shape("rect", { x: view.left - 4, y: view.top - 4, width: view.right - view.left + 8, height: view.bottom - view.top + 4 }, box);
    const group = shape("g", { "clip-path": `url(#${clip})` }, svg);
    const line = (values, opacity, width) =>
      shape("path", { d: path(view, series.step, values), fill: "none", "stroke-linejoin": "round", "stroke-width": width, opacity, style: `stroke: ${color}` }, group);
    if (series.low.length) {
      const back = path(view, [...series.step].reverse(), [...series.low].reverse()).replace("M", "L");
      shape("path", { d: path(view, series.step, series.high) + back + "Z", opacity: 0.14, style: `fill: ${color}` }, group);
    }
    const smoothed = !series.sparse && state.smoothing > 0 && series.mean.length > 3;
    if (smoothed) line(series.mean, 0.28, 1);
    line(smoothed ? smooth(series.mean, state.smoothing) : series.mean, 1, 1.8);
    if (series.step.length < 2 || (series.sparse && series.step.length <= 60)) {
      series.step.forEach((step, index) => shape("circle", { cx: view.x(step), cy: view.y(series.mean[index]), r: 2.6, style: `fill: ${color}` }, group));
    }
    for (const step of series.not_finite) {
      const x = view.x(step);
      const mark = shape("path", { class: "lost", d: `M${x} ${view.bottom - 8}l4 8h-8z` }, svg);
      shape("title", {}, mark).textContent = `${series.name} is not finite at step ${steps(step)}`;
    }
  };

  const showTip = (event, title, rows) => {
    tip.replaceChildren(element("b", {}, title));
    for (const [name, value, color] of rows) {
      const row = element("div", color === undefined ? { class: "row" } : { class: "row", style: `--series: var(--c${color})` });
      row.append(element("span", {}, name), element("span", {}, value));
      tip.appendChild(row);
    }
    tip.hidden = false;
    const width = tip.offsetWidth, height = tip.offsetHeight;
    const left = event.clientX + 16 + width > innerWidth ? event.clientX - width - 12 : event.clientX + 16;
    tip.style.left = Math.max(4, left) + "px";
    tip.style.top = Math.max(4, Math.min(event.clientY + 14, innerHeight - height - 4)) + "px";
  };

  // Heat maps: little load is blue, much is orange, an even share lets the page shine through.
  const DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  const cellColor = (digit) => {
    const level = DIGITS.indexOf(digit);
    if (level < 0) return [0, 0, 0, 0];
    if (level === 0) return [120, 30, 160, 255];
    const signed = (level - 32) / 31, strength = Math.round(255 * Math.min(1, Math.abs(signed) ** 0.75));
    return signed < 0 ? [40, 110, 230, strength] : [235, 95, 15, strength];
  };

  const makeLayer = (layer, columns, parent) => {
    const card = element("div", { class: "layer" });
    card.appendChild(element("h3", {}, `Layer ${layer.layer}, ${layer.experts} experts`));
    const canvas = element("canvas", { width: columns.length, height: layer.experts });
    canvas.style.height = Math.min(180, Math.max(56, layer.experts * 4)) + "px";
    const context = canvas.getContext("2d"), image = context.createImageData(columns.length, layer.experts);
    for (let cell = 0; cell < layer.cells.length; cell += 1) image.data.set(cellColor(layer.cells[cell]), cell * 4);
    context.putImageData(image, 0, 0);
    canvas.onpointermove = (event) => {
      const box = canvas.getBoundingClientRect();
      const column = Math.min(columns.length - 1, Math.max(0, Math.floor((event.clientX - box.left) / box.width * columns.length)));
      const expert = Math.min(layer.experts - 1, Math.max(0, Math.floor((event.clientY - box.top) / box.height * layer.experts)));
      const level = DIGITS.indexOf(layer.cells[expert * columns.length + column]);
      const load = level < 0 ? "not a number" : level === 0 ? "no token" : "≈ " + (2 ** ((level - 32) * 3 / 31)).toPrecision(2) + " ×";
      showTip(event, `Layer ${layer.layer}, expert ${expert}`, [["step", steps(columns[column])], ["load", load]]);
    };
    canvas.onpointerleave = () => { tip.hidden = true; };
    card.appendChild(canvas);
    parent.appendChild(card);
  };

  const place = document.getElementById("charts");
  if (place) {
    const charts = data.charts.map((chart) => makeChart(chart, place));
    const redraw = () => charts.forEach((chart) => chart.draw());
    document.getElementById("log-x").onchange = (event) => { state.logX = event.target.checked; redraw(); };
    document.getElementById("smoothing").oninput = (event) => { state.smoothing = Number(event.target.value); redraw(); };
    let waiting = 0;
    addEventListener("resize", () => { cancelAnimationFrame(waiting); waiting = requestAnimationFrame(redraw); });
    redraw();
  }
  const heat = document.getElementById("heat");
  if (heat && data.heat) data.heat.layers.forEach((layer) => makeLayer(layer, data.heat.steps, heat));
})();
