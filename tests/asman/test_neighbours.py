"""What servers tell each other of who is connected to them."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from asman.matching import Capacity
from asman.neighbours import SILENT_S, Connected, Neighbours, announcement

CAPACITIES = st.builds(
    Capacity,
    cores=st.floats(0, 1e6),
    memory_bytes=st.none() | st.integers(0, 1 << 60),
    gpus=st.integers(0, 100),
    max_duration_s=st.none() | st.floats(0, 1e9),
    tags=st.frozensets(st.text()),
)
WORKERS = st.builds(
    Connected,
    worker=st.text(min_size=1),
    registration=st.dictionaries(st.text(), st.integers() | st.text()),
    total=CAPACITIES,
    free=CAPACITIES,
    takes=st.integers(0, 100),
    held=st.dictionaries(st.text(), st.integers(1, 9)),
    seated_at=st.floats(0, 1e10),
)


def worker(name: str, seated_at: float = 1.0, **registration: Any) -> Connected:
    return Connected(
        worker=name,
        registration={"id": name, "time": seated_at, **registration},
        total=Capacity(),
        free=Capacity(),
        takes=1,
        held={},
        seated_at=seated_at,
    )


def told(server: str, *workers: Connected, clients: int = 0) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(json.dumps(announcement(server, workers, clients, asks=False)))
    return told


@given(st.lists(WORKERS, unique_by=lambda w: w.worker))
def test_what_is_told_is_what_is_heard(workers: list[Connected]) -> None:
    known = Neighbours()
    known.hear(told("s", *workers), 0.0)
    assert known.workers == {worker.worker: worker for worker in workers}


def test_a_worker_that_two_servers_name_is_where_it_registered_last() -> None:
    known = Neighbours()
    known.hear(told("new", worker("w", 5.0)), 0.0)
    known.hear(told("old", worker("w", 3.0)), 0.0)
    assert known.workers["w"].seated_at == 5.0


def test_only_what_watchers_see_is_a_difference() -> None:
    known = Neighbours()
    assert known.hear(told("s", worker("w")), 0.0)
    assert not known.hear(told("s", worker("w", 9.0), clients=3), 1.0)
    assert known.hear(told("s", worker("w", 9.0, cpus=4)), 2.0)
    assert known.hear(told("s"), 3.0)
    assert known.servers == {}


def test_a_server_that_is_silent_too_long_is_forgotten() -> None:
    known = Neighbours()
    known.hear(told("s", worker("w")), 0.0)
    known.hear(told("t", clients=1), 10.0)
    assert not known.forget_silent(SILENT_S)
    assert known.forget_silent(SILENT_S + 1)
    assert list(known.servers) == ["t"]
    assert not known.forget_silent(SILENT_S + 11)
    assert known.servers == {}
