// Everything beside the image: the list, the progress, the points and what is said.

const $ = (id) => document.getElementById(id);

export function element(tag, text, more = {}) {
  const made = Object.assign(document.createElement(tag), more);
  if (text !== null) made.textContent = text;
  return made;
}

export const kind = (image) =>
  image.error ? "error" : image.points === null ? "todo" : image.points.length === 0 ? "none" : "targets";

const plural = (count, what) => `${count} ${what}${count === 1 ? "" : "s"}`;

const words = (image) =>
  ({ error: "unreadable", todo: "not annotated", none: "no target", targets: plural(image.points?.length, "target") })[kind(image)];

/** The list of images; rows are made once and changed in place, for thousands of them. */
export class List {
  #rows = [];
  #current = -1;

  constructor(onChoose) {
    $("filter").addEventListener("change", () => this.#filter());
    $("list").addEventListener("click", (event) => {
      const row = event.target.closest("li");
      if (row) onChoose(this.#rows.indexOf(row));
    });
  }

  update(images, current) {
    if (this.#rows.length !== images.length) {
      this.#rows = images.map((image) => {
        const row = element("li", null);
        const button = element("button", null, { type: "button", title: image.name, tabIndex: -1 });
        button.append(element("i", null), element("span", image.name), element("b", ""));
        row.append(button);
        return row;
      });
      $("list").replaceChildren(...this.#rows);
    }
    images.forEach((image, i) => {
      const row = this.#rows[i];
      const found = kind(image);
      const count = found === "targets" ? String(image.points.length) : "";
      if (row.dataset.kind === found && row.dataset.count === count) return;
      Object.assign(row.dataset, { kind: found, count });
      row.firstChild.lastChild.textContent = count;
      row.firstChild.setAttribute("aria-label", `${image.name}, ${words(image)}`);
    });
    if (this.#current !== current) {
      this.#rows[this.#current]?.firstChild.removeAttribute("aria-current");
      this.#rows[current].firstChild.setAttribute("aria-current", "true");
      this.#rows[current].scrollIntoView({ block: "nearest" });
      this.#current = current;
    }
    this.#filter();
  }

  #filter() {
    const wanted = $("filter").value;
    this.#rows.forEach((row, i) => {
      row.hidden = wanted !== "all" && row.dataset.kind !== wanted && i !== this.#current;
    });
  }
}

export function showProgress(images) {
  const done = images.filter((image) => image.points !== null).length;
  $("bar").style.width = `${(100 * done) / images.length}%`;
  $("count").textContent = `${done} of ${images.length}`;
  const track = $("track");
  track.setAttribute("aria-valuemax", images.length);
  track.setAttribute("aria-valuenow", done);
}

export function showImage(image, index, total, onRemove) {
  document.body.dataset.kind = kind(image);
  $("name").textContent = image.name;
  $("name").title = image.name;
  $("place").textContent = `${index + 1} / ${total}`;
  $("status").textContent = words(image);
  $("status").dataset.kind = kind(image);
  $("none").setAttribute("aria-pressed", String(kind(image) === "none"));
  $("none").disabled = Boolean(image.error);
  $("clear").disabled = image.points === null || Boolean(image.error);
  const rows = (image.points ?? []).map(([y, x], i) => {
    const row = element("li", null);
    const remove = element("button", "×", { type: "button", title: "Remove" });
    remove.setAttribute("aria-label", `Remove the point at y ${y}, x ${x}`);
    remove.addEventListener("click", () => onRemove(i));
    const text = element("span", null);
    text.append(element("small", "y"), ` ${y} `, element("small", "x"), ` ${x}`);
    row.append(element("i", String(i + 1)), text, remove);
    return row;
  });
  $("points").replaceChildren(...rows);
}

export function showUnreadable(image) {
  $("unreadable").hidden = !image.error;
  $("reason").textContent = image.error ?? "";
}

const SAVED = { ok: "Saved", busy: "Saving…", bad: "Not saved" };

export function showSaved(state) {
  $("saved").textContent = SAVED[state];
  $("saved").dataset.kind = state;
}

let timer = 0;

/** Say something over the image; `stay` keeps it until the next. */
export function notice(text, stay = false) {
  clearTimeout(timer);
  $("notice").textContent = text;
  $("notice").hidden = !text;
  if (text && !stay) timer = setTimeout(() => ($("notice").hidden = true), 5000);
}

/** Tell a screen reader what a sighted person sees. */
export function announce(image) {
  $("announce").textContent = `${image.name}: ${words(image)}`;
}

export const showCursor = (cursor) => {
  $("position").textContent = cursor ? `y ${cursor[0]}  x ${cursor[1]}` : "\u00a0";
};

export const showScale = (zoom) => {
  $("scale").textContent = `${zoom >= 1 ? Math.round(zoom * 100) : (zoom * 100).toFixed(1)} %`;
};
