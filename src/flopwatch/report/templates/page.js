(function () {
  "use strict";
  const root = document.documentElement;
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const N_COLOURS = 8;

  function colour(name) {
    return getComputedStyle(root).getPropertyValue(name).trim();
  }

  // The record's figures stay as they are: only colours and room are added to a copy.
  function themed(figure, isNarrow) {
    const copy = structuredClone(figure);
    for (const trace of copy.data) {
      const own = colour("--c" + (trace.meta.role % N_COLOURS));
      trace.marker = Object.assign({ color: own }, trace.marker);
      if (trace.marker.line) trace.marker.line.color = own;
      if (trace.error_y) Object.assign(trace.error_y, { color: colour("--text"), thickness: 1.5, width: 5 });
    }
    const layout = copy.layout;
    for (const name of ["xaxis", "yaxis"]) {
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

  function draw() {
    for (const [name, figure] of Object.entries(figures)) {
      const node = document.getElementById("chart-" + name);
      const { data, layout } = themed(figure, node.clientWidth < 480);
      Plotly.react(node, data, layout, { responsive: true, displayModeBar: false, displaylogo: false });
    }
  }

  function printing(isPrinting) {
    root.classList.toggle("printing", isPrinting);
    for (const node of document.querySelectorAll("details")) node.open = isPrinting;
    if (window.Plotly) draw();
  }

  document.getElementById("save").addEventListener("click", function (event) {
    const text = JSON.stringify(JSON.parse(document.getElementById("record").textContent), null, 2);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text + "\n"], { type: "application/json" }));
    link.download = event.target.dataset.name;
    link.click();
    URL.revokeObjectURL(link.href);
  });
  window.addEventListener("beforeprint", function () { printing(true); });
  window.addEventListener("afterprint", function () { printing(false); });
  if (window.Plotly) {
    draw();
    window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  }
})();
