/** Which server a queue is at. Pure. */

export interface Where {
  /** The server's address; empty: where the page came from. */
  server: string;
  /** The queue's name there; empty if there is none. */
  queue: string;
  /** It is on this machine. */
  isLocal: boolean;
}

export interface PagePlace {
  origin: string;
  /** The path below which the page's own server is reached, without a slash at its end; mostly empty. */
  base?: string;
}

const LOCAL_PORT = 8000;

/**
 * Shape: `text` as the link has it: a name, the word `local`, or an address such as `https://host/q/name`. A page that
 * this machine serves is itself the local server, whatever its port.
 */
export function whereOf(text: string, page: PagePlace, localPort: number = LOCAL_PORT): Where {
  if (text === "local") return at(isLoopback(page.origin) ? "" : `http://localhost:${localPort}`, "local", page);
  if (!/^https?:\/\//i.test(text)) return at("", text, page);
  if (!URL.canParse(text)) return at("", "", page);
  const url = new URL(text);
  const pieces = url.pathname.split("/").filter(Boolean);
  const mark = pieces.indexOf("q");
  return at(url.origin, decoded(pieces[mark + 1] ?? ""), page);
}

function at(server: string, queue: string, page: PagePlace): Where {
  const own = page.base ? page.origin + page.base : "";
  const isOwn = server === "" || server === page.origin;
  return { server: isOwn ? own : server, queue, isLocal: isLoopback(server || page.origin) };
}

function isLoopback(origin: string): boolean {
  const host = URL.canParse(origin) ? new URL(origin).hostname : "";
  return host === "localhost" || host.endsWith(".localhost") || /^127\./.test(host) || host === "[::1]";
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
