from __future__ import annotations

import json
from dataclasses import replace

import pytest

from asman.job import Job, Outcome, Reason, State, absent
from asman.recent import MINUTES, Hour, Minute, Recent, merge, percentile, read_hour, write_hour

NOW = 1_000_000_020.0  # 20 s into a minute
MINUTE = int(NOW // 60)
NEW = absent("q", "j")
QUEUED = replace(NEW, state=State.QUEUED, generation=1, changed_at=NOW)
RUNNING = replace(QUEUED, state=State.RUNNING, attempt=1, changed_at=NOW + 7, claimed_at=NOW + 7)
DONE = replace(RUNNING, state=State.FINISHED, reason=Reason.SUCCESS, outcome=Outcome.FAILED, finished_at=NOW + 27)


def counted(*steps: tuple[Job, Job], now: float = NOW) -> Minute:
    recent = Recent(NOW)
    for before, after in steps:
        recent.count(before, after, now)
    return recent.hour("q", now).minutes.get(int(now // 60), Minute())


# --- what counts -----------------------------------------------------------------------------------------------------


def test_a_job_from_submit_to_end() -> None:
    minute = counted((NEW, QUEUED), (QUEUED, RUNNING), (RUNNING, DONE))
    assert (minute.submitted, minute.started, minute.queued_change) == (1, 1, 0)
    assert minute.finished == {"failed": 1}
    assert percentile(minute.waits, 0.5) == pytest.approx(7, rel=0.05)
    assert percentile(minute.runs, 0.5) == pytest.approx(20, rel=0.05)


def test_a_job_put_back_waits_again_and_was_submitted_once() -> None:
    back = replace(RUNNING, state=State.QUEUED, changed_at=NOW + 30)
    minute = counted((NEW, QUEUED), (QUEUED, RUNNING), (RUNNING, back))
    assert (minute.submitted, minute.started, minute.queued_change) == (1, 1, 1)
    assert not minute.finished


@pytest.mark.parametrize(
    ("before", "after", "change", "runs"),
    [
        pytest.param(QUEUED, replace(QUEUED, state=State.FINISHED, outcome=Outcome.CANCELLED), -1, 0, id="waiting"),
        pytest.param(RUNNING, replace(RUNNING, state=State.FINISHED, outcome=Outcome.CANCELLED), 0, 0, id="running"),
        pytest.param(RUNNING, DONE, 0, 1, id="reported"),
    ],
)
def test_only_what_ran_to_its_end_has_a_duration(before: Job, after: Job, change: int, runs: int) -> None:
    minute = counted((before, after))
    assert minute.queued_change == change
    assert sum(minute.runs.values()) == runs
    assert sum(minute.finished.values()) == 1


def test_a_renewed_lease_a_joined_submit_and_a_sweep_are_nothing() -> None:
    recent = Recent(NOW)
    recent.count(RUNNING, replace(RUNNING, lease_until=NOW + 60), NOW)
    recent.count(QUEUED, replace(QUEUED, namespaces=(("other", NOW),)), NOW)
    recent.count(DONE, replace(DONE, state=State.REMOVED), NOW)
    assert not recent.hour("q", NOW).minutes


# --- bounds ----------------------------------------------------------------------------------------------------------


def test_an_hour_is_kept_and_no_more() -> None:
    recent = Recent(NOW)
    for minutes in range(MINUTES + 5):
        recent.count(NEW, QUEUED, NOW + 60 * minutes)
    end = NOW + 60 * (MINUTES + 4)
    assert sorted(recent.hour("q", end).minutes) == list(range(MINUTE + 5, MINUTE + 5 + MINUTES))
    assert not recent.hour("q", end + 7_200).minutes


def test_queues_that_are_quiet_the_longest_make_room_and_say_so() -> None:
    recent = Recent(NOW, most_minutes=3)
    for number, name in enumerate(("a", "b", "c", "d")):
        recent.count(replace(NEW, queue=name), replace(QUEUED, queue=name), NOW + number)
    assert [name for name in "abcd" if recent.hour(name, NOW + 4).minutes] == ["b", "c", "d"]
    assert recent.hour("a", NOW + 4) == Hour(since=NOW + 3, minutes={})
    assert recent.hour("b", NOW + 4).since == NOW, "nothing of it is missing"


def test_a_quiet_queue_that_somebody_looked_at_leaves_nothing_behind() -> None:
    recent = Recent(NOW)
    for name in ("a", "b"):
        recent.count(replace(NEW, queue=name), replace(QUEUED, queue=name), NOW)
        assert recent.hour(name, NOW + 7_200) == Hour(since=NOW, minutes={})
    assert not recent._queues  # looks inside: a name is no memory of what happened


def test_one_queue_alone_keeps_its_hour_whatever_the_bound() -> None:
    recent = Recent(NOW, most_minutes=2)
    for minutes in range(10):
        recent.count(NEW, QUEUED, NOW + 60 * minutes)
    assert len(recent.hour("q", NOW + 600).minutes) == 10


def test_a_minute_of_many_jobs_is_no_larger_than_its_magnitudes() -> None:
    recent = Recent(NOW)
    for number in range(20_000):
        done = replace(RUNNING, claimed_at=NOW + number / 100)
        recent.count(QUEUED, done, NOW)
    (minute,) = recent.hour("q", NOW).minutes.values()
    assert minute.started == 20_000
    assert len(minute.waits) < 150
    assert percentile(minute.waits, 0.9) == pytest.approx(180, rel=0.05)


# --- sums ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [0.002, 0.5, 1, 59, 3_600, 86_400])
def test_durations_are_right_within_five_percent(seconds: float) -> None:
    minute = counted((QUEUED, replace(RUNNING, claimed_at=NOW + seconds)))
    assert percentile(minute.waits, 0.5) == pytest.approx(seconds, rel=0.05)


def test_what_took_no_time_or_went_back_in_time_is_zero() -> None:
    for early in (0.0, -5.0):
        assert percentile(counted((QUEUED, replace(RUNNING, claimed_at=NOW + early))).waits, 0.9) == 0
    assert percentile({}, 0.5) is None


def test_hours_of_servers_are_summed_up_and_count_since_the_last_began() -> None:
    one, two = Recent(NOW - 100), Recent(NOW - 10)
    one.count(NEW, QUEUED, NOW)
    two.count(QUEUED, RUNNING, NOW)
    two.count(RUNNING, DONE, NOW + 60)
    carried = read_hour(json.loads(json.dumps(write_hour(two.hour("q", NOW + 60)))))
    whole = merge([one.hour("q", NOW + 60), carried])
    assert whole.since == NOW - 10
    first, second = (whole.minutes[number] for number in (MINUTE, MINUTE + 1))
    assert (first.submitted, first.started, first.queued_change) == (1, 1, 0)
    assert percentile(first.waits, 0.5) == pytest.approx(7, rel=0.05)
    assert second.finished == {"failed": 1}
    assert one.hour("q", NOW).minutes[MINUTE].started == 0, "a sum leaves its parts as they were"
    with pytest.raises(ValueError, match="no hour"):
        merge([])
