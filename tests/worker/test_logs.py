"""From bytes to lines: any cutting of the stream gives the same text, and nothing is lost silently."""

from __future__ import annotations

import struct
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from asman_worker.logs import (
    STDERR,
    STDOUT,
    Demultiplexer,
    KeptLog,
    LineSplitter,
    LogPump,
    merge_lines,
    take_timestamp,
)
from asman_worker.redact import Redactor
from worker_peers import until

TEXTS = st.text(st.sampled_from("aé世😀\n\r "), max_size=80)


def frame(stream: int, data: bytes) -> bytes:
    return struct.pack(">BxxxL", stream, len(data)) + data


def cut(data: bytes, places: list[int]) -> list[bytes]:
    marks = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[a:b] for a, b in pairwise(marks)]


@given(
    st.lists(st.tuples(st.sampled_from([STDOUT, STDERR]), st.binary(max_size=30)), max_size=8), st.lists(st.integers(0))
)
def test_frames_come_whole_however_they_arrive(frames: list[tuple[int, bytes]], places: list[int]) -> None:
    stream = b"".join(frame(number, data) for number, data in frames)
    demultiplexer = Demultiplexer()
    got = [f for piece in cut(stream, places) for f in demultiplexer.feed(piece)]
    assert got == frames


@given(TEXTS, st.lists(st.integers(0)))
def test_any_chunking_gives_the_same_lines(text: str, places: list[int]) -> None:
    whole = LineSplitter()
    expected = [*whole.feed(text.encode()), *whole.close()]
    splitter = LineSplitter()
    got = [line for piece in cut(text.encode(), places) for line in splitter.feed(piece)] + splitter.close()
    assert got == expected
    assert "".join(got) == text


@given(st.binary(max_size=200), st.lists(st.integers(0)))
def test_bytes_that_are_no_text_lose_nothing_else(data: bytes, places: list[int]) -> None:
    splitter = LineSplitter()
    got = [line for piece in cut(data, places) for line in splitter.feed(piece)] + splitter.close()
    assert "".join(got) == data.decode("utf-8", "replace")


@given(TEXTS, st.lists(st.integers(0)), st.lists(st.integers(0), max_size=3))
def test_a_second_reading_with_the_remembered_breaks_gives_the_same_lines(
    text: str, places: list[int], stops: list[int]
) -> None:
    pieces = cut(text.encode(), places)
    first = LineSplitter()
    lines, breaks = [], []
    for number, piece in enumerate(pieces):
        lines += first.feed(piece)
        if first.has_pending and number in {stop % len(pieces) for stop in stops}:
            texts, offset = first.break_here()
            lines += texts
            breaks.append(offset)
    lines += first.close()
    again = LineSplitter(breaks)
    assert [*again.feed(text.encode()), *again.close()] == lines


def test_lines_end_after_a_newline_or_a_bare_carriage_return() -> None:
    splitter = LineSplitter()
    assert splitter.feed(b"a\nb\r\nc\rd\r\r\ne") == ["a\n", "b\r\n", "c\r", "d\r\r\n"]
    assert splitter.close() == ["e"]


def test_a_line_without_an_end_is_cut_at_16_kib_and_never_inside_a_character() -> None:
    text = "é" * 20_000
    splitter = LineSplitter()
    got = [*splitter.feed(b"x" + text.encode()), *splitter.close()]
    assert max(len(t.encode()) for t in got) <= 16 << 10
    assert "".join(got) == "x" + text


def test_dense_output_comes_in_larger_pieces() -> None:
    splitter = LineSplitter()
    data = b"y\n" * 100_000
    got = [*splitter.feed(data), *splitter.close()]
    assert len(got) < 1000
    assert "".join(got).encode() == data


def test_a_stored_frame_gives_up_its_time() -> None:
    assert take_timestamp(b"2026-01-02T03:04:05.678901234Z hello world\n") == (b"hello world\n", 1767323045679)
    assert take_timestamp(b"2026-01-02T03:04:05Z \n") == (b"\n", 1767323045000)
    assert take_timestamp(b"no time here") == (b"no time here", None)


def test_the_kept_log_holds_everything_up_to_both_bounds() -> None:
    log = KeptLog(head_bytes=10, tail_bytes=10)
    for number in range(4):
        log.add([f"line{number}", number])
    assert [line[0] for line in log.lines()] == ["line0", "line1", "line2", "line3"]
    assert log.dropped_bytes == 0


def test_what_is_dropped_is_said_where_it_is_missing() -> None:
    log = KeptLog(head_bytes=10, tail_bytes=10)
    for number in range(8):
        log.add([f"line{number}", number])
    first, second, gap, *last = log.lines()
    assert [first[0], second[0], *(line[0] for line in last)] == ["line0", "line1", "line6", "line7"]
    assert gap[0].startswith("[asman] 20 bytes of output were dropped here")
    assert gap[2] is True
    assert log.dropped_bytes == 20


@given(st.lists(st.text("aé", max_size=12), max_size=60), st.integers(0, 40), st.integers(0, 40))
def test_kept_and_dropped_bytes_add_up(texts: list[str], head: int, tail: int) -> None:
    log = KeptLog(head_bytes=head, tail_bytes=tail)
    for text in texts:
        log.add([text, 0])
    kept = sum(len(line[0].encode()) for line in log.lines() if not line[0].startswith("[asman]"))
    assert kept + log.dropped_bytes == sum(len(text.encode()) for text in texts)
    assert kept <= head + tail


def test_few_lines_are_reported_as_they_are_and_many_are_joined() -> None:
    few: list[Any] = [["a\n", 1], ["b\n", 2]]
    assert merge_lines(few) == few
    many: list[Any] = [["x\n", n, *([True] if n % 1000 == 0 else [])] for n in range(20_000)]
    merged = merge_lines(many)
    assert len(merged) < 100
    assert "".join(line[0] for line in merged) == "x\n" * 20_000
    assert sum(line[0].count("x") for line in merged if len(line) == 3) == 20


async def test_lines_are_sent_in_batches_and_all_of_them() -> None:
    batches: list[list[Any]] = []
    pump = LogPump(batches.append, now_ms=lambda: 7)
    for number in range(50):
        pump.feed(frame(STDOUT, f"line {number}\n".encode()))
    pump.feed(frame(STDERR, b"oops\n"))
    assert batches == []
    await until(lambda: bool(batches))
    assert batches == [[*([f"line {n}\n", 7] for n in range(50)), ["oops\n", 7, True]]]
    pump.finish()
    assert pump.kept.lines() == batches[0]


async def test_a_large_batch_does_not_wait_for_the_timer() -> None:
    batches: list[list[Any]] = []
    pump = LogPump(batches.append)
    pump.feed(frame(STDOUT, b"x" * 1023 + b"\n") * 70)
    assert batches
    pump.close()


async def test_an_unfinished_line_is_shown_after_a_while_and_its_place_is_remembered() -> None:
    batches: list[list[Any]] = []
    breaks: list[tuple[int, int]] = []
    pump = LogPump(batches.append, on_break=lambda stream, offset: breaks.append((stream, offset)))
    pump.feed(frame(STDOUT, b"done\nPassword: "))
    await until(lambda: bool(breaks))
    pump.feed(frame(STDOUT, b"ok\n"))
    pump.finish()
    assert [line[0] for batch in batches for line in batch] == ["done\n", "Password: ", "ok\n"]
    assert breaks == [(STDOUT, 15)]


async def test_lines_that_were_sent_before_are_kept_but_not_sent_again() -> None:
    batches: list[list[Any]] = []
    pump = LogPump(batches.append, skip_lines=2)
    pump.feed(frame(STDOUT, b"2026-01-02T03:04:05Z a\n") + frame(STDOUT, b"2026-01-02T03:04:06Z b\n"), stored=True)
    pump.feed(frame(STDOUT, b"2026-01-02T03:04:07Z c\n"), stored=True)
    pump.finish()
    assert batches == [[["c\n", 1767323047000]]]
    assert [line[0] for line in pump.kept.lines()] == ["a\n", "b\n", "c\n"]


async def test_a_stream_that_is_read_again_gives_no_byte_twice() -> None:
    batches: list[list[Any]] = []
    pump = LogPump(batches.append)
    pump.feed(frame(STDOUT, b"one\ntw") + frame(STDERR, b"err\n") + frame(STDOUT, b"broken")[:9])
    pump.restart()
    stamp = b"2026-01-02T03:04:05Z "
    pump.feed(frame(STDOUT, stamp + b"one\n") + frame(STDERR, stamp + b"err\n"), stored=True)
    pump.feed(frame(STDOUT, stamp + b"two\n") + frame(STDOUT, stamp + b"three\n"), stored=True)
    pump.finish()
    lines = [line for batch in batches for line in batch]
    assert "".join(line[0] for line in lines if len(line) == 2) == "one\ntwo\nthree\n"
    assert "".join(line[0] for line in lines if len(line) == 3) == "err\n"


async def test_a_flood_is_thinned_out_live_and_says_so() -> None:
    sent: list[Any] = []
    pump = LogPump(sent.extend)
    line = b"z" * 1023 + b"\n"
    for _ in range(9 * 1024):
        pump.feed(frame(STDOUT, line))
    pump.finish()
    live = sum(len(entry[0]) for entry in sent)
    assert 4 << 20 <= live < 6 << 20
    assert any("are not shown here" in entry[0] for entry in sent)
    assert pump.kept.dropped_bytes == (9 << 20) - (8 << 20)


SECRETS = [("TOKEN", "tok-42-42"), ("KEY", "one\ntwo\nthree")]
_PARTS = st.sampled_from(["tok-42-42", "one\ntwo\nthree", "tok-", "42", "one\n", "two", "\n", "\r", "x", "é"])


@given(
    st.lists(st.tuples(st.sampled_from([STDOUT, STDERR]), st.lists(_PARTS, max_size=4).map("".join)), max_size=8),
    st.lists(st.integers(0), max_size=8),
    st.integers(0, 12),
)
async def test_secrets_are_out_of_live_and_kept_lines_however_the_stream_arrives(
    frames: list[tuple[int, str]], places: list[int], seen: int
) -> None:
    stream = b"".join(frame(number, text.encode()) for number, text in frames)
    expected = {
        number: Redactor(SECRETS).text("".join(text for other, text in frames if other == number))
        for number in (STDOUT, STDERR)
    }
    first, kept = _pumped(cut(stream, places), 0)
    assert kept == first
    for number, is_error in ((STDOUT, False), (STDERR, True)):
        assert "".join(line[0] for line in kept if (len(line) == 3) is is_error) == expected[number]
    again, _ = _pumped([stream], seen)
    whole, _ = _pumped([stream], 0)
    assert again == whole[seen:], "a second reading leaves out exactly what was sent before"


def _pumped(pieces: list[bytes], skip: int) -> tuple[list[Any], list[Any]]:
    sent: list[Any] = []
    pump = LogPump(sent.extend, skip_lines=skip, now_ms=lambda: 7)
    pump.redact(Redactor(SECRETS))
    for piece in pieces:
        pump.feed(piece)
    pump.finish()
    return sent, pump.kept.lines()


async def test_a_secret_that_an_unfinished_line_cuts_in_two_is_taken_out_and_the_places_stay() -> None:
    sent: list[Any] = []
    breaks: list[tuple[int, int]] = []
    pump = LogPump(sent.extend, on_break=lambda stream, offset: breaks.append((stream, offset)))
    pump.redact(Redactor(SECRETS))
    pump.feed(frame(STDOUT, b"is tok-42"))
    await until(lambda: bool(breaks))
    pump.feed(frame(STDOUT, b"-42, is it?\n"))
    pump.finish()
    assert breaks == [(STDOUT, 9)]
    shown = [line[0] for line in sent]
    assert shown == ["is [secret TOKEN]", ", is it?\n"]
    again: list[Any] = []
    second = LogPump(again.extend, breaks={STDOUT: [9]}, skip_lines=1)
    second.redact(Redactor(SECRETS))
    second.feed(frame(STDOUT, b"is tok-42-42, is it?\n"))
    second.finish()
    assert [line[0] for line in again] == shown[1:]


async def test_lines_of_the_worker_s_own_are_redacted_by_themselves() -> None:
    sent: list[Any] = []
    pump = LogPump(sent.extend)
    pump.redact(Redactor(SECRETS))
    pump.feed(frame(STDERR, b"tok-"))
    pump.add("[asman] cannot run tok-42-42")
    pump.finish()
    assert [line[0] for line in sent] == ["[asman] cannot run [secret TOKEN]\n", "tok-"]


async def test_a_pump_that_is_given_up_sends_nothing_more() -> None:
    batches: list[list[Any]] = []
    pump = LogPump(batches.append)
    pump.feed(frame(STDOUT, b"late\n"))
    timer = pump._timer
    assert timer is not None
    pump.close()
    assert timer.cancelled()
    assert batches == []
