"""Free capacity and turns."""

from __future__ import annotations

from asman_worker.grant import Grant
from asman_worker.ledger import Free, Ledger, Need, Turns, can_ever_run, read_need

GIB = 1 << 30
GRANT = Grant(cores=4.0, memory_bytes=8 * GIB, max_duration_s=60.0)


def _definition(**requirements: object) -> dict[str, object]:
    return {"image": "a:1", "requirements": requirements}


def test_a_job_holds_what_it_asks_for_or_the_share_of_its_cores() -> None:
    assert read_need(_definition(), GRANT) == Need(cores=1.0, memory_bytes=2 * GIB)
    assert read_need(_definition(cpus=2, memory="1g"), GRANT) == Need(cores=2.0, memory_bytes=GIB)


def test_a_job_that_cannot_run_here_holds_nothing() -> None:
    assert read_need(_definition(cpus=64), GRANT) == Need()
    assert read_need(_definition(memory="many"), GRANT) == Need()
    assert not can_ever_run(_definition(cpus=64), GRANT)
    assert not can_ever_run({"tags": ["special"]}, GRANT)
    assert can_ever_run(_definition(cpus=4), GRANT)


def test_what_is_reserved_is_not_free_until_it_is_released() -> None:
    ledger = Ledger(GRANT)
    assert ledger.free == Free(cores=4.0, memory_bytes=8 * GIB, gpus=0, jobs=4)
    ledger.reserve("a", Need(cores=1.5, memory_bytes=GIB))
    assert (ledger.free.cores, ledger.free.jobs) == (2.5, 3)
    assert not ledger.has_room(Need(cores=3.0, memory_bytes=GIB))
    ledger.release("a")
    ledger.release("a")
    assert ledger.free.jobs == 4


def test_cores_are_offered_only_as_far_as_there_is_memory_for_them() -> None:
    ledger = Ledger(GRANT)
    ledger.reserve("hungry", Need(cores=1.0, memory_bytes=7 * GIB))
    free = ledger.free
    assert free.cores == 0.5
    assert not ledger.has_room(read_need(_definition(), GRANT))
    assert ledger.has_room(read_need(_definition(cpus=0.5), GRANT)), "what is offered can be used"


def test_a_whole_grant_of_odd_sizes_can_be_used_up_by_what_is_offered() -> None:
    grant = Grant(cores=3.0, memory_bytes=10**9 + 7)
    ledger = Ledger(grant)
    for number in range(3):
        assert ledger.free.jobs == 3 - number
        need = read_need(_definition(), grant)
        assert ledger.has_room(need)
        ledger.reserve(number, need)
    assert ledger.free.jobs == 0


def test_containers_found_running_are_counted_even_beyond_the_grant() -> None:
    ledger = Ledger(GRANT)
    for number in range(5):
        ledger.reserve(number, Need(cores=1.0, memory_bytes=2 * GIB))
    assert ledger.free == Free(cores=0.0, memory_bytes=0, gpus=0, jobs=0)


def test_a_bounded_ledger_takes_so_many_jobs_and_no_more() -> None:
    ledger = Ledger(GRANT, most_jobs=2)
    assert ledger.free.jobs == 2
    for number in range(2):
        ledger.reserve(number, Need(cores=1.0, memory_bytes=GIB))
        ledger.release(number)
    assert ledger.is_used_up
    assert ledger.free.jobs == 0
    assert not ledger.has_room(Need())


def test_who_missed_a_chance_gets_the_next_one_alone_and_then_the_others_have_missed_theirs() -> None:
    turns = Turns(lambda queue: True)
    assert turns.next() is None
    turns.missed("b")
    assert turns.next() == "b"
    assert [turns.may_offer(queue) for queue in "ab"] == [False, True]
    turns.took("b", ("a",))
    assert turns.next() == "a"
    turns.lapse("b")
    assert turns.alone == "a"
    turns.lapse("a")
    assert turns.alone is None
    assert turns.may_offer("b")


def test_a_queue_that_is_not_connected_is_passed_over() -> None:
    turns = Turns(lambda queue: queue != "gone")
    turns.missed("gone")
    turns.missed("here")
    assert turns.next() == "here"
