// Figures in few characters, and text that cannot change how the page looks. The same as `mqttkit top` shows.

export function age(seconds) {
  for (const [limit, unit, name] of [[100, 1, "s"], [6000, 60, "m"], [360000, 3600, "h"]]) {
    if (seconds < limit) return `${Math.max(0, seconds / unit).toFixed(0)}${name}`;
  }
  return `${(seconds / 86400).toFixed(0)}d`;
}

export function rate(perSecond) {
  if (perSecond === 0) return "0";
  if (perSecond < 0.095) return perSecond.toFixed(2);
  return perSecond < 99.95 ? perSecond.toFixed(1) : count(Math.round(perSecond));
}

export function size(bytes) {
  if (bytes < 1000) return bytes.toFixed(0);
  let value = bytes;
  for (const unit of ["K", "M", "G", "T"]) {
    value /= 1024;
    if (value < 1000 || unit === "T") return value < 9.95 ? `${value.toFixed(1)}${unit}` : `${value.toFixed(0)}${unit}`;
  }
  return "";
}

export function count(number) {
  return number.toLocaleString("en-US");
}

const HIDDEN = /[\p{Cc}\p{Cf}\p{Co}\p{Cs}\p{Zl}\p{Zp}]/gu;
const NAMED = { "\n": "\\n", "\r": "\\r", "\t": "\\t" };

/** Return text on one line, with control characters and marks of direction as escapes such as \x1b. */
export function visible(text) {
  return text.replace(HIDDEN, (character) => {
    if (character in NAMED) return NAMED[character];
    const code = character.codePointAt(0);
    return code < 0x100 ? `\\x${code.toString(16).padStart(2, "0")}` : `\\u{${code.toString(16)}}`;
  });
}

export function clock(milliseconds) {
  const time = new Date(milliseconds);
  return `${time.toTimeString().slice(0, 8)}.${String(time.getMilliseconds()).padStart(3, "0")}`;
}

const COUNTERS = new Set(["timestamp", "time", "ts", "sequence", "seq", "id"]);
const MAX_NUMBERS = 3;

/** Return the numbers in a payload by name: itself as "", or the first numbers of a JSON object. */
export function numbers(text) {
  let value;
  try {
    value = JSON.parse(text);
  } catch {
    return {};
  }
  if (typeof value === "number") return { "": value };
  if (value === null || typeof value !== "object" || Array.isArray(value)) return {};
  const found = Object.entries(value).filter(([name, one]) => typeof one === "number" && !COUNTERS.has(name));
  return Object.fromEntries(found.slice(0, MAX_NUMBERS));
}
