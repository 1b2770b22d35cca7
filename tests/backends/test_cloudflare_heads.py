"""The beginnings of a queue's lines agree with a plain list, whatever comes, goes and is cut."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from asman.job import Job, Requirements
from asman.testing import fresh_id, make_job
from asman_cloudflare.heads import Heads

NEEDS = (Requirements(), Requirements(cores=2))
SHAPES = [need.shape for need in NEEDS]
LIMITS = (1, 3, 9)


def _in_order(jobs: list[Job], shape: str) -> list[Job]:
    return sorted((j for j in jobs if j.requirements.shape == shape), key=lambda j: (j.queued_at, j.job_id))


class HeadsMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.heads = Heads(longest=6, most=20)
        self.queued: dict[str, Job] = {}
        self.made = 0

    @rule(need=st.sampled_from(NEEDS), queued_at=st.integers(0, 5))
    def come(self, need: Requirements, queued_at: int) -> None:
        self.made += 1
        job = make_job("q", fresh_id(self.made), requirements=need, queued_at=float(queued_at))
        self.queued[job.job_id] = job
        self.heads.put(job)

    @rule(data=st.data())
    def go(self, data: st.DataObject) -> None:
        if self.queued:
            job_id = data.draw(st.sampled_from(sorted(self.queued)))
            del self.queued[job_id]
            self.heads.drop(job_id)

    @rule(data=st.data(), need=st.sampled_from(NEEDS), queued_at=st.integers(0, 5))
    def change(self, data: st.DataObject, need: Requirements, queued_at: int) -> None:
        if self.queued:
            job_id = data.draw(st.sampled_from(sorted(self.queued)))
            job = self.queued[job_id] = replace(
                self.queued[job_id], version=2, requirements=need, queued_at=float(queued_at)
            )
            self.heads.put(job)

    @rule(shape=st.sampled_from(SHAPES), limit=st.integers(0, 9))
    def learn(self, shape: str, limit: int) -> None:
        waiting = _in_order(list(self.queued.values()), shape)
        self.heads.learn(shape, waiting[:limit], is_all=limit > len(waiting), at=5.0)

    @invariant()
    def what_is_known_is_true(self) -> None:
        for shape in SHAPES:
            waiting = _in_order(list(self.queued.values()), shape)
            for limit in LIMITS:
                known = self.heads.first(shape, limit, since=5.0)
                assert known is None or known == waiting[:limit]
            assert self.heads.first(shape, 1, since=5.5) is None
        assert len(self.heads) <= 2 * 6
        for job in self.queued.values():
            assert self.heads.known(job.job_id) in (None, job)


TestHeads = HeadsMachine.TestCase
TestHeads.settings = settings(max_examples=100, stateful_step_count=40, deadline=None, database=None)


def test_what_is_learned_is_known_until_it_is_used_up() -> None:
    heads = Heads(longest=6, most=20)
    jobs = [make_job("q", queued_at=float(n)) for n in range(4)]
    shape = jobs[0].requirements.shape
    assert heads.first(shape, 1, since=0.0) is None
    heads.learn(shape, jobs[:3], is_all=False, at=1.0)
    assert heads.first(shape, 3, since=0.0) == jobs[:3]
    assert heads.first(shape, 4, since=0.0) is None, "there may be more"
    heads.put(jobs[3])
    assert heads.first(shape, 4, since=0.0) is None, "somebody may stand before it"
    heads.learn(shape, jobs, is_all=True, at=1.0)
    assert heads.first(shape, 9, since=0.0) == jobs


def test_shapes_that_nobody_asks_for_go_first() -> None:
    heads = Heads(longest=6, most=20)
    shapes = []
    for n in range(8):
        need = Requirements(cores=float(n + 1))
        jobs = [make_job("q", requirements=need, queued_at=float(at)) for at in range(5)]
        heads.learn(need.shape, jobs, is_all=True, at=1.0)
        shapes.append(need.shape)
        heads.first(shapes[0], 1, since=0.0)
    assert len(heads) <= 20
    assert heads.first(shapes[0], 1, since=0.0) is not None
    assert heads.first(shapes[1], 1, since=0.0) is None
