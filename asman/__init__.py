"""asman: an open compute queue.

Anyone pushes a container job to a URL; whoever owns a machine runs a worker on that queue; the result comes back
by URL. ``from asman.app import create_app`` makes the ASGI application; importing this package loads neither Quart
nor a driver.
"""

import sys

__all__ = ["__version__"]

__version__ = "0.1.0"

if sys.platform == "emscripten":  # before any module of ours imports Quart
    from asman import _emscripten

    _emscripten.stand_in_for_hypercorn()
