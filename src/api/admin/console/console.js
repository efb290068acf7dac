"use strict";
// Without this file every page works. With it, the regions that say what is going on follow the daemon, a search goes on by
// itself, and what is to be sent on can be copied. What comes is HTML of our own server, escaped there.
(() => {
  // An instant as the server tells it (`relative` in layout.rs).
  const relative = (seconds) => {
    const far = Math.abs(seconds);
    const [count, unit] = far < 120 ? [far, "second"] : far < 7200 ? [Math.floor(far / 60), "minute"]
      : far < 172800 ? [Math.floor(far / 3600), "hour"] : [Math.floor(far / 86400), "day"];
    const span = `${count} ${unit}${count === 1 ? "" : "s"}`;
    return seconds === 0 ? "just now" : seconds > 0 ? `in ${span}` : `${span} ago`;
  };
  // Nothing changed but the time: it is now this, by the server's clock.
  const tell = (region, now) => {
    for (const time of region.querySelectorAll("time")) {
      const text = "asOf" in time.dataset ? now : relative((Date.parse(time.dateTime) - Date.parse(now)) / 1000);
      if (time.textContent !== text) time.textContent = text;
    }
  };
  // Runs a stream while the page is seen; `begin` opens it, or returns nothing if there is nothing to follow.
  const follow = (begin) => {
    let source = null;
    const close = () => { if (source) source.close(); source = null; };
    const open = () => { if (!source && !document.hidden) source = begin(close); };
    document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
    open();
  };
  const over = (source, close) => source.addEventListener("over", () => { close(); location.reload(); });

  const region = document.querySelector("[data-live]");
  if (region && window.EventSource) {
    follow((close) => {
      const source = new EventSource(region.dataset.live);
      source.addEventListener("page", (event) => {
        // Whoever stands on a link in there, with the keyboard, keeps it.
        if (!region.contains(document.activeElement)) region.innerHTML = event.data;
      });
      source.addEventListener("time", (event) => tell(region, event.data));
      over(source, close);
      return source;
    });
  }

  const search = document.querySelector("[data-search]");
  if (search && window.EventSource) {
    const list = search.querySelector("[data-found]");
    const foot = search.querySelector("[data-foot]");
    let next = search.dataset.search;
    const stop = (close) => { close(); search.removeAttribute("aria-busy"); };
    follow((close) => {
      if (!next) return null;
      const source = new EventSource(next);
      search.setAttribute("aria-busy", "true");
      source.addEventListener("more", (event) => {
        const more = document.createElement("template");
        more.innerHTML = event.data;
        const end = more.content.firstElementChild;
        const rows = more.content.querySelectorAll("tbody > tr");
        const table = list.querySelector("tbody");
        next = end.dataset.next;
        foot.replaceChildren(end);
        if (rows.length && table) table.append(...rows); else if (rows.length) list.replaceChildren(more.content);
      });
      source.addEventListener("done", () => { next = undefined; stop(close); });
      // The button in the foot goes on.
      source.addEventListener("error", () => stop(close));
      over(source, close);
      return source;
    });
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
