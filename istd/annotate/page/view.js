// The image on the screen: zoom, pan, points, crosshair and magnifier. Pixels are [y, x], counted from 0.

const LENS = 15; // image pixels across the magnifier
const MAX_ZOOM = 64;
const COLOURS = { point: "#4cc9f0", near: "#ffb454", reference: "#7ee787", cross: "#ffb454" };
const REACH = 9; // how near the mouse must be to a point to grab it, in CSS pixels

export class View extends EventTarget {
  bitmap = null;
  points = [];
  cursor = null;
  #reference = null;
  #zoom = 1;
  #left = 0;
  #top = 0;
  #fitted = true;
  #near = -1;
  #press = null;
  #queued = false;

  constructor(stage, picture, overlay, lens) {
    super();
    Object.assign(this, { stage, picture, overlay, lens });
    new ResizeObserver(() => this.#resize()).observe(stage);
    overlay.addEventListener("pointerdown", (event) => this.#down(event));
    overlay.addEventListener("pointermove", (event) => this.#move(event));
    overlay.addEventListener("pointerup", (event) => this.#up(event));
    overlay.addEventListener("pointercancel", () => this.#release());
    overlay.addEventListener("pointerleave", () => this.#point(this.#press ? this.cursor : null));
    overlay.addEventListener("contextmenu", (event) => this.#menu(event));
    overlay.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
  }

  /** Show another image, or the same one with another contrast, which keeps zoom and place. */
  show(bitmap, keep) {
    const other = !keep || bitmap?.width !== this.bitmap?.width || bitmap?.height !== this.bitmap?.height;
    this.bitmap = bitmap;
    if (other) {
      this.#point(null);
      this.#release();
      this.fit();
    }
    this.draw();
  }

  setPoints(points) {
    this.points = points;
    this.#near = -1;
    this.draw();
  }

  setReference(reference) {
    this.#reference = reference;
    this.draw();
  }

  get nearest() {
    if (!this.cursor) return -1;
    let best = -1;
    let least = Infinity;
    this.points.forEach(([y, x], i) => {
      const far = (y - this.cursor[0]) ** 2 + (x - this.cursor[1]) ** 2;
      if (far < least) [best, least] = [i, far];
    });
    return best;
  }

  fit() {
    if (!this.bitmap) return;
    const { clientWidth: width, clientHeight: height } = this.stage;
    const zoom = Math.min((width - 32) / this.bitmap.width, (height - 32) / this.bitmap.height);
    this.#zoom = Math.min(Math.max(zoom, 0.01), MAX_ZOOM);
    this.#left = (width - this.bitmap.width * this.#zoom) / 2;
    this.#top = (height - this.bitmap.height * this.#zoom) / 2;
    this.#fitted = true;
    this.draw();
  }

  /** Zoom by a factor about a place in the stage; by default about the crosshair, else the middle. */
  zoomBy(factor, at) {
    const [x, y] = at ?? (this.cursor ? this.#centre(this.cursor) : [this.stage.clientWidth / 2, this.stage.clientHeight / 2]);
    const zoom = Math.min(Math.max(this.#zoom * factor, 0.02), MAX_ZOOM);
    this.#left = x - ((x - this.#left) * zoom) / this.#zoom;
    this.#top = y - ((y - this.#top) * zoom) / this.#zoom;
    this.#zoom = zoom;
    this.#fitted = false;
    this.draw();
  }

  oneToOne() {
    this.zoomBy(1 / this.#zoom);
  }

  /** Move the image by eighths of the window. */
  pan(right, down) {
    this.#left += (right * this.stage.clientWidth) / 8;
    this.#top += (down * this.stage.clientHeight) / 8;
    this.#fitted = false;
    this.draw();
  }

  /** Move the crosshair by pixels, and the image with it where it would leave the window. */
  moveCursor(dy, dx) {
    if (!this.bitmap) return;
    const [y, x] = this.cursor ?? [this.bitmap.height >> 1, this.bitmap.width >> 1];
    this.#point(this.#clamp([y + dy, x + dx]));
    const [left, top] = this.#centre(this.cursor);
    this.#left += Math.max(0, 24 - left) - Math.max(0, left - this.stage.clientWidth + 24);
    this.#top += Math.max(0, 24 - top) - Math.max(0, top - this.stage.clientHeight + 24);
    this.draw();
  }

  #point(pixel) {
    this.cursor = pixel;
    this.dispatchEvent(new CustomEvent("cursor"));
    this.draw();
  }

  #centre([y, x]) {
    return [this.#left + (x + 0.5) * this.#zoom, this.#top + (y + 0.5) * this.#zoom];
  }

  #place(event) {
    const box = this.overlay.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  #pixel([x, y]) {
    return [Math.floor((y - this.#top) / this.#zoom), Math.floor((x - this.#left) / this.#zoom)];
  }

  #clamp([y, x]) {
    return [
      Math.min(Math.max(y, 0), this.bitmap.height - 1),
      Math.min(Math.max(x, 0), this.bitmap.width - 1),
    ];
  }

  #inside([y, x]) {
    return y >= 0 && x >= 0 && y < this.bitmap.height && x < this.bitmap.width;
  }

  #pick([left, top]) {
    let best = -1;
    let least = Math.max(REACH, this.#zoom * 0.75) ** 2;
    this.points.forEach((point, i) => {
      const [x, y] = this.#centre(point);
      const far = (x - left) ** 2 + (y - top) ** 2;
      if (far <= least) [best, least] = [i, far];
    });
    return best;
  }

  #down(event) {
    if (!this.bitmap || event.button > 1 || this.#press) return;
    event.preventDefault();
    this.overlay.focus({ preventScroll: true });
    this.overlay.setPointerCapture(event.pointerId);
    const at = this.#place(event);
    const grabbed = event.button === 0 ? this.#pick(at) : -1;
    this.#press = { at, last: at, grabbed, moved: false, button: event.button };
  }

  #move(event) {
    if (!this.bitmap) return;
    const at = this.#place(event);
    const press = this.#press;
    if (press) {
      press.moved ||= Math.hypot(at[0] - press.at[0], at[1] - press.at[1]) > 4;
      if (press.moved && press.grabbed < 0) {
        this.#left += at[0] - press.last[0];
        this.#top += at[1] - press.last[1];
        this.#fitted = false;
      }
      press.last = at;
    }
    this.#near = press ? press.grabbed : this.#pick(at);
    this.overlay.style.cursor = press?.moved ? "grabbing" : this.#near >= 0 ? "grab" : "crosshair";
    const pixel = this.#pixel(at);
    const dragging = press?.moved && press.grabbed >= 0;
    this.#point(dragging ? this.#clamp(pixel) : this.#inside(pixel) ? pixel : null);
  }

  #up(event) {
    const press = this.#press;
    if (!press || event.button !== press.button) return;
    const pixel = this.#pixel(this.#place(event));
    this.#release();
    if (press.moved && press.grabbed >= 0) this.#emit("drag", { index: press.grabbed, pixel: this.#clamp(pixel) });
    else if (!press.moved && press.button === 0 && this.#inside(pixel)) this.#emit("add", { pixel });
    this.draw();
  }

  #release() {
    this.#press = null;
    this.overlay.style.cursor = "crosshair";
  }

  #menu(event) {
    event.preventDefault();
    const index = this.bitmap ? this.#pick(this.#place(event)) : -1;
    if (index >= 0 && !this.#press) this.#emit("remove", { index });
  }

  #wheel(event) {
    event.preventDefault();
    if (!this.bitmap) return;
    // A notch of a wheel is about 100 pixels or 3 lines; a touchpad sends many small ones.
    const pixels = event.deltaY * (event.deltaMode === 1 ? 33 : event.deltaMode === 2 ? 300 : 1);
    this.zoomBy(Math.exp(-Math.min(Math.max(pixels, -300), 300) * 0.003), this.#place(event));
    this.#move(event);
  }

  #emit(kind, detail) {
    this.dispatchEvent(new CustomEvent(kind, { detail }));
  }

  #resize() {
    if (this.#fitted) this.fit();
    this.draw();
  }

  draw() {
    if (this.#queued) return;
    this.#queued = true;
    requestAnimationFrame(() => {
      this.#queued = false;
      this.#paint();
    });
  }

  #paint() {
    const scale = window.devicePixelRatio || 1;
    const { clientWidth: width, clientHeight: height } = this.stage;
    const [back, front] = [this.picture, this.overlay].map((canvas) => {
      const [w, h] = [Math.round(width * scale), Math.round(height * scale)];
      if (canvas.width !== w || canvas.height !== h) Object.assign(canvas, { width: w, height: h });
      const context = canvas.getContext("2d");
      context.setTransform(scale, 0, 0, scale, 0, 0);
      context.clearRect(0, 0, width, height);
      return context;
    });
    // Where the image lies, for tests and for the curious.
    Object.assign(this.stage.dataset, { zoom: this.#zoom, left: this.#left, top: this.#top });
    this.dispatchEvent(new CustomEvent("painted", { detail: { zoom: this.#zoom * scale } }));
    if (!this.bitmap) {
      this.lens.getContext("2d").clearRect(0, 0, this.lens.width, this.lens.height);
      return;
    }
    this.#paintImage(back, this.bitmap, width, height, scale);
    if (this.#reference?.mask) this.#paintImage(back, this.#reference.mask, width, height, scale);
    this.#paintMarks(front, width, height);
    this.#paintLens(scale);
  }

  #paintImage(context, bitmap, width, height, scale) {
    // Only the visible part: at high zoom the whole would be a picture of gigapixels.
    const x0 = Math.max(0, Math.floor(-this.#left / this.#zoom));
    const y0 = Math.max(0, Math.floor(-this.#top / this.#zoom));
    const x1 = Math.min(bitmap.width, Math.ceil((width - this.#left) / this.#zoom));
    const y1 = Math.min(bitmap.height, Math.ceil((height - this.#top) / this.#zoom));
    if (x1 <= x0 || y1 <= y0) return;
    context.imageSmoothingEnabled = this.#zoom * scale < 1;
    context.imageSmoothingQuality = "high";
    context.drawImage(bitmap, x0, y0, x1 - x0, y1 - y0, this.#left + x0 * this.#zoom,
      this.#top + y0 * this.#zoom, (x1 - x0) * this.#zoom, (y1 - y0) * this.#zoom);
  }

  #paintMarks(context, width, height) {
    for (const point of this.#reference?.points ?? []) this.#mark(context, point, COLOURS.reference, 5);
    const moving = this.#press?.moved ? this.#press.grabbed : -1;
    this.points.forEach((point, i) => {
      const here = i === moving && this.cursor ? this.cursor : point;
      this.#mark(context, here, i === this.#near ? COLOURS.near : COLOURS.point, 8);
    });
    if (!this.cursor) return;
    const [x, y] = this.#centre(this.cursor);
    const gap = Math.max(14, this.#zoom * 2);
    line(context, "rgba(255, 180, 84, 0.35)", 1, () => {
      for (const [a, b, c, d] of [[0, y, x - gap, y], [x + gap, y, width, y], [x, 0, x, y - gap], [x, y + gap, x, height]]) {
        context.moveTo(a, b);
        context.lineTo(c, d);
      }
    });
    if (this.#zoom >= 3)
      line(context, COLOURS.cross, 1, () => context.rect(x - this.#zoom / 2, y - this.#zoom / 2, this.#zoom, this.#zoom));
  }

  #mark(context, point, colour, least) {
    const [x, y] = this.#centre(point);
    const radius = Math.max(least, this.#zoom * 1.6);
    const shape = () => {
      context.arc(x, y, radius, 0, 2 * Math.PI);
      for (const [dx, dy] of [[1, 0], [0, 1], [-1, 0], [0, -1]]) {
        context.moveTo(x + dx * radius, y + dy * radius);
        context.lineTo(x + dx * (radius + 5), y + dy * (radius + 5));
      }
    };
    line(context, "rgba(0, 0, 0, 0.6)", 4, shape);
    line(context, colour, 1.75, shape);
  }

  #paintLens(scale) {
    const size = this.lens.clientWidth;
    const side = Math.round(size * scale);
    if (this.lens.width !== side) this.lens.width = this.lens.height = side;
    const context = this.lens.getContext("2d");
    context.setTransform(side / LENS, 0, 0, side / LENS, 0, 0);
    context.clearRect(0, 0, LENS, LENS);
    if (!this.cursor) return;
    const [y, x] = this.cursor;
    const half = (LENS - 1) / 2;
    context.translate(half - x, half - y);
    context.imageSmoothingEnabled = false;
    // A clipped source keeps the parts outside the image empty in every browser.
    const [x0, y0] = [Math.max(0, x - half), Math.max(0, y - half)];
    const [x1, y1] = [Math.min(this.bitmap.width, x + half + 1), Math.min(this.bitmap.height, y + half + 1)];
    context.drawImage(this.bitmap, x0, y0, x1 - x0, y1 - y0, x0, y0, x1 - x0, y1 - y0);
    for (const [py, px] of this.points) {
      line(context, COLOURS.point, 0.15, () => context.arc(px + 0.5, py + 0.5, 0.9, 0, 2 * Math.PI));
    }
    line(context, COLOURS.cross, 0.12, () => context.rect(x, y, 1, 1));
  }
}

function line(context, colour, width, path) {
  context.strokeStyle = colour;
  context.lineWidth = width;
  context.beginPath();
  path();
  context.stroke();
}
