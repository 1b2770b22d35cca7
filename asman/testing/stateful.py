"""Random steps on a job store and on a plain dictionary must agree.

``job_store_machine`` makes a hypothesis state machine from a kit. It has two writers (two opened stores where the
backend claims that they share, else the same one twice), tries stale versions as often as fresh ones, and closes
and opens durable stores in the middle. The model is the contract in its shortest form.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from asman.errors import Conflict
from asman.job import Job, Requirements, State
from asman.testing.fixtures import NOW, fresh_id, make_job

if TYPE_CHECKING:
    from asman.testing.log_store import LogStoreKit, Store

__all__ = ["job_store_machine"]

_STATES = (State.QUEUED, State.RUNNING, State.FINISHED, State.REMOVED)
_NEEDS = (Requirements(), Requirements(cores=2, tags=("a",)))
_NAMES = ("_", "a", "é")

_names = st.lists(st.sampled_from(_NAMES), unique=True).map(
    lambda chosen: tuple((name, NOW) for name in sorted(chosen))
)
_documents = st.dictionaries(st.sampled_from(["definition", "result"]), st.none() | st.binary(max_size=8))
_moments = st.sampled_from([NOW, NOW + 0.5, NOW + 1, NOW + 2])
_halves = st.sampled_from(["build", "run"])
_writers = st.integers(0, 1)
_numbers = st.integers(0, 2)
_queues = st.integers(0, 1)


@dataclass
class _Kept:
    """What the model knows of one job."""

    job: Job
    documents: dict[str, bytes] = field(default_factory=dict)
    attempt: int = 0
    lines: dict[str, list[bytes]] = field(default_factory=dict)


def _by_age(jobs: list[Job]) -> list[Job]:
    return sorted(jobs, key=lambda job: (job.queued_at, job.job_id, job.queue))


def job_store_machine(kit: LogStoreKit) -> type[RuleBasedStateMachine]:
    """A machine over the stores that the kit opens. Each run uses queues and ids of its own."""

    class JobStoreMachine(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.runner = asyncio.Runner()
            self.queues = [kit.new_queue("one"), kit.new_queue("two")]
            self.ids = [fresh_id() for _ in range(3)]
            self.model: dict[tuple[str, str], _Kept] = {}
            self.runner.run(self._open())

        async def _open(self) -> None:
            self.opened = AsyncExitStack()
            first = await self.opened.enter_async_context(await kit.open_store())
            second = await self.opened.enter_async_context(await kit.open_store()) if kit.shared else first
            self.stores: list[Store] = [first, second]

        def teardown(self) -> None:
            try:
                self.runner.run(self.opened.aclose())
            finally:
                self.runner.close()

        def _do(self, work: Any) -> Any:
            return self.runner.run(work)

        def _jobs(self, **members: Any) -> list[Job]:
            kept = [entry.job for entry in self.model.values()]
            return _by_age([j for j in kept if all(getattr(j, name) == value for name, value in members.items())])

        def _compare(self, store: Store, key: tuple[str, str]) -> None:
            """Everything the store knows of one job against everything the model does."""
            entry = self.model.get(key)
            assert self._do(store.load(*key)) == (entry.job if entry else None)
            for name in ("definition", "result"):
                kept = entry.documents.get(name) if entry else None
                assert self._do(store.document(*key, name)) == kept
            for half in ("build", "run"):
                lines = entry.lines.get(half, []) if entry else []
                assert self._do(store.read_log(*key, half=half)).lines == tuple(lines)

        @rule(
            writer=_writers,
            q=_queues,
            n=_numbers,
            off=st.sampled_from([0, 0, 0, 1, -1]),
            state=st.sampled_from(_STATES),
            need=st.sampled_from(_NEEDS),
            queued_at=_moments,
            namespaces=_names,
            written=_documents,
            lease_until=st.none() | _moments,
        )
        def save(
            self,
            writer: int,
            q: int,
            n: int,
            off: int,
            state: State,
            need: Requirements,
            queued_at: float,
            namespaces: tuple[tuple[str, float], ...],
            written: dict[str, bytes | None],
            lease_until: float | None,
        ) -> None:
            key = (self.queues[q], self.ids[n])
            before = self.model.get(key)
            version = before.job.version if before else 0
            expected = max(version + off, 0)
            job = make_job(
                *key,
                version=expected + 1,
                state=state,
                requirements=need,
                queued_at=queued_at,
                namespaces=namespaces,
                lease_until=lease_until,
            )
            try:
                self._do(self.stores[writer].save(job, expected=expected, documents=written))
            except Conflict:
                assert expected != version, "a save over the stored version was refused"
                return
            assert expected == version, "a save over another version was taken"
            entry = self.model.setdefault(key, _Kept(job))
            entry.job = job
            for name, data in written.items():
                if data is None:
                    entry.documents.pop(name, None)
                else:
                    entry.documents[name] = data
            self._compare(self.stores[1 - writer], key)

        @rule(writer=_writers, q=_queues, n=_numbers, off=st.sampled_from([0, 0, 1]))
        def delete(self, writer: int, q: int, n: int, off: int) -> None:
            key = (self.queues[q], self.ids[n])
            before = self.model.get(key)
            version = before.job.version if before else 0
            try:
                self._do(self.stores[writer].delete(*key, expected=version + off))
            except Conflict:
                assert before is not None
                assert off, "a delete of the stored version was refused"
                return
            assert before is None or not off, "a delete of another version was done"
            self.model.pop(key, None)
            self._compare(self.stores[1 - writer], key)

        @rule(writer=_writers, q=_queues, n=_numbers, number=st.integers(1, 3), half=_halves, count=st.integers(0, 3))
        def append_log(self, writer: int, q: int, n: int, number: int, half: str, count: int) -> None:
            key = (self.queues[q], self.ids[n])
            lines = [b'["%d",%d]' % (number, index) for index in range(count)]
            entry = self.model.get(key)
            total = self._do(self.stores[writer].append_log(*key, attempt=number, half=half, lines=lines))
            if entry is None:
                assert total == 0
                return
            if lines and number > entry.attempt:
                entry.attempt, entry.lines = number, {}
            if number == entry.attempt:
                entry.lines.setdefault(half, []).extend(lines)
            if lines:
                assert total == len(entry.lines.get(half, []))

        @rule(reader=_writers, q=_queues, n=_numbers, half=_halves, since=st.integers(0, 9))
        def read_log(self, reader: int, q: int, n: int, half: str, since: int) -> None:
            key = (self.queues[q], self.ids[n])
            entry = self.model.get(key)
            kept = entry.lines.get(half, []) if entry else []
            found = self._do(self.stores[reader].read_log(*key, half=half, since=since))
            assert found.lines == tuple(kept[since:])
            assert found.total == len(kept)
            if found.lines:
                assert entry is not None
                assert (found.start, found.attempt) == (since, entry.attempt)

        @rule(writer=_writers, q=_queues, n=_numbers)
        def drop_log(self, writer: int, q: int, n: int) -> None:
            key = (self.queues[q], self.ids[n])
            self._do(self.stores[writer].drop_log(*key))
            entry = self.model.get(key)
            if entry is not None:
                entry.attempt, entry.lines = 0, {}
            self._compare(self.stores[1 - writer], key)

        @rule(reader=_writers, q=_queues, n=_numbers)
        def load(self, reader: int, q: int, n: int) -> None:
            self._compare(self.stores[reader], (self.queues[q], self.ids[n]))

        @rule(
            reader=_writers,
            q=_queues,
            states=st.sets(st.sampled_from(_STATES)),
            need=st.none() | st.sampled_from(_NEEDS),
            limit=st.integers(1, 5),
            after=st.none() | st.tuples(_moments, st.sampled_from(["", "8", "g"])),
        )
        def list_jobs(
            self,
            reader: int,
            q: int,
            states: set[State],
            need: Requirements | None,
            limit: int,
            after: tuple[float, str] | None,
        ) -> None:
            queue = self.queues[q]
            wanted = [
                job
                for job in self._jobs(queue=queue)
                if job.state in states
                and (need is None or job.requirements == need)
                and (after is None or (job.queued_at, job.job_id) > after)
            ]
            shape = need.shape if need else None
            found = self._do(self.stores[reader].list(queue, states=states, shape=shape, limit=limit, after=after))
            assert found == wanted[:limit]

        @rule(reader=_writers, q=_queues, name=st.sampled_from(_NAMES), limit=st.integers(1, 4))
        def in_namespace(self, reader: int, q: int, name: str, limit: int) -> None:
            active = [j for j in self._jobs(queue=self.queues[q]) if j.is_active and name in j.namespace_names]
            found = self._do(self.stores[reader].in_namespace(self.queues[q], name, limit=limit))
            assert found == active[:limit]

        @rule(reader=_writers, n=_numbers)
        def find(self, reader: int, n: int) -> None:
            found = self._do(self.stores[reader].find(self.ids[n]))
            assert [j.queued_at for j in found] == sorted(j.queued_at for j in found)
            assert _by_age(found) == self._jobs(job_id=self.ids[n])

        @rule(reader=_writers, before=_moments)
        def due(self, reader: int, before: float) -> None:
            found = [j for j in self._do(self.stores[reader].due(before, limit=10_000)) if j.queue in self.queues]
            assert [j.due_at for j in found] == sorted(j.due_at for j in found)
            assert _by_age(found) == [j for j in self._jobs() if j.due_at <= before]

        @rule()
        @precondition(lambda self: kit.durable)
        def reopen(self) -> None:
            self._do(self.opened.aclose())
            self._do(self._open())

        @invariant()
        def counts_are_true(self) -> None:
            for queue in self.queues:
                listed = [j for j in self._jobs(queue=queue) if j.state is not State.REMOVED]
                wanted = Counter((j.state, j.requirements.shape) for j in listed)
                assert self._do(self.stores[0].counts(queue)) == dict(wanted)

    return JobStoreMachine
