// Plots of numeric topics: samples that arrive, and how they are drawn.

import { html, Plot, useEffect, useRef } from "./html.js";
import { numbers, visible } from "./format.js";

const MAX_POINTS = 5000;
const FRAME_MILLISECONDS = 200;
const COLOURS = ["#0e9aa7", "#e4572e", "#8f6bd1", "#5aa02c", "#c98a00", "#3d7dd8"];

/** The numbers of one topic, each with its points; bounded. */
export class Series {
  constructor(topic) {
    this.topic = topic;
    this.points = new Map(); // by name: { xs, ys }, xs in seconds
    this.version = 0;
  }

  addSample(when, text, cut) {
    if (cut) return; // the next detail has it
    for (const [name, value] of Object.entries(numbers(text))) this.add(visible(name), when, value);
  }

  /** Add the points of a detail that are newer than what is there. */
  addDetail(series) {
    for (const [name, points] of Object.entries(series)) {
      for (const [when, value] of points) this.add(name, when, value);
    }
  }

  add(name, when, value) {
    let line = this.points.get(name);
    if (line === undefined) this.points.set(name, (line = { xs: [], ys: [] }));
    const x = when / 1000;
    if (line.xs.length > 0 && x <= line.xs[line.xs.length - 1]) {
      if (x === line.xs[line.xs.length - 1]) line.ys[line.ys.length - 1] = value;
      return;
    }
    line.xs.push(x);
    line.ys.push(value);
    if (line.xs.length > MAX_POINTS) {
      line.xs.splice(0, MAX_POINTS / 5);
      line.ys.splice(0, MAX_POINTS / 5);
    }
    this.version += 1;
  }

  get drawable() {
    return [...this.points.values()].some((line) => line.xs.length > 1);
  }

  /** Return lines for `LinePlot`: names and [xs, ys] of each. */
  lines() {
    return [...this.points].map(([name, { xs, ys }]) => ({ label: name === "" ? "value" : name, xs, ys }));
  }
}

/** Draw lines that share a time axis; `read` returns them, and is called again while `version` changes. */
export function LinePlot({ read, version, height = 180, label }) {
  const place = useRef(null);
  const latest = useRef({ read, version });
  latest.current = { read, version };
  useEffect(() => {
    let plot = null;
    let drawn = "";
    let names = "";
    const draw = () => {
      const lines = latest.current.read();
      const wanted = lines.map((line) => line.label).join("\0");
      const width = place.current.clientWidth;
      const state = `${latest.current.version()} ${width}`;
      if (state === drawn || width === 0 || lines.length === 0) return;
      drawn = state;
      if (plot === null || wanted !== names) {
        plot?.destroy();
        plot = new Plot(options(lines, width, height), aligned(lines), place.current);
        names = wanted;
      } else {
        if (plot.width !== width) plot.setSize({ width, height });
        plot.setData(aligned(lines));
      }
    };
    draw();
    const timer = setInterval(draw, FRAME_MILLISECONDS);
    return () => {
      clearInterval(timer);
      plot?.destroy();
    };
  }, [height]);
  return html`<div class="plot" ref=${place} role="img" aria-label=${label}></div>`;
}

function aligned(lines) {
  const tables = lines.map(({ xs, ys }) => [xs, ys]);
  return tables.length === 1 ? tables[0] : Plot.join(tables, tables.map((table) => table.map(() => 2)));
}

function options(lines, width, height) {
  const style = getComputedStyle(document.documentElement);
  const text = style.getPropertyValue("--muted").trim();
  const grid = { stroke: style.getPropertyValue("--line").trim(), width: 1 };
  const axis = { stroke: text, grid, ticks: grid, font: "11px system-ui, sans-serif" };
  return {
    width,
    height,
    scales: { x: { time: true } },
    axes: [{ ...axis, values: (_, times) => times.map(timeOfDay) }, { ...axis, size: 64 }],
    cursor: { drag: { x: false, y: false } },
    series: [
      { label: "time", value: (drawn, time) => timeOfDay(time ?? drawn.data[0].at(-1)) },
      ...lines.map((line, place) => ({
        label: line.label,
        value: (drawn, value, place) => shortNumber(value ?? drawn.data[place]?.at(-1)),
        stroke: COLOURS[place % COLOURS.length],
        width: 1.5,
        spanGaps: true,
        points: { show: line.xs.length < 60 },
      })),
    ],
  };
}

function shortNumber(value) {
  return value === null || value === undefined ? "" : String(Number(value.toPrecision(6)));
}

function timeOfDay(seconds) {
  return new Date(seconds * 1000).toTimeString().slice(0, 8);
}
