(function () {
  "use strict";
  const root = document.documentElement;
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const N_COLOURS = 8;
  const PAPER_WIDTH = 650;  // pixels of a chart on A4 within the margins of page.css

  function colour(name) {
    return getComputedStyle(root).getPropertyValue(name).trim();
  }

  function roleColour(role) {
    return role === null ? colour("--line") : colour("--c" + (role % N_COLOURS));
  }

  // Colours of one trace, from the numbers that its `meta` has: one for all of it (`role`), or one a point (`roles`).
  function paint(trace, isNarrow) {
    const meta = trace.meta;
    const own = meta.roles ? meta.roles.map(roleColour) : roleColour(meta.role);
    if (trace.type === "icicle") {
      trace.marker = { colors: own, line: { color: colour("--card"), width: 1 } };
      return;
    }
    trace.marker = Object.assign({ color: meta.is_outlined ? "rgba(0,0,0,0)" : own }, trace.marker);
    if (meta.is_outlined) Object.assign(trace, { insidetextfont: { color: colour("--text") } });
    if (meta.is_outlined) trace.marker.line = { color: colour("--text"), width: 1.5 };
    else if (trace.marker.line) trace.marker.line.color = own;
    if (trace.line) trace.line.color = own;
    if (isNarrow && trace.mode === "markers+text") trace.mode = "markers";
    for (const name of ["error_x", "error_y"]) {
      if (trace[name]) Object.assign(trace[name], { color: colour("--text"), thickness: 1.5, width: 5 });
    }
  }

  // The record's figures stay as they are: only colours and room are added to a copy.
  function themed(figure, isNarrow) {
    const copy = structuredClone(figure);
    for (const trace of copy.data) paint(trace, isNarrow);
    const layout = copy.layout;
    const axes = Object.keys(layout).filter(function (name) { return /^[xy]axis/.test(name); });
    for (const name of axes) {
      layout[name] = Object.assign({ gridcolor: colour("--line"), zerolinecolor: colour("--line"), automargin: true, fixedrange: true }, layout[name]);
    }
    for (const shape of layout.shapes || []) shape.line.color = colour("--dim");
    return {
      data: copy.data,
      layout: Object.assign({
        paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", dragmode: false, autosize: true,
        font: { color: colour("--text"), size: isNarrow ? 11 : 13, family: getComputedStyle(document.body).fontFamily },
        margin: { t: 12, r: 12, b: 40, l: 12 }, showlegend: true,
        hoverlabel: { bgcolor: colour("--card"), bordercolor: colour("--line"), font: { color: colour("--text") } },
      }, layout, { legend: Object.assign({ orientation: "h", x: 0, y: 1.02, yanchor: "bottom", itemclick: false, itemdoubleclick: false }, layout.legend) }),
    };
  }

  const chosen = {};  // chart -> which of its figures is shown
  let paperWidth = null;

  function drawOne(name) {
    const node = document.getElementById("chart-" + name);
    if (node.closest("[hidden]")) return;  // drawn when its language is shown
    const width = paperWidth || node.clientWidth;
    const { data, layout } = themed(figures[name][chosen[name] || 0], width < 480);
    layout.width = paperWidth || undefined;
    Plotly.react(node, data, layout, { responsive: true, displayModeBar: false, displaylogo: false });
  }

  function draw() {
    for (const name of Object.keys(figures)) drawOne(name);
  }

  // A browser lays the page out for the paper only after it has said that it prints: the charts are told the width.
  function printing(isPrinting) {
    root.classList.toggle("printing", isPrinting);
    for (const node of document.querySelectorAll("details")) node.open = isPrinting;
    paperWidth = isPrinting ? PAPER_WIDTH : null;
    if (window.Plotly) draw();
  }

  // The page is there once a language, with the same elements in the same order; one of them is shown.
  const bodies = [...document.querySelectorAll(".body")];

  // Shows one language at the place where the reader is, with what was opened and chosen in the other. An element that
  // keeps more than that hears of it by the event `shown` (its `detail` is the body that was shown before).
  function show(body) {
    const before = bodies.find(function (each) { return !each.hidden; });
    if (before === body) return;
    const marks = "h1, h2, h3, tr, dl > div, figure, summary, article";
    const peers = [...before.querySelectorAll(marks)];
    const at = peers.findIndex(function (mark) { return mark.getBoundingClientRect().bottom > 0; });
    const top = at < 0 ? 0 : peers[at].getBoundingClientRect().top;
    const folds = [...before.querySelectorAll("details")];
    const menus = [...before.querySelectorAll("select[data-chart]")];
    before.hidden = true;
    body.hidden = false;
    root.lang = body.lang;
    document.title = body.dataset.title;
    body.querySelectorAll("details").forEach(function (fold, index) { fold.open = folds[index].open; });
    body.querySelectorAll("select[data-chart]").forEach(function (menu, index) {
      menu.value = menus[index].value;
      chosen[menu.dataset.chart] = Number(menu.value);
    });
    body.dispatchEvent(new CustomEvent("shown", { bubbles: true, detail: before }));
    if (window.Plotly) draw();
    const mark = body.querySelectorAll(marks)[at];
    if (mark) window.scrollBy({ top: mark.getBoundingClientRect().top - top, behavior: "instant" });
  }

  for (const button of document.querySelectorAll(".languages button")) {
    button.addEventListener("click", function () {
      const body = bodies.find(function (each) { return each.dataset.lang === button.dataset.lang; });
      show(body);
      body.querySelector(".languages [aria-pressed=true]").focus({ preventScroll: true });
    });
  }
  // An address that ends in a section of the other language opens that language.
  const target = location.hash && document.getElementById(location.hash.slice(1));
  if (target && target.closest(".body")) {
    show(target.closest(".body"));
    target.scrollIntoView();
  }

  function save(event) {
    const text = JSON.stringify(JSON.parse(document.getElementById("record").textContent), null, 2);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text + "\n"], { type: "application/json" }));
    link.download = event.target.dataset.name;
    link.click();
    URL.revokeObjectURL(link.href);
  }
  for (const button of document.querySelectorAll("button.save")) button.addEventListener("click", save);
  window.addEventListener("beforeprint", function () { printing(true); });
  window.addEventListener("afterprint", function () { printing(false); });
  if (window.Plotly) {
    draw();
    for (const menu of document.querySelectorAll("select[data-chart]")) {
      menu.value = "0";  // a browser remembers what was chosen before the page was loaded again
      menu.addEventListener("change", function () {
        chosen[menu.dataset.chart] = Number(menu.value);
        drawOne(menu.dataset.chart);
      });
    }
    window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  }
})();
