"""What most people would write first: a Quart route that inserts a row with aiosqlite and commits.

The yardstick of ``submit``: same server, same durability (WAL, synchronous FULL), one commit per request, no checks.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys

import aiosqlite
from hypercorn.asyncio import serve
from hypercorn.config import Config
from quart import Quart, request

app = Quart(__name__)


@app.before_serving
async def connect() -> None:
    app.db = await aiosqlite.connect(sys.argv[2], isolation_level=None)
    await app.db.execute("PRAGMA journal_mode=WAL")
    await app.db.execute("PRAGMA synchronous=FULL")
    await app.db.execute("CREATE TABLE jobs (id TEXT PRIMARY KEY, queue TEXT, body TEXT, state TEXT, at REAL)")


@app.after_serving
async def disconnect() -> None:
    await app.db.close()


@app.get("/healthz")
async def healthz() -> str:
    return "OK"


@app.post("/q/<queue>")
async def submit(queue: str) -> dict[str, object]:
    job = await request.get_json(force=True)
    text = json.dumps(job["definition"], sort_keys=True)
    job_id = hashlib.sha256(text.encode()).hexdigest()
    await app.db.execute("INSERT OR IGNORE INTO jobs VALUES (?, ?, ?, 'Queued', unixepoch())", (job_id, queue, text))
    return {"success": True, "jobId": job_id}


if __name__ == "__main__":
    config = Config()
    config.bind = [f"127.0.0.1:{sys.argv[1]}"]
    asyncio.run(serve(app, config))
