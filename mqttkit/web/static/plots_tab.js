// The plots that the user has chosen.

import { html } from "./html.js";
import { visible } from "./format.js";
import { LinePlot } from "./plot.js";

export function PlotsTab({ app }) {
  const topics = [...app.pinned];
  if (topics.length === 0) {
    return html`<p class="notice">No plots yet. Select a numeric topic, then “add to plots”.</p>`;
  }
  return html`
    <div class="cards">
      ${topics.map((topic) => html`
        <section class="card" key=${topic}>
          <header><h2>${visible(topic)}</h2><button onClick=${() => app.pin(topic)}>remove</button></header>
          <${LinePlot} read=${() => app.model.series.get(topic)?.lines() ?? []} version=${() => app.model.series.get(topic)?.version ?? 0}
            height=${220} label=${`Values of ${visible(topic)}`} />
        </section>`)}
    </div>`;
}
