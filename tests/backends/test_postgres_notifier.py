"""The PostgreSQL notifier takes the exam."""

from __future__ import annotations

import asyncio

import pytest

from asman.abc import TellsGaps
from asman.testing import NotifierKit
from asman_postgres.notifier import PostgresNotifier
from postgres_server import PostgresServer


class TestPostgresNotifier(NotifierKit):
    shared = True

    @pytest.fixture(autouse=True)
    def _server(self, postgres_server: PostgresServer) -> None:
        self.url = postgres_server.url

    async def open_notifier(self) -> PostgresNotifier:
        return PostgresNotifier(self.url)

    async def test_equal_messages_of_one_moment_all_arrive_in_order_also_long_ones(self) -> None:
        long = b"\x00\xff" * 20_000
        messages = [b"same", b"same", long, b"", b"", long, b"same", b"end"]
        heard: list[bytes] = []
        ended = asyncio.Event()

        def deliver(data: bytes) -> None:
            heard.append(data)
            if data == b"end":
                ended.set()

        async with await self.open_notifier() as one, await self.open_notifier() as two:
            await two.subscribe("topic", deliver)
            await asyncio.gather(*(one.publish("topic", message) for message in messages))
            await asyncio.wait_for(ended.wait(), 10)
        assert heard == messages

    async def test_messages_of_another_schema_or_program_are_not_heard(self, postgres_server: PostgresServer) -> None:
        heard: list[bytes] = []
        ended = asyncio.Event()
        async with await self.open_notifier() as ours, PostgresNotifier(f"{self.url}&schema=kit_other") as theirs:
            await ours.subscribe("topic", heard.append)
            await ours.subscribe("end", lambda data: ended.set())
            await theirs.publish("topic", b"theirs")
            postgres_server.sql(f"SELECT pg_notify('{ours._channel('topic')}', 'no message of ours')")
            async with await self.open_notifier() as other:
                await other.publish("end", b"")
                await asyncio.wait_for(ended.wait(), 10)
        assert heard == []

    async def test_it_tells_of_gaps(self) -> None:
        assert isinstance(await self.open_notifier(), TellsGaps)
