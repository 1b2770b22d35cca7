"""The HTTP client of the command line, and of any Python program that pushes jobs.

It speaks the routes of one server and knows no rule about jobs: what is refused is refused by the server, and comes
out of here as the same typed error that the server raised (by its ``code``). Repeating a request is always safe,
because a job's id is made from its content; so requests that a lost connection or a restarting server cut off are
repeated a few times before they fail. It sends no Origin and no cookies.

Blobs stream both ways: memory does not grow with a file. What is downloaded is checked against its hash before it
gets its name, and a name that would leave the target directory is refused.

Needs httpx (extra ``client``), which is imported when a client is opened and not before.

Source: published HTTP routes, log slices and follow stream (server-sent events).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import json
import os
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote, urljoin, urlsplit

from asman.errors import (
    AsmanError,
    BadName,
    BadRequest,
    BlobNotFound,
    ConfigError,
    Conflict,
    Expired,
    HashMismatch,
    JobNotFound,
    LimitExceeded,
    NotFound,
    RateLimited,
    StorageFull,
    Unavailable,
    Unprocessable,
    clip,
)

if TYPE_CHECKING:
    import httpx

__all__ = ["Client", "LogPage", "Progress", "Receipt", "StreamEvent", "hash_file", "inline_bytes", "safe_target"]

Progress = Callable[[int, int | None], None]
"""Called with the bytes done so far and in all (None: not known)."""

_CHUNK_BYTES = 256 << 10
_ASK_FROM_BYTES = 1 << 20
_REDIRECTS_MAX = 5
_TRIES = 4
_PATIENCE = (429, 502, 503, 504)
"""Answers that mean: the same request may work a little later."""
_STORING_S = 300.0
"""How long the server may take to answer after the last byte of an upload."""
_SILENT_STREAM_S = 90.0
"""The server sends a heartbeat several times in this long; a stream that is silent for longer is dead."""
_BLOB_PATH = re.compile(r"/f/([0-9a-f]{64})\Z")
_HASH = re.compile(r"[0-9a-f]{64}\Z")
_INSTALL = 'pip install "asman[client]"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """The answer to a submit. Shape: ``answer`` is the whole answer of the server, this release's members or not."""

    job_id: str
    is_cached: bool = False
    warnings: tuple[str, ...] = ()
    answer: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogPage:
    """Shape: ``lines`` are ``[text, ms]`` or, from stderr, ``[text, ms, true]``; ``next`` is the next cursor."""

    lines: list[Any]
    next: int
    is_final: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamEvent:
    """Shape: ``kind`` is state, build-log, run-log or final; ``data`` as the follow stream has it."""

    kind: str
    data: Mapping[str, Any]
    event_id: str = ""


class Client:
    """A connection to one server; use it as an async context manager.

    Errors: every method raises the server's own error for an answer that is one; Unavailable when the server cannot
            be reached or does not answer in time; ConfigError for an address that is none, or is no asman server's.
    """

    def __init__(self, server: str, *, timeout_s: float = 30.0) -> None:
        self.server = _checked_address(server)
        self._timeout_s = timeout_s
        self._open: httpx.AsyncClient | None = None

    async def __aenter__(self) -> Self:
        httpx = _load_httpx()
        from asman import __version__

        is_near = urlsplit(self.server).hostname in ("localhost", "127.0.0.1", "::1")
        self._open = httpx.AsyncClient(
            timeout=httpx.Timeout(self._timeout_s, connect=min(self._timeout_s, 10.0)),
            headers={"User-Agent": f"asman/{__version__}"},
            follow_redirects=False,
            trust_env=not is_near,  # a proxy from the environment cannot reach this machine's own loopback
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._open is not None:
            await self._open.aclose()
            self._open = None

    @property
    def _http(self) -> httpx.AsyncClient:
        if self._open is None:
            raise RuntimeError('use "async with Client(...) as client"')
        return self._open

    # --- jobs ---------------------------------------------------------------------------------------------------------

    async def submit(
        self,
        queue: str,
        definition: Mapping[str, Any],
        *,
        namespace: str | None = None,
        control: Mapping[str, Any] | None = None,
        dry_run: bool = False,
        wait_s: float | None = None,
    ) -> Receipt:
        """Push a job; it is on stable storage when this returns.

        With ``dry_run`` nothing is stored: the answer says the id and whether a result is there already.
        With ``wait_s`` the server holds the answer back until the job has ended, at most so long.
        """
        wanted = {**(control or {}), **({"namespace": namespace} if namespace else {})}
        body = {"definition": definition, **({"control": wanted} if wanted else {})}
        answer = await self._ask(
            "POST",
            f"/q/{_part(queue)}",
            body=body,
            params={"dry_run": "1"} if dry_run else {},
            headers={"Prefer": f"wait={wait_s:.0f}"} if wait_s else {},
            more_time_s=wait_s or 0.0,
        )
        job_id = answer.get("jobId") if isinstance(answer, dict) else None
        if not isinstance(job_id, str):
            raise self._not_ours(f"answered a submit with {clip(answer)}")
        return Receipt(
            job_id=job_id,
            is_cached=bool(answer.get("cached")),
            warnings=tuple(str(w) for w in answer.get("warnings") or ()),
            answer=answer,
        )

    async def result(self, queue: str, job_id: str) -> dict[str, Any] | None:
        """The complete finished record, None while there is none (or never will be: cancelled, deleted)."""
        answer: dict[str, Any] | None = await self._data(f"{_job(queue, job_id)}/result.json")
        return answer

    async def record(self, queue: str, job_id: str) -> dict[str, Any]:
        """Definition, result if there is one, and the queue's record. Errors: JobNotFound; Expired."""
        answer: dict[str, Any] = await self._data(_job(queue, job_id))
        return answer

    async def list(self, queue: str) -> dict[str, dict[str, Any]]:
        """The queue's records by job id."""
        answer: dict[str, dict[str, Any]] = await self._data(f"/q/{_part(queue)}")
        return answer

    async def status(self, queue: str) -> dict[str, Any]:
        """Workers and jobs of a queue."""
        answer: dict[str, Any] = await self._ask("GET", f"/q/{_part(queue)}/status")
        return answer

    async def cancel(
        self, queue: str, job_id: str, *, namespace: str | None = None, message: str = ""
    ) -> dict[str, Any]:
        """End a job, for one namespace or (``*``) for all."""
        params = {k: v for k, v in (("namespace", namespace), ("message", message)) if v}
        answer: dict[str, Any] = await self._ask("POST", f"{_job(queue, job_id)}/cancel", params=params)
        return answer

    async def delete(self, queue: str, job_id: str) -> None:
        """Remove a job with its result and logs. Errors: JobNotFound."""
        await self._ask("DELETE", _job(queue, job_id))

    async def copy(self, job_id: str, queue: str, *, namespace: str | None = None) -> dict[str, Any]:
        """Put a known job, with its result if it has one, on another queue."""
        body: dict[str, Any] = {"queue": queue, **({"control": {"namespace": namespace}} if namespace else {})}
        answer: dict[str, Any] = await self._ask("POST", f"/j/{_part(job_id)}/copy", body=body)
        return answer

    async def why(self, queue: str, job_id: str) -> dict[str, Any]:
        """Why a job waits: its position, and each connected worker held against each rule."""
        answer = await self._ask("GET", f"{_job(queue, job_id)}/why")
        data: dict[str, Any] = answer.get("data", answer)
        return data

    async def healthz(self) -> tuple[float, float | None]:
        """Ask whether the server is there. Answers with the round trip in seconds, and the server's clock (epoch)."""
        from email.utils import parsedate_to_datetime

        begun = time.monotonic()
        response = await self._send("GET", "/healthz", tries=1)
        took_s = time.monotonic() - begun
        if response.status_code != 200:
            raise self._not_ours(f"answered /healthz with {response.status_code}")
        date = response.headers.get("date")
        return took_s, parsedate_to_datetime(date).timestamp() if date else None

    # --- logs ---------------------------------------------------------------------------------------------------------

    async def logs(self, queue: str, job_id: str, half: str, since: int = 0) -> LogPage:
        """One slice of the ``build`` or ``run`` half; see ``log_pages`` for all of it."""
        answer = await self._ask("GET", f"{_job(queue, job_id)}/{half}-logs.json", params={"since": str(since)})
        return LogPage(lines=answer["data"], next=answer["nextCursor"], is_final=bool(answer["isFinal"]))

    async def log_pages(self, queue: str, job_id: str, half: str) -> AsyncIterator[LogPage]:
        """Everything that is stored of one half now, slice by slice."""
        since = 0
        while True:
            page = await self.logs(queue, job_id, half, since)
            yield page
            if not page.lines or page.next <= since:
                return
            since = page.next

    async def follow(self, queue: str, job_id: str, *, give_up_after_s: float = 120.0) -> AsyncGenerator[StreamEvent]:
        """Every event of a job from its start to ``final``, across lost connections and server restarts.

        A connection that breaks is opened again with the last event's id, so no line is lost or repeated.
        Errors: JobNotFound, Expired; Unavailable when no connection worked for ``give_up_after_s``.
        """
        place = _Place()
        last_good, tries = time.monotonic(), 0
        while True:
            try:
                async with aclosing(self._events(queue, job_id, place.last_id)) as events:
                    async for event in events:
                        last_good, tries = time.monotonic(), 0
                        if event.kind == "final" and event.data.get("state") == "Timeout":
                            break  # the server ends very long streams; the job goes on
                        if event.kind == "final" and event.data.get("state") == "Unknown":
                            raise JobNotFound(f"queue {clip(queue)} knows no job {clip(job_id)}")
                        fresh = place.advance(event)
                        if fresh is not None:
                            yield fresh
                        if event.kind == "final":
                            return
            except Unavailable:
                if time.monotonic() - last_good > give_up_after_s:
                    raise
            await asyncio.sleep(min(0.2 * 2**tries, 5.0))
            tries += 1
            place.reconnect()

    async def _events(self, queue: str, job_id: str, last_id: str) -> AsyncGenerator[StreamEvent]:
        httpx = _load_httpx()
        headers = {"Accept": "text/event-stream", **({"Last-Event-ID": last_id} if last_id else {})}
        timeout = httpx.Timeout(self._timeout_s, read=_SILENT_STREAM_S)
        path = f"{_job(queue, job_id)}/stream"
        try:
            async with self._http.stream("GET", self.server + path, headers=headers, timeout=timeout) as response:
                if response.status_code >= 400:
                    await response.aread()
                    raise self._refusal(response)
                if not response.headers.get("content-type", "").startswith("text/event-stream"):
                    raise self._not_ours("has no follow stream")
                decoder = _EventDecoder()
                async for chunk in response.aiter_bytes():
                    for event in decoder.feed(chunk):
                        yield event
        except httpx.RequestError as error:
            raise self._unreachable(error) from error

    # --- blobs --------------------------------------------------------------------------------------------------------

    async def has_blob(self, key: str) -> bool:
        response = await self._send("GET", f"/f/{_part(key)}/exists")
        if response.status_code == 404:
            return False
        if response.status_code != 200:
            raise self._refusal(response)
        return True

    async def upload(self, path: Path, progress: Progress | None = None) -> str:
        """Store a file unless the server has its bytes already, and answer with its key (its sha256).

        Errors: HashMismatch if the file changes meanwhile; LimitExceeded, StorageFull from the server; OSError.
        """
        key, size_bytes = await asyncio.to_thread(hash_file, path)
        if not await self.has_blob(key):
            await self._put(key, path, size_bytes, progress)
        elif progress is not None:
            progress(size_bytes, size_bytes)
        return key

    async def upload_bytes(self, data: bytes) -> str:
        """As ``upload``, for bytes at hand."""
        key = hashlib.sha256(data).hexdigest()
        if not await self.has_blob(key):
            await self._put_once(key, lambda: _whole(data), len(data))
        return key

    async def _put(self, key: str, path: Path, size_bytes: int, progress: Progress | None) -> None:
        await self._put_chunks(key, lambda: _file_chunks(path, size_bytes, progress), size_bytes)

    async def _put_chunks(self, key: str, chunks: Callable[[], AsyncIterator[bytes]], size_bytes: int) -> None:
        """Send a body, and from its start again while the connection breaks or the server asks for patience."""
        for tried in range(1, _TRIES + 1):
            try:
                response = await self._put_once(key, chunks, size_bytes)
            except Unavailable:
                if tried == _TRIES:
                    raise
            else:
                if response.is_success:
                    return
                if response.status_code not in _PATIENCE or tried == _TRIES:
                    raise self._refusal(response)
            await asyncio.sleep(0.2 * 2**tried)

    async def _upload_url(self, key: str, size_bytes: int) -> str:
        """Where a large body is to go: asked for before, since on a redirect it would be sent twice.

        Errors: LimitExceeded. A server that does not answer such a question gets the body itself, and may redirect.
        """
        own = f"{self.server}/f/{_part(key)}"
        if size_bytes < _ASK_FROM_BYTES:
            return own
        try:
            answer = await self._ask("GET", f"/upload/{_part(key)}", params={"size": str(size_bytes)})
        except LimitExceeded:
            raise
        except AsmanError:
            return own
        url = answer.get("url") if isinstance(answer, dict) and answer.get("size") == size_bytes else None
        return url if isinstance(url, str) and urlsplit(url).scheme in ("http", "https") else own

    async def _put_once(self, key: str, chunks: Callable[[], AsyncIterator[bytes]], size_bytes: int) -> httpx.Response:
        """Send the body to wherever the server redirects; every hop gets it from the start, as a PUT."""
        httpx = _load_httpx()
        url = await self._upload_url(key, size_bytes)
        headers = {"Content-Length": str(size_bytes), "Content-Type": "application/octet-stream"}
        timeout = httpx.Timeout(self._timeout_s, read=_STORING_S)
        for _ in range(_REDIRECTS_MAX + 1):
            try:
                response = await self._http.put(url, content=chunks(), headers=headers, timeout=timeout)
            except httpx.RequestError as error:
                raise self._unreachable(error) from error
            if not response.has_redirect_location:
                return response
            url = urljoin(url, response.headers["location"])
        raise self._not_ours(f"redirects an upload more than {_REDIRECTS_MAX} times")

    async def download(
        self, where: str, target: Path, *, sha256: str | None = None, progress: Progress | None = None
    ) -> int:
        """Fetch a path of this server (or any URL) into a file, and answer with its size in bytes.

        The bytes go into a temporary file beside the target and get its name only when all are there and match.
        Errors: HashMismatch, Unavailable when the transfer was cut short, the server's own; OSError. Nothing is
                left at the target then, and what was there stays.
        """
        with _replacing(target) as part:
            size_bytes, found = await self._download_tries(self._full(where), part, progress)
            if sha256 is not None and found != sha256:
                raise HashMismatch(
                    f"{clip(where)} has the sha256 {found}, not {clip(sha256)} as was promised; it was not kept",
                    hint="Run the job again, or ask whoever runs the server: the stored bytes are not what was stored.",
                )
        return size_bytes

    async def _download_tries(self, url: str, part: Path, progress: Progress | None) -> tuple[int, str]:
        """From the start again while the connection breaks."""
        for tried in range(1, _TRIES):
            try:
                return await self._download_into(url, part, progress)
            except Unavailable:
                await asyncio.sleep(0.2 * 2**tried)
        return await self._download_into(url, part, progress)

    async def _download_into(self, url: str, part: Path, progress: Progress | None) -> tuple[int, str]:
        httpx = _load_httpx()
        digest, done = hashlib.sha256(), 0
        try:
            async with self._http.stream("GET", url, follow_redirects=True) as response:
                if not response.is_success:
                    await response.aread()
                    raise self._refusal(response)
                total = _whole_number(response.headers.get("content-length"))
                with part.open("wb") as file:
                    async for chunk in response.aiter_bytes(_CHUNK_BYTES):
                        digest.update(chunk)
                        await asyncio.to_thread(file.write, chunk)
                        done += len(chunk)
                        if progress is not None:
                            progress(done, total)
        except httpx.RequestError as error:
            raise self._unreachable(error) from error
        return done, digest.hexdigest()

    async def fetch_output(
        self,
        queue: str,
        job_id: str,
        name: str,
        ref: Mapping[str, Any],
        target: Path,
        progress: Progress | None = None,
    ) -> int:
        """Write one output of a job to a file, whatever form its ref has, and answer with its size in bytes.

        Small ones stand in the result itself; blobs of this server are fetched from it whatever host the ref names,
        and checked against their key.
        """
        data = inline_bytes(ref)
        if data is not None:
            with _replacing(target) as part:
                await asyncio.to_thread(part.write_bytes, data)
            return len(data)
        value = str(ref.get("value", ""))
        stored = _BLOB_PATH.search(urlsplit(value).path) if ref.get("type") == "url" else None
        key = stored[1] if stored else value if ref.get("type") == "key" else None
        promised = ref.get("hash") or key
        sha256 = promised if isinstance(promised, str) and _HASH.match(promised) else None
        if key is not None:
            try:
                return await self.download(f"/f/{_part(key)}", target, sha256=sha256, progress=progress)
            except BlobNotFound:
                if ref.get("type") != "url":
                    raise
        where = value if ref.get("type") == "url" else f"{_job(queue, job_id)}/outputs/{quote(name)}"
        return await self.download(where, target, sha256=sha256, progress=progress)

    # --- requests -----------------------------------------------------------------------------------------------------

    def _full(self, where: str) -> str:
        return self.server + where if where.startswith("/") else where

    async def _data(self, path: str) -> Any:
        answer = await self._ask("GET", path)
        if not isinstance(answer, dict) or "data" not in answer:
            raise self._not_ours(f"answered {path} without data")
        return answer["data"]

    async def _ask(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        more_time_s: float = 0.0,
    ) -> Any:
        """One request whose answer is JSON."""
        content = None if body is None else json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
        response = await self._send(
            method,
            path,
            content=content,
            params=params or {},
            headers={**(headers or {}), **({"Content-Type": "application/json"} if content is not None else {})},
            more_time_s=more_time_s,
        )
        if not response.is_success:
            raise self._refusal(response)
        if response.status_code == 204:
            return {}
        try:
            return response.json()
        except ValueError as error:
            kind = response.headers.get("content-type", "no content type")
            raise self._not_ours(f"answered {path} with {clip(kind)} instead of JSON") from error

    async def _send(
        self,
        method: str,
        path: str,
        *,
        content: bytes | None = None,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        more_time_s: float = 0.0,
        tries: int = _TRIES,
    ) -> httpx.Response:
        """Send, and repeat while the connection breaks or the server asks for patience."""
        httpx = _load_httpx()
        for tried in range(1, tries + 1):
            try:
                response = await self._http.request(
                    method,
                    self.server + path,
                    content=content,
                    params=params,
                    headers=headers,
                    timeout=httpx.Timeout(self._timeout_s + more_time_s, connect=min(self._timeout_s, 10.0)),
                    follow_redirects=method == "GET",
                )
            except httpx.RequestError as error:
                if tried == tries:
                    raise self._unreachable(error) from error
                pause_s = 0.1 * 2**tried
            else:
                if response.status_code not in _PATIENCE or tried == tries:
                    return response
                pause_s = _retry_after_s(response, 0.2 * 2**tried)
            await asyncio.sleep(pause_s)
        raise AssertionError("unreachable")

    def _refusal(self, response: httpx.Response) -> AsmanError:
        """The error that an answer stands for, by its code, else by its status."""
        status = response.status_code
        if response.has_redirect_location:
            return self._not_ours(f"redirects to {clip(response.headers['location'])}")
        try:
            body = response.json()
        except ValueError:
            body = None
        if not isinstance(body, dict) or not isinstance(body.get("error"), str):
            return _by_status(status)(
                f"{self.server} answered {status} {response.reason_phrase} to {response.request.method} "
                f"{clip(response.request.url.path)}"
            )
        kind = _CODES.get(str(body.get("code"))) or _by_status(status)
        details = [
            (str(d.get("loc", "")), str(d.get("msg", ""))) for d in body.get("details") or () if isinstance(d, dict)
        ]
        error = kind(body["error"], hint=str(body.get("hint") or ""), details=details)
        error.status = status
        return error

    def _unreachable(self, error: Exception) -> Unavailable:
        said = str(error) or type(error).__name__
        return Unavailable(
            f"cannot talk to {self.server}: {said}",
            hint="Is it running, and is the address right (--server, ASMAN_SERVER)? Start one here with: asman up",
        )

    def _not_ours(self, what: str) -> ConfigError:
        return ConfigError(
            f"{self.server} {what}", hint="Check that --server (ASMAN_SERVER) is the address of an asman server."
        )


class _Place:
    """Where a reader of a follow stream is, over its connections.

    Our servers number events and go on behind ``Last-Event-ID``. Older ones begin anew on each connection; there the
    cursors tell which lines were seen, and a state that was told is not told again.
    """

    def __init__(self) -> None:
        self.last_id = ""
        self._seen: dict[str, int] = {}
        self._state: Mapping[str, Any] | None = None
        self._is_replay = False

    def reconnect(self) -> None:
        self._is_replay = not self.last_id

    def advance(self, event: StreamEvent) -> StreamEvent | None:
        """Remember the event, and answer with what of it is new."""
        if event.event_id:
            self.last_id = event.event_id
        if event.kind == "state":
            is_old = self._is_replay and event.data == self._state
            self._state = event.data
            return None if is_old else event
        if event.kind not in ("build-log", "run-log"):
            return event
        cursor, lines = int(event.data.get("cursor", 0)), list(event.data.get("lines", ()))
        seen = self._seen.get(event.kind, 0)
        if self._is_replay and cursor <= seen:
            return None
        if self._is_replay and cursor - len(lines) < seen:
            lines = lines[seen - cursor :]
        self._seen[event.kind] = cursor
        return StreamEvent(kind=event.kind, data={**event.data, "lines": lines}, event_id=event.event_id)


class _EventDecoder:
    """Bytes of a server-sent event stream into events. Lines end in LF or CRLF; comments and unknown fields pass.

    Source: HTML standard, "Interpreting an event stream".
    """

    def __init__(self) -> None:
        self._rest = b""
        self._kind, self._id = "", ""
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> Iterator[StreamEvent]:
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for raw in lines:
            line = raw.removesuffix(b"\r").decode("utf-8", "replace")
            if line:
                self._field(line)
                continue
            event = self._event()
            if event is not None:
                yield event

    def _field(self, line: str) -> None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            self._kind = value
        elif name == "data":
            self._data.append(value)
        elif name == "id" and "\0" not in value:
            self._id = value

    def _event(self) -> StreamEvent | None:
        kind, data, event_id = self._kind, "\n".join(self._data), self._id
        self._kind, self._data, self._id = "", [], ""
        try:
            decoded = json.loads(data) if data else None
        except ValueError:
            return None
        if not kind or not isinstance(decoded, dict):
            return None
        return StreamEvent(kind=kind, data=decoded, event_id=event_id)


def hash_file(path: Path) -> tuple[str, int]:
    """The sha256 of a file and its size in bytes, read in chunks."""
    digest, size_bytes = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            size_bytes += len(chunk)
    return digest.hexdigest(), size_bytes


def inline_bytes(ref: Mapping[str, Any]) -> bytes | None:
    """The bytes of a ref that carries them itself, None for one that points elsewhere.

    Errors: BadRequest for text that is no base64.
    """
    value = ref.get("value")
    match ref.get("type", "utf8"):
        case "utf8":
            return str(value).encode("utf-8", "surrogatepass")
        case "json":
            return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")
        case "base64":
            try:
                text = str(value)
                return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
            except (binascii.Error, ValueError) as error:
                raise BadRequest(f"{clip(value)} is not base64: {error}") from error
        case _:
            return None


def safe_target(directory: Path, name: str) -> Path:
    """Where a file of this name belongs under a directory.

    Names come from strangers' containers: absolute ones, ``..``, control characters and paths that a link inside the
    directory would lead elsewhere are refused.

    Errors: BadName.
    """
    parts = PurePosixPath(name).parts
    is_bad = not parts or name.startswith("/") or ".." in name.split("/") or "\\" in name
    if is_bad or any(ord(c) < 32 or ord(c) == 127 for c in name):
        raise BadName(
            f"the output name {clip(name)} does not stay inside {directory}; it was not fetched",
            hint="The job should write files below /outputs under plain relative names.",
        )
    root = directory.resolve()
    target = root.joinpath(*parts)
    if not target.parent.resolve().is_relative_to(root) or target == root:
        raise BadName(
            f"the output name {clip(name)} leads outside {directory} through a link; it was not fetched",
            hint="Remove the link, or choose another directory with -o.",
        )
    return target


@contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    """A file beside the target that takes its name at the end, unless something goes wrong before. A link at the
    target is replaced, not followed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".asman-{os.urandom(8).hex()}.part")
    try:
        yield part
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


async def _file_chunks(path: Path, size_bytes: int, progress: Progress | None) -> AsyncIterator[bytes]:
    """The first ``size_bytes`` of a file: it may grow meanwhile, and a body has the length it announced."""
    done = 0
    with path.open("rb") as file:
        while done < size_bytes:
            chunk = await asyncio.to_thread(file.read, min(_CHUNK_BYTES, size_bytes - done))
            if not chunk:
                raise HashMismatch(f"{path} became shorter while it was sent; send it when it is complete")
            yield chunk
            done += len(chunk)
            if progress is not None:
                progress(done, size_bytes)


async def _whole(data: bytes) -> AsyncIterator[bytes]:
    yield data


def _load_httpx() -> Any:
    try:
        import httpx
    except ImportError as error:
        raise ConfigError(f"talking to a server needs httpx: {_INSTALL}", hint=_INSTALL) from error
    return httpx


def _checked_address(server: str) -> str:
    try:
        parts = urlsplit(server)
        is_good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        is_good = False
    if not is_good:
        raise ConfigError(
            f"{clip(server)} is not the address of a server", hint="Write it like http://localhost:8000 or https://host"
        )
    return server.rstrip("/")


def _part(name: str) -> str:
    return quote(name, safe="")


def _job(queue: str, job_id: str) -> str:
    return f"/q/{_part(queue)}/j/{_part(job_id)}"


def _whole_number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() else None


def _retry_after_s(response: httpx.Response, otherwise_s: float) -> float:
    seconds = _whole_number(response.headers.get("retry-after"))
    return min(float(seconds), 10.0) if seconds is not None else otherwise_s


def _all_kinds(root: type[AsmanError]) -> Iterator[type[AsmanError]]:
    for kind in root.__subclasses__():
        yield kind
        yield from _all_kinds(kind)


_CODES = {kind.code: kind for kind in _all_kinds(AsmanError) if kind is not ConfigError}
_STATUSES: Mapping[int, type[AsmanError]] = {
    404: NotFound,
    409: Conflict,
    410: Expired,
    413: LimitExceeded,
    422: Unprocessable,
    429: RateLimited,
    507: StorageFull,
}


def _by_status(status: int) -> type[AsmanError]:
    return _STATUSES.get(status) or (Unavailable if status >= 500 else BadRequest)
