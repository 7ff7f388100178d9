// How gray values become brightness: the settings behind the sliders. The server does the work.

const $ = (id) => document.getElementById(id);
const AUTO = { low: 0.1, high: 99.95, gamma: 0 };
const FULL = { low: 0, high: 100, gamma: 0 };
const KEPT = "istd.display";
const SLIDERS = ["low", "high", "gamma"];
const WAIT_MS = 60;

export class DisplaySettings {
  #now = { ...AUTO, invert: false };
  #timer = 0;

  constructor(onChange) {
    this.onChange = onChange;
    try {
      Object.assign(this.#now, JSON.parse(sessionStorage.getItem(KEPT)) ?? {});
    } catch {
      // Nothing kept, or nothing readable: the default it is.
    }
    for (const key of SLIDERS) {
      $(key).addEventListener("input", () => this.#change({ [key]: Number($(key).value) }));
    }
    $("auto").addEventListener("click", () => this.auto());
    $("full").addEventListener("click", () => this.full());
    $("invert").addEventListener("click", () => this.invert());
    this.#show();
  }

  /** The settings as a request has them. */
  get query() {
    const { low, high, gamma, invert } = this.#now;
    return { low, high, gamma: (2 ** gamma).toFixed(3), invert: invert ? 1 : 0 };
  }

  auto() {
    this.#change(AUTO);
  }

  full() {
    this.#change(FULL);
  }

  invert() {
    this.#change({ invert: !this.#now.invert });
  }

  brighten(step) {
    this.#change({ gamma: Math.min(Math.max(this.#now.gamma + step, -2.5), 2.5) });
  }

  #change(some) {
    Object.assign(this.#now, some);
    sessionStorage.setItem(KEPT, JSON.stringify(this.#now));
    this.#show();
    clearTimeout(this.#timer);
    this.#timer = setTimeout(this.onChange, WAIT_MS);
  }

  #show() {
    const { low, high, gamma, invert } = this.#now;
    for (const key of SLIDERS) $(key).value = this.#now[key];
    $("low-value").textContent = `${low.toFixed(1)} %`;
    $("high-value").textContent = `${high.toFixed(2)} %`;
    $("gamma-value").textContent = (2 ** gamma).toFixed(2);
    $("invert").setAttribute("aria-pressed", String(invert));
  }
}
