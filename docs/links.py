"""``docs/links.md``: how a link of the page is written, its parameters, and the page's keys.

The parameters come from ``asman/metaframe.py``, the keys from ``web/src/ui/keys.ts``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from asman.metaframe import HASH_PARAMS

__all__ = ["links_page"]

_KEYS = Path(__file__).parent.parent / "web" / "src" / "ui" / "keys.ts"
_KEY = re.compile(
    r'\{\s*key: "(?P<key>[^"]+)",\s*(?P<mod>mod: true,\s*)?'
    r'what: "(?P<what>[^"]+)",\s*when: "(?P<when>[^"]+)"'
)

_INTRO = """\
# Links of the page

One link is one job and one queue. Everything behind the `#` stays in the browser: a server sees it only when the job is
submitted. Whoever has the link can read the whole job, so no secret belongs into it; a worker has its own
([README](../README.md), "Running a worker for others").

## How it is written

`https://SERVER/#?name=value&name=value`: names in alphabetical order, values percent-encoded. A value of kind `json` is
JSON, percent-encoded, then base64, then percent-encoded once more, so that any text survives any page it is pasted
into. In Python:

```python
import base64, json
from urllib.parse import quote

job = {"image": "alpine:3.19.1", "command": "echo hello"}
text = json.dumps(job, sort_keys=True, separators=(",", ":"))
value = quote(base64.b64encode(quote(text, safe="!'()*~").encode()).decode(), safe="")
print(f"http://localhost:8000/#?job={value}&queue=local")
```

What other writers made of such links is read too: base64 of the bare JSON, missing padding, the URL-safe alphabet,
values that were encoded twice. A parameter that cannot be read is named on the page, and the rest of the link is used.

## Parameters

"""

_EMBED = """
Any other parameter is text: it becomes an environment variable of the job, and takes the place of `${name}` in its
command and in the context of its build.

## In another page

```html
<iframe src="https://SERVER/#?job=...&queue=..." allow="clipboard-write" width="700" height="400"></iframe>
```

Inside a metapage the frame takes inputs and gives outputs: each input is a file in `/inputs`, each file in `/outputs`
is an output. A queue that somebody chooses in the frame stays in their browser; the page around it is not told. What is
to happen on the reader's own machine (the queue `local`) waits until they agree to it in the frame. Below 120 pixels of
height the frame is one row: status and button.

## Keys

"""


def links_page(note: str, table: Callable[[Iterable[str], Iterable[Iterable[object]]], str]) -> str:
    """The page. Errors: ValueError if a key of the page's table is not understood."""
    parameters = ((f"`{name}`", p["type"], p["description"]) for name, p in HASH_PARAMS.items())
    return (
        note.format(source="docs/links.py, asman/metaframe.py and web/src/ui/keys.ts")
        + _INTRO
        + table(("parameter", "kind", "meaning"), parameters)
        + _EMBED
        + "`?` shows them. Single letters work outside of text fields, and can be turned off there.\n\n"
        + table(("key", "what it does", "where"), _keys())
    )


def _keys() -> Iterator[tuple[str, str, str]]:
    text = _KEYS.read_text()
    found = list(_KEY.finditer(text))
    if len(found) != len(re.findall(r'\bkey: "', text)):
        raise ValueError(f"{_KEYS.name} has a key that docs/links.py does not understand")
    for key in found:
        name = key["key"].capitalize() if len(key["key"]) > 1 else key["key"].upper() if key["mod"] else key["key"]
        yield f"`{'Ctrl/Cmd+' if key['mod'] else ''}{name}`", key["what"], key["when"]
