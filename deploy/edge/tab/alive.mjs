// Who is alive, told by the browser itself: a lock is held for as long as its holder lives, however it ends.
//
// A worker that is terminated, a tab that is closed and a service worker that is stopped say nothing to those who wait
// for them, and neither does a MessagePort in every browser. Locks do: they are released, and who waits is told.

/** A name that stands for this page or worker until it is gone. Told to others only once it is held. */
export async function alive() {
  const life = `alive ${crypto.randomUUID()}`;
  await new Promise((held) => {
    navigator.locks.request(life, () => {
      held();
      return new Promise(() => {});
    });
  });
  return life;
}

const waited = new Map();

/** Resolves when it is gone. */
export function ended(life) {
  if (!waited.has(life)) {
    const over = navigator.locks.request(life, { mode: "shared" }, () => {});
    waited.set(
      life,
      over.then(() => waited.delete(life)),
    );
  }
  return waited.get(life);
}
