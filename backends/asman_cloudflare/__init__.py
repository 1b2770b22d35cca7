"""The stores of Cloudflare's runtime, for the app inside Pyodide: jobs in D1 or in Durable Objects, blobs in R2.

A binding is an object that the runtime hands to a Worker or to a Durable Object; no address reaches it from elsewhere.
So nothing here is found by an entry point: the host makes a ``Platform`` of its bindings and gives it to ``create_app``
among the plugins. The modules behind it load the runtime's own (``js``, ``pyodide``) when a store is made, not before:
the package imports anywhere.

``d1`` is the job store of all queues, ``d1_database`` the binding told in Python, ``d1_schema`` its tables and
statements, ``d1_texts`` what is bound; ``owned`` remembers what the object of a queue, its only writer, need not ask
again. ``durable`` is the job store of one object, ``listed`` how a job is found among many, ``directory`` the list of
them. ``blobs`` is the blob store, ``r2_bucket`` the binding told in Python, ``r2_upload`` and ``r2_reading`` move its
bytes. ``notifier`` tells what has happened within the object.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from asman.hookspecs import hookimpl

if TYPE_CHECKING:
    from collections.abc import Callable

    from asman.abc import JobStore
    from asman.config import Config
    from asman_cloudflare.blobs import R2BlobStore
    from asman_cloudflare.durable import DurableJobStore
    from asman_cloudflare.listed import Peer
    from asman_cloudflare.notifier import ObjectNotifier, Subscribers, Tell

__all__ = ["Platform"]


class Platform:
    """The hooks of one Worker or Durable Object.

    Shape:  ``env`` holds the bindings by their names; ``state`` is the object's own, ``queue`` the queue it is for, ""
            if it is for none. ``peer`` asks the object of a queue (first) a question (second), which is answered by
            ``listed.answer_peer``; ``tell`` hands it a message. ``wake`` is told when a record that was stored in the
            object is due.
    """

    def __init__(
        self,
        env: Any,
        state: Any = None,
        queue: str = "",
        peer: Peer | None = None,
        tell: Tell | None = None,
        wake: Callable[[float], None] | None = None,
    ) -> None:
        self._env, self._state, self._queue = env, state, queue
        self._peer, self._tell, self._wake = peer, tell, wake
        self._subscribers: Subscribers = {}

    @hookimpl
    def asman_job_store(self, url: str, config: Config) -> JobStore | None:
        """``d1://BINDING``; ``durable://`` is this object's storage alone, ``durable://BINDING`` one of many, with a
        directory in D1.

        Errors: ConfigError for a URL that cannot be read, a binding that is not there, ``durable:`` without an object.
        """
        if url.startswith("d1:"):
            from asman_cloudflare.d1 import D1JobStore, parse_d1_url
            from asman_cloudflare.owned import OwnedJobStore

            binding = self._binding(parse_d1_url(url))
            if not self._queue:
                return D1JobStore(binding)
            return OwnedJobStore(D1JobStore(binding, due_of=self._queue), self._queue)
        return self._durable(url.removeprefix("durable://")) if url.startswith("durable://") else None

    def _durable(self, binding: str) -> DurableJobStore:
        from asman.errors import ConfigError
        from asman_cloudflare.directory import D1Directory
        from asman_cloudflare.durable import DurableJobStore

        if self._state is None:
            raise ConfigError("only a Durable Object can keep jobs in its own storage")
        if not binding:
            return DurableJobStore(self._state, wake=self._wake)
        directory = D1Directory(self._binding(binding))
        return DurableJobStore(self._state, own=self._queue, directory=directory, peer=self._peer, wake=self._wake)

    @hookimpl
    def asman_blob_store(self, url: str, config: Config) -> R2BlobStore | None:
        """Errors: ConfigError for a URL that cannot be read, or a binding that is not there."""
        if not url.startswith("r2:"):
            return None
        from asman_cloudflare.blobs import R2BlobStore, parse_r2_url

        binding, prefix = parse_r2_url(url)
        return R2BlobStore(self._binding(binding), prefix)

    @hookimpl
    def asman_notifier(self, url: str, config: Config) -> ObjectNotifier | None:
        if not url.startswith(("d1:", "durable:")):
            return None
        from asman_cloudflare.notifier import ObjectNotifier

        return ObjectNotifier(self._queue, self._tell, self._subscribers)

    @hookimpl
    def asman_schemes(self) -> dict[str, str]:
        return {
            "d1": "jobs and logs in a D1 database: d1://BINDING; notifier",
            "durable": "jobs and logs in the object of their queue: durable://BINDING; notifier",
            "r2": "blobs in an R2 bucket: r2://BINDING/prefix",
        }

    def _binding(self, name: str) -> Any:
        found = getattr(self._env, name, None)
        if found is None:
            from asman.errors import ConfigError

            raise ConfigError(
                f"the Worker has no binding {name}", hint="Name it in wrangler.jsonc, as the settings do."
            )
        return found
