from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asman.demand import Demand, Needs, WorkerSize, demand, desired_workers, needs_of, queued_shapes
from asman.job import Requirements, State

Counts = Mapping[tuple[State, str], int]


def counts_of(*jobs: tuple[State, float, int, int]) -> Counts:
    """Counters of (state, cores, gpus, how many)."""
    return {(state, Requirements(cores=cores, gpus=gpus).shape): n for state, cores, gpus, n in jobs}


QUEUED, RUNNING, FINISHED = State.QUEUED, State.RUNNING, State.FINISHED

requirements = st.builds(
    Requirements,
    cores=st.sampled_from([0.1, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 7.0, 64.0]),
    gpus=st.integers(0, 4),
    memory_bytes=st.sampled_from([0, 1 << 30]),
    tags=st.sampled_from([(), ("lab",)]),
)
counters: st.SearchStrategy[Counts] = st.dictionaries(
    st.tuples(st.sampled_from([QUEUED, RUNNING, FINISHED]), requirements.map(lambda need: need.shape)),
    st.integers(1, 10**6),
    max_size=8,
)
sizes = st.builds(
    WorkerSize,
    cores=st.none() | st.sampled_from([0.5, 1.0, 2.0, 4.0, 64.0]),
    gpus=st.none() | st.integers(0, 8),
)
kinds = st.none() | st.sampled_from(Needs)


# --- what is asked for ------------------------------------------------------------------------------------------------


def test_demand_counts_what_is_outstanding_and_nothing_else() -> None:
    counts = counts_of((QUEUED, 2, 0, 3), (QUEUED, 1, 2, 1), (RUNNING, 0.5, 0, 4), (FINISHED, 8, 8, 100))
    assert demand(counts) == Demand(backlog=4, running=4, cores=9.0, gpus=2)
    assert demand(counts).length == 8
    assert demand(counts, Needs.CPU) == Demand(backlog=3, running=4, cores=8.0, gpus=0)
    assert demand(counts, Needs.GPU) == Demand(backlog=1, running=0, cores=1.0, gpus=2)
    assert demand({}) == Demand()


@given(counters)
def test_the_two_kinds_make_up_the_whole(counts: Counts) -> None:
    whole, cpu, gpu = demand(counts), demand(counts, Needs.CPU), demand(counts, Needs.GPU)
    assert (whole.backlog, whole.running) == (cpu.backlog + gpu.backlog, cpu.running + gpu.running)
    assert math.isclose(whole.cores, cpu.cores + gpu.cores)
    assert whole.gpus == gpu.gpus
    assert cpu.gpus == 0
    assert sorted(queued_shapes(counts)) == sorted(queued_shapes(counts, Needs.CPU) + queued_shapes(counts, Needs.GPU))


def test_a_job_needs_a_gpu_worker_if_it_asks_for_one() -> None:
    assert needs_of(Requirements(cores=64)) is Needs.CPU
    assert needs_of(Requirements(gpus=1)) is Needs.GPU


# --- how many workers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("jobs", "size", "wanted"),
    [
        ([], WorkerSize(), 0),
        ([(FINISHED, 1, 0, 9)], WorkerSize(), 0),
        ([(QUEUED, 1, 0, 7)], WorkerSize(), 7),
        ([(QUEUED, 1, 0, 7), (RUNNING, 1, 0, 2)], WorkerSize(cores=4), 3),
        ([(QUEUED, 3, 0, 4)], WorkerSize(cores=4), 4),
        ([(QUEUED, 0.1, 0, 3)], WorkerSize(cores=0.3), 1),
        ([(QUEUED, 2, 0, 1), (QUEUED, 1, 0, 2)], WorkerSize(cores=4), 1),
        ([(QUEUED, 1, 1, 8)], WorkerSize(cores=16), 8),
        ([(QUEUED, 1, 1, 8)], WorkerSize(cores=16, gpus=4), 2),
        ([(QUEUED, 1, 3, 2)], WorkerSize(gpus=4), 2),
        ([(QUEUED, 8, 1, 2)], WorkerSize(cores=8, gpus=4), 2),
        ([(QUEUED, 0, 0, 5)], WorkerSize(cores=1), 5),
        ([(QUEUED, 1, 0, 1_000_001)], WorkerSize(cores=1000), 1001),
    ],
)
def test_workers_wanted(jobs: list[tuple[State, float, int, int]], size: WorkerSize, wanted: int) -> None:
    assert desired_workers(counts_of(*jobs), size) == (wanted, 0)


def test_a_job_too_large_for_any_worker_wants_none_and_is_said() -> None:
    counts = counts_of((QUEUED, 8, 0, 3), (QUEUED, 1, 0, 2), (QUEUED, 1, 1, 1))
    assert desired_workers(counts, WorkerSize(cores=4, gpus=0)) == (1, 4)


def test_a_running_job_too_large_for_the_size_holds_a_worker_all_the_same() -> None:
    assert desired_workers(counts_of((RUNNING, 8, 0, 3)), WorkerSize(cores=4)) == (3, 0)


def test_workers_that_hold_jobs_are_wanted_though_fewer_would_do() -> None:
    counts = counts_of((RUNNING, 1, 0, 3))
    assert desired_workers(counts, WorkerSize(cores=4), occupied=3) == (3, 0)
    assert desired_workers(counts_of((QUEUED, 1, 0, 3)), WorkerSize(cores=4), occupied=9) == (1, 0)


@given(counters, sizes, kinds, st.integers(0, 50))
def test_nothing_outstanding_wants_nobody(counts: Counts, size: WorkerSize, needs: Needs | None, held: int) -> None:
    wanted, too_large = desired_workers(counts, size, needs=needs, occupied=held)
    if not demand(counts, needs).length:
        assert (wanted, too_large) == (0, 0)
    elif too_large < demand(counts, needs).length:
        assert wanted >= 1


@given(counters, sizes, kinds, st.integers(0, 50))
def test_what_runs_is_never_taken_away(counts: Counts, size: WorkerSize, needs: Needs | None, held: int) -> None:
    """As many as are known to be busy, and room for all that runs."""
    wanted, _ = desired_workers(counts, size, needs=needs, occupied=held)
    running = {key: n for key, n in counts.items() if key[0] is RUNNING}
    alone, _ = desired_workers(running, size, needs=needs)
    assert wanted >= alone
    if demand(running, needs).length:
        assert wanted >= held
        if size.cores is not None:
            fitting = [(Requirements.from_shape(shape), n) for (_, shape), n in running.items()]
            cores = sum(r.cores * n for r, n in fitting if size.holds(r) and needs in (None, needs_of(r)))
            assert wanted * size.cores >= cores * (1 - 1e-9)


@given(counters, sizes, kinds, requirements, st.integers(1, 100))
def test_more_jobs_never_want_fewer_workers(
    counts: Counts, size: WorkerSize, needs: Needs | None, more: Requirements, n: int
) -> None:
    key = (QUEUED, more.shape)
    grown = {**counts, key: counts.get(key, 0) + n}
    assert desired_workers(grown, size, needs=needs)[0] >= desired_workers(counts, size, needs=needs)[0]


@given(counters, sizes, kinds)
def test_never_more_workers_than_jobs(counts: Counts, size: WorkerSize, needs: Needs | None) -> None:
    wanted, too_large = desired_workers(counts, size, needs=needs)
    assert wanted + too_large <= demand(counts, needs).length


@given(st.lists(st.sampled_from([0.5, 1.0, 1.5, 2.0, 3.0, 4.0]), max_size=30), st.sampled_from([4.0, 6.0, 8.0]))
def test_the_number_is_near_what_packing_one_by_one_gives(cores: list[float], size: float) -> None:
    """First fit, largest first: a real packing. The number is at most one fewer, and not a third more than it."""
    bins: list[float] = []
    for need in sorted(cores, reverse=True):
        at = next((i for i, free in enumerate(bins) if free >= need), None)
        if at is None:
            bins.append(size - need)
        else:
            bins[at] -= need
    counts: dict[tuple[State, str], int] = {}
    for need in cores:
        key = (QUEUED, Requirements(cores=need).shape)
        counts[key] = counts.get(key, 0) + 1
    wanted, _ = desired_workers(counts, WorkerSize(cores=size))
    assert len(bins) - 1 <= wanted <= math.ceil(len(bins) * 4 / 3) + 1
