// The topics as a tree, from the events of the server.

const RETAINED = 1;
export const CUT = 2;
const OPEN_TOPICS = 60; // a tree with at most so many topics starts with every branch open
const MAX_LEVELS = 40;

class Node {
  constructor(name, parent) {
    this.name = name;
    this.parent = parent;
    this.depth = parent === null ? 0 : parent.depth + 1;
    this.children = null;
    this.sorted = null; // children by name, until one is added
    this.opened = undefined;
    this.number = -1; // a branch without a message has none
    this.topic = parent === null || parent.parent === null ? name : `${parent.topic}/${name}`;
    this.count = 0;
    this.rate = 0;
    this.size = 0;
    this.when = 0;
    this.retained = false;
    this.text = "";
    this.cut = false;
    this.series = null;
    this.totals = { rate: 0, size: 0, when: 0, topics: 0, count: 0 };
  }

  get isTopic() {
    return this.number >= 0;
  }

  child(name) {
    this.children ??= new Map();
    let found = this.children.get(name);
    if (found === undefined) {
      found = new Node(name, this);
      this.children.set(name, found);
      this.sorted = null;
    }
    return found;
  }
}

const byName = (a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0);
const ORDERS = {
  rate: (a, b) => b.totals.rate - a.totals.rate || byName(a, b),
  size: (a, b) => b.totals.size - a.totals.size || byName(a, b),
  age: (a, b) => b.totals.when - a.totals.when || byName(a, b),
};

export class Model {
  constructor() {
    this.series = new Map(); // by topic: what plots are made of
    this.opened = new Map(); // by topic: branches that the user has opened or closed
    this.lost = 0;
    this.received = 0;
    this.clear();
  }

  clear() {
    this.root = new Node("", null);
    this.leaves = [];
    this.topics = 0;
    this.structure = 0; // grows with each new topic
  }

  /** Begin a snapshot. */
  reset({ lost }) {
    this.clear();
    this.lost = lost;
  }

  /** Add topics of a snapshot. */
  addTopics(states) {
    for (const [number, topic, count, rate, size, when, retained, text] of states) {
      const node = this.define(number, topic);
      Object.assign(node, { count, rate, size, when, retained, text, cut: false });
    }
  }

  /** Add the messages of a batch. */
  addBatch({ fresh, parts }) {
    for (const [number, topic] of fresh) this.define(number, topic);
    for (const [when, flat] of parts) {
      for (let place = 0; place < flat.length; place += 4) {
        const node = this.leaves[flat[place]];
        if (node === undefined) continue;
        const flags = flat[place + 2];
        node.count += 1;
        node.size = flat[place + 1];
        node.when = when;
        node.cut = (flags & CUT) !== 0;
        node.text = flat[place + 3];
        if (flags & RETAINED) node.retained = node.size > 0;
        if (node.series !== null) node.series.addSample(when, node.text, node.cut);
      }
      this.received += flat.length / 4;
    }
  }

  setRates(flat) {
    for (const node of this.leaves) if (node !== undefined) node.rate = 0;
    for (let place = 0; place < flat.length; place += 2) {
      const node = this.leaves[flat[place]];
      if (node !== undefined) node.rate = flat[place + 1];
    }
    this.sum(this.root);
  }

  define(number, topic) {
    let node = this.root;
    const levels = topic.split("/");
    const first = levels.slice(0, MAX_LEVELS - 1);
    if (levels.length >= MAX_LEVELS) first.push(levels.slice(MAX_LEVELS - 1).join("/"));
    for (const level of first) node = node.child(level);
    node.number = number;
    node.series = this.series.get(topic) ?? null;
    this.leaves[number] = node;
    this.topics += 1;
    this.structure += 1;
    return node;
  }

  /** Collect a topic's samples in `series`, or stop if it is null. */
  watch(topic, series) {
    if (series === null) this.series.delete(topic);
    else this.series.set(topic, series);
    const node = this.find(topic);
    if (node !== undefined) node.series = series;
  }

  find(topic) {
    return this.leaves.find((node) => node !== undefined && node.topic === topic);
  }

  /** Compute the totals of a branch. */
  sum(node) {
    const totals = node.totals;
    totals.rate = node.rate;
    totals.size = node.size;
    totals.when = node.when;
    totals.count = node.count;
    totals.topics = node.isTopic ? 1 : 0;
    if (node.children !== null) {
      for (const child of node.children.values()) {
        this.sum(child);
        totals.rate += child.totals.rate;
        totals.size += child.totals.size;
        totals.count += child.totals.count;
        totals.topics += child.totals.topics;
        if (child.totals.when > totals.when) totals.when = child.totals.when;
      }
    }
  }

  isOpen(node, wanted) {
    return this.opened.get(node.topic) ?? (this.topics <= OPEN_TOPICS || wanted !== "");
  }

  turn(node, wanted, open = !this.isOpen(node, wanted)) {
    this.opened.set(node.topic, open);
  }

  openAll(open) {
    this.opened.clear();
    if (this.topics <= OPEN_TOPICS && open) return;
    const walk = (node) => {
      if (node.children === null) return;
      this.opened.set(node.topic, open);
      for (const child of node.children.values()) walk(child);
    };
    for (const child of this.root.children?.values() ?? []) walk(child);
  }

  /** Return the nodes to show, from top to bottom. */
  rows(order, wanted) {
    const allowed = wanted === "" ? null : this.matching(wanted);
    const found = [];
    const walk = (branch) => {
      for (const node of this.inOrder(branch, order)) {
        if (allowed !== null && !allowed.has(node)) continue;
        found.push(node);
        if (node.children !== null && this.isOpen(node, wanted)) walk(node);
      }
    };
    walk(this.root);
    return found;
  }

  inOrder(branch, order) {
    if (branch.children === null) return [];
    if (order === "name") return (branch.sorted ??= [...branch.children.values()].sort(byName));
    return [...branch.children.values()].sort(ORDERS[order]);
  }

  matching(wanted) {
    const test = topicTest(wanted);
    const found = new Set();
    for (const leaf of this.leaves) {
      if (leaf === undefined || !test(leaf.topic)) continue;
      for (let node = leaf; node !== null && !found.has(node); node = node.parent) found.add(node);
    }
    return found;
  }
}

/** Return a function that says whether a topic matches: a filter if it has a wildcard, a part of the name otherwise. */
export function topicTest(wanted) {
  if (!/[+#]/.test(wanted)) {
    const folded = wanted.toLowerCase();
    return (topic) => topic.toLowerCase().includes(folded);
  }
  const filter = wanted.split("/");
  return (topic) => {
    const levels = topic.split("/");
    if (topic.startsWith("$") && !wanted.startsWith("$")) return false;
    for (let place = 0; place < filter.length; place += 1) {
      if (filter[place] === "#") return true;
      if (place >= levels.length || (filter[place] !== "+" && filter[place] !== levels[place])) return false;
    }
    return levels.length === filter.length;
  };
}
