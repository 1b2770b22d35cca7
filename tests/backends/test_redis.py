"""The exam of the Redis backend: on one server, on a cluster, behind a sentinel."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from asman.testing import JobStoreKit, NotifierKit
from asman_redis.jobs import RedisJobStore
from asman_redis.notifier import RedisNotifier
from redis_server import RedisServer, redis_cluster, redis_server


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server() as started:
        yield started


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    with redis_cluster() as servers:
        yield "redis+cluster://" + ",".join(f"127.0.0.1:{each.port}" for each in servers)


class TestRedisJobStore(JobStoreKit):
    durable = shared = True

    @pytest.fixture(autouse=True)
    def _url(self, server: RedisServer) -> None:
        self.url = server.url

    async def open_store(self) -> RedisJobStore:
        return RedisJobStore(self.url)


class TestRedisNotifier(NotifierKit):
    shared = True

    @pytest.fixture(autouse=True)
    def _url(self, server: RedisServer) -> None:
        self.url = server.url

    async def open_notifier(self) -> RedisNotifier:
        return RedisNotifier(self.url)


class TestClusterJobStore(JobStoreKit):
    durable = shared = True

    @pytest.fixture(autouse=True)
    def _url(self, cluster: str) -> None:
        self.url = cluster

    async def open_store(self) -> RedisJobStore:
        return RedisJobStore(self.url)


class TestClusterNotifier(NotifierKit):
    shared = True

    @pytest.fixture(autouse=True)
    def _url(self, cluster: str) -> None:
        self.url = cluster

    async def open_notifier(self) -> RedisNotifier:
        return RedisNotifier(self.url)
