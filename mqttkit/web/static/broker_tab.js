// The broker's own figures, and how they develop.

import { html } from "./html.js";
import { count, rate, size } from "./format.js";
import { LinePlot } from "./plot.js";

const FIGURES = {
  version: ["version", (value) => value],
  uptime: ["uptime", duration],
  clients_connected: ["clients connected", count],
  clients_total: ["clients and sessions", count],
  subscriptions: ["subscriptions", count],
  retained: ["retained messages", count],
  stored: ["messages in store", count],
  received_per_second: ["messages in per second", rate],
  sent_per_second: ["messages out per second", rate],
  publish_dropped: ["messages dropped", count],
  packets_received: ["packets in", count],
  packets_sent: ["packets out", count],
  bytes_received: ["bytes in", size],
  bytes_sent: ["bytes out", size],
  heap_bytes: ["memory", size],
};

export function BrokerTab({ app }) {
  const { second, history } = app.stream;
  if (second === null) return html`<p class="notice">Waiting for figures …</p>`;
  const known = Object.entries(FIGURES).filter(([name]) => name in second.broker);
  const line = (label, value) => ({
    label,
    xs: history.map((each) => each.now / 1000),
    ys: history.map((each) => value(each) ?? null),
  });
  const version = () => app.stream.history.length === 0 ? 0 : app.stream.history[app.stream.history.length - 1].now;
  return html`
    ${known.length === 0
      ? html`<p class="notice">No $SYS figures: this broker sends none, or not to this user.</p>`
      : html`<dl class="figures">${known.map(([name, [label, show]]) => html`
          <div key=${name}><dt>${label}</dt><dd>${show(second.broker[name])}</dd></div>`)}</dl>`}
    <div class="cards">
      <section class="card">
        <header><h2>Messages per second</h2></header>
        <${LinePlot} version=${version} height=${200} label="Messages per second" read=${() => [
          line("received here", (each) => each.rate),
          line("broker in", (each) => each.broker.received_per_second),
          line("broker out", (each) => each.broker.sent_per_second),
        ]} />
      </section>
      <section class="card">
        <header><h2>Clients</h2></header>
        <${LinePlot} version=${version} height=${200} label="Clients"
          read=${() => [line("connected", (each) => each.broker.clients_connected)]} />
      </section>
    </div>`;
}

function duration(seconds) {
  const days = Math.floor(seconds / 86400);
  const time = new Date(seconds * 1000).toISOString().slice(11, 19);
  return days > 0 ? `${days} d ${time}` : time;
}
