"use strict";
// Without this file every page works. With it, the regions that say what is going on follow the daemon, and what is to be
// sent on can be copied. What comes is HTML of our own server, escaped there.
(() => {
  const region = document.querySelector("[data-live]");
  let source = null;
  const close = () => { if (source) source.close(); source = null; };
  const open = () => {
    if (source || document.hidden) return;
    source = new EventSource(region.dataset.live);
    source.addEventListener("page", (event) => {
      // Whoever stands on a link in there, with the keyboard, keeps it.
      if (!region.contains(document.activeElement)) region.innerHTML = event.data;
    });
    source.addEventListener("over", () => { close(); location.reload(); });
  };
  if (region && window.EventSource) {
    document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
    open();
  }
  for (const button of document.querySelectorAll("button[data-copy]")) {
    const field = document.getElementById(button.dataset.copy);
    if (!field || !navigator.clipboard) continue;
    button.hidden = false;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(field.value);
      button.textContent = "Copied";
    });
  }
})();
