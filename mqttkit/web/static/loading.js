// Loads the page again if one of its files did not arrive: a browser never repeats such a request by itself.

(() => {
  const FIRST_WAIT = 500; // milliseconds; doubles with each attempt
  const LONGEST_WAIT = 30_000;
  const root = document.documentElement;

  /** Show what is missing and try again later, or at once when the user wants it. */
  function loadAgain(file) {
    if ("incomplete" in root.dataset) return;
    root.dataset.incomplete = file;
    const attempts = history.state?.attempts ?? 0; // a reload keeps it
    history.replaceState({ attempts: attempts + 1 }, "");
    setTimeout(() => location.reload(), Math.min(FIRST_WAIT * 2 ** attempts, LONGEST_WAIT));
    show(`The page is incomplete: ${file} did not arrive. Trying again … `);
  }

  function show(text) {
    const app = document.getElementById("app");
    if (app === null) {
      document.addEventListener("DOMContentLoaded", () => show(text), { once: true });
      return;
    }
    const notice = document.createElement("p");
    notice.className = "notice";
    notice.setAttribute("role", "alert");
    const link = document.createElement("a");
    link.href = location.href;
    link.textContent = "Load it now";
    notice.append(text, link);
    app.before(notice); // the application may draw into #app all the same
  }

  window.addEventListener("error", ({ target }) => {
    const address = target instanceof HTMLScriptElement ? target.src : target instanceof HTMLLinkElement && target.href;
    if (address) loadAgain(new URL(address).pathname.replace(/^.*\/static\//, ""));
  }, true);
  window.addEventListener("load", () => {
    if (!("incomplete" in root.dataset)) history.replaceState(null, "");
  });
})();
