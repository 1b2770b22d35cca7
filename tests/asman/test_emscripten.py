"""The stand-in for hypercorn, on a pretended Pyodide; the real one is run by the tests of the edge bundle."""

from __future__ import annotations

import sys

import pytest

from asman import _emscripten
from fresh_python import EMSCRIPTEN, run_fresh


def test_quart_does_not_import_there_without_the_stand_in() -> None:
    code = "try:\n    import quart\nexcept ImportError as error:\n    print(error.name)"
    assert run_fresh(EMSCRIPTEN + code) == "hypercorn\n"


def test_importing_asman_first_lets_quart_be_imported() -> None:
    code = "import asman, quart; print(quart.Quart('x').name, sys.modules['hypercorn'].__spec__)"
    assert run_fresh(EMSCRIPTEN + code) == "x None\n"


def test_an_app_answers_a_request_without_hypercorn() -> None:
    code = """
import asyncio, asman, quart
app = quart.Quart("x")
@app.get("/")
async def hello():
    return {"hello": "edge"}
async def ask():
    messages = [{"type": "http.request", "body": b"", "more_body": False}]
    sent = []
    async def receive():
        return messages.pop() if messages else await asyncio.Event().wait()
    async def send(message):
        sent.append(message)
    scope = {"type": "http", "asgi": {}, "http_version": "1.1", "method": "GET", "scheme": "http", "path": "/",
             "raw_path": b"/", "query_string": b"", "root_path": "", "headers": [(b"host", b"edge")]}
    await asyncio.wait_for(app(scope, receive, send), 20)
    print(sent[0]["status"], b"".join(m.get("body", b"") for m in sent).decode().strip())
asyncio.run(ask())
"""
    assert run_fresh(EMSCRIPTEN + code) == '200 {"hello":"edge"}\n'


def test_running_a_server_there_says_who_serves_instead() -> None:
    code = """
import asyncio, asman
from hypercorn.asyncio import serve
from hypercorn.config import Config
try:
    asyncio.run(serve(object(), Config()))
except Exception as error:
    print(type(error).__name__, error.message, sep=": ")
"""
    said = run_fresh(EMSCRIPTEN + code)
    assert said.startswith("ConfigError: there is no hypercorn on this platform")


def test_type_names_are_dicts_and_private_names_are_absent() -> None:
    code = """
import asman, hypercorn.typing as t
print(t.HTTPScope is t.HTTPScope, issubclass(t.HTTPScope, dict), t.HTTPScope.__name__, hasattr(t, "_secret"))
"""
    assert run_fresh(EMSCRIPTEN + code) == "True True HTTPScope False\n"


def test_a_second_call_keeps_what_is_registered() -> None:
    code = """
import asman, hypercorn
from asman import _emscripten
before = sys.modules["hypercorn.typing"]
_emscripten.stand_in_for_hypercorn()
print(sys.modules["hypercorn"] is hypercorn, sys.modules["hypercorn.typing"] is before)
"""
    assert run_fresh(EMSCRIPTEN + code) == "True True\n"


def test_nothing_is_registered_on_another_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "hypercorn", raising=False)
    _emscripten.stand_in_for_hypercorn()
    assert "hypercorn" not in sys.modules
