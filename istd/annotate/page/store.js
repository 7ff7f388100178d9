// The points of all images: changed here at once, saved in order behind, undone and redone.
// `points` is null for an image not annotated, and empty for one without target.

import { Refused, loadState, savePoints } from "./api.js";

const RETRY_MS = 1500;
const NEVER = [400, 409, 422]; // answers to a change that trying again will not make better

export const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);

export class Store extends EventTarget {
  images = [];
  folder = "";
  file = "";
  #at = new Map();
  #revision = 0;
  #waiting = new Set();
  #running = false;
  #undo = [];
  #redo = [];

  async load() {
    const state = await loadState();
    const kept = new Map(this.images.filter((one) => this.#waiting.has(one.name)).map((one) => [one.name, one]));
    this.folder = state.folder;
    this.file = state.file;
    this.#revision = state.revision;
    // A change on its way keeps the revision it was made at: the server judges whether it is stale.
    this.images = state.images.map((one) => kept.get(one.name) ?? one);
    this.#at = new Map(this.images.map((one, index) => [one.name, index]));
    this.#tell("change");
  }

  get pending() {
    return this.#waiting.size > 0;
  }

  get canUndo() {
    return this.#undo.length > 0;
  }

  get canRedo() {
    return this.#redo.length > 0;
  }

  index(name) {
    return this.#at.get(name) ?? -1;
  }

  fail(index, message) {
    this.images[index].error = message;
    this.#tell("change");
  }

  /** Set the points of an image, to be saved and undone. */
  set(index, points) {
    const image = this.images[index];
    if (same(image.points, points)) return;
    this.#undo.push({ name: image.name, before: image.points, after: points });
    this.#redo = [];
    this.#put(image, points);
  }

  /** Undo or redo a change; the index of its image, or -1 if there is none. */
  undo() {
    return this.#step(this.#undo, this.#redo, "before");
  }

  redo() {
    return this.#step(this.#redo, this.#undo, "after");
  }

  #step(from, to, side) {
    const change = from.pop();
    if (!change) return -1;
    to.push(change);
    const index = this.index(change.name);
    this.#put(this.images[index], change[side]);
    return index;
  }

  #put(image, points) {
    image.points = points;
    this.#waiting.add(image.name);
    this.#tell("change");
    this.#flush();
  }

  async #flush() {
    if (this.#running) return;
    this.#running = true;
    while (this.#waiting.size > 0) {
      const [name] = this.#waiting;
      const sent = this.images[this.index(name)];
      const points = sent.points;
      try {
        const told = await savePoints(name, points, sent.revision);
        const image = this.images[this.index(name)];
        image.revision = told.image.revision;
        if (image.points === points) this.#waiting.delete(name);
        const others = told.revision !== this.#revision + 1;
        this.#revision = told.revision;
        this.#tell("saved");
        if (others) await this.load().catch(() => {});
      } catch (error) {
        if (error instanceof Refused && NEVER.includes(error.status)) await this.#giveUp(name, error);
        else {
          // The disk is full, or the server is away or another one: the change stays here and is tried again.
          this.#tell("unsaved", error instanceof Refused ? error.message : "The server does not answer.");
          await new Promise((done) => setTimeout(done, RETRY_MS));
        }
      }
    }
    this.#running = false;
  }

  /** A refused change is dropped, and what the server has is shown. */
  async #giveUp(name, error) {
    this.#waiting.delete(name);
    const touches = (change) => change.name === name;
    this.#undo = this.#undo.filter((change) => !touches(change));
    this.#redo = this.#redo.filter((change) => !touches(change));
    const told =
      error.status === 409
        ? `${name} was changed elsewhere meanwhile. Your last change was not saved; the points were read again.`
        : error.message;
    await this.load().catch(() => {});
    this.#tell("refused", told);
  }

  #tell(kind, detail) {
    this.dispatchEvent(new CustomEvent(kind, { detail }));
  }
}
