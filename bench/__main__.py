"""Run the measurements, print the table, keep it."""

from __future__ import annotations

import asyncio
import datetime
import os
import platform
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from bench import measure
from bench.hardening import hardening
from bench.metering import metering
from bench.redis_store import redis_store
from bench.servers import servers
from bench.table import Row, as_markdown

PARTS: dict[str, Callable[[Path], Awaitable[list[Row]]]] = {
    "submit": measure.submit,
    "depth": measure.depth,
    "watchers": measure.watchers,
    "blobs": measure.blobs,
    "start": measure.start,
    "containers": measure.containers,
    "hardening": hardening,
    "redis": redis_store,
    "servers": servers,
    "metering": metering,
}


async def main(wanted: list[str]) -> int:
    unknown = sorted(set(wanted) - set(PARTS))
    if unknown:
        print(f"error: no measurement {unknown[0]!r}; there are: {', '.join(PARTS)}", file=sys.stderr)
        return 2
    rows: list[Row] = []
    for name in wanted or list(PARTS):
        print(f"{name} ...", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(prefix="asman-bench-") as folder:
            rows += await PARTS[name](Path(folder))
    table = as_markdown(rows)
    today = datetime.datetime.now(datetime.UTC)
    machine = f"{os.cpu_count()} cores, {platform.system()} {platform.release()}, Python {platform.python_version()}"
    text = f"# {today:%Y-%m-%d %H:%M} UTC\n\n{machine}\n\n{table}"
    print(text)
    kept = Path(__file__).parent / "results" / f"{today:%Y-%m-%d-%H%M}.md"
    kept.parent.mkdir(exist_ok=True)
    kept.write_text(text)
    print(f"\nkept in bench/results/{kept.name}", file=sys.stderr)
    return 1 if any(row.is_missed for row in rows) else 0


sys.exit(asyncio.run(main(sys.argv[1:])))
