// One line above the page, of what is different here: the page itself knows nothing of it, and offers commands for
// workers elsewhere, which cannot reach a server in a browser.

import { SCOPE } from "./page.js";

const WORDS = "The server is in this browser: nothing leaves it, and no worker outside of it can connect.";

const note = document.createElement("aside");
note.className = "tab-note";
const hand = link("Be the worker", "tab/hand.html");
note.append(`${WORDS} `, hand, " ", link("About", "../"));
document.body.prepend(note);
follow();
addEventListener("hashchange", follow);

function link(text, place) {
  const made = document.createElement("a");
  Object.assign(made, { textContent: text, href: new URL(place, SCOPE), target: "_blank", rel: "noopener" });
  return made;
}

/** The worker is one of the queue that the page shows. */
function follow() {
  const named = /[?&]queue=([^&]*)/.exec(location.hash) ?? /\/q\/([^/]+)$/.exec(location.pathname);
  hand.href = new URL(`tab/hand.html#${named?.[1] ?? ""}`, SCOPE);
}
