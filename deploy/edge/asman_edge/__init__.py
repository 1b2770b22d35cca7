"""asman inside a JavaScript host: Node, Cloudflare's runtime, a browser. The Python half; the other is in ``src``.

``bridge`` speaks ASGI on one side and calls a few methods of JavaScript objects on the other. ``host`` makes the app
from settings and keeps its life. Nothing here knows which host it is.
"""
