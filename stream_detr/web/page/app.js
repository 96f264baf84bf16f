// The page: what this viewer looks at and how, the controls that all viewers share, and the keyboard.

import { Camera } from "./camera.js";
import { Link } from "./link.js";
import { Panel } from "./panel.js";
import { Stage, drawTile, keyOf, mapsOf } from "./stage.js";

const $ = (id) => document.getElementById(id);
const KINDS = ["cross", "encoder", "objects", "none"];
const POINT_COLORS = [[255, 180, 84], [96, 200, 255], [190, 150, 255], [120, 220, 150]];
const POINT_STEP = 0.02;
const LONGEST_NAME = 26;

// What this viewer has chosen; the stage and the panel read it.
const look = {
  kind: "cross", opacity: 0.6, threshold: 0, classes: null, focus: null, points: [], pointColors: POINT_COLORS,
  link: { from: 0.02, full: 0.25 }, regions: { zones: [], lines: [] },
  isVisible: (object) => object.score >= look.threshold && (!look.classes || look.classes.has(object.class)),
};
let hello = null, state = null, streamId = null, isGrid = false;
const newest = new Map(); // of the streams watched, by id
const tiles = new Map();

const stage = new Stage($("picture"), look);
const panel = new Panel(look, {
  change: (settings) => link.send({ do: "change", settings }),
  select: (key) => focus(look.focus === key ? null : key),
  hover: (key) => stage.hover(key),
  redraw: () => { stage.ask(); drawTiles(); panel.objects(stage.shown, true); },
});
const link = new Link({
  up: () => { fallback()?.remove(); notice(null); watch(); camera.resume(); sendPoints(); },
  down: (reason) => { if (!fallback()) disconnected(reason); },
  gone: () => { fallback()?.remove(); disconnected(); },
  refused: () => notice("A token is needed", "stream_detr has been started anew: open the address that it printed.", false),
  blocked: (now) => fallBack(now),
  hello: takeHello,
  state: takeState,
  picture: takePicture,
  camera: (id) => { if (id === null) camera.stop(); else choose(id); updateTools(); },
  error: (text) => toast(text, true),
});
const camera = new Camera(link);

function takeHello(value) {
  if (!hello) panel.setOpacity(value.alpha); // later it is the viewer's choice
  hello = value;
  look.link = value.link;
  look.regions = value;
  panel.hello(value);
}

// Streams

const stream = () => state?.streams.find(({ id }) => id === streamId) ?? null;

function takeState(value) {
  state = value;
  look.kind = state.settings.attention;
  if (!stream()) choose(preferred());
  drawStreams();
  panel.state(state, stream());
  updateTools();
  updateNotice();
  updateChips();
  if (look.kind === "encoder" && !look.points.length && !look.focus && !isGrid && streamId !== null) setPoints(hello.points);
  for (const id of [...newest.keys()]) if (!state.streams.some((one) => one.id === id)) forget(id);
}

const preferred = () => {
  const wanted = Number(location.hash.slice(1));
  return (state.streams.find(({ id }) => id === wanted && location.hash) ?? state.streams[0])?.id ?? null;
};

function forget(id) {
  newest.get(id)?.image.close();
  newest.delete(id);
}

function choose(id) {
  if (id === streamId && !isGrid) return;
  clearPoints();
  look.focus = null;
  streamId = id;
  setGrid(false);
  if (id !== null) history.replaceState(null, "", `${location.pathname}#${id}`);
  if (stage.shown?.stream !== id) stage.clear();
  watch();
  if (state) drawStreams(), panel.state(state, stream()), updateTools(), updateNotice(), updateChips();
}

function setGrid(on) {
  if (on) clearPoints(), (look.focus = null);
  isGrid = on;
  $("tiles").hidden = !on;
  $("picture").hidden = on;
  $("empty").textContent = on ? $("empty").dataset.grid : $("empty").dataset.none;
  panel.objects(null, true);
}

function toggleGrid() {
  if (!state || state.streams.length < 2) return;
  if (isGrid) return choose(streamId);
  setGrid(true);
  watch();
  drawStreams();
  updateTools();
  updateNotice();
  updateChips();
}

function watch() {
  if (document.hidden || !state) return link.send({ do: "watch", streams: [], size: 480 });
  const ids = isGrid ? state.streams.map(({ id }) => id) : streamId === null ? [] : [streamId];
  for (const id of [...newest.keys()]) if (!isGrid || !ids.includes(id)) forget(id);
  const across = Math.max(stage.width || 0, stage.height || 0) * (stage.ratio || 1);
  watched = ids.join();
  return link.send({ do: "watch", streams: ids, size: isGrid ? 480 : Math.round(across) || 960 });
}
let watched = "";

function takePicture(shown) {
  if (isGrid) {
    forget(shown.stream);
    newest.set(shown.stream, shown);
    const tile = tiles.get(shown.stream);
    if (tile) drawTile(tile.canvas, shown, look);
    else shown.image.close(), newest.delete(shown.stream);
    return;
  }
  if (shown.stream !== streamId) return shown.image.close();
  stage.show(shown);
  panel.objects(shown);
  panel.age(shown.age_ms + performance.now() - shown.arrived, shown.result_age_ms);
  if (shown.notice) toast(shown.notice, true);
  updateNotice();
  updateChips();
}

function drawTiles() {
  if (isGrid) for (const [id, tile] of tiles) if (newest.has(id)) drawTile(tile.canvas, newest.get(id), look);
}

function drawStreams() {
  const many = state.streams.length > 1;
  $("grid").hidden = !many;
  $("streams").hidden = !state.streams.length;
  sync($("streams"), state.streams, (item) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(document.createElement("i"), document.createElement("span"));
    button.onclick = () => choose(item.id);
    return button;
  }, (button, item) => {
    button.dataset.state = item.state;
    button.classList.toggle("recording", item.is_recording);
    setText(button.lastChild, shortName(item));
    button.title = `${item.name}: ${describe(item)}`;
    button.setAttribute("aria-current", String(!isGrid && item.id === streamId));
  });
  if (isGrid) syncTiles();
  if (isGrid && state.streams.map(({ id }) => id).join() !== watched) watch();
}

function syncTiles() {
  $("tiles").style.setProperty("--columns", Math.ceil(Math.sqrt(state.streams.length)));
  tiles.clear();
  sync($("tiles"), state.streams, (item) => {
    const tile = document.createElement("button");
    tile.type = "button";
    const caption = document.createElement("span");
    caption.append(document.createElement("i"), document.createElement("b"), document.createElement("small"));
    tile.append(document.createElement("canvas"), caption);
    tile.onclick = () => choose(item.id);
    return tile;
  }, (tile, item) => {
    tile.dataset.state = item.state;
    const [canvas, caption] = tile.children;
    setText(caption.children[1], shortName(item));
    setText(caption.children[2], item.state === "live" && !item.is_paused ? `${number(item.shown_fps)} fps` : describe(item));
    tile.title = item.name;
    tile.setAttribute("aria-label", `${item.name}, ${describe(item)}`);
    tiles.set(item.id, { canvas });
  });
}

// One child per item, kept as long as its id is there.
function sync(parent, items, make, update) {
  const old = new Map([...parent.children].map((child) => [Number(child.dataset.id), child]));
  for (const item of items) {
    const child = old.get(item.id) ?? make(item);
    child.dataset.id = item.id;
    update(child, item);
    if (!old.delete(item.id)) parent.append(child);
  }
  for (const child of old.values()) child.remove();
}

// Of a file its name alone, of an address host and path; the whole is in the tooltip.
function shortName({ name }) {
  if (!name.includes("://")) return name.split("/").pop() || name;
  const place = name.split("://")[1].split("?")[0];
  return place.length > LONGEST_NAME ? `…${place.slice(1 - LONGEST_NAME)}` : place;
}

function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

const number = (value) => (value === null || value === undefined ? "–" : value < 10 ? value.toFixed(1) : Math.round(value));

function span(seconds) {
  if (seconds < 60) return `${Math.round(seconds)} s`;
  return seconds < 3600 ? `${Math.floor(seconds / 60)} min` : `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
}

function describe(item) {
  if (item.is_paused) return "paused";
  if (item.state === "lost") return `lost ${span(item.since)} ago`;
  return { connecting: "connecting", live: "live", ended: "ended" }[item.state] ?? item.state;
}

// What lies over the picture

function notice(title, text = "", waits = false) {
  const box = $("notice");
  box.hidden = title === null;
  box.dataset.link = title === null ? "" : "down";
  document.body.classList.toggle("dimmed", title !== null);
  if (title === null) return;
  box.classList.toggle("waits", waits);
  setText(box.querySelector("b"), title);
  setText(box.querySelector("p"), text);
}

const disconnected = (reason) => notice("Not connected", reason || "Trying to reach stream_detr again.", true);

function updateNotice() {
  if (!link.isUp) return;
  const now = stream();
  if (!state.streams.length) return notice("No stream", "Use my camera brings in this device's.", false);
  if (isGrid || !now) return notice(null);
  if (now.state === "connecting") notice("Connecting", now.message, true);
  else if (now.state === "lost") notice(`Lost ${span(now.since)} ago`, now.message || "Trying again.", true);
  else if (stage.shown?.stream === streamId) notice(null);
  else if (now.state === "ended") notice("Ended", now.message, false);
  else notice("Waiting for the first picture", "", true);
}

function hintText() {
  if (stream()?.state === "ended") return "This stream has ended";
  if (stream()?.is_paused) return "Paused";
  return hasClicked ? "" : "Click an object or any point to see its attention";
}

function updateChips() {
  const chip = $("focus"), single = !isGrid && stage.shown;
  const what = chip.querySelector(".what"), flip = chip.querySelector(".flip");
  chip.hidden = !single || !(look.focus || look.points.length);
  setText($("hint"), hintText());
  $("hint").hidden = !single || !chip.hidden || !hintText() || !$("notice").hidden;
  if (look.focus) {
    const object = stage.focused;
    if (object) {
      chip.querySelector(".swatch").style.background = `rgb(${object.color})`;
      setText(chip.querySelector("b"), object.track >= 0 ? `${object.class} #${object.track}` : object.class);
    }
    setText(what, object ? object.score.toFixed(2) : "not in sight");
    flip.hidden = true;
  } else if (look.points.length) {
    const count = look.points.length;
    chip.querySelector(".swatch").style.background = "";
    setText(chip.querySelector("b"), count > 1 ? `${count} points` : "Point");
    setText(what, mapsOf(stage.shown, look).length === count ? "" : stream()?.is_paused ? "when it goes on" : "asking …");
    setText(flip, state?.settings.direction === "looked-at-by" ? "looked at by" : "looks at");
    flip.title = "Turn the direction round (D), for every viewer";
    flip.hidden = false;
  }
  chip.dataset.mode = look.focus ? "object" : "point";
  chip.querySelector(".leave").hidden = isInitial();
  updateLegend();
}

function updateLegend() {
  const legend = $("legend"), one = look.points.length === 1 && !look.focus;
  const kind = look.focus ? "cross" : look.points.length ? "encoder" : look.kind;
  legend.hidden = !stage.shown || isGrid || kind === "none" || !state;
  if (legend.hidden) return;
  const { layer, head, direction } = state.settings;
  const nameOf = (one) => (one === -1 || one === hello.layers - 1 ? "last" : (one < 0 ? hello.layers + one : one) + 1);
  const several = Array.isArray(layer) ? layer.map(nameOf).join(", ") : layer; // or "all"
  const layers = typeof layer !== "number" ? `layers ${several}` : nameOf(layer) === "last" ? "last layer" : `layer ${nameOf(layer)}`;
  const heads = typeof head === "number" ? `head ${head + 1}` : `${head} of heads`;
  const text = {
    cross: `Decoder cross-attention, ${layers}, ${heads}`,
    encoder: `Encoder self-attention, ${direction === "looks-at" ? "where the point looks" : "what looks at the point"}`,
    objects: "Decoder self-attention: what an object reads from another",
  }[kind];
  setText(legend.querySelector(".title"), text);
  const tracked = stage.shown.grid?.tracked && kind === "cross";
  setText(legend.querySelector(".scale"), kind === "objects" ? `full at ${100 * look.link.full} %`
    : tracked ? "full at each object's own peak" : `${hello.scale.clear_at} to ${hello.scale.full_at} times uniform`);
  legend.dataset.ramp = kind === "objects" ? "none" : one ? "glow" : "own";
}

function toast(text, isBad = false) {
  const last = $("toasts").lastElementChild;
  if (last?.textContent === text) return;
  const item = document.createElement("p");
  item.textContent = text;
  item.classList.toggle("bad", isBad);
  $("toasts").append(item);
  while ($("toasts").children.length > 3) $("toasts").firstChild.remove();
  setTimeout(() => item.remove(), isBad ? 7000 : 3500);
}

const fallback = () => document.querySelector("img.fallback");

function fallBack(now) {
  if (fallback() || !now.streams.length) return;
  const image = new Image();
  image.className = "fallback";
  image.alt = "Live picture with everything drawn in";
  image.src = `/stream/${now.streams[0].id}.mjpeg`;
  $("stage").append(image);
  notice(null);
  toast("No WebSocket comes through to this browser: picture without controls.", true);
}

// Object in focus, points

let hasClicked = false;

function focus(key) {
  clearPoints();
  look.focus = key;
  stage.ask();
  panel.objects(stage.shown, true);
  updateChips();
}

function setPoints(points) {
  look.points = points;
  look.focus = null;
  sendPoints();
  stage.ask();
  updateChips();
}

function clearPoints() {
  if (look.points.length) setPoints([]);
}

function sendPoints() {
  if (streamId !== null) link.send({ do: "points", stream: streamId, xy: look.points });
}

function leave() {
  if (look.focus) focus(null);
  else if (look.points.length && !isInitial()) setPoints([]);
  else if (state?.streams.length > 1 && !isGrid) toggleGrid();
}

// In the kind that shows points there always is one; shared settings don't change by leaving.
const isInitial = () => look.kind === "encoder" && String(look.points) === String(hello.points);

function point([x, y], isMore) {
  // As the server has them: the page finds its own again by their numbers.
  const at = [Math.round(x * 1e4) / 1e4, Math.round(y * 1e4) / 1e4];
  setPoints(isMore ? [...look.points, at].slice(-(hello?.most_points ?? 1)) : [at]);
}

const canvas = $("picture");
const where = (event) => [event.offsetX, event.offsetY];

canvas.addEventListener("click", (event) => {
  if (!stage.shown) return;
  hasClicked = true;
  const object = stage.objectAt(...where(event)), at = stage.fractionsAt(...where(event));
  if (object && !event.shiftKey) focus(keyOf(object) === look.focus ? null : keyOf(object));
  else if (at) point(at, event.shiftKey);
  else leave();
});
canvas.addEventListener("pointermove", (event) => {
  if (event.pointerType === "touch") return;
  const object = stage.shown ? stage.objectAt(...where(event)) : null;
  stage.hover(object && keyOf(object));
  canvas.style.cursor = object ? "pointer" : "crosshair";
});
canvas.addEventListener("pointerleave", () => stage.hover(null));
$("focus").querySelector(".leave").onclick = leave;
$("focus").querySelector(".flip").onclick = turn;

function turn() {
  if (state) link.send({ do: "change", settings: { direction: state.settings.direction === "looks-at" ? "looked-at-by" : "looks-at" } });
}

function step(by) {
  const visible = stage.shown?.objects.filter(look.isVisible).sort((a, b) => a.track - b.track || a.query - b.query) ?? [];
  if (!visible.length) return;
  const at = visible.findIndex((object) => keyOf(object) === look.focus);
  focus(keyOf(visible[at < 0 ? (by > 0 ? 0 : visible.length - 1) : (at + by + visible.length) % visible.length]));
}

function move(dx, dy) {
  const clamp = (value) => Math.round(Math.min(1, Math.max(0, value)) * 1e4) / 1e4;
  const points = [...look.points], [x, y] = points.pop();
  setPoints([...points, [clamp(x + dx), clamp(y + dy)]]);
}

// Tools

function updateTools() {
  const now = stream();
  for (const id of ["pause", "snapshot", "record"]) $(id).disabled = !now || isGrid;
  press($("pause"), now?.is_paused, now?.is_paused ? "Resume" : "Pause");
  $("pause").querySelector("use").setAttribute("href", now?.is_paused ? "#i-play" : "#i-pause");
  press($("record"), now?.is_recording, now?.is_recording ? "Stop recording" : "Record");
  press($("camera"), camera.isOn, camera.isOn ? "Stop my camera" : "Use my camera");
  press($("grid"), isGrid, "Grid");
  $("picture").classList.toggle("paused", Boolean(now?.is_paused));
  panel.figures(now, isGrid);
}

function press(button, on, text) {
  button.setAttribute("aria-pressed", String(Boolean(on)));
  setText(button.querySelector("span"), text);
}

const toggle = (what) => () => {
  const now = stream();
  if (now && !isGrid) link.send({ do: what, stream: now.id, on: what === "pause" ? !now.is_paused : !now.is_recording });
};

async function snapshot() {
  const now = stream();
  if (!now || isGrid) return;
  $("snapshot").disabled = true;
  const answer = await fetch(`/snapshot/${now.id}.png`).catch(() => null);
  $("snapshot").disabled = false;
  if (!answer?.ok) return toast(answer ? await answer.text() : "The snapshot did not arrive.", true);
  const address = URL.createObjectURL(await answer.blob());
  const anchor = document.createElement("a");
  anchor.href = address;
  anchor.download = `stream-detr-${new Date().toISOString().slice(0, 19).replace(/[:T]/g, "-")}.png`;
  anchor.click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
  toast("Snapshot saved.");
}

async function toggleCamera() {
  if (camera.isOn) return camera.stop(), updateTools();
  try {
    await camera.start();
  } catch (error) {
    toast(error.message, true);
  }
  updateTools();
}

function fullScreen() {
  if (document.fullscreenElement) document.exitFullscreen();
  else $("stage").requestFullscreen?.().catch(() => toast("This browser has no full screen for a page.", true));
}

const actions = {
  pause: toggle("pause"), record: toggle("record"), snapshot, camera: toggleCamera, grid: toggleGrid, full: fullScreen,
  help: () => ($("keys").open ? $("keys").close() : $("keys").showModal()),
};
for (const [id, act] of Object.entries(actions)) {
  $(id).addEventListener("click", act);
  $(id).title = `${$(id).textContent.trim()} (${$(id).dataset.key})`;
}
$("keys").addEventListener("click", (event) => event.target === $("keys") && $("keys").close());

// Keyboard

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const keys = {
  " ": actions.pause, s: snapshot, r: actions.record, c: toggleCamera, g: toggleGrid, f: fullScreen, "?": actions.help,
  Escape: leave, n: () => step(1), p: () => step(-1), d: turn, x: () => stage.shown && !isGrid && setPoints([[0.5, 0.5]]),
  "[": () => panel.stepLayer(-1), "]": () => panel.stepLayer(1), h: () => panel.nextHead(),
  "+": () => panel.stepOpacity(1), "=": () => panel.stepOpacity(1), "-": () => panel.stepOpacity(-1),
  ",": () => neighbour(-1), ".": () => neighbour(1),
};

function neighbour(by) {
  const at = state?.streams.findIndex(({ id }) => id === streamId) ?? -1;
  if (at >= 0) choose(state.streams[(at + by + state.streams.length) % state.streams.length].id);
}

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || $("keys").open) return;
  const typing = event.target.matches("input, summary"), onButton = event.target.matches("button");
  if (typing && event.key !== "Escape") return;
  if (onButton && (event.key === " " || (event.key in ARROWS && event.target.matches("[role=radio], [role=tab]")))) return;
  const kind = KINDS[Number(event.key) - 1];
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (kind) link.send({ do: "change", settings: { attention: kind } });
  else if (look.points.length && event.key in ARROWS) move(...ARROWS[event.key].map((way) => way * POINT_STEP));
  else if (key in keys) keys[key]();
  else return;
  event.preventDefault();
});

document.addEventListener("visibilitychange", watch);
let resized = 0;
addEventListener("resize", () => {
  clearTimeout(resized);
  resized = setTimeout(() => (watch(), drawTiles()), 250);
});

// The token is a cookie by now; in the address it would end up in histories and shared links.
if (new URLSearchParams(location.search).has("token")) history.replaceState(null, "", location.pathname + location.hash);
notice("Connecting", "", true);
