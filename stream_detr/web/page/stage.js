// The big picture: where the frame lies in the canvas, what is drawn over it, and what is under the pointer.

import { drawBoxes, drawHeat, drawLabels, drawLinks, drawPoint, drawRegions, mapOf } from "./draw.js";

const CLOSEST = 5; // zoom on a small object, as a multiple of the whole picture
const ROOM = 1.9; // view around an object, in sizes of its box
const PER_SECOND = 9; // how fast the view follows

export const keyOf = (object) => (object.track >= 0 ? `t${object.track}` : `q${object.query}:${object.class}`);

const POINT_ALIKE = 5e-5;
const samePoint = (a, b) => Math.abs(a[0] - b[0]) < POINT_ALIKE && Math.abs(a[1] - b[1]) < POINT_ALIKE;

// The maps to draw: of my points, else of the object in focus, else what everyone sees.
export function mapsOf(shown, look) {
  if (!shown?.grid) return [];
  const { grid } = shown;
  if (look.points.length) {
    const found = look.points.map((mine) => grid.points.findIndex((point) => samePoint(point, mine)));
    return found.flatMap((at, i) => (at < 0 ? [] : [{ bytes: mapOf(shown, "points", at), color: found.length > 1 ? look.pointColors[i] : null }]));
  }
  if (look.kind !== "cross" && !look.focus) return [];
  if (!grid.cross) return [];
  return shown.objects.flatMap((object, i) =>
    (look.focus ? keyOf(object) === look.focus : look.isVisible(object)) ? [{ bytes: mapOf(shown, "cross", i), color: object.color }] : []);
}

export class Stage {
  // look: what the viewer has chosen, read at every drawing.
  constructor(canvas, look) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { alpha: false });
    this.look = look;
    this.shown = null;
    this.hovered = null;
    this.view = null;
    this.lastBox = null;
    this.calm = matchMedia("(prefers-reduced-motion: reduce)");
    new ResizeObserver(() => this.resize()).observe(canvas);
  }

  resize() {
    const ratio = Math.min(devicePixelRatio || 1, 2);
    this.width = this.canvas.clientWidth;
    this.height = this.canvas.clientHeight;
    this.ratio = ratio;
    this.canvas.width = Math.max(1, Math.round(this.width * ratio));
    this.canvas.height = Math.max(1, Math.round(this.height * ratio));
    this.view = null;
    this.draw();
  }

  show(shown) {
    const changed = !this.shown || this.shown.stream !== shown.stream || this.shown.width !== shown.width || this.shown.height !== shown.height;
    if (this.shown !== shown) this.shown?.image.close();
    this.shown = shown;
    if (changed) this.view = null;
    this.ask();
  }

  clear() {
    this.shown?.image.close();
    this.shown = null;
    this.ask();
  }

  ask() {
    this.asked ??= requestAnimationFrame((now) => {
      this.asked = null;
      this.draw(now);
    });
  }

  get focused() {
    return this.look.focus ? this.shown?.objects.find((object) => keyOf(object) === this.look.focus) ?? null : null;
  }

  // Middle of the view in frame pixels, and canvas pixels per frame pixel.
  target() {
    const { width, height } = this.shown;
    const whole = Math.min(this.width / width, this.height / height);
    if (!this.look.focus) this.lastBox = null;
    else this.lastBox = this.focused?.box ?? this.lastBox;
    if (!this.lastBox) return { x: width / 2, y: height / 2, scale: whole };
    const [x0, y0, x1, y1] = this.lastBox;
    const near = Math.min(this.width / (ROOM * Math.max(1, x1 - x0)), this.height / (ROOM * Math.max(1, y1 - y0)));
    const scale = Math.max(whole, Math.min(near, whole * CLOSEST));
    const keep = (middle, length, room) => (length * scale <= room ? length / 2 : Math.min(Math.max(middle, room / 2 / scale), length - room / 2 / scale));
    return { x: keep((x0 + x1) / 2, width, this.width), y: keep((y0 + y1) / 2, height, this.height), scale };
  }

  // One step towards the target; true once it is reached.
  follow(now) {
    const target = this.target();
    const step = this.view && !this.calm.matches ? 1 - Math.exp(-PER_SECOND * Math.min((now - this.drawnAt) / 1000, 0.1)) : 1;
    const view = this.view ?? target;
    this.drawnAt = now;
    this.view = {
      x: view.x + step * (target.x - view.x),
      y: view.y + step * (target.y - view.y),
      scale: view.scale * (target.scale / view.scale) ** step,
    };
    const away = Math.abs(this.view.x - target.x) + Math.abs(this.view.y - target.y);
    const isThere = away < 0.3 && Math.abs(Math.log(this.view.scale / target.scale)) < 0.001;
    if (isThere) this.view = target;
    return isThere;
  }

  draw(now = performance.now()) {
    const { context, shown, look } = this;
    context.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    context.fillStyle = "#08090b";
    context.fillRect(0, 0, this.width, this.height);
    if (!shown || !this.width) return;
    if (!this.follow(now)) this.ask();
    const { x, y, scale } = this.view;
    const place = { x: this.width / 2 - x * scale, y: this.height / 2 - y * scale, width: shown.width * scale, height: shown.height * scale };
    this.place = place;
    context.imageSmoothingEnabled = true;
    context.imageSmoothingQuality = "medium";
    context.drawImage(shown.image, place.x, place.y, place.width, place.height);
    this.drawOver(place);
    if (look.points.length) look.points.forEach((point, i) => drawPoint(context, point, look.points.length > 1 ? look.pointColors[i] : null, place));
  }

  drawOver(place) {
    const { context, shown, look } = this;
    const bounds = { width: this.width, height: this.height };
    const size = Math.max(11, Math.min(15, this.width / 75));
    const visible = shown.objects.filter(look.isVisible);
    const isHovered = (object) => keyOf(object) === this.hovered;
    drawHeat(context, shown, mapsOf(shown, look), place, look.focus ? Math.min(1, look.opacity * 1.15) : look.opacity);
    drawRegions(context, look.regions, place);
    if (look.points.length) return drawBoxes(context, shown, visible, place, { width: 1, alpha: 0.55, isHovered });
    if (look.focus) {
      const focused = this.focused;
      drawBoxes(context, shown, visible.filter((object) => object !== focused), place, { width: 1, alpha: 0.3, isHovered });
      if (focused) drawBoxes(context, shown, [focused], place, { width: 2.5 });
      if (focused) drawLabels(context, shown, [focused], place, size, bounds);
      return null;
    }
    if (look.kind === "objects" && shown.links) {
      const indices = shown.objects.flatMap((object, i) => (look.isVisible(object) ? [i] : []));
      drawLinks(context, shown, indices, place, look.opacity, look.link);
    }
    drawBoxes(context, shown, visible, place, { width: Math.max(1.5, Math.min(2.5, this.width / 450)), isHovered });
    return drawLabels(context, shown, visible, place, size, bounds);
  }

  // The frame's fractions under a canvas position; null outside of the frame.
  fractionsAt(x, y) {
    if (!this.place) return null;
    const at = [(x - this.place.x) / this.place.width, (y - this.place.y) / this.place.height];
    return at.every((value) => value >= 0 && value <= 1) ? at : null;
  }

  // The smallest object under a canvas position.
  objectAt(x, y) {
    const at = this.fractionsAt(x, y);
    if (!at) return null;
    const px = at[0] * this.shown.width, py = at[1] * this.shown.height;
    const area = ({ box }) => (box[2] - box[0]) * (box[3] - box[1]);
    const under = this.shown.objects.filter(({ box }) => px >= box[0] && px <= box[2] && py >= box[1] && py <= box[3]);
    return under.filter(this.look.isVisible).sort((a, b) => area(a) - area(b))[0] ?? null;
  }

  // key: of the object to be shown stronger, or null.
  hover(key) {
    if (this.hovered === key) return;
    this.hovered = key;
    this.ask();
  }
}

// A tile of the grid: the whole picture, boxes without labels.
export function drawTile(canvas, shown, look) {
  const ratio = Math.min(devicePixelRatio || 1, 2);
  const width = canvas.clientWidth, height = canvas.clientHeight;
  if (!width || !height) return;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const context = canvas.getContext("2d", { alpha: false });
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.fillStyle = "#08090b";
  context.fillRect(0, 0, width, height);
  const scale = Math.min(width / shown.width, height / shown.height);
  const place = { width: shown.width * scale, height: shown.height * scale };
  place.x = (width - place.width) / 2;
  place.y = (height - place.height) / 2;
  context.drawImage(shown.image, place.x, place.y, place.width, place.height);
  const all = { ...look, points: [], focus: null };
  drawHeat(context, shown, mapsOf(shown, all), place, look.opacity);
  drawRegions(context, look.regions, place);
  drawBoxes(context, shown, shown.objects.filter(look.isVisible), place, { width: 1.5 });
}
