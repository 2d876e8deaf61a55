"use strict";
// Brings a cell's section to the reader as a dialog, and puts it back. Without this script the same
// links lead to the same sections further down.
(() => {
  const dialog = document.getElementById("drill");
  const slot = document.getElementById("slot");
  let place = null;
  let opener = null;

  const putBack = () => {
    if (place) place.replaceWith(slot.firstElementChild);
    place = null;
  };

  const sync = () => {
    const id = decodeURIComponent(location.hash.slice(1));
    const cell = id.startsWith("cell-") ? document.getElementById(id) : null;
    if (!cell) {
      if (dialog.open) dialog.close();
      return;
    }
    if (!slot.contains(cell)) {
      putBack();
      place = document.createComment("");
      cell.replaceWith(place);
      slot.append(cell);
    }
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
    cell.querySelector("h3").focus();
  };

  dialog.addEventListener("close", () => {
    putBack();
    if (location.hash.startsWith("#cell-")) {
      history.replaceState(null, "", location.pathname + location.search);
    }
    if (opener) opener.focus({ preventScroll: true });
    opener = null;
  });
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
  document.addEventListener("click", (event) => {
    const link = event.target.closest('a[href^="#cell-"]');
    if (!link || event.metaKey || event.ctrlKey || event.shiftKey) return;
    event.preventDefault();
    opener = link;
    history.pushState(null, "", link.getAttribute("href"));
    sync();
  });
  addEventListener("popstate", sync);

  for (const fold of document.querySelectorAll("details.fold")) fold.open = false;
  sync();
})();
