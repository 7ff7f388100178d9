// The page: which image is shown, and what keys and buttons do.

import { Refused, loadBitmap, loadReference } from "./api.js";
import { DisplaySettings } from "./display.js";
import * as panel from "./panel.js";
import { Store, same } from "./store.js";
import { View } from "./view.js";

const $ = (id) => document.getElementById(id);
const store = new Store();
const view = new View($("stage"), $("picture"), $("overlay"), $("lens"));
const list = new panel.List((index) => go(index));
const display = new DisplaySettings(() => showPicture(true));
const bitmaps = new Map(); // the images shown last and the next one, by request
let current = -1;
let withReference = false;
let turn = 0; // counts what is asked for, so that an answer that comes too late is left out

const image = () => store.images[current];
const place = () => `istd.image ${store.folder}`;

function go(index) {
  if (index < 0 || index >= store.images.length || index === current) return;
  current = index;
  sessionStorage.setItem(place(), image().name);
  panel.notice("");
  refresh();
  panel.announce(image());
  showPicture(false);
}

function refresh() {
  if (current < 0) return;
  list.update(store.images, current);
  panel.showProgress(store.images);
  panel.showImage(image(), current, store.images.length, remove);
  panel.showUnreadable(image());
  $("undo").disabled = !store.canUndo;
  $("redo").disabled = !store.canRedo;
  if (!same(view.points, image().points ?? [])) view.setPoints(image().points ?? []);
}

async function picture(name) {
  const query = { name, ...display.query };
  const key = JSON.stringify(query);
  if (!bitmaps.has(key)) {
    bitmaps.set(key, loadBitmap("image", query));
    bitmaps.get(key).catch(() => bitmaps.delete(key));
  }
  const bitmap = await bitmaps.get(key);
  bitmaps.delete(key);
  bitmaps.set(key, Promise.resolve(bitmap));
  for (const old of [...bitmaps.keys()].slice(0, -4)) bitmaps.delete(old);
  return bitmap;
}

async function showPicture(keep) {
  const mine = ++turn;
  const { name } = image();
  document.body.dataset.state = "loading";
  if (!keep) view.setReference(null);
  try {
    const bitmap = await picture(name);
    if (mine !== turn) return;
    image().error = null;
    view.show(bitmap, keep);
    if (!keep) await showReference(mine);
  } catch (error) {
    if (mine !== turn) return;
    view.show(null, false);
    if (error instanceof Refused && error.status === 422) store.fail(current, error.message);
    else panel.notice(error instanceof Refused ? error.message : "The server does not answer.", true);
  }
  if (mine !== turn) return;
  document.body.dataset.state = "ready";
  document.body.dataset.image = name;
  const next = store.images[current + 1];
  if (next && !next.error) picture(next.name).catch(() => {});
}

async function showReference(mine) {
  if (!withReference) return view.setReference(null);
  const { name } = image();
  try {
    const { points, mask } = await loadReference(name);
    const bitmap = mask ? await loadBitmap("mask", { name }) : null;
    if (mine === turn) view.setReference({ points, mask: bitmap });
    if (mine === turn && !mask && points.length === 0) panel.notice("The data have no mask and no points here.");
  } catch (error) {
    if (mine === turn) panel.notice(error.message);
  }
}

function toggleReference() {
  withReference = !withReference;
  $("reference").setAttribute("aria-pressed", String(withReference));
  showReference(turn);
}

/** Take the data's own points over; a second time changes nothing. */
async function copyReference() {
  const mine = turn;
  try {
    const { points } = await loadReference(image().name);
    if (mine !== turn) return;
    if (points.length === 0) panel.notice("The data have no points here to take over.");
    const known = image().points ?? [];
    const fresh = points.filter((point) => !known.some((one) => same(one, point)));
    if (fresh.length) change([...known, ...fresh]);
  } catch (error) {
    panel.notice(error.message);
  }
}

function change(points) {
  if (!view.bitmap || image().error) return;
  store.set(current, points);
  panel.announce(image());
}

function add(pixel) {
  const points = image().points ?? [];
  if (!points.some((one) => same(one, pixel))) change([...points, pixel]);
}

function move(index, pixel) {
  const points = image().points;
  if (points.some((one, i) => i !== index && same(one, pixel))) return refresh();
  change(points.map((one, i) => (i === index ? pixel : one)));
}

/** Taking the last point away leaves an image not annotated: that it has no target is said by its own key. */
function remove(index) {
  const points = (image().points ?? []).filter((_, i) => i !== index);
  if (index >= 0 && image().points) change(points.length ? points : null);
}

function noTarget() {
  if (image().points?.length) panel.notice("The points were taken away; Z brings them back.");
  change(image().points?.length === 0 ? null : []);
}

function seek(step) {
  const total = store.images.length;
  for (let i = 1; i <= total; i++) {
    const index = (current + step * i + total * i) % total;
    if (store.images[index].points === null && !store.images[index].error) return index === current ? alone() : go(index);
  }
  panel.notice("All images are annotated.");
}

const alone = () => panel.notice("This is the only image still to do.");

function follow(index) {
  if (index >= 0 && index !== current) go(index);
}

const KEYS = {
  ArrowRight: () => go(current + 1),
  ArrowLeft: () => go(current - 1),
  PageDown: () => go(current + 1),
  PageUp: () => go(current - 1),
  Home: () => go(0),
  End: () => go(store.images.length - 1),
  "Shift+ArrowRight": () => view.moveCursor(0, 1),
  "Shift+ArrowLeft": () => view.moveCursor(0, -1),
  "Shift+ArrowUp": () => view.moveCursor(-1, 0),
  "Shift+ArrowDown": () => view.moveCursor(1, 0),
  "Ctrl+ArrowRight": () => view.pan(-1, 0),
  "Ctrl+ArrowLeft": () => view.pan(1, 0),
  "Ctrl+ArrowUp": () => view.pan(0, 1),
  "Ctrl+ArrowDown": () => view.pan(0, -1),
  p: () => view.cursor && add(view.cursor),
  Backspace: () => remove((image().points?.length ?? 0) - 1),
  Delete: () => remove(view.nearest),
  n: () => seek(1),
  "Shift+n": () => seek(-1),
  0: noTarget,
  u: () => change(null),
  z: () => follow(store.undo()),
  "Shift+z": () => follow(store.redo()),
  y: () => follow(store.redo()),
  "+": () => view.zoomBy(1.5),
  "=": () => view.zoomBy(1.5),
  "-": () => view.zoomBy(1 / 1.5),
  f: () => view.fit(),
  1: () => view.oneToOne(),
  s: () => display.auto(),
  "Shift+s": () => display.full(),
  g: () => display.brighten(0.2),
  "Shift+g": () => display.brighten(-0.2),
  i: () => display.invert(),
  o: toggleReference,
  c: () => void copyReference(),
  h: () => $("help").showModal(),
  "?": () => $("help").showModal(),
};
const BUTTONS = {
  none: KEYS[0],
  clear: KEYS.u,
  undo: KEYS.z,
  redo: KEYS.y,
  todo: KEYS.n,
  reference: toggleReference,
  skip: KEYS.ArrowRight,
  "help-button": KEYS.h,
};

function onKey(event) {
  if (current < 0 || $("help").open || event.altKey) return;
  // Sliders and the list's filter keep the keys that they use themselves.
  const own = event.target.closest?.("input, select");
  if (own && /^(Arrow|Page|Home|End)/.test(event.key)) return;
  const letter = event.key.length === 1;
  const key = letter ? event.key.toLowerCase() : event.key;
  const control = event.ctrlKey || event.metaKey;
  if (control && letter && key !== "z" && key !== "y") return; // the browser's own
  const shift = event.shiftKey && (!letter || key !== event.key);
  const action = KEYS[`${control && !letter ? "Ctrl+" : ""}${shift ? "Shift+" : ""}${key}`];
  if (!action) return;
  event.preventDefault();
  action();
}

function listen() {
  view.addEventListener("add", ({ detail }) => add(detail.pixel));
  view.addEventListener("drag", ({ detail }) => move(detail.index, detail.pixel));
  view.addEventListener("remove", ({ detail }) => remove(detail.index));
  view.addEventListener("cursor", () => panel.showCursor(view.cursor));
  view.addEventListener("painted", ({ detail }) => panel.showScale(detail.zoom));
  store.addEventListener("change", () => {
    panel.showSaved(store.pending ? "busy" : "ok");
    refresh();
  });
  let troubled = false;
  store.addEventListener("saved", () => {
    if (troubled) panel.notice("");
    troubled = false;
    panel.showSaved(store.pending ? "busy" : "ok");
    refresh();
  });
  store.addEventListener("unsaved", ({ detail }) => {
    troubled = true;
    panel.showSaved("bad");
    panel.notice(`Not saved yet, trying again. ${detail}`, true);
  });
  store.addEventListener("refused", ({ detail }) => {
    panel.showSaved("ok");
    panel.notice(detail, true);
  });
  for (const [id, action] of Object.entries(BUTTONS)) {
    $(id).addEventListener("click", () => current >= 0 && action());
  }
  document.addEventListener("keydown", onKey);
  // What another page or an editor did meanwhile is shown as soon as this page is looked at again.
  document.addEventListener("visibilitychange", () => document.hidden || store.load().catch(() => {}));
  window.addEventListener("beforeunload", (event) => store.pending && event.preventDefault());
}

async function start() {
  listen();
  try {
    await store.load();
  } catch (error) {
    document.body.dataset.state = "failed";
    const text = error instanceof Refused ? error.message : "The server does not answer.";
    return panel.notice(`${text} The address stands in the terminal that runs istd annotate.`, true);
  }
  $("folder").textContent = store.folder;
  $("folder").title = store.folder;
  $("file").textContent = `Points are kept in ${store.file}`;
  const last = store.index(sessionStorage.getItem(place()));
  const todo = store.images.findIndex((one) => one.points === null && !one.error);
  go(last >= 0 ? last : Math.max(todo, 0));
}

start();
