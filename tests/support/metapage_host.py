"""A metapage: a page of another origin that embeds metaframes and pipes the outputs of one into another.

The host is the published library, as its users load it. What frames post to the host is kept in ``window.posted``,
what they put out in ``window.outputs`` by frame.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from browser import package_file

__all__ = ["Pipe", "metapage_host"]

Pipe = tuple[str, str, str, str]
"""From this frame, this output (``*`` for all), to that frame, as that input (``*`` for the same name)."""

_HTML = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>A metapage</title></head>
<body style="margin:0"><div id="frames" style="width:100vw;height:100vh"></div>
<script type="module">
import { renderMetapage } from "/metapage.js";
window.posted = [];
window.outputs = {};
window.addEventListener("message", (event) => window.posted.push(event.data));
const definition = await (await fetch("/definition.json")).json();
const made = await renderMetapage({
  definition,
  rootDiv: document.getElementById("frames"),
  onOutputs: (outputs) => {
    for (const [frame, values] of Object.entries(outputs)) {
      window.outputs[frame] = { ...window.outputs[frame], ...values };
    }
  },
});
window.setInputs = made.setInputs;
</script></body></html>
"""


@contextmanager
def metapage_host(frames: Mapping[str, str], pipes: Sequence[Pipe] = ()) -> Iterator[str]:
    """Serve a metapage of these frames (name to URL, one column each) from a port of loopback; gives its URL."""
    library = package_file("@metapages/metapage/dist/index.js").read_bytes()
    answers = {
        "/": (_HTML.encode(), "text/html; charset=UTF-8"),
        "/metapage.js": (library, "text/javascript; charset=UTF-8"),
        "/definition.json": (json.dumps(_definition(frames, pipes)).encode(), "application/json"),
    }

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body, content_type = answers.get(self.path, (b"", ""))
            self.send_response(200 if content_type else 404)
            self.send_header("Content-Type", content_type or "text/plain")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _definition(frames: Mapping[str, str], pipes: Sequence[Pipe]) -> dict[str, Any]:
    into: dict[str, list[dict[str, str]]] = {name: [] for name in frames}
    for source, output, target, name in pipes:
        into[target].append({"metaframe": source, "source": output, "target": name})
    width = 12 // len(frames)
    layout = [{"i": name, "x": i * width, "y": 0, "w": width, "h": 6} for i, name in enumerate(frames)]
    props = {"cols": 12, "margin": [8, 8], "rowHeight": 100, "containerPadding": [5, 5]}
    return {
        "version": "2",
        "metaframes": {name: {"url": url, "inputs": into[name]} for name, url in frames.items()},
        "meta": {"layouts": {"react-grid-layout": {"layout": layout, "props": props}}},
    }
