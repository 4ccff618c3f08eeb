// The calculator: the same figures as flopwatch/compare/whatif/evaluate.py, from the coefficients in the page.
(function () {
  "use strict";
  const source = document.getElementById("whatif");
  if (!source) return;
  const IS_LAYERS = 1, IS_EXPERTS = 2;  // flags of an operator, as compare/whatif/packed.py writes them

  // Figures.

  function valueAt(polynomial, batch, seqLen) {
    const [one = 0, b = 0, t = 0, bt = 0, tt = 0, btt = 0] = polynomial;
    return one + b * batch + (t + bt * batch) * seqLen + (tt + btt * batch) * seqLen * seqLen;
  }

  function sum(numbers) {
    return numbers.reduce(function (a, b) { return a + b; }, 0);
  }

  function greatestDivisor(a, b) {
    return b === 0 ? a : greatestDivisor(b, a % b);
  }

  // What one choice of one model on one device comes to. What is null has its reason in `why`.
  class WhatIf {
    constructor(data, said, choice) {
      this.data = data;
      this.choice = choice;
      this.model = data.models[choice.model];
      this.device = data.devices[choice.device];
      this.said = said.devices[choice.device];
      this.sentences = said.sentences;
      this.isTrain = choice.phase === "train";
      this.again = this.isTrain ? choice.recompute : "none";
      this.kernel = choice.attention === "math" || data.ops === "elementary" ? "math" : "fused";
      this.why = {};
    }

    value(number, batch) {
      return valueAt(this.model.polynomials[number], batch, this.choice.seq_len);
    }

    // Whether the limit counts what tensors take: a GPU's counts what its allocator takes for them.
    isExact() {
      return this.device.device_type === "cpu";
    }

    nQueries() {
      return this.choice.phase === "decode" ? 1 : this.choice.seq_len;
    }

    figures() {
      const { choice, device } = this;
      const [forward, backward, recompute, inKernel] = this.model.work[choice.phase].map((n) => this.value(n, choice.batch));
      const flops = forward + backward;
      const again = (this.again === "full" ? recompute : 0) + (this.isTrain && choice.attention === "flash" ? inKernel : 0);
      const nTokens = choice.batch * this.nQueries();
      const parts = this.parts(choice.batch, "memory");
      const peak = parts && sum(parts);
      const time = this.time();
      return {
        params: this.model.n_params,
        model_flops: flops, forward_flops: forward, backward_flops: backward, again_flops: again, flops_per_token: flops / nTokens,
        parts, peak_bytes: peak, limit_bytes: device.limit_bytes,
        margin_bytes: parts && device.limit_bytes !== null ? device.limit_bytes - peak : null,
        largest_batch: this.largestBatch(), batch_step: this.batchStep(),
        time_s: time && time.all, tokens_per_s: time && nTokens / time.all,
        highest_mfu: time && flops / time.all / device.flops_per_s[choice.dtype],
        compute_bound_fraction: time && time.compute / time.all,
        why: this.why,
      };
    }

    steps() {
      const dtype = this.choice.dtype === "fp16" ? "bf16" : this.choice.dtype;
      return this.model.memory[[this.device.device_type, this.choice.phase, this.again, this.kernel, dtype].join(" ")];
    }

    // Bytes by part at the peak.
    parts(batch, name) {
      const [one, more, whyNot] = this.steps();
      const moments = batch === 1 ? one : more;
      if (!moments) return this.unknown(name, "not_estimated", { why: this.sentences[whyNot] });
      if (this.choice.seq_len < this.data.least_seq_len) return this.unknown(name, "too_short");
      const [multiple, step, update] = moments;
      if (multiple && (batch * this.nQueries()) % multiple) return this.unknown(name, "uneven_rows", { n: multiple, step: this.batchStep() });
      const hasAdamW = this.choice.optimizer === "adamw";
      const optimizer = this.data.parts.indexOf("optimizer");
      let highest = null, most = -1;
      for (const moment of hasAdamW ? step.concat(update) : step) {
        const amounts = moment.map((number) => this.value(number, batch));
        if (!hasAdamW) amounts[optimizer] = 0;
        const total = sum(amounts);
        if (total > most) [highest, most] = [amounts, total];
      }
      return highest;
    }

    largestBatch() {
      const limit = this.device.limit_bytes;
      const [, more, whyNot] = this.steps();
      if (limit === null) return this.unknown("batch", "no_limit", { device: this.device.label });
      if (!more) return this.unknown("batch", "not_estimated", { why: this.sentences[whyNot] });
      if (this.choice.seq_len < this.data.least_seq_len) return this.unknown("batch", "too_short");
      const step = this.batchStep();
      const fits = (nSteps) => sum(this.parts(nSteps * step, "search")) <= limit;
      let largest = 0, tooLarge = 1;
      while (tooLarge * step <= this.data.most_batch && fits(tooLarge)) [largest, tooLarge] = [tooLarge, 2 * tooLarge];
      if (tooLarge * step > this.data.most_batch) return largest * step;
      while (tooLarge - largest > 1) {
        const middle = Math.floor((largest + tooLarge) / 2);
        if (fits(middle)) largest = middle; else tooLarge = middle;
      }
      return largest * step;
    }

    // Batches that are a multiple of this deal their rows out evenly among the experts.
    batchStep() {
      const [, more] = this.steps();
      return more && more[0] ? more[0] / greatestDivisor(more[0], this.nQueries()) : 1;
    }

    // Seconds of the step at best, all of them and those that compute binds.
    time() {
      const { choice, device, model } = this;
      const forms = model.ops[choice.phase + " " + this.kernel];
      if (!forms) return this.unknown("time", "no_roofline", { why: this.sentences[model.why_no_ops] });
      if (!(choice.dtype in device.flops_per_s)) return this.unknown("time", "no_peak", { why: this.said.why_no_peak[choice.dtype] });
      if (device.bandwidth_bytes_per_s === null) return this.unknown("time", "no_bandwidth", { device: device.label });
      const [within, beyond] = forms;
      const [forward, backward] = within && choice.seq_len <= model.window ? within : beyond;
      const again = this.again === "full" ? forward.filter((op) => op[4] & IS_LAYERS) : [];
      const elementBytes = this.data.element_bytes[choice.dtype];
      let all = 0, compute = 0;
      for (const op of forward.concat(again, backward)) {
        const [computeS, memoryS] = this.opTimes(op, elementBytes);
        all += Math.max(computeS, memoryS);
        if (computeS >= memoryS) compute += computeS;
      }
      if (this.isTrain) all += model.update_bytes[choice.optimizer] * elementBytes / device.bandwidth_bytes_per_s;
      return { all, compute };
    }

    opTimes([calls, flops, cold, warm, flags], elementBytes) {
      const { choice, device, model } = this;
      const warmBytes = this.value(warm, choice.batch) * elementBytes;
      let coldBytes = this.value(cold, choice.batch) * elementBytes;
      if (flags & IS_EXPERTS) {
        const [nExperts, perToken] = model.experts;
        coldBytes *= Math.min(1, choice.batch * this.nQueries() * perToken / nExperts);
      }
      const moved = warmBytes / calls <= device.cache_bytes ? coldBytes : coldBytes + warmBytes;
      return [this.value(flops, choice.batch) / device.flops_per_s[choice.dtype], moved / device.bandwidth_bytes_per_s];
    }

    unknown(name, reason, values) {
      this.why[name] = { reason, values: values || {} };
      return null;
    }
  }

  // Words and numbers, as flopwatch/units.py writes them.

  function filled(template, values) {
    return template.replace(/\{(\w+)\}/g, function (whole, name) { return name in values ? values[name] : whole; });
  }

  function significant(value, digits) {
    if (value === 0) return "0";
    return value.toFixed(Math.max(0, digits - 1 - Math.floor(Math.log10(Math.abs(value)))));
  }

  function bytes(value) {
    const units = ["B", "KiB", "MiB", "GiB"];
    let unit = 0;
    while (Math.abs(value) >= 1024 && unit < 3) { value /= 1024; unit += 1; }
    return unit === 0 ? value.toFixed(0) + " B" : significant(value, 4) + " " + units[unit];
  }

  function decimal(value, scales, digits) {
    for (const [limit, prefix] of scales) if (Math.abs(value) >= limit) return significant(value / limit, digits) + prefix;
    return significant(value, digits);
  }

  const SI = [[1e18, " E"], [1e15, " P"], [1e12, " T"], [1e9, " G"], [1e6, " M"], [1e3, " k"], [0, " "]];
  const SHORT = [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]];
  const write = {
    bytes,
    count: (n) => Math.round(n).toLocaleString("en-US"),
    flops: (n) => decimal(n, SI, 4) + "FLOPs",
    rate: (n) => decimal(n, SI, 4) + "FLOP/s",
    params: (n) => decimal(n, SHORT, 4),
    percent: (n) => (100 * n).toFixed(1) + " %",
    seconds: function (s) {
      for (const [scale, unit] of [[1, " s"], [1e-3, " ms"], [1e-6, " us"]]) {
        if (s >= scale || unit === " us") return significant(s / scale, 3) + unit;
      }
    },
  };

  // The form.

  // What a slider steps through: 1, 2, 3, 4, 6, 8, 12, ... and the sizes that have to be there.
  function sliderSteps(most, wanted) {
    const steps = new Set(wanted.concat([1, most]));
    for (let power = 2; power <= most; power *= 2) {
      steps.add(power);
      if (power * 1.5 <= most) steps.add(power * 1.5);
    }
    return [...steps].filter((n) => n <= most).sort((a, b) => a - b);
  }

  class Panel {
    constructor(form, data, said) {
      this.form = form;
      this.data = data;
      this.texts = said;
      this.steps = {};
      this.own = { batch: this.size("batch"), seq_len: this.size("seq_len") };
      this.setSteps();
      form.addEventListener("submit", (event) => event.preventDefault());
      form.addEventListener("input", (event) => this.changed(event.target));
      this.show();
    }

    size(name) {
      return this.form.elements[name].valueAsNumber;
    }

    slider(name) {
      return this.form.querySelector("[data-for=" + name + "]");
    }

    // Sliders and bounds follow the model: its context ends the sequence.
    setSteps() {
      const longest = this.data.models[this.form.elements.model.value].max_seq_len;
      const sequence = this.form.elements.seq_len;
      sequence.max = longest;
      if (sequence.valueAsNumber > longest) sequence.value = longest;
      this.steps.seq_len = sliderSteps(longest, [this.own.seq_len]);
      this.steps.batch = sliderSteps(4096, [this.own.batch]);
      for (const name of ["batch", "seq_len"]) {
        this.slider(name).max = this.steps[name].length - 1;
        this.moveSlider(name);
      }
    }

    moveSlider(name) {
      const value = this.size(name), steps = this.steps[name];
      const place = steps.findLastIndex((step) => step <= value);
      this.slider(name).value = Math.max(0, place);
      this.slider(name).setAttribute("aria-valuetext", String(value));
    }

    changed(control) {
      if (control.dataset.for) {
        const name = control.dataset.for;
        this.form.elements[name].value = this.steps[name][control.valueAsNumber];
        control.setAttribute("aria-valuetext", this.form.elements[name].value);
      } else if (control.name === "model") {
        this.setSteps();
      } else if (control.name === "batch" || control.name === "seq_len") {
        this.moveSlider(control.name);
      }
      this.show();
    }

    adopt(panel) {
      for (const control of panel.form.elements) if (control.name) this.form.elements[control.name].value = control.value;
      this.setSteps();
      this.show();
    }

    choice() {
      const chosen = {};
      for (const name of ["model", "phase", "dtype", "optimizer", "recompute", "attention", "device"]) chosen[name] = this.form.elements[name].value;
      return Object.assign(chosen, { batch: this.size("batch"), seq_len: this.size("seq_len") });
    }

    show() {
      const isTrain = this.form.elements.phase.value === "train";
      for (const name of ["optimizer", "recompute"]) this.form.elements[name].disabled = !isTrain;
      const isValid = this.form.elements.batch.checkValidity() && this.form.elements.seq_len.checkValidity();
      const what = isValid ? new WhatIf(this.data, this.texts, this.choice()) : null;
      const found = what && what.figures();
      this.form.querySelector(".chosen").textContent = found ? this.chosenText(what) : "";
      this.form.querySelector(".verdict").textContent = found ? this.verdict(what, found) : this.badNumber();
      this.form.querySelector(".verdict").dataset.style = this.style(what, found);
      const texts = found ? this.figureTexts(what, found) : {};
      for (const node of this.form.querySelectorAll("[data-figure]")) {
        const name = node.dataset.figure;
        const [text, why] = texts[name] || [this.texts.na, null];
        node.textContent = why ? this.said("unknown", { why }) : text;
        node.classList.toggle("dim", Boolean(why) || !found);
        if (found && found[name] !== null) node.dataset.value = found[name]; else delete node.dataset.value;
      }
      this.showParts(found);
      this.showCurve(what, found);
    }

    said(name, values) {
      return filled(this.texts.words[name], values);
    }

    badNumber() {
      return this.said("bad_number", { most_batch: write.count(this.data.most_batch), most_seq_len: write.count(Number(this.form.elements.seq_len.max)) });
    }

    chosenText(what) {
      const option = (name) => this.form.elements[name].selectedOptions[0].textContent;
      const { choice } = what;
      const text = this.said("choice", {
        model: option("model"), phase: option("phase"), batch: write.count(choice.batch), seq_len: write.count(choice.seq_len),
        dtype: choice.dtype, device: what.device.label,
      });
      return what.isTrain ? text + "; " + this.said("choice_train", {
        optimizer: option("optimizer"), recompute: option("recompute"), attention: choice.attention,
      }) : text;
    }

    why(found, name) {
      const why = found.why[name];
      return why ? filled(this.texts.reasons[why.reason], why.values) : null;
    }

    verdict(what, found) {
      const said = [];
      if (found.peak_bytes === null) said.push(this.said("memory_unknown", {}));
      else if (found.margin_bytes === null) said.push(this.said("fits_unknown", { peak: bytes(found.peak_bytes) }));
      else said.push(this.said(this.fits(what, found), {
        peak: bytes(found.peak_bytes), limit: bytes(found.limit_bytes), batch: this.batchText(what, found, true),
      }));
      if (found.time_s === null) said.push(this.said("time_unknown", {}));
      else said.push(this.said("time_said", { time: write.seconds(found.time_s), mfu: write.percent(found.highest_mfu) }));
      return said.join(" ").replaceAll("。 ", "。");
    }

    // Whether the step fits; where a GPU's allocator may take all that the tensors leave, only that they do.
    fits(what, found) {
      if (found.margin_bytes < 0) return "fits_not";
      const isSure = what.isExact() || found.peak_bytes <= this.data.sure_fraction * found.limit_bytes;
      return isSure ? "fits" : "fits_tensors";
    }

    style(what, found) {
      if (!found || found.margin_bytes === null) return "warn";
      return { fits: "good", fits_not: "bad", fits_tensors: "warn" }[this.fits(what, found)];
    }

    batchText(what, found, isShort) {
      if (found.largest_batch === null) return this.texts.na;
      const n = write.count(found.largest_batch), step = found.batch_step;
      if (found.largest_batch === 0 && step > 1) return this.said("batch_below", { step });
      if (found.largest_batch === 0) return isShort ? n : this.said("batch_none", {});
      if (2 * found.largest_batch > this.data.most_batch) return this.said("batch_more", { n });
      const text = step > 1 ? this.said("batch_steps", { n, step }) : n;
      return what.isExact() ? text : this.said("batch_at_most", { n: text });
    }

    // Each figure as text, or the reason why there is none.
    figureTexts(what, found) {
      const { device, choice } = what;
      const of = (name, group, text) => found[name] === null ? ["", this.why(found, group)] : [text(found[name]), null];
      const exact = (n) => write.flops(n) + (n <= Number.MAX_SAFE_INTEGER ? " (" + write.count(n) + ")" : "");
      const limitWhy = filled(this.texts.reasons.no_limit, { device: device.label });
      const hasMargin = found.peak_bytes === null ? "memory" : "limit";
      return {
        params: [write.params(found.params) + " (" + write.count(found.params) + ")", null],
        model_flops: [exact(found.model_flops), null],
        again_flops: [found.again_flops ? exact(found.again_flops) : "0", null],
        flops_per_token: [write.flops(found.flops_per_token), null],
        peak_bytes: of("peak_bytes", "memory", bytes),
        limit_bytes: found.limit_bytes === null ? ["", limitWhy] : [this.said("limit_value", { limit: bytes(found.limit_bytes), source: what.said.limit_source }), null],
        margin_bytes: found.margin_bytes === null ? ["", hasMargin === "memory" ? this.why(found, "memory") : limitWhy] : [bytes(found.margin_bytes), null],
        largest_batch: of("largest_batch", "batch", () => this.batchText(what, found, false)),
        time_s: of("time_s", "time", write.seconds),
        tokens_per_s: of("tokens_per_s", "time", (n) => this.said("tokens_value", { n: write.count(n) })),
        highest_mfu: of("highest_mfu", "time", (n) => this.said("mfu_value", {
          percent: write.percent(n), peak: write.rate(device.flops_per_s[choice.dtype]), source: what.said.peak_sources[choice.dtype],
        })),
        compute_bound_fraction: of("compute_bound_fraction", "time", (n) => this.said("bound_value", { percent: write.percent(n) })),
      };
    }

    showParts(found) {
      const stack = this.form.querySelector(".stack"), list = this.form.querySelector(".parts");
      stack.replaceChildren();
      list.replaceChildren();
      if (!found || !found.parts) return;
      const room = Math.max(found.peak_bytes, found.limit_bytes || 0);
      const labels = this.texts.parts;
      this.data.parts.forEach(function (name, place) {
        const amount = found.parts[place];
        if (!amount) return;
        const piece = document.createElement("i");
        piece.style.width = 100 * amount / room + "%";
        piece.className = "part" + place;
        stack.append(piece);
        const line = document.createElement("li"), mark = document.createElement("i"), text = document.createElement("span");
        mark.className = "part" + place;
        line.dataset.part = name;
        line.dataset.value = amount;
        text.textContent = labels[place] + " " + bytes(amount);
        line.append(mark, text);
        list.append(line);
      });
    }

    // Peak memory against batch on two logarithmic axes.
    showCurve(what, found) {
      const chart = this.form.querySelector(".curve");
      chart.replaceChildren();
      if (!found || !found.parts) return;
      const wanted = Math.max(8, what.choice.batch, 2 * (found.largest_batch || 0));
      const most = 2 ** Math.min(24, Math.ceil(Math.log2(wanted)));
      const points = [];
      for (let at = 0; at <= 64; at += 1) {
        const batch = Math.round(most ** (at / 64));
        const parts = what.parts(batch, "curve");
        if (parts && (!points.length || points[points.length - 1][0] < batch)) points.push([batch, sum(parts)]);
      }
      if (points.length < 2) return;
      drawCurve(chart, { points, most, limit: found.limit_bytes, own: [what.choice.batch, found.peak_bytes] });
    }
  }

  const LEFT = 84, RIGHT = 420, TOP = 12, BOTTOM = 200;

  function drawCurve(chart, { points, most, limit, own }) {
    const all = points.map((point) => point[1]).concat(limit === null ? [] : [limit]);
    const least = Math.floor(Math.log2(Math.min(...all)) - 0.02), highest = Math.ceil(Math.log2(Math.max(...all)) + 0.02);
    const x = (batch) => LEFT + (RIGHT - LEFT) * Math.log2(batch) / Math.log2(most);
    const y = (n) => BOTTOM - (BOTTOM - TOP) * (Math.log2(n) - least) / (highest - least);
    function add(name, attributes, text) {
      const node = document.createElementNS("http://www.w3.org/2000/svg", name);
      for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
      if (text) node.textContent = text;
      chart.append(node);
    }
    const spread = highest - least, every = spread > 8 ? 3 : spread > 4 ? 2 : 1;
    for (let power = least; power <= highest; power += every) {
      add("line", { class: "grid", x1: LEFT, x2: RIGHT, y1: y(2 ** power), y2: y(2 ** power) });
      add("text", { x: LEFT - 6, y: y(2 ** power) + 4, "text-anchor": "end" }, bytes(2 ** power).replace(/\.0+ /, " "));
    }
    const nPowers = Math.log2(most), step = Math.max(1, Math.ceil(nPowers / 4));
    for (let power = 0; power <= nPowers; power += step) {
      add("text", { x: x(2 ** power), y: BOTTOM + 20, "text-anchor": "middle" }, (2 ** power).toLocaleString("en-US"));
    }
    if (limit !== null) add("line", { class: "limit", x1: LEFT, x2: RIGHT, y1: y(limit), y2: y(limit) });
    add("polyline", { class: "line", points: points.map(([batch, n]) => x(batch).toFixed(1) + "," + y(n).toFixed(1)).join(" ") });
    if (own[1] !== null) add("circle", { class: "own", cx: x(own[0]), cy: y(own[1]), r: 5 });
  }

  const given = JSON.parse(source.textContent);
  const panels = [...document.querySelectorAll("form.whatif")].map(function (form) {
    return new Panel(form, given.numbers[form.dataset.numbers], given.said[form.dataset.said]);
  });
  // One calculator in each language: what is chosen in one is chosen in the others.
  for (const panel of panels) {
    panel.form.addEventListener("input", function () {
      for (const other of panels) if (other !== panel && other.data === panel.data) other.adopt(panel);
    });
  }
})();
