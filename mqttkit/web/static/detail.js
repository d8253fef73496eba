// The pane with everything about the selected topic.

import { html, useEffect, useState } from "./html.js";
import { age, clock, count, rate, size, visible } from "./format.js";
import { LinePlot, Series } from "./plot.js";
import { topicDetail } from "./stream.js";

const REFRESH = 400; // milliseconds between requests while messages arrive
const SHAPES = [["auto", "decoded"], ["text", "text"], ["hex", "hex"]];

export function DetailPane({ app }) {
  const node = app.selectedNode();
  if (node === undefined) return html`<section class="detail"><p class="notice">Select a topic.</p></section>`;
  if (!node.isTopic) return html`<${BranchDetail} app=${app} node=${node} />`;
  return html`<${TopicDetail} key=${node.topic} app=${app} node=${node} />`;
}

function BranchDetail({ app, node }) {
  const { totals } = node;
  return html`
    <section class="detail" aria-label="Branch">
      <h2>${visible(node.topic) || "(empty name)"}</h2>
      <p class="dim">${`${count(totals.topics)} topics, ${figures(totals, app)}`}</p>
    </section>`;
}

function TopicDetail({ app, node }) {
  const [shape, setShape] = useState("auto");
  const [detail, setDetail] = useState(null);
  const pinned = app.pinned.has(node.topic);
  useEffect(() => follow(app, node.topic, shape, setDetail), [node.topic, shape]);
  const series = app.model.series.get(node.topic);
  return html`
    <section class="detail" aria-label="Topic">
      <h2>${visible(node.topic) || "(empty name)"}</h2>
      <p class="dim">${figures(node, app)}${node.retained ? ", the broker retains it" : ""}</p>
      <div class="toolbar">
        ${SHAPES.map(([key, label]) => html`
          <button aria-pressed=${shape === key} onClick=${() => setShape(key)}>${label}</button>`)}
        ${series?.drawable && html`
          <button id="pin" aria-pressed=${pinned} onClick=${() => app.pin(node.topic)}>${pinned ? "remove from plots" : "add to plots"}</button>`}
      </div>
      ${series?.drawable && html`
        <${LinePlot} key=${node.topic} read=${() => series.lines()} version=${() => series.version} label="Recent values" />`}
      ${detail !== null && html`<${Content} detail=${detail} />`}
    </section>`;
}

function Content({ detail }) {
  return html`
    <p class="dim properties">${detail.properties.join("; ")}</p>
    <pre class="payload" tabindex="0">${detail.lines.join("\n")}</pre>
    ${detail.values.length > 1 && html`
      <h3>${detail.changes.length > 0 ? "Changed since the message before" : "Same as the message before"}</h3>
      ${detail.changes.length > 0 && html`<pre class="changes">${detail.changes.map((line) => html`
        <span class=${line.startsWith("+") ? "added" : "removed"}>${line}${"\n"}</span>`)}</pre>`}
      <h3>Last ${detail.values.length} values</h3>
      <table class="values"><tbody>
        ${[...detail.values].reverse().map(([when, text]) => html`<tr><td class="dim">${clock(when)}</td><td>${text}</td></tr>`)}
      </tbody></table>`}
    <h3>The same as a command</h3>
    <pre class="command">${detail.command}</pre>`;
}

function figures(of, app) {
  const silent = age((app.now() - of.when) / 1000);
  return `${count(of.count)} messages, ${rate(of.rate)}/s, ${size(of.size)} bytes, the latest ${silent} ago`;
}

/** Request the topic again while messages arrive on it; collect its numbers meanwhile. */
function follow(app, topic, shape, show) {
  const own = !app.model.series.has(topic);
  if (own) app.model.watch(topic, new Series(topic));
  let ended = false;
  let shownCount = -1;
  let timer = 0;
  const look = async () => {
    const node = app.selectedNode();
    if (node !== undefined && node.topic === topic && node.count !== shownCount) {
      const { count: counted, number } = node;
      const detail = await topicDetail(number, shape);
      if (ended) return;
      if (detail !== null && detail.topic === topic) {
        shownCount = counted;
        app.model.series.get(topic)?.addDetail(detail.series);
        show(detail);
      }
    }
    timer = setTimeout(look, REFRESH);
  };
  look();
  return () => {
    ended = true;
    clearTimeout(timer);
    if (!app.pinned.has(topic)) app.model.watch(topic, null);
  };
}
