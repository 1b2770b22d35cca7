"""Print what is made from code: the pages of this folder, and the contract of the web client.

    python docs/generate.py            write the pages
    python docs/generate.py --check    say which pages differ; exit 1 if any does

Edit the code, not these pages: ``tests/test_layout.py`` compares them. Of ``plugins.md`` only the code blocks are made,
from the example package. How TypeScript is written is said in ``typescript.py``, what is said of links in
``links.py``.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from asman import errors, hookspecs
from asman.config import PROFILES, SETTINGS, Limits
from asman.exposition import QUEUE_FAMILIES, SERVER_FAMILIES, Family
from asman.state import TRANSITIONS, Row
from asman.units import show_bytes
from asman_metrics.families import FAMILIES as PLUGIN_FAMILIES
from asman_worker.config import SETTINGS as WORKER_SETTINGS
from asman_worker.config import WorkerSetting
from asman_worker.grant import PROFILES as WORKER_PROFILES
from asman_worker.grant import Profile
from asman_worker.report import CODES

__all__ = ["PAGES"]

HERE = Path(__file__).parent
_BACKTICKS = re.compile(r"(?<!`)``(?!`)")
_NOTE = "<!-- Made by docs/generate.py from {source}; edit that and run it again. -->\n"


def _table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    lines: list[list[object]] = [list(head), *(list(row) for row in rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "".join(f"| {' | '.join(map(_cell, line))} |\n" for line in lines)


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("<", "&lt;")


# --- settings ---------------------------------------------------------------------------------------------------------


def _shown(value: object) -> str:
    return "" if value in ("", ()) else f"`{value}`"


def _flag(name: str) -> str:
    return f"`--{name.removesuffix('_s').replace('_', '-')}`"


def settings_page() -> str:
    rows = ((f"`{s.name}`", _flag(s.name), f"`{s.env}`", s.kind, _shown(s.default), s.help) for s in SETTINGS)
    limits = (
        (f"`{field.name}`", *(f"{getattr(PROFILES[p], field.name):,}" for p in ("private", "public")))
        for field in fields(Limits)
    )
    return (
        _NOTE.format(source="asman/config.py")
        + "# Settings\n\nFlags win over the environment, the environment over the config file, that over the defaults. "
        "`asman config` shows\nwhat is in force and where each value came from. A duration is seconds, or text such as "
        "`20m`; a list is\nseparated by commas.\n\n"
        + _table(("setting", "flag", "environment", "kind", "default", ""), rows)
        + "\n## Limits by profile\n\n0 means no limit.\n\n"
        + _table(("limit", "private", "public"), limits)
    )


# --- errors -----------------------------------------------------------------------------------------------------------


def error_classes() -> list[type[errors.AsmanError]]:
    """Every error, parents before children."""

    def below(kind: type[errors.AsmanError]) -> Iterator[type[errors.AsmanError]]:
        yield kind
        for child in kind.__subclasses__():
            if child.__module__ == errors.__name__:
                yield from below(child)

    return list(below(errors.AsmanError))


def errors_page() -> str:
    rows = ((f"`{e.code}`", e.status, f"`{e.__name__}`", e.hint) for e in error_classes())
    return (
        _NOTE.format(source="asman/errors.py")
        + '# Errors\n\nAn error is answered as `{"error": text, "code": slug, "hint": text}` with the status below; a '
        "socket gets the same\nmembers in an `Error` frame. The code is stable and is what programs compare; the text "
        "may change.\n\n" + _table(("code", "status", "class", "what to do"), rows)
    )


# --- states -----------------------------------------------------------------------------------------------------------


def _question(row: Row) -> str:
    name = row.when.__name__.strip("_").replace("_", " ")
    return "" if name == "always" else name


def state_rows() -> list[tuple[str, ...]]:
    """One line per row of the table, in its order: from, event, if, to, effects, why."""
    return [
        (
            ", ".join(s.value for s in row.states),
            row.event.__name__,
            _question(row),
            row.to.value,
            ", ".join(e.value for e in row.effects),
            row.why,
        )
        for row in TRANSITIONS
    ]


def state_diagram() -> str:
    """The steps that change the state, as a mermaid diagram; steps that stay are in the table only."""
    edges: dict[tuple[str, str], list[str]] = {}
    for row in TRANSITIONS:
        for state in row.states:
            if state is not row.to:
                names = edges.setdefault((state.value, row.to.value), [])
                if row.event.__name__ not in names:
                    names.append(row.event.__name__)
    start = TRANSITIONS[0].states[0].value
    lines = [
        f"    {'[*]' if source == start else source} --> {target}: {', '.join(names)}"
        for (source, target), names in edges.items()
    ]
    return "```mermaid\nstateDiagram-v2\n" + "\n".join(lines) + "\n```\n"


def states_page() -> str:
    return (
        _NOTE.format(source="asman/state.py")
        + "# Life of a job\n\nEvery legal step is a row of one table. Rows are tried from the top; the first whose "
        "state, event and condition\nmatch is taken. What no row matches is refused and changes nothing.\n\n"
        + state_diagram()
        + "\n"
        + _table(("in", "event", "if", "then", "effects after the save", "because"), state_rows())
    )


# --- hooks ------------------------------------------------------------------------------------------------------------


def hooks() -> dict[str, Callable[..., object]]:
    return {n: f for n, f in vars(hookspecs).items() if n.startswith("asman_") and inspect.isfunction(f)}


def _signature(hook: Callable[..., object]) -> str:
    found = inspect.signature(hook)
    takes = ", ".join(f"{p.name}: {p.annotation}" for p in found.parameters.values())
    return f"{hook.__name__}({takes}) -> {found.return_annotation}"


def hooks_page() -> str:
    parts = [f"## `{_signature(hook)}`\n\n{inspect.cleandoc(hook.__doc__ or '')}\n" for hook in hooks().values()]
    text = "# Hooks\n\n" + _example() + "\n" + "\n".join(parts)
    return _NOTE.format(source="asman/hookspecs.py") + _BACKTICKS.sub("`", text)


def _example() -> str:
    """The module's own introduction, with its example as a code block."""
    before, _, rest = inspect.cleandoc(hookspecs.__doc__ or "").partition("::\n\n")
    indented: list[str] = []
    after: list[str] = []
    inside = True
    for line in rest.splitlines():
        inside = inside and (line.startswith("    ") or not line)
        (indented if inside else after).append(line)
    code = inspect.cleandoc("\n".join(indented)).strip()
    return f"{before}:\n\n```python\n{code}\n```\n\n" + "\n".join(after).strip() + "\n"


# --- commands ---------------------------------------------------------------------------------------------------------


def commands_page() -> str:
    from asman.cli.reference import cli_reference

    return _NOTE.format(source="asman/cli") + cli_reference()


# --- the worker -------------------------------------------------------------------------------------------------------


def _worker_default(setting: WorkerSetting) -> str:
    if setting.shown_default:
        return setting.shown_default
    return "" if setting.default in ("", (), False, None) else f"`{setting.default}`"


def _profile_cell(name: str, profile: Profile) -> str:
    value = getattr(profile, name)
    if name == "capabilities" and not profile.drop_all:
        return "the engine's own"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and value >= 1 << 20:
        return show_bytes(value)
    if isinstance(value, tuple):
        return (
            ", ".join(part if isinstance(part, str) else f"{part[0]} ({show_bytes(part[1])})" for part in value)
            or "none"
        )
    return "the engine's own" if value is None else str(value) or "the image's"


def worker_page() -> str:
    """The owner's page: every option, and what each profile gives to a container."""
    options = (
        (
            ", ".join(f"`{flag}`" for flag in s.flags if flag.startswith("--")) or "`QUEUE...`",
            ", ".join(f"`{env}`" for env in s.envs),
            s.kind,
            _worker_default(s),
            s.help,
        )
        for s in WORKER_SETTINGS
    )
    profiles = (
        (f"`{field.name}`", *(_profile_cell(field.name, profile) for profile in WORKER_PROFILES.values()))
        for field in fields(Profile)
    )
    return (
        _NOTE.format(source="worker/asman_worker/config.py, grant.py and report.py")
        + "# Options of a worker\n\nFlags win over the environment, the environment over the file of `--config`, that "
        "over the defaults. Where several names\nare listed, the first is the present one; the others are read because "
        "older workers used them.\n\n"
        + _table(("flag", "environment", "kind", "default", ""), options)
        + "\n## What a profile gives to a container\n\nThe owner chooses one with `--profile`; no member of a job "
        "moves any of it. An amount that a job asks\nfor is given up to what is granted, and refused beyond.\n\n"
        + _table(("", *(f"`{name}`" for name in WORKER_PROFILES)), profiles)
        + "\n## Why a job ended with an error\n\nThe report's `result.error` is for people, `result.errorCode` for "
        "programs. A step that took longer than its limit is\nan `error` too: the outcome `timed_out` says that the "
        "container's own time was over. `result.peakMemoryBytes` is the most\nmemory that the container was seen to "
        "use, file cache included; jobs of a moment have none. "
        "`result.steps`\nsays when steps began, as `[name, ms]`: "
        "`fetching inputs`, `starting`, `Running`, `uploading outputs`. Watchers hear of\neach as it begins, "
        "by a frame of log lines without lines; pulls and builds tell themselves by their lines.\n\n"
        + _table(("code", ""), ((f"`{code}`", text) for code, text in CODES.items()))
    )


# --- metrics ----------------------------------------------------------------------------------------------------------

_METRICS_OF_A_QUEUE = """\
One queue, made for autoscalers: whoever knows the queue's name may read it, and reading it creates nothing. A read
costs the number of distinct requirements among the queued jobs, not the number of jobs. `queue_length` has no label,
and older scrapers find it under `GET /QUEUE/metrics` too. A job needs `gpu` if it asks for GPUs, else `cpu`. Counts of
jobs are those of the store and the same on every server. A worker that is assigned its jobs has nothing free while it
takes none; one that mirrors the queue does not say what is free: each job it holds is taken to use one core, and its
GPUs to be in use while it holds any.
"""

_SCALE = """\
The same as one JSON document, for scalers that read a number: `desiredWorkers` is how many workers of a size would run
everything that is queued or running at once.

| parameter | meaning |
| --- | --- |
| `needs` | `cpu` or `gpu`: only jobs that need no GPU (or one), and workers that have none (or some); left out, all |
| `cpus_per_worker` | cores of one worker; left out, cores do not bound how many jobs share a worker |
| `gpus_per_worker` | GPUs of one worker; left out, a job that needs GPUs has a worker to itself |

Without a size every outstanding job wants a worker. The rule: if `k` jobs of the same requirements fit into one
worker, each of them wants `1/k` of a worker; these shares are added up and rounded up. So four jobs of 3 cores want
four workers of 4 cores, not three. It is 0 when nothing is queued or running, and never less than the number of
workers that are known to hold a job. Queued jobs that fit no worker of this size are counted in `tooLarge` and want
none. A wrong or misspelt parameter is refused. For KEDA:

```yaml
triggers:
  - type: metrics-api
    metadata:
      url: "https://asman.example/q/QUEUE/scale?needs=cpu&cpus_per_worker=4"
      valueLocation: desiredWorkers
      targetValue: "1"
```
"""

_METRICS_OF_A_SERVER = """\
The whole server. No queue, job, worker or path is named, and label values are few whatever strangers send: `route` is
a template of `/openapi.json` or `unmatched`, `method` a known one or `other`, `operation` a method of a store
(`jobs.save`, `blobs.put`), `code` one of [the errors](errors.md). What is asked of the stores here (`asman_jobs`) is
the same on every server; all else is of the process that answers. The metrics after `asman_clients` need the extra
`metrics`: without it nothing is measured, and measuring costs nothing.

A request's time runs to the first byte of its answer: a stream counts until it begins, an upload until it is stored, a
submit with `Prefer: wait` until it has waited. `blobs.get` is timed until the first bytes can be had, `blobs.put`
until all are stored, so it includes the time that the sender took. Most counters and histograms have a `_created`
series beside them: when their counting began.
"""

_SEVERAL = """\
## Several servers

Every process counts for itself and answers for itself: have each one scraped, and add up with `sum by (route)
(rate(...))`. Where one address stands for several processes (`asman serve --workers N`, a load balancer), a scrape
reaches one of them by chance. Give each process a name (`--server-id`, `ASMAN_SERVER_ID`): it is put on every sample
of `GET /metrics` as the label `server`, so that counters of different processes are never taken for one that jumps.
Rates over a window of many scrapes are right then; of gauges use `last_over_time(...[5m])` before adding up. The
metrics of a queue have no such label: what they say of jobs is the same everywhere.
"""


def _families(families: Iterable[Family]) -> str:
    rows = ((f"`{f.name}`", f.kind, ", ".join(f"`{name}`" for name in f.labels), f.unit, f.text) for f in families)
    return _table(("metric", "type", "labels", "unit", "meaning"), rows)


def metrics_page() -> str:
    return (
        _NOTE.format(source="asman/exposition.py and plugins/asman_metrics/families.py")
        + "# Metrics\n\nIn the text format of Prometheus. A worker has metrics of its own, at its `--status` address.\n"
        + f"\n## `GET /q/QUEUE/metrics`\n\n{_METRICS_OF_A_QUEUE}\n{_families(QUEUE_FAMILIES)}"
        + f"\n## `GET /q/QUEUE/scale`\n\n{_SCALE}"
        + f"\n## `GET /metrics`\n\n{_METRICS_OF_A_SERVER}\n{_families((*SERVER_FAMILIES, *PLUGIN_FAMILIES))}"
        + f"\n{_SEVERAL}"
    )


# --- the tutorial -----------------------------------------------------------------------------------------------------


_BLOCK = re.compile(r"^<!-- from ([\w./-]+)(?:: ([\w, ]+))? -->\n```(\w+)\n.*?^```$", re.M | re.S)


def plugins_page() -> str:
    """The page as it is, with each code block that names a file filled from it: all of it, or some definitions."""
    return _BLOCK.sub(_filled, (HERE / "plugins.md").read_text())


def _filled(block: re.Match[str]) -> str:
    path, names, language = block.groups()
    text = (HERE.parent / path).read_text()
    parts = [_definition(path, text, name.strip()) for name in names.split(",")] if names else [text.strip()]
    named = f"<!-- from {path}{f': {names}' if names else ''} -->"
    return f"{named}\n```{language}\n" + "\n\n\n".join(parts) + "\n```"


def _definition(path: str, text: str, name: str) -> str:
    for node in ast.parse(text).body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and node.name == name:
            return "\n".join(text.splitlines()[node.lineno - 1 : node.end_lineno])
    raise LookupError(f"docs/plugins.md shows {name} of {path}, which has no such definition")


# --- what the files beside this one make ------------------------------------------------------------------------------


def _beside(name: str) -> Any:
    """A module of this folder, found wherever this one is loaded from."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def client_contract() -> str:
    return str(_beside("typescript").contract_module())


def links_page() -> str:
    return str(_beside("links").links_page(_NOTE, _table))


PAGES: dict[str, Callable[[], str]] = {
    "settings.md": settings_page,
    "errors.md": errors_page,
    "states.md": states_page,
    "hooks.md": hooks_page,
    "cli.md": commands_page,
    "worker.md": worker_page,
    "metrics.md": metrics_page,
    "plugins.md": plugins_page,
    "links.md": links_page,
    "../web/src/contract.gen.ts": client_contract,
}


def _run(arguments: list[str]) -> int:
    differing = []
    for name, page in PAGES.items():
        path, text = HERE / name, page()
        if path.exists() and path.read_text() == text:
            continue
        differing.append(name)
        if "--check" not in arguments:
            path.write_text(text)
    for name in differing:
        print(f"docs/{name} {'differs' if '--check' in arguments else 'written'}")
    return 1 if differing and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(_run(sys.argv[1:]))
