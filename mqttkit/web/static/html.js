// The vendored libraries, as modules import them.

export const { h, render } = globalThis.preact;
export const { useEffect, useLayoutEffect, useMemo, useRef, useState } = globalThis.preactHooks;
export const html = globalThis.htm.bind(h);
export const Plot = globalThis.uPlot;
