/** The log as a text, to be copied or kept as a file. */

import type { Row } from "./log-rows.ts";
import type { Session } from "./model.ts";

/** `1 line`, `1,234 lines`. */
export function showLines(count: number): string {
  return count === 1 ? "1 line" : `${count.toLocaleString()} lines`;
}

/** What is seen of the rows, one newline after each but the last. */
export function textOf(rows: readonly Row[]): string {
  return rows.map((row) => row.text).join("\n");
}

/** The whole log as it was written; from the server where some of it is not kept here. */
export async function logFile(session: Session): Promise<Blob> {
  const parts: string[] = [];
  const job = session.job.peek();
  for (const half of ["build", "run"] as const) {
    if (!session.log.dropped.peek() || !job) {
      for (const line of session.log.lines(half)) parts.push(`${line.text}\n`);
      continue;
    }
    for (let since = 0; ; ) {
      const page = await session.client.peek().logs(session.queue.peek(), job.jobId, half, { since });
      for (const [text] of page.lines) parts.push(text);
      if (page.nextCursor <= since || !page.lines.length) break;
      since = page.nextCursor;
    }
  }
  return new Blob(parts, { type: "text/plain" });
}

export function saveFile(file: Blob, name: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(file);
  link.download = name;
  link.target = "_self"; // the page's base sends links to the host page
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
