"""Log lines on their way: numbers, repeats, bounds."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from asman_worker.log_stream import BATCH_BYTES, LogBatch, LogStream, Progress


def _lines(*texts: str) -> list[list[Any]]:
    return [[text, 1] for text in texts]


def _sent(stream: LogStream, number: int) -> LogBatch:
    batch = stream.take()
    assert batch is not None
    batch.number = number
    return batch


def test_messages_carry_the_number_of_lines_before_them() -> None:
    stream = LogStream()
    stream.add("docker image pull", _lines("a", "b"))
    stream.add("Running", _lines("c"))
    first, second = _sent(stream, 1), _sent(stream, 2)
    assert (first.seq, first.step, len(first.lines)) == (0, "docker image pull", 2)
    assert (second.seq, second.step) == (2, "Running")
    assert stream.take() is None
    assert stream.is_empty


def test_a_step_that_begins_is_told_between_the_lines_and_counts_for_none() -> None:
    stream = LogStream()
    stream.add("fetching inputs", [])
    stream.add("docker image pull", _lines("a"))
    stream.add("Running", [])
    stream.add("Running", _lines("b"))
    told = [_sent(stream, n) for n in range(3)]
    assert [(batch.step, batch.seq, len(batch.lines)) for batch in told] == [
        ("fetching inputs", 0, 0),
        ("docker image pull", 0, 1),
        ("Running", 1, 1),
    ]
    assert [batch.began is not None for batch in told] == [True, False, True]
    assert told[-1].after == Progress(seq=2, container_lines=1)
    stream.rewind()
    assert (again := stream.take()) is not None
    assert (again.step, again.began) == ("fetching inputs", told[0].began)


def test_steps_give_way_as_lines_do_and_are_not_missed() -> None:
    stream = LogStream(waiting_bytes=100)
    for _ in range(10):
        stream.add("Running", [])
    assert _sent(stream, 1).lines == []
    assert stream.is_empty


def test_what_was_not_confirmed_is_sent_again_under_its_old_numbers() -> None:
    stream = LogStream()
    for text in "abc":
        stream.add("Running", _lines(text))
        _sent(stream, ord(text))
    assert stream.confirm(ord("a"))
    assert not stream.confirm(ord("a"))
    stream.rewind()
    stream.add("Running", _lines("d"))
    again = [_sent(stream, n) for n in range(3)]
    assert [(batch.seq, batch.lines[0][0]) for batch in again] == [(1, "b"), (2, "c"), (3, "d")]
    assert stream.progress == Progress(seq=1, container_lines=1)


def test_a_server_that_cannot_tell_repeats_gets_none() -> None:
    stream = LogStream()
    stream.add("Running", _lines("a"))
    _sent(stream, 1)
    stream.rewind(repeat=False)
    assert stream.take() is None


def test_lines_over_the_bound_give_way_to_one_that_says_so() -> None:
    stream = LogStream(waiting_bytes=1000)
    stream.add("Running", _lines(*(f"{n:064d}" for n in range(100))))
    batch = _sent(stream, 1)
    assert "5760 bytes of log are left out" in batch.lines[0][0]
    assert len(batch.lines[1:]) == 10
    assert batch.lines[-1][0] == f"{99:064d}"
    assert batch.after == Progress(seq=11, container_lines=100), "a later reading goes on after what was dropped"


def test_much_unconfirmed_holds_the_rest_up_until_a_pong() -> None:
    stream = LogStream()
    stream.add("Running", _lines(*("x" * BATCH_BYTES for _ in range(12))))
    sent = 0
    while (batch := stream.take()) is not None:
        sent += 1
        batch.number = sent
    assert stream.is_held_up
    assert not stream.is_empty
    stream.confirm(sent)
    assert stream.take() is not None


def test_a_later_process_goes_on_with_the_numbers_of_the_earlier_one() -> None:
    stream = LogStream(start=Progress(seq=5, container_lines=3))
    stream.add("Running", _lines("d"))
    assert _sent(stream, 1).after == Progress(seq=6, container_lines=4)


@given(st.lists(st.sampled_from(["add", "take", "pong", "cut"]), max_size=60))
def test_whatever_happens_every_line_has_one_number_and_none_is_missing(steps: list[str]) -> None:
    stream, seen = LogStream(), {}
    added = number = 0
    for step in [*steps, "cut", *["take"] * 100]:
        if step == "add":
            stream.add("Running", _lines(f"{added}", f"{added + 1}"))
            added += 2
        elif step == "take":
            batch = stream.take()
            if batch is not None:
                number += 1
                batch.number = number
                for i, line in enumerate(batch.lines, start=batch.seq):
                    assert seen.setdefault(i, line[0]) == line[0]
        elif step == "pong":
            stream.confirm(number)
        else:
            stream.rewind()
    assert seen == {n: f"{n}" for n in range(added)}
