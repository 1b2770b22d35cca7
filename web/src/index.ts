/** The client of an asman server: what is published. */

export {
  type Cancelled,
  Client,
  type ClientOptions,
  type StreamOptions,
  type SubmitOptions,
  type UploadOptions,
} from "./client.ts";
export {
  ANY_NAMESPACE,
  DEFAULT_NAMESPACE,
  ERRORS,
  INLINE_MAX_CHARACTERS,
  KNOWN_MEMBERS,
  LIMITS,
  OUTCOMES,
  QUEUE_NAME,
  REASONS,
  REASONS_WITH_RESULT,
  REF_TYPES,
  RESULT_ERRORS,
  STATES,
} from "./contract.gen.ts";
export * from "./contract.ts";
export { AsmanError, type ClientErrorCode, type ErrorDetail, JobEnded, type RequestInfo } from "./errors.ts";
export { canonicalJson, isInjectedEnv, jobId, jobIdNow, verbatimId } from "./identity.ts";
export { StreamPosition } from "./position.ts";
export { sha256, sha256OfBlob } from "./sha256.ts";
export { QueueSocket, type QueueSocketOptions, type SocketState, socketUrl } from "./socket.ts";
