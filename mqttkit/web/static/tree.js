// The tree of topics: draws only the rows that are visible, however many topics there are.

import { html, useEffect, useRef, useState } from "./html.js";
import { age, count, rate, size, visible } from "./format.js";

const ROW = 22; // pixels, as in style.css
const SPARE = 6; // rows drawn above and below
const FRESH = 600; // milliseconds for which a new value is highlighted
const SHORT = 120;
const COLUMNS = [["name", "topic"], ["rate", "msg/s"], ["size", "bytes"], ["age", "age"]];

export function TreePane({ app }) {
  const { order, wanted } = app.view;
  return html`
    <section class="tree-pane" aria-label="Topics">
      <div class="toolbar">
        <input id="filter" type="search" placeholder="part of a topic, or a filter such as site/+/temp" value=${wanted}
          aria-label="Show only topics that match"
          onInput=${(event) => app.change({ wanted: event.target.value.trim() })} />
        <button onClick=${() => app.openAll(true)} title="Open every branch">open all</button>
        <button onClick=${() => app.openAll(false)} title="Close every branch">close all</button>
        <button id="pause" aria-pressed=${app.stream.paused} onClick=${() => app.pause()}
          title="Stop the view as it is">${app.stream.paused ? "resume" : "pause"}</button>
      </div>
      <div class="row heading" role="row">
        ${COLUMNS.map(([key, label]) => html`
          <button class=${`c-${key}`} aria-pressed=${order === key} onClick=${() => app.change({ order: key })}>${label}</button>`)}
        <span class="c-mark"></span><span class="c-value">value</span>
      </div>
      <${Rows} app=${app} />
    </section>`;
}

function Rows({ app }) {
  const box = useRef(null);
  const [top, setTop] = useState(0);
  const [height, setHeight] = useState(600);
  useEffect(() => {
    const watcher = new ResizeObserver(() => setHeight(box.current.clientHeight));
    watcher.observe(box.current);
    return () => watcher.disconnect();
  }, []);
  const rows = app.rows;
  const first = Math.max(0, Math.floor(top / ROW) - SPARE);
  const shown = rows.slice(first, Math.ceil((top + height) / ROW) + SPARE);
  const now = app.now();
  const show = (place) => {
    const view = box.current;
    if (place * ROW < view.scrollTop) view.scrollTop = place * ROW;
    if ((place + 1) * ROW > view.scrollTop + view.clientHeight) view.scrollTop = (place + 1) * ROW - view.clientHeight;
  };
  return html`
    <div class="rows" ref=${box} tabindex="0" role="tree" aria-label="Topics" onScroll=${() => setTop(box.current.scrollTop)}
      onKeyDown=${(event) => moveCursor(event, app, show)}>
      <div class="space" style=${{ height: `${rows.length * ROW}px` }}>
        <div class="window" style=${{ transform: `translateY(${first * ROW}px)` }}>
          ${shown.map((node) => html`<${Row} key=${node.topic} app=${app} node=${node} now=${now} />`)}
        </div>
      </div>
      ${rows.length === 0 && html`<p class="notice">${app.emptyReason()}</p>`}
    </div>`;
}

function Row({ app, node, now }) {
  const branch = node.children !== null;
  const open = branch && app.model.isOpen(node, app.view.wanted);
  const { totals } = node;
  const when = Math.max(node.when, totals.when);
  const selected = app.selected === node.topic;
  const fresh = now - when < FRESH;
  const choose = () => {
    if (branch && (selected || !node.isTopic)) app.turn(node);
    app.select(node);
  };
  return html`
    <div class=${`row${selected ? " selected" : ""}`} role="treeitem" aria-selected=${selected} aria-level=${node.depth}
      aria-expanded=${branch ? open : undefined} title=${visible(node.topic)} onClick=${choose}>
      <span class=${`c-name${branch ? " branch" : ""}`} style=${{ paddingLeft: `${Math.min(node.depth - 1, 10) * 14}px` }}>
        <i class="arrow">${branch ? (open ? "▾" : "▸") : ""}</i>${visible(node.name) || "(empty)"}
      </span>
      <span class=${`c-rate${totals.rate > 0 ? " busy" : ""}`}>${rate(branch ? totals.rate : node.rate)}</span>
      <span class="c-size">${size(branch ? totals.size : node.size)}</span>
      <span class="c-age">${age((now - when) / 1000)}</span>
      <span class="c-mark">${node.retained ? html`<b title="The broker retains a message">R</b>` : ""}</span>
      <span class=${`c-value${node.isTopic ? (fresh ? " fresh" : "") : " dim"}`}>${valueOf(node)}</span>
    </div>`;
}

function valueOf(node) {
  if (!node.isTopic) return `${count(node.totals.topics)} topic${node.totals.topics === 1 ? "" : "s"}`;
  return node.size === 0 ? "(empty)" : visible(node.text.slice(0, SHORT));
}

function moveCursor(event, app, show) {
  const place = app.rows.findIndex((node) => node.topic === app.selected);
  const node = app.rows[place];
  const go = (target) => {
    const next = Math.max(0, Math.min(app.rows.length - 1, target));
    if (app.rows[next] !== undefined) {
      app.select(app.rows[next]);
      show(next);
    }
  };
  const page = Math.max(1, Math.floor(event.currentTarget.clientHeight / ROW) - 1);
  const open = node !== undefined && node.children !== null && app.model.isOpen(node, app.view.wanted);
  const keys = {
    ArrowDown: () => go(place + 1),
    ArrowUp: () => go(place - 1),
    PageDown: () => go(place + page),
    PageUp: () => go(place - page),
    Home: () => go(0),
    End: () => go(app.rows.length - 1),
    ArrowRight: () => (node?.children && !open ? app.turn(node) : go(place + 1)),
    ArrowLeft: () => (open ? app.turn(node) : go(app.rows.indexOf(node?.parent))),
    Enter: () => node?.children && app.turn(node),
  };
  if (event.key in keys && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    keys[event.key]();
  }
}
