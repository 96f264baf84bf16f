// The panel: objects, the controls and the figures. Everything that comes from outside goes in as text.

import { keyOf } from "./stage.js";

const $ = (id) => document.getElementById(id);
const LINGER_MS = 700; // a row stays this long after its object, so that the list doesn't jump
const EVERY_MS = 150;
// In this order; the last two count from capture. What else there may be comes after them, by its own name.
const STAGES = { wait: "wait", detect: "detect", compose: "compose", shown: "to picture", detected: "to result" };

function setText(node, text) {
  if (node.textContent !== String(text)) node.textContent = text;
}

function element(tag, ...children) {
  const made = document.createElement(tag);
  made.append(...children);
  return made;
}

// A row of buttons of which one is chosen; arrow keys move through it.
function radios(group, choose) {
  group.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button) choose(button.dataset.value);
  });
  group.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!by) return;
    const buttons = [...group.children];
    const next = buttons[(buttons.indexOf(document.activeElement) + by + buttons.length) % buttons.length];
    next.focus();
    choose(next.dataset.value);
    event.preventDefault();
  });
}

function check(group, value) {
  for (const button of group.children) {
    const isChosen = button.dataset.value === String(value);
    button.setAttribute("aria-checked", String(isChosen));
    button.tabIndex = isChosen ? 0 : -1;
  }
}

export class Panel {
  // on: {change, select, hover, redraw}
  constructor(look, on) {
    this.look = look;
    this.on = on;
    this.rows = new Map();
    this.listedAt = 0;
    this.ages = [];
    this.resultAge = null;
    radios($("kinds"), (value) => on.change({ attention: value }));
    radios($("layers"), (value) => on.change({ layer: Number(value) }));
    radios($("heads"), (value) => on.change({ head: Number.isNaN(Number(value)) ? value : Number(value) }));
    radios($("directions"), (value) => on.change({ direction: value }));
    this.slider("opacity", (value) => `${Math.round(100 * value)} %`);
    this.slider("threshold", (value) => value.toFixed(2));
    $("search").addEventListener("input", () => this.filterChoices());
    for (const tab of document.querySelectorAll("[role=tab]")) tab.addEventListener("click", () => this.openTab(tab));
    $("handle").addEventListener("click", () => this.fold(!document.body.classList.contains("folded")));
  }

  slider(name, format) {
    const input = $(name), output = input.nextElementSibling;
    const take = () => {
      this.look[name] = Number(input.value);
      setText(output, format(this.look[name]));
      // The session keeps tracks that have become a little less certain: at its own limit nothing is hidden.
      if (name === "threshold" && input.value === input.min) this.look.threshold = 0;
      input.style.setProperty("--at", `${(100 * (input.value - input.min)) / (input.max - input.min)}%`);
      this.on.redraw();
    };
    input.addEventListener("input", take);
    setText(output, format(Number(input.value)));
    input.style.setProperty("--at", `${(100 * (input.value - input.min)) / (input.max - input.min)}%`);
  }

  stepOpacity(by) {
    this.setOpacity(Number($("opacity").value) + 0.1 * by);
  }

  setOpacity(value) {
    $("opacity").value = value;
    $("opacity").dispatchEvent(new Event("input"));
  }

  openTab(tab) {
    document.body.dataset.tab = tab.getAttribute("aria-controls");
    for (const other of document.querySelectorAll("[role=tab]")) other.setAttribute("aria-selected", String(other === tab));
    this.fold(false);
  }

  fold(on) {
    document.body.classList.toggle("folded", on);
    $("handle").setAttribute("aria-expanded", String(!on));
  }

  hello({ layers, heads, classes }) {
    const option = (value, text) => {
      const button = element("button", text);
      button.type = "button";
      button.setAttribute("role", "radio");
      button.dataset.value = value;
      return button;
    };
    this.numLayers = layers;
    // The last one by -1: a kind of attention may have more layers than another.
    $("layers").replaceChildren(...Array.from({ length: layers - 1 }, (_, i) => option(i, i + 1)), option(-1, "last"));
    $("heads").replaceChildren(option("mean", "mean"), option("max", "max"), ...Array.from({ length: heads }, (_, i) => option(i, i + 1)));
    $("choices").replaceChildren(...classes.filter((name) => name && name !== "N/A").map((name) => {
      const box = document.createElement("input");
      box.type = "checkbox";
      box.value = name;
      box.addEventListener("change", () => this.chooseClasses());
      return element("label", box, element("span", name));
    }));
    this.chooseClasses();
  }

  chooseClasses() {
    const chosen = [...$("choices").querySelectorAll("input:checked")].map((box) => box.value);
    this.look.classes = chosen.length ? new Set(chosen) : null;
    setText($("chosen"), chosen.length ? (chosen.length < 3 ? chosen.join(", ") : `${chosen.length} of them`) : "all");
    this.on.redraw();
  }

  filterChoices() {
    const wanted = $("search").value.trim().toLowerCase();
    for (const label of $("choices").children) label.hidden = !label.textContent.toLowerCase().includes(wanted);
  }

  state({ settings, viewers }, stream) {
    this.settings = settings;
    check($("kinds"), settings.attention);
    check($("layers"), typeof settings.layer === "number" ? this.layerOf(this.indexOf(settings.layer)) : settings.layer);
    check($("heads"), settings.head);
    check($("directions"), settings.direction);
    $("layer-row").classList.toggle("off", settings.attention === "none");
    $("head-row").classList.toggle("off", settings.attention === "none");
    if (Number($("threshold").min) !== settings.threshold) {
      $("threshold").min = settings.threshold;
      $("threshold").dispatchEvent(new Event("input"));
    }
    if (stream) this.speed(stream, viewers);
  }

  stepLayer(by) {
    if (!this.settings) return;
    const index = this.indexOf(typeof this.settings.layer === "number" ? this.settings.layer : -1) + by;
    if (index >= 0 && index < this.numLayers) this.on.change({ layer: this.layerOf(index) });
  }

  indexOf(layer) {
    return layer < 0 ? this.numLayers + layer : layer;
  }

  layerOf(index) {
    return index === this.numLayers - 1 ? -1 : index;
  }

  nextHead() {
    const buttons = [...$("heads").children];
    const at = buttons.findIndex((button) => button.getAttribute("aria-checked") === "true");
    if (buttons.length) buttons[(at + 1) % buttons.length].click();
  }

  objects(shown, isUrgent = false) {
    const now = performance.now();
    clearTimeout(this.later);
    if (!isUrgent && now - this.listedAt < EVERY_MS) {
      this.later = setTimeout(() => this.objects(shown, true), EVERY_MS); // a paused stream sends no other picture
      return;
    }
    this.listedAt = now;
    const visible = (shown?.objects ?? []).filter(this.look.isVisible);
    for (const object of visible) this.row(object, now, shown.stream);
    for (const [key, row] of this.rows) {
      const gone = now - row.seenAt;
      row.item.classList.toggle("gone", gone > 0);
      if (gone > LINGER_MS || shown?.stream !== row.stream) row.item.remove(), this.rows.delete(key);
      else row.button.setAttribute("aria-pressed", String(key === this.look.focus));
    }
    this.order();
    setText($("count"), visible.length);
    $("empty").hidden = this.rows.size > 0;
    this.crossings(shown?.crossings ?? {});
  }

  row(object, now, stream) {
    const key = keyOf(object);
    let row = this.rows.get(key);
    if (!row) {
      const swatch = element("i"), name = element("b"), track = element("small"), zones = element("em");
      const bar = element("span", element("i")), score = element("output");
      bar.className = "bar";
      const button = element("button", swatch, name, track, zones, bar, score);
      button.type = "button";
      button.addEventListener("click", () => this.on.select(key));
      button.addEventListener("pointerenter", () => this.on.hover(key));
      button.addEventListener("pointerleave", () => this.on.hover(null));
      row = { item: element("li", button), button, swatch, name, track, zones, bar: bar.firstChild, score };
      this.rows.set(key, row);
    }
    row.seenAt = now;
    row.rank = object.track >= 0 ? object.track : 1e9 + object.query;
    row.stream = stream;
    row.button.style.setProperty("--color", `rgb(${object.color})`);
    setText(row.name, object.class);
    setText(row.track, object.track >= 0 ? `#${object.track}` : "");
    setText(row.zones, object.zones.join(", "));
    setText(row.score, object.score.toFixed(2));
    row.bar.style.width = `${100 * object.score}%`;
  }

  order() {
    const wanted = [...this.rows.values()].sort((a, b) => a.rank - b.rank).map(({ item }) => item);
    wanted.forEach((item, i) => $("list").children[i] !== item && $("list").insertBefore(item, $("list").children[i] ?? null));
  }

  crossings(lines) {
    const rows = Object.entries(lines).flatMap(([line, counts]) => Object.entries(counts).map(([name, both]) => [line, name, ...both]));
    const table = $("crossings");
    table.hidden = !rows.length;
    const text = JSON.stringify(rows);
    if (table.dataset.text === text) return;
    table.dataset.text = text;
    table.tBodies[0].replaceChildren(...rows.map(([line, name, there, back]) =>
      element("tr", element("td", line), element("td", name), element("td", `→ ${there}`), element("td", `← ${back}`))));
  }

  age(ms, resultMs) {
    this.resultAge = resultMs;
    this.ages.push(ms);
    if (this.ages.length > 30) this.ages.shift();
  }

  figures(stream, isGrid) {
    const target = $("figures");
    if (!stream || isGrid) return target.replaceChildren();
    const fps = (value) => (value === null ? "–" : value.toFixed(value < 10 ? 1 : 0));
    const total = this.median();
    const parts = [["shown", fps(stream.shown_fps), "fps"], ["detected", fps(stream.detected_fps), "fps"], ["delay", total === null ? "–" : Math.round(total), "ms"]];
    if (target.children.length !== parts.length) target.replaceChildren(...parts.map(() => element("span", element("i"), element("b"), element("small"))));
    parts.forEach((part, i) => part.forEach((text, j) => setText(target.children[i].children[j], text)));
    return null;
  }

  median() {
    return this.ages.length ? [...this.ages].sort((a, b) => a - b)[this.ages.length >> 1] : null;
  }

  speed(stream, viewers) {
    const ms = (value) => (value === null ? "–" : `${value < 10 ? value.toFixed(1) : Math.round(value)} ms`);
    const fps = (value) => (value === null ? "–" : value.toFixed(1));
    const rates = [
      ["Shown", `${fps(stream.shown_fps)} fps`], ["Detected", `${fps(stream.detected_fps)} fps`],
      ["From capture to this page", ms(this.median())], ["Left out to stay current", stream.dropped],
      ["Objects older than the picture", ms(this.resultAge)], ["Reconnected", stream.reconnects], ["Viewers", viewers],
    ];
    if ($("rates").children.length !== 2 * rates.length) $("rates").replaceChildren(...rates.flatMap(() => [element("dt"), element("dd")]));
    rates.flat().forEach((text, i) => setText($("rates").children[i], text));
    const names = [...new Set([...Object.keys(STAGES), ...Object.keys(stream.latency_ms)])];
    const stages = names.filter((name) => name in stream.latency_ms).map((name) => [name, stream.latency_ms[name]]);
    const longest = Math.max(1, ...stages.map(([, value]) => value ?? 0));
    if ($("stages").children.length !== stages.length) {
      $("stages").replaceChildren(...stages.map(() => element("li", element("span"), element("i", element("b")), element("output"))));
    }
    stages.forEach(([name, value], i) => {
      const [label, bar, output] = $("stages").children[i].children;
      setText(label, STAGES[name] ?? name);
      setText(output, ms(value));
      bar.firstChild.style.width = `${(100 * (value ?? 0)) / longest}%`;
      $("stages").children[i].classList.toggle("age", name === "shown" || name === "detected");
    });
  }
}
