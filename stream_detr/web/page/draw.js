// Boxes, labels and attention over a picture, in canvas pixels; the same rules as the overlay of the written videos.

// The attention of a single point: violet to amber, in nine steps.
const GLOW = [
  [97, 19, 110], [127, 30, 108], [159, 42, 99], [188, 55, 84], [215, 75, 63], [235, 100, 41], [247, 132, 16], [252, 168, 13], [248, 205, 55],
];
const DARK = "rgba(14,15,18,.85)";

const rgb = ([r, g, b], alpha = 1) => `rgba(${r},${g},${b},${alpha})`;
const ink = ([r, g, b]) => (0.299 * r + 0.587 * g + 0.114 * b > 125 ? "#101010" : "#fff");

function glowAt(strength) {
  const at = strength * (GLOW.length - 1);
  const low = Math.min(Math.floor(at), GLOW.length - 2);
  return GLOW[low].map((value, i) => value + (at - low) * (GLOW[low + 1][i] - value));
}

const grid = document.createElement("canvas");

// maps: [{bytes, color}]; color null = glow. Colours are mixed on the grid, the stronger ones show; upsampled once.
function paintGrid(maps, rows, columns, opacity) {
  grid.width = columns;
  grid.height = rows;
  const context = grid.getContext("2d");
  const pixels = context.createImageData(columns, rows);
  const out = pixels.data;
  for (let cell = 0; cell < rows * columns; cell++) {
    let strongest = 0, total = 1e-12, r = 0, g = 0, b = 0;
    for (const { bytes, color } of maps) {
      const strength = bytes[cell] / 255;
      if (!strength) continue;
      const weight = strength * strength;
      const tint = color ?? glowAt(strength);
      r += weight * tint[0];
      g += weight * tint[1];
      b += weight * tint[2];
      total += weight;
      strongest = Math.max(strongest, color ? strength : Math.sqrt(strength));
    }
    out[4 * cell] = r / total;
    out[4 * cell + 1] = g / total;
    out[4 * cell + 2] = b / total;
    out[4 * cell + 3] = 255 * opacity * strongest;
  }
  context.putImageData(pixels, 0, 0);
}

// Cell (r, c) covers stride model pixels; what overhangs the frame is cut off.
export function drawHeat(context, shown, maps, place, opacity) {
  if (!maps.length || opacity <= 0) return;
  const { rows, columns, stride, model_hw } = shown.grid;
  paintGrid(maps, rows, columns, opacity);
  const width = (columns * stride * place.width) / model_hw[1];
  const height = (rows * stride * place.height) / model_hw[0];
  context.save();
  context.beginPath();
  context.rect(place.x, place.y, place.width, place.height);
  context.clip();
  context.imageSmoothingEnabled = true;
  context.imageSmoothingQuality = "low"; // bilinear
  context.drawImage(grid, 0, 0, columns, rows, place.x, place.y, width, height);
  context.restore();
}

export function mapOf(shown, kind, index) {
  const cells = shown.grid.rows * shown.grid.columns;
  const start = (kind === "points" ? shown.grid.cross + index : index) * cells;
  return shown.grids.subarray(start, start + cells);
}

function rectOf(object, shown, place) {
  const [x0, y0, x1, y1] = object.box;
  const sx = place.width / shown.width, sy = place.height / shown.height;
  return [place.x + x0 * sx, place.y + y0 * sy, (x1 - x0) * sx, (y1 - y0) * sy];
}

export function drawBoxes(context, shown, objects, place, { width = 2, alpha = 1, isHovered = () => false } = {}) {
  const area = ({ box }) => (box[2] - box[0]) * (box[3] - box[1]);
  for (const object of [...objects].sort((a, b) => area(b) - area(a))) {
    const rect = rectOf(object, shown, place);
    const line = isHovered(object) ? width * 1.8 : width;
    context.lineJoin = "round";
    context.strokeStyle = `rgba(14,15,18,${0.6 * alpha})`;
    context.lineWidth = line + 2;
    context.strokeRect(...rect);
    context.strokeStyle = rgb(object.color, alpha);
    context.lineWidth = line;
    context.strokeRect(...rect);
  }
}

// Zones and lines, the latter with an arrow to where forward is; thin and white, as whatever has a colour is an object.
export function drawRegions(context, { zones, lines }, place) {
  const at = ([x, y]) => [place.x + x * place.width, place.y + y * place.height];
  const path = new Path2D();
  for (const zone of zones) {
    zone.forEach((point, i) => (i ? path.lineTo(...at(point)) : path.moveTo(...at(point))));
    path.closePath();
  }
  for (const line of lines) {
    const [[x0, y0], [x1, y1]] = line.map(at);
    const scale = 7 / Math.hypot(x1 - x0, y1 - y0), along = [(x1 - x0) * scale, (y1 - y0) * scale];
    const x = (x0 + x1) / 2, y = (y0 + y1) / 2;
    path.moveTo(x0, y0);
    path.lineTo(x1, y1);
    path.moveTo(x - along[0], y - along[1]);
    path.lineTo(x - 1.4 * along[1], y + 1.4 * along[0]);
    path.lineTo(x + along[0], y + along[1]);
  }
  for (const [style, width] of [["rgba(14,15,18,.6)", 3.5], ["rgb(240,244,248)", 1.5]]) {
    context.strokeStyle = style;
    context.lineWidth = width;
    context.stroke(path);
  }
}

const overlap = (a, b) =>
  Math.max(0, Math.min(a[0] + a[2], b[0] + b[2]) - Math.max(a[0], b[0])) *
  Math.max(0, Math.min(a[1] + a[3], b[1] + b[3]) - Math.max(a[1], b[1]));

// Labels above their boxes, or where they cover no other; from top to bottom, so that they don't change places.
export function drawLabels(context, shown, objects, place, size, bounds) {
  const height = Math.round(size * 1.55), pad = Math.round(size * 0.45);
  const taken = [];
  context.textBaseline = "middle";
  for (const object of [...objects].sort((a, b) => a.box[1] - b.box[1] || a.box[0] - b.box[0])) {
    const [x, y, w, h] = rectOf(object, shown, place);
    if (x > bounds.width || y > bounds.height || x + w < 0 || y + h < 0) continue;
    const tail = object.track >= 0 ? `${object.score.toFixed(2)} #${object.track}` : object.score.toFixed(2);
    const name = object.class.slice(0, 40);
    context.font = `600 ${size}px system-ui, sans-serif`;
    const nameWidth = context.measureText(name).width;
    context.font = `400 ${size}px system-ui, sans-serif`;
    const width = nameWidth + context.measureText(tail).width + size * 0.4 + 2 * pad;
    const spots = [[x - 1, y - height], [x, y], [x + w - width, y - height], [x - 1, y + h], [x + w - width, y]];
    let best = null, bestCost = Infinity;
    for (const [left, top] of spots) {
      const kept = [Math.max(0, Math.min(left, bounds.width - width)), Math.max(0, Math.min(top, bounds.height - height)), width, height];
      const cost = Math.abs(kept[1] - top) + taken.reduce((sum, other) => sum + overlap(kept, other), 0);
      if (cost < bestCost) [best, bestCost] = [kept, cost];
      if (!cost) break;
    }
    taken.push(best);
    context.fillStyle = rgb(object.color);
    context.beginPath();
    context.roundRect(...best, size * 0.2);
    context.fill();
    context.fillStyle = ink(object.color);
    const middle = best[1] + height / 2 + size * 0.04;
    context.fillText(tail, best[0] + pad + nameWidth + size * 0.4, middle);
    context.font = `600 ${size}px system-ui, sans-serif`;
    context.fillText(name, best[0] + pad, middle);
  }
}

// The half of a link at an object, in its colour, is as thick as what the object reads from the other.
export function drawLinks(context, shown, visible, place, opacity, limits) {
  const middles = shown.objects.map((object) => {
    const [x, y, w, h] = rectOf(object, shown, place);
    return [x + w / 2, y + h / 2];
  });
  const weigh = (share) => Math.sqrt(Math.min(share / limits.full, 1));
  context.lineCap = "butt";
  context.globalAlpha = Math.min(1, 0.4 + opacity);
  for (const i of visible) {
    for (const j of visible) {
      if (i === j || Math.max(shown.links[i][j], shown.links[j][i]) < limits.from) continue;
      context.strokeStyle = rgb(shown.objects[i].color);
      context.lineWidth = Math.max(1, 7 * weigh(shown.links[i][j]));
      context.beginPath();
      context.moveTo(...middles[i]);
      context.lineTo((middles[i][0] + middles[j][0]) / 2, (middles[i][1] + middles[j][1]) / 2);
      context.stroke();
    }
  }
  context.globalAlpha = 1;
  for (const i of visible) {
    context.fillStyle = rgb(shown.objects[i].color);
    context.strokeStyle = DARK;
    context.lineWidth = 1.5;
    context.beginPath();
    context.arc(...middles[i], 5, 0, 7);
    context.fill();
    context.stroke();
  }
}

export function drawPoint(context, [x, y], color, place) {
  const at = [place.x + x * place.width, place.y + y * place.height];
  const radius = 7;
  const trace = () => {
    context.beginPath();
    context.arc(...at, radius, 0, 7);
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      context.moveTo(at[0] + dx * radius, at[1] + dy * radius);
      context.lineTo(at[0] + dx * radius * 1.9, at[1] + dy * radius * 1.9);
    }
    context.stroke();
  };
  context.fillStyle = color ? rgb(color) : "rgba(20,20,24,.55)";
  context.beginPath();
  context.arc(...at, radius, 0, 7);
  context.fill();
  context.strokeStyle = DARK;
  context.lineWidth = 4.5;
  trace();
  context.strokeStyle = "#fff";
  context.lineWidth = 2;
  trace();
}
