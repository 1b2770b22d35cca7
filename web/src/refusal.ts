/** The errors of requests: what an answer that is none stands for, and that none came. */

import { AsmanError, type ErrorDetail, type RequestInfo, TEMPORARY } from "./errors.ts";
import { readRetryAfter } from "./waiting.ts";

/** Answers after which nothing has happened at the server. */
export const REFUSED_UNTOUCHED: ReadonlySet<number> = new Set([429, 503]);

/** The error that an answer stands for. */
export async function refusal(response: Response, request: RequestInfo): Promise<AsmanError> {
  const text = await response.text().catch(() => "");
  return refusalOf(response.status, text, request, response.headers.get("retry-after"));
}

export function refusalOf(status: number, text: string, request: RequestInfo, retryAfter: string | null): AsmanError {
  const body = parsed(text);
  const members = { status, request, retryAfterMs: readRetryAfter(retryAfter) };
  if (typeof body?.error !== "string") {
    const hint = TEMPORARY.has(status)
      ? "Try again in a moment."
      : "Check that this is the address of an asman server.";
    return new AsmanError(`the answer was ${status} without an explanation`, {
      ...members,
      code: byStatus(status),
      hint,
    });
  }
  return new AsmanError(body.error, {
    ...members,
    code: typeof body.code === "string" ? body.code : byStatus(status),
    hint: typeof body.hint === "string" ? body.hint : "",
    details: Array.isArray(body.details) ? (body.details as ErrorDetail[]) : [],
    requestId: typeof body.requestId === "string" ? body.requestId : "",
  });
}

function parsed(text: string): Record<string, unknown> | null {
  try {
    const value = JSON.parse(text);
    return typeof value === "object" ? value : null;
  } catch {
    return null;
  }
}

function byStatus(status: number): string {
  const known: Record<number, string> = {
    404: "not_found",
    409: "conflict",
    410: "expired",
    413: "limit_exceeded",
    422: "unprocessable",
    429: "rate_limited",
    507: "storage_full",
  };
  return known[status] ?? (status >= 500 ? "unavailable" : "bad_request");
}

export function unreachable(request: RequestInfo, cause: unknown): AsmanError {
  const said = cause instanceof Error ? innermost(cause).message : String(cause);
  return new AsmanError(`the server cannot be reached: ${said}`, {
    code: "unreachable",
    request,
    hint: "Check the connection, and that the server runs.",
    cause,
  });
}

/** Node says why a request failed in the cause only. */
function innermost(error: Error): Error {
  return error.cause instanceof Error && error.cause.message ? innermost(error.cause) : error;
}

export function unknownJob(queue: string, jobId: string, request: RequestInfo): AsmanError {
  return new AsmanError(`queue "${queue}" knows no job ${jobId}`, {
    code: "job_not_found",
    status: 404,
    request,
    hint: "Check the job id and the queue; a job is known from its submit until it expires.",
  });
}
