// The map of Bluetooth scanners and devices: a device lies near the scanner that receives it best.

import { html, useMemo } from "./html.js";
import { age, visible } from "./format.js";

const WIDTH = 900;
const HEIGHT = 560;
const NEAREST = 34; // pixels from the scanner at STRONG dBm
const FARTHEST = 190; // at WEAK dBm; farther if there is one scanner
const STRONG = -35;
const WEAK = -100;
const LABELS = 60; // with more devices, names would cover each other
const APART = 30; // pixels between two devices, if there are few
const ROUNDS = 24; // of pushing devices apart
const PUSHED = 200; // more devices stay where they are

export function BluetoothTab({ app }) {
  const ble = app.stream.second?.ble;
  const drawn = useMemo(() => (ble === undefined || ble.scanners.length === 0 ? null : html`<${DeviceMap} ble=${ble} />`), [ble]);
  return drawn ?? html`<p class="notice">No advertisements yet. Start a scanner with: mqttkit publish-scan</p>`;
}

function DeviceMap({ ble }) {
  const scanners = ble.scanners.map((name, place) => ({ name, ...scannerPlace(place, ble.scanners.length) }));
  const devices = ble.devices.map(([address, name, silent, seen]) => ({
    address,
    name,
    silent,
    seen,
    ...devicePlace(address, seen, scanners),
  }));
  if (devices.length <= PUSHED) pushApart(devices, scanners);
  return html`
    <div class="map-and-list">
      <svg class="map" viewBox=${`0 0 ${WIDTH} ${HEIGHT}`} role="img" aria-label="Scanners and devices">
        ${devices.map((device) => device.seen.slice(0, 3).map(([place, rssi]) => html`
          <line key=${`${device.address} ${place}`} x1=${device.x} y1=${device.y} x2=${scanners[place].x} y2=${scanners[place].y}
            stroke-opacity=${0.08 + 0.4 * strength(rssi)} />`))}
        ${devices.map((device) => html`
          <g key=${device.address} class=${`device ${level(device.seen[0][1])}`} opacity=${device.silent > 20 ? 0.4 : 1}>
            <circle cx=${device.x} cy=${device.y} r="6"><title>${describe(device, scanners)}</title></circle>
            ${devices.length <= LABELS && html`
              <text x=${device.x} y=${device.y - 10}>${device.name || device.address.slice(-8)}</text>`}
          </g>`)}
        ${scanners.map((scanner) => html`
          <g key=${scanner.name} class="scanner">
            <rect x=${scanner.x - 11} y=${scanner.y - 11} width="22" height="22" rx="5" />
            <text x=${scanner.x} y=${scanner.y + 28}>${visible(scanner.name)}</text>
          </g>`)}
      </svg>
      <${DeviceTable} devices=${devices} scanners=${scanners} />
    </div>`;
}

function DeviceTable({ devices, scanners }) {
  const sorted = [...devices].sort((a, b) => b.seen[0][1] - a.seen[0][1]);
  return html`
    <div class="devices">
      <table>
        <thead><tr><th>device</th><th>name</th><th class="number">RSSI</th><th>scanner</th><th class="number">age</th></tr></thead>
        <tbody>${sorted.map((device) => html`
          <tr key=${device.address}>
            <td>${device.address}</td><td>${device.name}</td>
            <td class=${`number ${level(device.seen[0][1])}`}>${device.seen[0][1]}</td>
            <td>${scanners[device.seen[0][0]].name}${device.seen.length > 1 ? ` +${device.seen.length - 1}` : ""}</td>
            <td class="number">${age(device.silent)}</td>
          </tr>`)}</tbody>
      </table>
    </div>`;
}

function scannerPlace(place, total) {
  if (total === 1) return { x: WIDTH / 2, y: HEIGHT / 2 };
  const angle = (2 * Math.PI * place) / total + Math.PI;
  return { x: WIDTH / 2 + Math.cos(angle) * WIDTH * 0.3, y: HEIGHT / 2 + Math.sin(angle) * HEIGHT * 0.3 };
}

function devicePlace(address, seen, scanners) {
  const weights = seen.map(([, rssi]) => 10 ** (rssi / 20));
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  const centre = (axis) => seen.reduce((sum, [place], index) => sum + scanners[place][axis] * (weights[index] / total), 0);
  const angle = hash(address) * 2 * Math.PI;
  const farthest = scanners.length === 1 ? 1.3 * FARTHEST : FARTHEST;
  const distance = NEAREST + (farthest - NEAREST) * (1 - strength(seen[0][1]));
  const x = centre("x") + Math.cos(angle) * distance;
  const y = centre("y") + Math.sin(angle) * distance;
  return { x: clamp(x, 14, WIDTH - 14), y: clamp(y, 22, HEIGHT - 14) };
}

/** Move devices that cover each other or a scanner. */
function pushApart(devices, scanners) {
  const fixed = scanners.map((scanner) => ({ ...scanner, fixed: true }));
  const all = [...fixed, ...devices];
  for (let round = 0; round < ROUNDS; round += 1) {
    for (let first = 0; first < all.length; first += 1) {
      for (let second = Math.max(first + 1, fixed.length); second < all.length; second += 1) push(all[first], all[second]);
    }
  }
}

function push(a, b) {
  const dx = b.x - a.x;
  const dy = b.y - a.y;
  const distance = Math.hypot(dx, dy) || 0.1;
  if (distance >= APART) return;
  const share = (APART - distance) / distance / (a.fixed ? 1 : 2);
  const [x, y] = [(dx || 0.1) * share, (dy || 0.1) * share];
  b.x = clamp(b.x + x, 14, WIDTH - 14);
  b.y = clamp(b.y + y, 22, HEIGHT - 14);
  if (!a.fixed) {
    a.x = clamp(a.x - x, 14, WIDTH - 14);
    a.y = clamp(a.y - y, 22, HEIGHT - 14);
  }
}

function strength(rssi) {
  return clamp((rssi - WEAK) / (STRONG - WEAK), 0, 1);
}

function level(rssi) {
  return rssi > -60 ? "strong" : rssi > -80 ? "fair" : "weak";
}

function clamp(value, low, high) {
  return Math.max(low, Math.min(high, value));
}

/** Return a number from 0 to 1 that depends on nothing but the text: a device keeps its direction. */
function hash(text) {
  let value = 2166136261;
  for (const character of text) value = Math.imul(value ^ character.codePointAt(0), 16777619);
  return ((value ^ (value >>> 15)) >>> 0) / 4294967296;
}

function describe(device, scanners) {
  const seen = device.seen.map(([place, rssi]) => `${scanners[place].name}: ${rssi} dBm`).join(", ");
  return `${device.name ? `${device.name}, ` : ""}${device.address}\n${seen}\n${age(device.silent)} ago`;
}
