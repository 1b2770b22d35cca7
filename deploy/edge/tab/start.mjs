// The start page: says whether this browser can do it, and forgets everything when asked to.

const SCOPE = new URL("app/", import.meta.url);
const said = document.getElementById("said");
const needed = { "service workers": navigator.serviceWorker, locks: navigator.locks, caches: globalThis.caches };
const missing = Object.keys(needed).filter((name) => !needed[name]);
if (missing.length) {
  said.textContent = `This browser has no ${missing.join(", ")} here. It needs https, or localhost.`;
}

/** Files first: while the server holds them they cannot be removed, so its tabs must be closed. */
async function forget() {
  const held = (await navigator.locks.query()).held.some(({ name }) => name === `asman serves ${SCOPE.href}`);
  if (held) return "Close the other tabs of this page first: the server is in one of them.";
  const root = await navigator.storage.getDirectory();
  const folder = `asman-tab ${SCOPE.pathname.replaceAll("/", " ")}`;
  await root.removeEntry(folder, { recursive: true }).catch((error) => {
    if (error.name !== "NotFoundError") throw error; // nothing was kept yet
  });
  const registration = await navigator.serviceWorker.getRegistration(SCOPE);
  if (registration?.scope === SCOPE.href) await registration.unregister();
  for (const name of await caches.keys()) {
    if (name.startsWith(`asman-tab ${SCOPE.pathname} `)) await caches.delete(name);
  }
  return "Everything is forgotten.";
}

document.getElementById("forget").addEventListener("click", async () => {
  said.textContent = await forget().catch((error) => `It could not be forgotten: ${error.message}`);
});
