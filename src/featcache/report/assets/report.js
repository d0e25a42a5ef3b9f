"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const root = document.documentElement;
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const colour = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const SERIES = ["--s0", "--s1", "--s2", "--s3", "--s4", "--s5", "--s6", "--s7"];
  const SHAPES = ["circle", "rectRot", "triangle", "rect", "crossRot"];
  const series = (i) => colour(SERIES[i % SERIES.length]);
  const shape = (i) => SHAPES[Math.floor(i / SERIES.length) % SHAPES.length];
  const charts = [];
  Chart.defaults.plugins.colors.enabled = false;
  Chart.defaults.font.family = getComputedStyle(document.body).fontFamily;

  // ---- light and dark

  const wanted = matchMedia("(prefers-color-scheme: dark)");
  let chosen = null;
  try { chosen = localStorage.getItem("featcache-theme"); } catch { /* a file may have no storage */ }
  const theme = (forced) => {
    root.dataset.theme = forced || chosen || (wanted.matches ? "dark" : "light");
    for (const { chart, paint } of charts) { paint(chart); chart.update(); } // in mode "none" points would keep their colours
    paintChips();
  };
  wanted.addEventListener("change", () => theme());
  document.getElementById("theme").addEventListener("click", () => {
    chosen = root.dataset.theme === "dark" ? "light" : "dark";
    try { localStorage.setItem("featcache-theme", chosen); } catch { /* then it holds for this visit */ }
    theme();
  });
  addEventListener("beforeprint", () => theme("light"));
  addEventListener("afterprint", () => theme());

  // ---- charts

  const axes = (chart, names) => {
    for (const [key, axis] of Object.entries(chart.options.scales)) {
      axis.grid.color = colour("--grid");
      axis.border.color = colour("--line");
      axis.ticks.color = colour("--muted");
      axis.title.color = colour("--muted");
      if (names[key]) { axis.title.text = names[key]; axis.title.display = true; }
    }
    const legend = chart.options.plugins.legend;
    if (legend.labels) legend.labels.color = colour("--ink");
  };
  const axis = (more) => ({ type: "linear", grid: { color: "" }, border: { color: "" }, ticks: { color: "", maxTicksLimit: 7 }, title: { display: false, text: "", color: "" }, ...more });
  const legend = { position: "top", align: "end", labels: { usePointStyle: true, pointStyle: "line", pointStyleWidth: 22, boxHeight: 6, color: "", font: { size: 12 } } };
  const marked = { ...legend, labels: { ...legend.labels, filter: (label) => label.datasetIndex < 2 } };
  const add = (canvas, config, paint) => {
    const chart = new Chart(canvas, { ...config, options: { animation: false, maintainAspectRatio: false, devicePixelRatio: Math.max(2, devicePixelRatio || 1), ...config.options } });
    charts.push({ chart, paint });
    return chart;
  };
  const tinted = (tint) => ({ borderColor: tint, backgroundColor: tint, pointBorderColor: tint, pointBackgroundColor: tint });
  const points = (values) => values.map((y, i) => ({ x: i + 1, y }));

  // marks an epoch by a vertical line, or its own point, with a word beside it
  const marks = {
    id: "marks",
    afterDatasetsDraw(chart, _, options) {
      const { ctx, chartArea: area, scales } = chart;
      (options.at || []).forEach(({ epoch, text, tone }, i) => {
        const x = scales.x.getPixelForValue(epoch), near = x > (area.left + area.right) / 2;
        ctx.save();
        ctx.strokeStyle = ctx.fillStyle = colour(tone);
        ctx.setLineDash([4, 3]);
        if (tone !== "--accent") { ctx.beginPath(); ctx.moveTo(x, area.top); ctx.lineTo(x, area.bottom); ctx.stroke(); }
        ctx.font = "12px system-ui, sans-serif";
        ctx.textAlign = near ? "right" : "left";
        ctx.fillText(text, x + (near ? -5 : 5), area.top + 12 + 15 * i);
        ctx.restore();
      });
    },
  };

  all("canvas[data-curve]").forEach((canvas) => {
    const curve = data.learning[Number(canvas.dataset.curve)];
    const at = [];
    if (curve.parted) at.push({ epoch: curve.parted, text: `diverge: epoch ${curve.parted}`, tone: "--warm" });
    at.push({ epoch: curve.kept, text: `kept: epoch ${curve.kept}`, tone: "--muted" });
    at.push({ epoch: curve.lowest, text: `lowest out of fold: epoch ${curve.lowest}`, tone: "--accent" });
    add(canvas, {
      type: "line",
      plugins: [marks],
      data: { datasets: [
        { label: "training rows", data: points(curve.train), borderWidth: 2, pointRadius: 0, tension: 0 },
        { label: "out of fold", data: points(curve.fold), borderWidth: 2, pointRadius: 0, tension: 0 },
        { label: "lowest", data: [{ x: curve.lowest, y: curve.fold[curve.lowest - 1] }], pointRadius: 5, pointHoverRadius: 6, showLine: false, borderWidth: 2 },
      ] },
      options: {
        interaction: { mode: "index", intersect: false },
        scales: { x: axis({ min: 1, max: Math.max(2, curve.train.length), ticks: { precision: 0, maxTicksLimit: 8 } }), y: axis({ beginAtZero: true }) },
        plugins: { legend: marked, marks: { at }, tooltip: { filter: (item) => item.datasetIndex < 2, callbacks: { title: (items) => `epoch ${items[0].parsed.x}` } } },
      },
    }, (chart) => {
      axes(chart, { x: "epoch", y: "loss" });
      [["--muted", [5, 4]], ["--accent", []], ["--accent", []]].forEach(([name, dash], i) => Object.assign(chart.data.datasets[i], { ...tinted(colour(name)), borderDash: dash }));
      Object.assign(chart.data.datasets[2], { pointBackgroundColor: colour("--card"), pointBorderWidth: 2 });
    });
  });

  const bins = (found) => found.bins.filter((bin) => bin.rows).map((bin) => ({ x: bin.confidence, y: bin.accuracy, rows: bin.rows }));
  const most = Math.max(1, ...data.calibration.after.bins.map((bin) => bin.rows));
  const share = { callback: (value) => `${Math.round(100 * value)} %`, maxTicksLimit: 6 };
  add(document.getElementById("reliability"), {
    type: "line",
    data: { datasets: [
      { label: "perfect", data: [{ x: 0, y: 0 }, { x: 1, y: 1 }], pointRadius: 0, borderWidth: 1, borderDash: [3, 3] },
      { label: "before", data: bins(data.calibration.before), borderWidth: 1.5, pointRadius: 3, borderDash: [5, 4] },
      { label: "after", data: bins(data.calibration.after), borderWidth: 2, pointRadius: (point) => (point.raw ? 3 + 7 * Math.sqrt(point.raw.rows / most) : 3) },
    ] },
    options: {
      scales: { x: axis({ min: 0, max: 1, ticks: share }), y: axis({ min: 0, max: 1, ticks: share }) },
      plugins: { legend, tooltip: { filter: (item) => item.datasetIndex > 0, callbacks: { title: () => "", label: ({ dataset, raw }) => `${dataset.label}: probability ${(100 * raw.x).toFixed(1)} %, right ${(100 * raw.y).toFixed(1)} % of ${raw.rows.toLocaleString("en")}` } } },
    },
  }, (chart) => {
    axes(chart, { x: "predicted probability", y: "share correct" });
    ["--muted", "--s1", "--accent"].forEach((name, i) => Object.assign(chart.data.datasets[i], tinted(colour(name))));
  });

  // ---- the map

  const map = data.map;
  let layout = "x";
  const place = (i) => ({ x: map[layout][0][i], y: map[layout][1][i], i });
  const used = [...new Set(map.labels)].sort((a, b) => a - b);
  const rows = new Map(used.map((label) => [label, []]));
  map.labels.forEach((label, i) => rows.get(label).push(i));
  const radius = map.ids.length > 800 ? 2.6 : 4;
  const hover = document.getElementById("hover");
  const showRow = ({ chart, tooltip }) => {
    const item = tooltip.dataPoints && tooltip.dataPoints[0];
    if (tooltip.opacity === 0 || !item) { hover.hidden = true; return; }
    const i = item.raw.i, [image, words] = [hover.querySelector("img"), hover.querySelector("div")];
    image.hidden = !map.images[i];
    if (map.images[i]) image.src = map.images[i];
    const [name, predicted, id] = words.children;
    name.textContent = data.names[map.labels[i]];
    predicted.textContent = map.predicted[i] < 0 ? "" : map.predicted[i] === map.labels[i]
      ? `correct, ${(100 * map.probability[i]).toFixed(1)} %`
      : `predicted ${data.names[map.predicted[i]]}; label ${(100 * map.probability[i]).toFixed(1)} %`;
    id.textContent = map.ids[i];
    hover.hidden = false;
    const width = chart.canvas.clientWidth, height = chart.canvas.clientHeight;
    const left = tooltip.caretX + 14 + hover.offsetWidth > width ? tooltip.caretX - 14 - hover.offsetWidth : tooltip.caretX + 14;
    hover.style.left = `${Math.max(0, Math.min(left, width - hover.offsetWidth))}px`;
    hover.style.top = `${Math.max(0, Math.min(tooltip.caretY - hover.offsetHeight / 2, height - hover.offsetHeight))}px`;
  };
  const bare = axis({ min: -0.03, max: 1.03, display: false });
  const mapChart = add(document.getElementById("feature-map"), {
    type: "scatter",
    data: { datasets: [
      { label: "suspected", order: 1, pointStyle: "circle", data: [], pointRadius: radius + 4, pointHoverRadius: radius + 4, pointHitRadius: 0, borderWidth: 1.5, backgroundColor: "transparent" },
      ...used.map((label) => ({ label, order: 0, pointStyle: shape(label), data: [], pointRadius: radius, pointHoverRadius: radius + 3, borderWidth: 1 })),
    ] },
    options: {
      interaction: { mode: "nearest", intersect: true },
      scales: { x: { ...bare }, y: { ...bare } },
      plugins: { legend: { display: false }, tooltip: { enabled: false, external: showRow, filter: (item) => item.datasetIndex > 0 } },
    },
  }, (chart) => {
    chart.data.datasets.forEach((set, i) => {
      if (i === 0) { set.borderColor = colour("--ink"); return; }
      set.borderColor = series(set.label);
      set.backgroundColor = `${series(set.label)}b3`;
    });
  });
  const layOut = () => {
    const visible = (i) => !mapChart.data.datasets[1 + used.indexOf(map.labels[i])].hidden;
    mapChart.data.datasets.forEach((set, n) => {
      set.data = n ? rows.get(set.label).map(place) : map.ids.map((_, i) => i).filter((i) => map.suspected[i] && visible(i)).map(place);
    });
    mapChart.update("none");
  };
  const classes = document.getElementById("map-classes");
  const SIGNS = { circle: "M5 0a5 5 0 1 0 .01 0z", rect: "M0 0h10v10h-10z", triangle: "M5 0l5 10h-10z", rectRot: "M5 0l5 5-5 5-5-5z", crossRot: "M1 0l4 4 4-4 1 1-4 4 4 4-1 1-4-4-4 4-1-1 4-4-4-4z" };
  const SVG = "http://www.w3.org/2000/svg";
  const chips = used.map((label, n) => {
    const chip = document.createElement("button"), svg = document.createElementNS(SVG, "svg"), path = document.createElementNS(SVG, "path");
    svg.setAttribute("viewBox", "0 0 10 10");
    path.setAttribute("d", SIGNS[shape(label)]);
    svg.append(path);
    chip.type = "button";
    chip.className = "chip";
    chip.setAttribute("aria-pressed", "true");
    const count = document.createElement("span");
    count.className = "count";
    count.textContent = rows.get(label).length.toLocaleString("en");
    chip.append(svg, data.names[label], count);
    chip.addEventListener("click", () => {
      const shown = mapChart.data.datasets.slice(1).map((set) => !set.hidden);
      const first = shown.every(Boolean) && used.length > 1; // the first choice means: this class alone
      mapChart.data.datasets.slice(1).forEach((set, m) => { set.hidden = first ? m !== n : m === n ? shown[m] : !shown[m]; });
      if (mapChart.data.datasets.slice(1).every((set) => set.hidden)) mapChart.data.datasets.slice(1).forEach((set) => { set.hidden = false; });
      press();
    });
    classes.append(chip);
    return { chip, path, label };
  });
  const press = () => {
    chips.forEach(({ chip }, n) => chip.setAttribute("aria-pressed", String(!mapChart.data.datasets[n + 1].hidden)));
    hover.hidden = true;
    layOut();
  };
  function paintChips() { chips.forEach(({ path, label }) => path.setAttribute("fill", series(label))); }
  document.getElementById("all-classes").addEventListener("click", () => {
    mapChart.data.datasets.forEach((set) => { set.hidden = false; });
    press();
  });
  all("[data-layout]").forEach((button) => button.addEventListener("click", () => {
    layout = button.dataset.layout;
    all("[data-layout]").forEach((each) => each.setAttribute("aria-pressed", String(each === button)));
    press();
  }));
  const find = document.getElementById("find-class");
  if (find) find.addEventListener("input", () => {
    const text = find.value.toLowerCase();
    chips.forEach(({ chip, label }) => { chip.hidden = !data.names[label].toLowerCase().includes(text); });
  });

  // ---- images open larger, one after the other of a gallery, of the duplicates or of a card's neighbours

  const large = document.getElementById("large"), views = large.querySelector(".views");
  let open = null;
  const siblings = (button) => {
    const near = button.closest(".near:not(.large)"), panel = button.closest(".panel");
    if (near) return all(".open", near);
    return panel ? all(".shot:not([hidden]) .main .open:first-of-type", panel) : all(".open", button.closest("section"));
  };
  const copy = (image) => {
    const made = new Image();
    [made.src, made.alt] = [image.src, image.alt];
    return made;
  };
  const enlarge = (button) => {
    const shot = button.closest(".main") && button.closest(".shot"), list = large.querySelector("ul");
    open = shot ? shot.querySelector(".main .open") : button;
    const images = shot ? all(".main img", shot) : all("img", button);
    views.replaceChildren(...images.map(copy));
    document.getElementById("large-name").textContent = images.map((image) => image.alt).join(" · ");
    large.querySelector(".labels").replaceChildren(...(shot ? [...shot.querySelector(".labels").cloneNode(true).childNodes] : []));
    list.replaceChildren(...(shot ? all(".near img", shot).map((image) => {
      const item = document.createElement("li"), name = document.createElement("span"), made = copy(image);
      made.alt = ""; // the name is below
      name.className = "name";
      name.textContent = image.alt;
      item.className = image.closest("li").className;
      item.append(made, name);
      return item;
    }) : []));
    for (const step of all("[data-step]", large)) step.disabled = !siblings(open)[siblings(open).indexOf(open) + Number(step.dataset.step)];
    if (!large.open) large.showModal();
  };
  const stepOn = (step) => {
    const next = siblings(open)[siblings(open).indexOf(open) + step];
    if (next) enlarge(next);
  };
  all(".open").forEach((button) => button.addEventListener("click", () => enlarge(button)));
  all("[data-step]", large).forEach((button) => button.addEventListener("click", () => stepOn(Number(button.dataset.step))));
  large.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step) { event.preventDefault(); stepOn(step); }
  });
  large.addEventListener("click", (event) => { if (event.target === large) large.close(); });
  large.addEventListener("close", () => open.focus());

  // ---- tables, tabs, galleries, copying

  all("[data-tab]").forEach((button) => button.addEventListener("click", () => {
    const tabs = button.closest("[data-tabs]");
    all("[data-tab]", tabs).forEach((each) => {
      each.setAttribute("aria-selected", String(each === button));
      document.getElementById(each.dataset.tab).classList.toggle("closed", each !== button);
    });
  }));
  all("th[data-sort]").forEach((head) => {
    head.tabIndex = 0;
    const sort = () => {
      const table = head.closest("table"), at = [...head.parentNode.children].indexOf(head);
      const up = head.getAttribute("aria-sort") === (head.dataset.sort === "text" ? "ascending" : "descending");
      const descending = head.dataset.sort === "text" ? up : !up;
      all("th", table.tHead).forEach((each) => each.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      const value = (row) => (head.dataset.sort === "text" ? row.cells[at].textContent : Number(row.cells[at].dataset.value));
      const order = (a, b) => (head.dataset.sort === "text" ? value(a).localeCompare(value(b), "en", { numeric: true }) : value(a) - value(b));
      const body = table.tBodies[0];
      body.append(...[...body.rows].sort((a, b) => (descending ? -order(a, b) : order(a, b))));
    };
    head.addEventListener("click", sort);
    head.addEventListener("keydown", (event) => { if (event.key === "Enter") sort(); });
  });
  all("[data-filter]").forEach((input) => input.addEventListener("input", () => {
    const text = input.value.toLowerCase();
    for (const row of document.getElementById(input.dataset.filter).tBodies[0].rows) row.hidden = !row.cells[0].textContent.toLowerCase().includes(text);
  }));
  all("[data-pick]").forEach((select) => select.addEventListener("change", () => {
    const panel = select.closest(".panel"), picks = all("[data-pick]", panel);
    all(".shot", panel).forEach((shot) => { shot.hidden = picks.some((pick) => pick.value && shot.dataset[pick.dataset.pick] !== pick.value); });
  }));
  all("[data-copy]").forEach((button) => button.addEventListener("click", async () => {
    const source = document.getElementById(button.dataset.copy);
    try {
      await navigator.clipboard.writeText(source.textContent);
    } catch {
      const range = document.createRange();
      range.selectNodeContents(source);
      getSelection().removeAllRanges();
      getSelection().addRange(range);
      document.execCommand("copy");
    }
    button.textContent = "copied";
    setTimeout(() => { button.textContent = "copy"; }, 1500);
  }));

  // ---- marks: what somebody saw on an image, saved as the file of [Dataset] corrections

  const DROP = "drop", SHELF = `featcache-marks-${data.key}`; // other labels are another manifest, which begins with its file
  const keyOf = (id, split) => JSON.stringify([id, split]);
  let verdicts = new Map(data.corrections.map(([id, label, split]) => [keyOf(id, split), label]));
  const begun = JSON.stringify([...verdicts]);
  try { verdicts = new Map(JSON.parse(localStorage.getItem(SHELF)) || verdicts); } catch { /* a file may have no storage */ }
  const groups = all(".marks").map((box) => ({ box, key: keyOf(box.dataset.id, box.dataset.split), select: box.querySelector("select") }));
  const kind = ({ box, key }) => !verdicts.has(key) ? "" : verdicts.get(key) === box.dataset.label ? "right" : verdicts.get(key) === DROP && !data.names.includes(DROP) ? "drop" : "wrong";
  const showMarks = () => {
    for (const group of groups) {
      const { box, key, select } = group, now = kind(group);
      all("[data-mark]", box).forEach((button) => button.setAttribute("aria-pressed", String(button.dataset.mark === now)));
      select.hidden = now !== "wrong";
      if (select.hidden) continue;
      const offered = data.several ? data.names.slice(0, -1) : data.names.filter((name) => name !== box.dataset.label); // the last is "no label"
      if (!select.options.length) select.append(...offered.map((name) => new Option(name)));
      const chosen = verdicts.get(key).split(data.several ? "|" : undefined);
      for (const option of select.options) option.selected = chosen.includes(option.text);
    }
    document.querySelector("#marked [role=status]").textContent = `${verdicts.size.toLocaleString("en")} marked`;
    document.getElementById("save-marks").disabled = !verdicts.size;
    document.getElementById("clear-marks").disabled = JSON.stringify([...verdicts]) === begun;
  };
  const setMark = ({ key }, label) => {
    if (label === null) verdicts.delete(key); else verdicts.set(key, label);
    try { localStorage.setItem(SHELF, JSON.stringify([...verdicts])); } catch { /* then it holds for this visit */ }
    showMarks();
  };
  const toggleMark = (group, wanted) => {
    const { box } = group;
    const differs = (name) => name !== box.dataset.label;
    const other = [box.dataset.predicted, ...(data.several ? ["", ...data.names] : data.names)].find(differs);
    setMark(group, kind(group) === wanted ? null : { right: box.dataset.label, wrong: other, drop: DROP }[wanted]);
  };
  for (const group of groups) {
    all("[data-mark]", group.box).forEach((button) => button.addEventListener("click", () => toggleMark(group, button.dataset.mark)));
    group.select.addEventListener("change", () => setMark(group, [...group.select.selectedOptions].map((option) => option.text).join("|")));
  }
  all(".panel").forEach((panel) => panel.addEventListener("keydown", (event) => {
    const shot = event.target.closest(".shot");
    if (!shot || event.target.tagName === "SELECT" || event.ctrlKey || event.metaKey || event.altKey) return;
    const wanted = { r: "right", w: "wrong", d: "drop" }[event.key], step = { j: 1, k: -1 }[event.key];
    const group = groups.find(({ box }) => shot.contains(box));
    if (wanted && group) toggleMark(group, wanted);
    if (step) {
      const shots = all(".shot:not([hidden])", panel), next = shots[shots.indexOf(shot) + step];
      if (next) (next.querySelector(".marks button") || next).focus();
    }
  }));
  document.getElementById("save-marks").addEventListener("click", () => {
    const field = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
    const lines = [...verdicts].map(([key, label]) => { const [id, split] = JSON.parse(key); return [id, label, split].map(field).join(","); });
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([["id,label,split", ...lines, ""].join("\n")], { type: "text/csv" }));
    link.download = "corrections.csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  });
  document.getElementById("clear-marks").addEventListener("click", () => {
    verdicts = new Map(JSON.parse(begun));
    try { localStorage.removeItem(SHELF); } catch { /* nothing was kept */ }
    showMarks();
  });

  showMarks();
  theme();
  layOut();
})();
