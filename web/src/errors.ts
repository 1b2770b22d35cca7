/**
 * What the client throws: one class, told apart by `code`.
 *
 * The codes are those of the server (`ERRORS`) and four of the client's own: `unreachable` (no answer came),
 * `not_asman` (something else answered), `ended` (a job ended without a result; see `JobEnded`) and `bad_argument`.
 * An abort is not an error of ours: the reason of the signal is thrown as it is.
 */

import type { Ending, ErrorCode } from "./contract.ts";

export type ClientErrorCode = ErrorCode | "unreachable" | "not_asman" | "ended" | "bad_argument";

/** The request that failed. */
export interface RequestInfo {
  method: string;
  url: string;
}

export interface ErrorDetail {
  /** A dotted path such as `definition.env.PATH`. */
  loc: string;
  msg: string;
}

export interface ErrorMembers {
  status?: number;
  code?: ClientErrorCode | (string & {});
  hint?: string;
  request?: RequestInfo | null;
  details?: readonly ErrorDetail[];
  requestId?: string;
  retryAfterMs?: number | null;
  cause?: unknown;
}

export class AsmanError extends Error {
  override readonly name: string = "AsmanError";
  /** The sentence alone; `message` names the request too. */
  readonly text: string;
  /** Of the answer; 0 where none came. */
  readonly status: number;
  /** Stable; what programs compare. */
  readonly code: ClientErrorCode | (string & {});
  /** The next step, in words. May be empty. */
  readonly hint: string;
  readonly request: RequestInfo | null;
  readonly details: readonly ErrorDetail[];
  /** To quote to whoever runs the server. */
  readonly requestId: string;
  /** How long the server asks to wait, where it does. */
  readonly retryAfterMs: number | null;

  constructor(text: string, members: ErrorMembers = {}) {
    const asked = members.request ? ` (${members.request.method} ${members.request.url})` : "";
    super(text + asked, members.cause === undefined ? undefined : { cause: members.cause });
    this.text = text;
    this.status = members.status ?? 0;
    this.code = members.code ?? "internal_error";
    this.hint = members.hint ?? "";
    this.request = members.request ?? null;
    this.details = members.details ?? [];
    this.requestId = members.requestId ?? "";
    this.retryAfterMs = members.retryAfterMs ?? null;
  }

  /** May the same request work a little later? */
  get isTemporary(): boolean {
    return this.code === "unreachable" || TEMPORARY.has(this.status);
  }
}

/** A job ended without leaving a result: it was cancelled, replaced, deleted, or its workers were lost. */
export class JobEnded extends AsmanError {
  override readonly name = "JobEnded";
  readonly ending: Ending;

  constructor(text: string, ending: Ending, members: ErrorMembers = {}) {
    super(text, { code: "ended", ...members });
    this.ending = ending;
  }
}

/** Statuses that mean: the same request may work a little later. */
export const TEMPORARY: ReadonlySet<number> = new Set([429, 502, 503, 504]);
