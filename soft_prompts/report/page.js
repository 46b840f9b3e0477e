// Draws what stands in the page's JSON, see charts.py. All numbers come from there; no text becomes HTML here.
(() => {
  const {curves, findings, pairs} = JSON.parse(document.getElementById("data").textContent);
  const at = (id) => document.getElementById(id);
  const LEAST = 0.1;  // of contributions, where their axis turns from linear to logarithmic
  const COLORS = d3.schemeObservable10;
  const models = [...new Set(findings.map((f) => f.model))];
  for (const part of document.querySelectorAll(".scripted")) part.hidden = false;

  // A doubling is a step, and 0 stands one before 1.
  const position = (n) => (n < 1 ? n - 1 : Math.log2(n));
  const tokens = (x) => (x < 0 ? x + 1 : 2 ** x);
  const shown = (x) => (x === null ? "-" : (Math.abs(x) < 0.0005 ? 0 : x).toFixed(3));
  const ends = (low, high) => `[${shown(low)}, ${shown(high)}]`;
  const lengths = (of, label = "prompt length P (tokens)") => {
    const ticks = [...new Set(of)].sort((a, b) => a - b).map(position);
    return {label, labelAnchor: "center", labelArrow: "none", ticks, tickFormat: (x) => String(Math.round(tokens(x))), domain: [d3.min(ticks), d3.max(ticks)], inset: 12};
  };

  /** Put a chart into its place. Each mark with a label is read by hover, and by focus: Tab to the chart, then arrows. */
  function put(place, label, options) {
    const chart = Plot.plot({
      width: Math.max(260, place.clientWidth), marginTop: 30, marginLeft: 48, marginRight: 12, marginBottom: 40,
      ariaLabel: label, style: {background: "none", fontSize: "12px", maxWidth: "100%"}, ...options,
    });
    const marks = [...chart.querySelectorAll("circle[aria-label], path[aria-label]")];
    for (const [i, mark] of marks.entries()) {
      mark.setAttribute("tabindex", i ? -1 : 0);
      mark.setAttribute("role", "img");
    }
    (chart.matches("svg") ? chart : chart.querySelector(":scope > svg")).setAttribute("role", "group");
    place.replaceChildren(chart);
  }
  document.addEventListener("keydown", (event) => {
    const step = {ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1}[event.key];
    if (event.key === "Escape") at("tip").hidden = true;
    if (!step || !event.target.matches(".chart [tabindex]")) return;
    const marks = [...event.target.closest(".chart").querySelectorAll("[tabindex]")];
    const next = marks[(marks.indexOf(event.target) + step + marks.length) % marks.length];
    event.target.setAttribute("tabindex", -1);
    next.setAttribute("tabindex", 0);
    next.focus();
    event.preventDefault();
  });
  for (const name of ["pointerover", "focusin"])
    document.addEventListener(name, ({target}) => {
      const tip = at("tip"), mark = target.closest?.(".chart [tabindex]");
      tip.hidden = !mark;
      if (!mark) return;
      tip.textContent = mark.getAttribute("aria-label");
      const box = mark.getBoundingClientRect();
      tip.style.left = `${Math.max(8, Math.min(box.left, innerWidth - tip.offsetWidth - 8))}px`;
      tip.style.top = `${box.top > tip.offsetHeight + 12 ? box.top - tip.offsetHeight - 8 : box.bottom + 8}px`;
    });

  // --- findings ---

  const SCALES = {
    tokens: {place: position, back: tokens, ticks: [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024].map(position), format: (x) => String(tokens(x)), label: "conditional distance (tokens)"},
    bits: {place: Math.log10, ticks: d3.range(0, 10), format: (x) => d3.format("~s")(10 ** x), label: "fewest bits that go the conditional distance"},
    nats: {place: (x) => Math.asinh(x / LEAST), ticks: [-10, -1, -0.1, 0, 0.1, 1, 10].map((x) => Math.asinh(x / LEAST)), format: (x) => String(+(Math.sinh(x) * LEAST).toPrecision(2)), label: "contribution (nats per scored token)"},
  };

  function drawFindings() {
    const [measure, order, most] = ["measure", "order", "most"].map((id) => at(id).value);
    const {place, ticks, format, label} = SCALES[measure];
    const wanted = Object.fromEntries(new FormData(at("filter")));
    const of = findings.filter((f) => (!wanted.experiment || curves[f.curve].experiment === wanted.experiment) && (!wanted.model || f.model === wanted.model));
    const known = of.filter((f) => f[measure] && !f[measure].why).map((f) => ({...f, ...f[measure], beyond: f[measure].at === null}));
    const size = (f) => (f.beyond ? f.longest + 0.5 : f.at);
    const sorted = d3.sort(known, (a, b) => (order === "size" ? 0 : d3.ascending(a[order], b[order])) || d3.ascending(size(a), size(b)));
    const rows = sorted.slice(0, most).map((f, row) => ({...f, row}));
    const reason = d3.rollups(of.filter((f) => f[measure]?.why), (found) => found.length, (f) => f[measure].why).map(([why, n]) => `${n}: ${why}`);
    at("findings-note").textContent = [
      `${rows.length} of ${of.length} curves`, ...(known.length > rows.length ? [`${known.length - rows.length} more below`] : []),
      ...reason, ...(measure === "bits" && of.length > known.length ? [`${of.length - known.length} without known bits`] : []),
    ].join("; ") + ".";
    if (!rows.length) return at("findings-chart").replaceChildren("No curve has this number.");
    const width = Math.max(260, at("findings-chart").clientWidth), narrow = width < 560;
    const far = (f) => place(f.beyond || f.high === null ? f.longest : f.high ?? f.at);
    const name = (f) => `${f.behaviour} · ${f.model}`;
    const said = (f) => `${name(f)}: ${f.said}`;
    const x = (f) => place(f.beyond ? f.longest : f.at);
    const seen = [...rows.map(x), ...rows.map(far), ...rows.map((f) => place(f.low ?? f.at ?? f.longest))].filter(Number.isFinite);
    const domain = [Math.min(measure === "nats" ? 0 : Infinity, measure === "tokens" ? -1 : Infinity, d3.min(seen)), d3.max(seen)];
    const most_letters = narrow ? Math.floor(width / 7) : 44;
    const short = (f) => {
      const room = most_letters - f.model.length - 3, whole = f.behaviour.length <= room;
      return whole || room < 8 ? name(f).slice(0, most_letters) : `${f.behaviour.slice(0, room - 1)}… · ${f.model}`;
    };
    put(at("findings-chart"), `${label}, ${rows.length} curves`, {
      width, height: rows.length * (narrow ? 36 : 22) + 50, marginLeft: narrow ? 12 : 310, marginRight: 46, marginTop: 38, marginBottom: 6, insetTop: narrow ? 14 : 0,
      x: {domain, ticks: ticks.filter((t) => t >= domain[0] - 0.01 && t <= domain[1] + 0.01), tickFormat: format, label, axis: "top", labelAnchor: "center", labelArrow: "none", inset: 8, grid: true},
      y: {domain: d3.range(rows.length), axis: null}, color: {domain: models, range: models.map((_, i) => COLORS[i % COLORS.length])},
      marks: [
        Plot.text(rows, {x: domain[0], y: "row", text: short, textAnchor: narrow ? "start" : "end", dx: narrow ? 0 : -20, dy: narrow ? -13 : 0, fontSize: 12, fill: "currentColor"}),
        Plot.ruleX([0].filter(() => measure === "nats"), {stroke: "currentColor", strokeOpacity: 0.5}),
        Plot.ruleY(rows.filter((f) => f.low !== undefined && f.low !== null), {y: "row", x1: (f) => place(f.low), x2: far, stroke: "model", strokeWidth: 2}),
        Plot.dot(rows.filter((f) => !f.beyond), {x, y: "row", r: 5, fill: "model", stroke: "var(--card)", ariaLabel: said}),
        Plot.dot(rows.filter((f) => f.beyond), {x, y: "row", symbol: "triangle", rotate: 90, r: 6, fill: "model", ariaLabel: said}),
        Plot.text(rows.filter((f) => f.beyond), {x, y: "row", dx: 10, textAnchor: "start", text: (f) => `> ${f.longest}`, fill: "currentColor"}),
      ],
    });
  }

  // --- curves ---

  const points = (line, more = {}) => line.lengths.map((n, i) => ({n, x: position(n), y: line.losses[i], i, ...more}));
  const dots = (line, name, fill) => Plot.dot(points(line), {x: "x", y: "y", r: 4, fill, ariaLabel: (p) => `${name}, P = ${p.n}: ${shown(p.y)} nats per token`});
  const banded = (curve, fill) => (curve.band ? [Plot.areaY(points(curve), {x: "x", y1: (p) => curve.band[0][p.i], y2: (p) => curve.band[1][p.i], fill, fillOpacity: 0.2})] : []);
  const ended = (line, text, stroke) => Plot.text(points(line).slice(-1), {x: "x", y: "y", text: () => text, dy: -8, textAnchor: "end", fill: stroke, fontSize: 11});

  /** Labels of level lines. Where lines are too near to be told apart, the lowest has its name and the others are counted. */
  const named = (lines, near) => d3.sort(lines, ([, y]) => y).reduce((labels, [name, y]) => {
    const last = labels.at(-1);
    if (last && y - last.y < near) Object.assign(last, {y, more: last.more + 1});
    else labels.push({name: name.slice(0, 40), y, more: 0});
    return labels;
  }, []);

  function drawLosses(place, curve) {
    const faint = "var(--faint)", all = [...curve.lengths, ...(curve.published?.lengths ?? [])];
    const own = [...curve.losses, ...(curve.band ?? []).flat(), ...(curve.published?.losses ?? []), ...curve.seeds.map(([, loss]) => loss)];
    // What is far above the curve would press it flat, so it stands in words above the chart.
    const top = d3.max(own) + 0.5 * (d3.max(own) - d3.min(own)), fits = (losses) => d3.min(losses) < top;
    const controls = curve.controls.filter((c) => fits(c.losses)), beside = [...Object.entries(curve.baselines), ...(curve.anchor ? [[curve.anchor.name, curve.anchor.loss]] : [])];
    const flat = beside.filter(([, y]) => y < top);
    const above = [...curve.controls.filter((c) => !fits(c.losses)).map((c) => [c.name, d3.min(c.losses)]), ...beside.filter(([, y]) => y >= top)];
    const domain = [d3.min([...own, ...flat.map(([, y]) => y)]), d3.max([...own, ...flat.map(([, y]) => y)])];
    if (controls.length) domain[1] = Math.min(top, Math.max(domain[1], d3.max(controls.flatMap((c) => c.losses))));
    const widths = curve.widths;
    const scores = Object.entries(curve.scores).slice(0, 2);
    const draw = (box, label, options) => { const child = document.createElement("div"); box.append(child); put(child, label, options); };
    place.replaceChildren();
    draw(place, `held-out loss by prompt length: ${curve.name}`, {
      width: place.clientWidth, height: 320, x: lengths(all), y: {label: "nats per scored token", grid: true, domain, inset: 8}, clip: true,
      caption: above.length ? `above: ${above.map(([name, y]) => `${name.slice(0, 40)} ${shown(y)}`).join(", ")}` : undefined,
      marks: [
        ...flat.map(([, y]) => Plot.ruleY([y], {stroke: faint, strokeDasharray: "4 3"})),
        Plot.text(named(flat, 0.05 * (domain[1] - domain[0])), {text: (l) => (l.more ? `${l.name} and ${l.more} more` : l.name), frameAnchor: "left", y: "y", dx: 4, dy: -7, textAnchor: "start", fill: faint, fontSize: 11}),
        ...(curve.published ? [Plot.line(points(curve.published), {x: "x", y: "y", stroke: faint}), Plot.dot(points(curve.published), {x: "x", y: "y", symbol: "times", stroke: faint, ariaLabel: (p) => `published (other documents and recipe), P = ${p.n}: ${shown(p.y)}`}), ended(curve.published, "published", faint)] : []),
        ...controls.flatMap((control, i) => [Plot.line(points(control), {x: "x", y: "y", stroke: COLORS[i + 1], strokeDasharray: "5 3"}), dots(control, control.name, COLORS[i + 1]), ended(control, control.name, COLORS[i + 1])]),
        ...banded(curve, COLORS[0]),
        ...(widths ? [Plot.ruleX(points(curve), {x: "x", y1: (p) => p.y - widths[p.i], y2: (p) => p.y + widths[p.i], stroke: COLORS[0], strokeWidth: 2})] : []),
        Plot.line(points(curve), {x: "x", y: "y", stroke: COLORS[0], strokeWidth: 2}),
        Plot.dot(curve.seeds, {x: ([n]) => position(n), y: ([, loss]) => loss, r: 2, fill: "currentColor"}),
        Plot.dot(points(curve).filter((p) => curve.unfinished.includes(p.n)), {x: "x", y: "y", r: 9, stroke: "var(--bad)"}),
        Plot.dot(points(curve), {x: "x", y: "y", r: 4, fill: COLORS[0], ariaLabel: (p) => `P = ${p.n}: ${shown(p.y)} nats per token` + (curve.band ? ` ${ends(curve.band[0][p.i], curve.band[1][p.i])}` : "") + (curve.unfinished.includes(p.n) ? ", search not exhausted" : "")}),
      ],
    });
    for (const [name, known] of scores)
      draw(place, `${name} by prompt length: ${curve.name}`, {
        width: place.clientWidth, height: 130, x: lengths(all, null), y: {label: name.replaceAll("_", " "), grid: true, ticks: 4},
        marks: [
          Plot.ruleX(known, {x: ([n]) => position(n), y1: (s) => s[2], y2: (s) => s[3], stroke: COLORS[0], strokeOpacity: 0.5}),
          Plot.dot(known, {x: ([n]) => position(n), y: (s) => s[1], r: 3, fill: COLORS[0], ariaLabel: (s) => `${name}, P = ${s[0]}: ${shown(s[1])} ${ends(s[2], s[3])}`}),
        ],
      });
  }

  function drawGains(place, curve) {
    if (!curve.gains) return;
    const {documents, gains, n_tokens} = curve.gains;
    put(place, `gain by document: ${curve.name}`, {
      width: place.clientWidth, height: 320, x: {label: `${gains.length} documents, the largest gain first`, ticks: [], labelAnchor: "center", labelArrow: "none"},
      y: {label: `gain of P = ${n_tokens} over none (nats per token)`, grid: true, nice: true},
      marks: [
        Plot.ruleY([0], {stroke: "currentColor", strokeOpacity: 0.5}),
        Plot.dot(gains, {x: (_, i) => i, y: (g) => g, r: gains.length > 200 ? 2 : 3, fill: (g) => (g < 0 ? "var(--bad)" : COLORS[0]), ariaLabel: (g, i) => `document ${documents[i]}: ${shown(g)} nats per token`}),
      ],
    });
  }

  const DRAWN = {losses: drawLosses, gains: drawGains};
  const drawCurve = (place) => DRAWN[place.dataset.chart](place, curves[place.dataset.curve]);

  function drawTogether() {
    const chosen = at("experiment").value, of = curves.filter((c) => c.experiment === chosen);
    const labels = of.map((c) => c.label), color = (i) => COLORS[i % COLORS.length];
    put(at("together-chart"), `held-out loss by prompt length, all curves of ${chosen}`, {
      height: 380, x: lengths(of.flatMap((c) => c.lengths)), y: {label: "nats per scored token", grid: true, nice: true},
      color: {legend: true, domain: labels, range: labels.map((_, i) => color(i))},
      marks: [...of.flatMap((c, i) => banded(c, color(i))), ...of.flatMap((c, i) => [Plot.line(points(c), {x: "x", y: "y", stroke: color(i), strokeWidth: 2, strokeDasharray: c.random ? "4 3" : null}), dots(c, c.label, color(i))])],
    });
  }

  // --- two curves ---

  const negated = (d) => ({lengths: d.lengths, values: d.values.map((x) => -x), low: d.high.map((x) => -x), high: d.low.map((x) => -x)});
  const place = (id) => curves.findIndex((c) => c.id === id);
  const pair = (i, k) => pairs[`${i} ${k}`] ?? (pairs[`${k} ${i}`] ? negated(pairs[`${k} ${i}`]) : null);

  /** Let only those be the second that pair with the first. */
  function choose() {
    const first = place(at("first").value), options = [...at("second").options];
    for (const option of options) option.disabled = !pair(first, place(option.value));
    if (at("second").selectedOptions[0]?.disabled) at("second").value = options.find((option) => !option.disabled)?.value ?? "";
  }

  function drawTwo() {
    choose();
    const [i, k] = [place(at("first").value), place(at("second").value)], difference = pair(i, k);
    const both = [curves[i], ...(difference ? [curves[k]] : [])], table = at("difference");
    put(at("both-chart"), `held-out loss by prompt length: ${both.map((c) => c.name).join(" and ")}`, {
      height: 300, x: lengths(both.flatMap((c) => c.lengths)), y: {label: "nats per scored token", grid: true, nice: true},
      color: {legend: true, domain: both.map((_, j) => ["first", "second"][j]), range: COLORS},
      marks: [...both.flatMap((c, j) => banded(c, COLORS[j])), ...both.flatMap((c, j) => [Plot.line(points(c), {x: "x", y: "y", stroke: COLORS[j], strokeWidth: 2}), dots(c, ["first", "second"][j], COLORS[j])])],
    });
    table.replaceChildren();
    if (!difference) return at("difference-chart").replaceChildren("No other curve was scored on the same documents.");
    const of = difference.lengths.map((n, j) => ({n, x: position(n), y: difference.values[j], low: difference.low[j], high: difference.high[j]}));
    put(at("difference-chart"), "loss of the first minus loss of the second, by prompt length", {
      height: 300, x: lengths(difference.lengths), y: {label: "first minus second (nats per token)", grid: true, nice: true},
      marks: [
        Plot.ruleY([0], {stroke: "currentColor", strokeOpacity: 0.5}),
        Plot.areaY(of, {x: "x", y1: "low", y2: "high", fill: COLORS[4], fillOpacity: 0.25}),
        Plot.ruleX(of, {x: "x", y1: "low", y2: "high", stroke: COLORS[4]}), Plot.line(of, {x: "x", y: "y", stroke: COLORS[4], strokeWidth: 2}),
        Plot.dot(of, {x: "x", y: "y", r: 4, fill: COLORS[4], ariaLabel: (d) => `P = ${d.n}: ${shown(d.y)} ${ends(d.low, d.high)}`}),
      ],
    });
    const row = (kind, cells) => {
      const line = table.insertRow();
      for (const text of cells) line.appendChild(document.createElement(kind)).textContent = text;
    };
    row("th", ["P", "first minus second", "band", "better"]);
    for (const d of of) row("td", [d.n, shown(d.y), ends(d.low, d.high), d.low > 0 ? "second" : d.high < 0 ? "first" : "not told apart"]);
  }

  // --- samples by length: the shortest prompt on the left, the chosen one on the right ---

  for (const part of document.querySelectorAll(".samples")) {
    const slider = part.querySelector("input"), boxes = [...part.querySelectorAll("[data-length]")];
    const slide = () => {
      for (const [i, box] of boxes.entries()) box.hidden = i > 0 && i !== +slider.value;
      const length = `P = ${boxes[slider.value].dataset.length}`;
      part.querySelector("output").textContent = length;
      slider.setAttribute("aria-valuetext", length);
    };
    slider.addEventListener("input", slide);
    slide();
  }

  // --- what is shown, and when ---

  at("filter").addEventListener("change", () => {
    const wanted = Object.fromEntries(new FormData(at("filter")));
    for (const part of document.querySelectorAll("[data-experiment]"))
      part.hidden = (wanted.experiment && part.dataset.experiment !== wanted.experiment) || (wanted.model && part.dataset.model !== wanted.model);
    drawFindings();
  });
  for (const id of ["measure", "order", "most"]) at(id).addEventListener("change", drawFindings);
  for (const id of ["first", "second"]) at(id).addEventListener("change", drawTwo);
  at("experiment").addEventListener("change", drawTogether);
  at("findings").hidden = !findings.length;
  at("compare").hidden = !Object.keys(pairs).length;
  at("together").hidden = curves.length < 2;
  at("first").value = curves[d3.min(Object.keys(pairs), (key) => +key.split(" ")[0]) ?? 0]?.id;

  /** Draw each chart when it comes into sight, and again when its width changes. */
  const drawers = new Map([[at("findings-chart"), drawFindings], [at("both-chart"), drawTwo], [at("together-chart"), drawTogether]]);
  const widths = new Map();
  const sight = new IntersectionObserver((seen) => {
    for (const {target, isIntersecting} of seen)
      if (isIntersecting) { sight.unobserve(target); resized.observe(target); }
  }, {rootMargin: "400px"});
  const resized = new ResizeObserver((changed) => {
    for (const {target} of changed) {
      if (!target.clientWidth || widths.get(target) === target.clientWidth) continue;
      widths.set(target, target.clientWidth);
      (drawers.get(target) ?? (() => drawCurve(target)))();
    }
  });
  for (const box of [...drawers.keys(), ...document.querySelectorAll("[data-chart]")]) sight.observe(box);

  // --- a page that is followed: show the newest, at the same place and with the same choices ---

  const made = document.documentElement.dataset.live, KEY = "before the page was shown anew";
  const before = JSON.parse(sessionStorage.getItem(KEY) ?? "null");
  sessionStorage.removeItem(KEY);
  for (const [id, value] of before?.chosen ?? [])
    if ([...(at(id)?.options ?? [])].some((option) => option.value === value)) {
      at(id).value = value;
      at(id).dispatchEvent(new Event("change", {bubbles: true}));
    }
  for (const part of document.querySelectorAll("details")) if (before?.open.includes(name(part))) part.open = true;
  if (before) scrollBy(0, (at(before.part)?.getBoundingClientRect().top ?? 0) - before.top);

  if (!made) return;

  function name(details) { return `${details.closest("[id]")?.id} ${details.querySelector("summary").textContent}`; }
  window.newest = (other) => {
    if (other === made) return;
    const part = [...document.querySelectorAll("section, article")].find((box) => box.getBoundingClientRect().bottom > 0);
    sessionStorage.setItem(KEY, JSON.stringify({
      chosen: [...document.querySelectorAll("select")].map((select) => [select.id, select.value]),
      open: [...document.querySelectorAll("details[open]")].map(name), part: part?.id, top: part?.getBoundingClientRect().top,
    }));
    history.scrollRestoration = "manual";
    location.reload();
  };
  setInterval(() => {
    const script = document.createElement("script");
    script.src = `report.made.js?${Date.now()}`;
    script.onload = script.onerror = () => script.remove();
    document.head.append(script);
  }, 2000);
})();
