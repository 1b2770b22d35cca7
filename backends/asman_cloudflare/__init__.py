"""The stores of Cloudflare's runtime, for the app inside Pyodide: blobs in R2 (``r2://BINDING``).

A binding is an object that the runtime hands to a Worker or to a Durable Object; no address reaches it from elsewhere.
So nothing here is found by an entry point: the host makes a ``Platform`` of its bindings and gives it to ``create_app``
among the plugins. The modules behind it load the runtime's own (``js``, ``pyodide``) when a store is made, not before:
the package imports anywhere.

``blobs`` is the blob store, ``r2_bucket`` the binding told in Python, ``r2_upload`` and ``r2_reading`` move bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from asman.hookspecs import hookimpl

if TYPE_CHECKING:
    from asman.config import Config
    from asman_cloudflare.blobs import R2BlobStore

__all__ = ["Platform"]


class Platform:
    """The hooks of one Worker or Durable Object.

    Shape:  ``env`` holds the bindings by their names; ``state`` is the object's own, ``queue`` the queue it is for.
    """

    def __init__(self, env: Any, state: Any = None, queue: str = "") -> None:
        self._env, self._state, self._queue = env, state, queue

    @hookimpl
    def asman_blob_store(self, url: str, config: Config) -> R2BlobStore | None:
        """Errors: ConfigError for a URL that cannot be read, or a binding that is not there."""
        if not url.startswith("r2:"):
            return None
        from asman_cloudflare.blobs import R2BlobStore, parse_r2_url

        binding, prefix = parse_r2_url(url)
        return R2BlobStore(self._binding(binding), prefix)

    @hookimpl
    def asman_schemes(self) -> dict[str, str]:
        return {"r2": "blobs in an R2 bucket: r2://BINDING/prefix"}

    def _binding(self, name: str) -> Any:
        found = getattr(self._env, name, None)
        if found is None:
            from asman.errors import ConfigError

            raise ConfigError(
                f"the Worker has no binding {name}", hint="Name it in wrangler.jsonc, as the settings do."
            )
        return found
