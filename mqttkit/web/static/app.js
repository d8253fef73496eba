// The page: its state, its tabs, and when it is drawn.

import { html, render } from "./html.js";
import { age, count, rate, size } from "./format.js";
import { Model } from "./model.js";
import { Series } from "./plot.js";
import { Stream } from "./stream.js";
import { TreePane } from "./tree.js";
import { DetailPane } from "./detail.js";
import { PlotsTab } from "./plots_tab.js";
import { BrokerTab } from "./broker_tab.js";
import { BluetoothTab } from "./bluetooth_tab.js";
import { ServicesTab } from "./services_tab.js";

const FRAME = 100; // milliseconds
const MAX_PLOTS = 24;
const TABS = [
  ["topics", "Topics"],
  ["plots", "Plots"],
  ["broker", "Broker"],
  ["bluetooth", "Bluetooth"],
  ["services", "Bridges and controllers"],
];

class App {
  constructor() {
    this.model = new Model();
    this.stream = new Stream(this.model, (what) => this.note(what));
    this.view = { order: "name", wanted: "" };
    this.tab = "topics";
    this.selected = "";
    this.pinned = new Set();
    this.rows = [];
    this.rowsWanted = true;
    this.drawWanted = true;
    this.clockOffset = 0; // the server's clock less this one, milliseconds
    this.stoppedAt = null;
    this.node = undefined;
  }

  start() {
    this.stream.open();
    setInterval(() => this.draw(), FRAME);
    setInterval(() => (this.drawWanted = true), 1000); // ages
    this.draw();
  }

  now() {
    return this.stoppedAt ?? Date.now() + this.clockOffset;
  }

  /** Remember what an event changes. */
  note(what) {
    this.drawWanted = true;
    if (what === "second") this.clockOffset = this.stream.second.now - Date.now();
    if (what !== "second" && what !== "batch") this.rowsWanted = true;
    if (what === "batch" && this.model.structure !== this.drawnStructure) this.rowsWanted = true;
    if (what === "reset") this.node = undefined;
  }

  draw() {
    if (!this.drawWanted || document.hidden) return;
    this.drawWanted = false;
    if (this.rowsWanted) {
      this.rowsWanted = false;
      if (this.model.structure !== this.drawnStructure) this.model.sum(this.model.root);
      this.drawnStructure = this.model.structure;
      this.rows = this.model.rows(this.view.order, this.view.wanted);
    }
    render(html`<${Page} app=${this} />`, document.getElementById("app"));
  }

  redraw() {
    this.rowsWanted = this.drawWanted = true;
    this.draw();
  }

  change(changes) {
    Object.assign(this.view, changes);
    this.redraw();
  }

  select(node) {
    this.selected = node.topic;
    this.node = node;
    this.redraw();
  }

  /** Return the selected node, also after a snapshot with new nodes. */
  selectedNode() {
    if (this.node === undefined && this.selected !== "") {
      this.node = this.model.find(this.selected) ?? this.rows.find((node) => node.topic === this.selected);
    }
    return this.node;
  }

  turn(node) {
    this.model.turn(node, this.view.wanted);
    this.redraw();
  }

  openAll(open) {
    this.model.openAll(open);
    this.redraw();
  }

  pause() {
    if (this.stream.paused) {
      this.stoppedAt = null;
      this.stream.resume();
    } else {
      this.stoppedAt = this.now();
      this.stream.pause();
    }
    this.redraw();
  }

  /** Add a topic to the plots, or remove it. */
  pin(topic) {
    if (this.pinned.delete(topic)) {
      if (this.selected !== topic) this.model.watch(topic, null);
    } else if (this.pinned.size < MAX_PLOTS) {
      this.pinned.add(topic);
      if (!this.model.series.has(topic)) this.model.watch(topic, new Series(topic));
    }
    this.redraw();
  }

  show(tab) {
    this.tab = tab;
    this.redraw();
  }

  emptyReason() {
    if (this.view.wanted !== "") return "No topic matches.";
    return this.stream.state === "live" ? "No messages yet." : "Connecting …";
  }
}

function Page({ app }) {
  const number = { plots: app.pinned.size, bluetooth: app.stream.second?.ble.devices.length };
  return html`
    <${Header} app=${app} />
    <nav role="tablist">${TABS.map(([key, label]) => html`
      <button role="tab" id=${`tab-${key}`} aria-selected=${app.tab === key} onClick=${() => app.show(key)}>
        ${label}${number[key] ? html` <small>${number[key]}</small>` : ""}</button>`)}
    </nav>
    <main class=${app.tab}>
      ${app.tab === "topics" && html`<${TreePane} app=${app} /><${DetailPane} app=${app} />`}
      ${app.tab === "plots" && html`<${PlotsTab} app=${app} />`}
      ${app.tab === "broker" && html`<${BrokerTab} app=${app} />`}
      ${app.tab === "bluetooth" && html`<${BluetoothTab} app=${app} />`}
      ${app.tab === "services" && html`<${ServicesTab} app=${app} />`}
    </main>`;
}

function Header({ app }) {
  const { second } = app.stream;
  const { connection, tree } = second ?? {};
  return html`
    <header class="top">
      <h1><img src="static/icon.svg" alt="" width="20" height="20" /> mqttkit web</h1>
      ${connection && html`
        <span class="address">${connection.address}</span>
        <span class=${connection.state === "connected" ? "good" : "bad"}>
          ${describe(connection)}</span>
        ${connection.profile && html`<span class="dim">broker ${connection.profile}</span>`}
        <span class="dim filters">${connection.filters.join(" ")}</span>
        <span class="figures-line">${figures(tree)}</span>
        ${dropped(tree.dropped) && html`<span class="bad">${dropped(tree.dropped)}</span>`}`}
      ${app.model.lost > 0 && html`<span class="bad">this page was too slow for ${count(app.model.lost)} messages</span>`}
      ${app.stream.paused && html`<span class="bad">PAUSED</span>`}
      ${app.stream.problem && html`<span class="bad" role="alert">${app.stream.problem}</span>`}
    </header>`;
}

function describe({ state, seconds, reason }) {
  return `${state} for ${age(seconds)}${state === "connected" ? "" : `: ${reason}`}`;
}

function figures({ topics, rate: perSecond, received, used, limit }) {
  return `${count(topics)} topics, ${rate(perSecond)} msg/s, ${count(received)} messages, ${size(used)} of ${size(limit)}`;
}

function dropped({ topics, values, cut }) {
  const parts = [[topics, "topics dropped"], [values, "old values dropped"], [cut, "payloads cut"]];
  return parts.filter(([number]) => number > 0).map(([number, what]) => `${count(number)} ${what}`).join(", ");
}

const app = new App();
document.addEventListener("visibilitychange", () => app.redraw());
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && !/^(INPUT|TEXTAREA)$/.test(document.activeElement?.tagName)) {
    event.preventDefault();
    document.getElementById("filter")?.focus();
  }
});
globalThis.mqttkit = app; // for the browser's console
document.getElementById("app").replaceChildren();
app.start();
