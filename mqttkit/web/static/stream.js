// From the server's events into the model; and requests for one topic.

const QUERY = location.search;
const FIRST_WAIT = 1000; // milliseconds; doubles with each attempt
const LONGEST_WAIT = 30_000;

export class Stream {
  constructor(model, onChange) {
    this.model = model;
    this.onChange = onChange;
    this.second = null; // the latest overview
    this.history = []; // overviews of the last minutes
    this.state = "connecting";
    this.problem = "";
    this.bytes = 0;
    this.attempts = 0; // since the last snapshot
    this.source = null;
  }

  get paused() {
    return this.state === "paused";
  }

  open() {
    const source = new EventSource(`events${QUERY}`);
    this.source = source;
    this.state = "connecting";
    const on = (name, take) =>
      source.addEventListener(name, (event) => {
        this.bytes += event.data.length;
        take(JSON.parse(event.data));
        this.onChange(name);
      });
    on("reset", (content) => {
      this.state = "live";
      this.problem = "";
      this.attempts = 0;
      this.model.reset(content);
    });
    on("topics", (content) => this.model.addTopics(content));
    on("batch", (content) => this.model.addBatch(content));
    on("rates", (content) => this.model.setRates(content));
    on("second", (content) => this.takeSecond(content));
    source.onerror = () => this.fail(source);
  }

  /** Stop the view as it is; `resume` begins with a snapshot. */
  pause() {
    this.source?.close();
    this.state = "paused";
    this.onChange("state");
  }

  resume() {
    this.open();
    this.onChange("state");
  }

  takeSecond(content) {
    this.second = content;
    const { broker, tree, now } = content;
    this.history.push({ now, broker, rate: tree.rate });
    if (this.history.length > 900) this.history.splice(0, 100);
  }

  async fail(source) {
    const replaced = () => this.paused || this.source !== source;
    if (replaced()) return;
    this.state = "broken";
    this.problem = "no answer from mqttkit web; trying again …";
    this.onChange("state");
    if (source.readyState !== EventSource.CLOSED) return; // the browser tries again
    const refusal = await this.reasonOfRefusal();
    if (replaced()) return;
    if (refusal !== null) this.problem = refusal;
    this.onChange("state");
    const wait = Math.min(FIRST_WAIT * 2 ** this.attempts, LONGEST_WAIT);
    this.attempts += 1;
    setTimeout(() => replaced() || this.open(), wait);
  }

  /** Return what the server says; null if it accepts the page now, or is away. */
  async reasonOfRefusal() {
    const stop = new AbortController();
    try {
      const answer = await fetch(`events${QUERY}`, { signal: stop.signal });
      return answer.ok ? null : await answer.text();
    } catch {
      return null;
    } finally {
      stop.abort();
    }
  }
}

/** Return everything about a topic; null if the server does not know it. */
export async function topicDetail(number, shape) {
  const query = new URLSearchParams(QUERY);
  query.set("number", number);
  query.set("shape", shape);
  try {
    const answer = await fetch(`topic?${query}`);
    return answer.ok ? await answer.json() : null;
  } catch {
    return null;
  }
}
