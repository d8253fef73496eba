// The status of bridges and controllers.

import { html } from "./html.js";
import { age, count } from "./format.js";

const GOOD = new Set(["ready", "running", "online"]);
const BAD = new Set(["unreachable", "missing", "not ready", "offline", "silent"]);

export function ServicesTab({ app }) {
  const second = app.stream.second;
  if (second === null) return html`<p class="notice">Waiting for figures …</p>`;
  const { bridges, controllers } = second;
  return html`
    <h2>Bridges</h2>
    ${bridges.length === 0 && html`
      <p class="notice">No bridge seen. The page shows members of a group, and bridges given with --bridge-health HOST:PORT.</p>`}
    <div class="cards">${bridges.map((bridge) => html`<${Bridge} key=${bridge.name} bridge=${bridge} />`)}</div>
    <h2>Controllers</h2>
    ${controllers.problem && html`<p class="notice">Heartbeats are not verified: ${controllers.problem}</p>`}
    ${controllers.rows.length === 0
      ? html`<p class="notice">No heartbeat of a controller seen.</p>`
      : html`<${ControllerTable} rows=${controllers.rows} />`}`;
}

function Bridge({ bridge }) {
  return html`
    <section class="card bridge">
      <header><h2>${bridge.name}</h2><${State} text=${bridge.state} /></header>
      ${bridge.reasons.map((reason) => html`<p class="reason">${reason}</p>`)}
      <dl class="figures">${Object.entries(bridge.figures).map(([name, value]) => html`
        <div key=${name}><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>
    </section>`;
}

function ControllerTable({ rows }) {
  return html`
    <table class="controllers">
      <thead><tr><th>controller</th><th>role</th><th>region</th><th>status</th><th class="number">last heartbeat</th>
        <th>transport</th><th class="number">reports</th><th class="number">refused</th></tr></thead>
      <tbody>${rows.map((row) => html`
        <tr key=${row.controller}>
          <td>${row.controller}</td><td>${row.role}</td><td>${row.region}</td><td><${State} text=${row.status} /></td>
          <td class="number">${age(row.last_heartbeat)}</td><td>${row.transport}</td>
          <td class="number">${figure(row.reports)}</td><td class="number">${figure(row.refused)}</td>
        </tr>`)}</tbody>
    </table>`;
}

function State({ text }) {
  const kind = GOOD.has(text) ? "good" : BAD.has(text) ? "bad" : "unsure";
  return html`<span class=${`state ${kind}`}>${text}</span>`;
}

function figure(value) {
  return typeof value === "number" ? count(value) : "";
}
