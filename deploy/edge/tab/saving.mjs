// A link that saves what it points to. Chromium asks the network for it, past the service worker, where nobody has it; so
// it is fetched as everything else is, and what came is saved.

/** From now on, for each link with `download` to an address below the scope. */
export function saveByFetch(scope) {
  addEventListener("click", (event) => {
    const link = event.target instanceof Element ? event.target.closest("a[download]") : null;
    if (!link?.href.startsWith(scope)) return;
    event.preventDefault();
    save(link).catch((error) => console.error(`${link.href} could not be saved: ${error.message}`));
  });
}

async function save({ href, download }) {
  const response = await fetch(href);
  if (!response.ok) throw new Error(`the server answered ${response.status}`);
  const url = URL.createObjectURL(new Blob([await response.blob()], { type: "application/octet-stream" }));
  const link = Object.assign(document.createElement("a"), { href: url, download, target: "_self" });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}
