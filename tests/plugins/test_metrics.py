"""Counters are fed with steps of the real state table, and read back with the Prometheus parser."""

from __future__ import annotations

import logging
import sys
from dataclasses import replace

import pytest
from prometheus_client.parser import text_string_to_metric_families

import asman_metrics
from asman.config import Config
from asman.job import Callback, Job, Outcome, Reason, absent
from asman.plugins import load_plugins
from asman.state import (
    CallbackTried,
    Cancelled,
    Claimed,
    Deleted,
    Event,
    Expired,
    Lapsed,
    Released,
    Renewed,
    Reported,
    Submitted,
    Unlisted,
    transition,
)
from asman_metrics.counters import Metrics

FAR = 1e9


class Counted:
    """One job that goes through steps, with one app's counters listening."""

    def __init__(self) -> None:
        self.plugins = load_plugins([asman_metrics], discover=False)
        for objects in self.plugins.hook.asman_app_plugins(config=Config()):
            for plugin in objects:
                self.plugins.register(plugin)
        self.job: Job = absent("q", "a" * 64)

    def take(self, *events: Event) -> None:
        for event in events:
            before = self.job
            self.job, _ = transition(before, event)
            answers = self.plugins.hook.asman_job_changed(job=self.job, before=before)
            assert [answer for answer in answers if answer is not None] == []

    def text(self) -> bytes:
        text = self.plugins.hook.asman_metrics_text()
        assert isinstance(text, bytes)
        return text

    def counts(self) -> dict[str, float]:
        """What is not zero, without bucket bounds and creation times."""
        found = {}
        for family in text_string_to_metric_families(self.text().decode()):
            for sample in family.samples:
                own = sample.name.startswith("asman_")
                if not own or sample.name.endswith(("_created", "_bucket")) or not sample.value:
                    continue
                labels = ",".join(sample.labels.values())
                found[sample.name.removeprefix("asman_") + (f"[{labels}]" if labels else "")] = sample.value
        return found


@pytest.fixture
def counted() -> Counted:
    return Counted()


def submitted(at: float, namespace: str = "_", callbacks: tuple[Callback, ...] = ()) -> Submitted:
    return Submitted(at=at, namespace=namespace, expires_at=FAR, listed_until=at + 60, callbacks=callbacks)


def claimed(at: float, worker: str = "w1") -> Claimed:
    return Claimed(at=at, worker=worker, protocol=2, lease_until=at + 30)


def reported(at: float, attempt: int, outcome: Outcome = Outcome.SUCCEEDED, worker: str = "w1") -> Reported:
    return Reported(
        at=at,
        worker=worker,
        attempt=attempt,
        reason=Reason.SUCCESS,
        outcome=outcome,
        listed_until=at + 60,
        expires_at=FAR,
    )


def lapsed(at: float, max_attempts: int = 3) -> Lapsed:
    return Lapsed(at=at, max_attempts=max_attempts, listed_until=at + 60)


def test_a_job_that_runs_is_counted_once_at_every_stage(counted: Counted) -> None:
    counted.take(submitted(100.0), claimed(103.0), reported(110.5, 1, Outcome.FAILED))
    assert counted.counts() == {
        "job_submits_total[queued]": 1,
        "job_starts_total": 1,
        "job_wait_seconds_count": 1,
        "job_wait_seconds_sum": 3.0,
        "job_finishes_total[failed]": 1,
        "job_attempts_ended_total[reported]": 1,
        "job_run_seconds_count": 1,
        "job_run_seconds_sum": 7.5,
    }


def test_submits_tell_new_work_from_joining_and_from_cached_answers(counted: Counted) -> None:
    counted.take(submitted(1.0), submitted(2.0, "n2"), submitted(3.0))
    counted.take(claimed(4.0), submitted(5.0, "n3"), reported(6.0, 1), submitted(7.0), Unlisted(at=999.0))
    counted.take(submitted(1000.0, "n4"))
    submits = {name: n for name, n in counted.counts().items() if name.startswith("job_submits")}
    assert submits == {"job_submits_total[queued]": 1, "job_submits_total[joined]": 3, "job_submits_total[cached]": 2}


def test_a_lost_attempt_and_a_released_one_are_requeues(counted: Counted) -> None:
    counted.take(submitted(0.0), claimed(10.0), lapsed(50.0), claimed(51.0))
    counted.take(Released(at=60.0, worker="w1", attempt=2), claimed(64.0), reported(65.0, 3))
    counts = counted.counts()
    assert counts["job_attempts_ended_total[lost]"] == 1
    assert counts["lease_losses_total"] == 1
    assert counts["job_attempts_ended_total[released]"] == 1
    assert counts["job_attempts_ended_total[reported]"] == 1
    assert counts["job_requeues_total"] == 2
    assert counts["job_starts_total"] == 3
    assert counts["job_wait_seconds_sum"] == 10.0 + 1.0 + 4.0
    assert counts["job_run_seconds_sum"] == 1.0


def test_a_worker_that_comes_back_in_time_starts_nothing_anew(counted: Counted) -> None:
    counted.take(submitted(0.0), claimed(1.0), lapsed(40.0))
    counted.take(
        Renewed(at=45.0, worker="w1", attempt=1, lease_until=80.0),
        Renewed(at=50.0, worker="w1", attempt=1, lease_until=90.0),
    )
    counts = counted.counts()
    assert counts["job_readoptions_total"] == 1
    assert counts["job_starts_total"] == 1
    assert counts["job_wait_seconds_count"] == 1


def test_a_job_given_up_is_lost_without_a_requeue(counted: Counted) -> None:
    counted.take(submitted(0.0), claimed(1.0), lapsed(40.0, max_attempts=1))
    counts = counted.counts()
    assert counts["job_finishes_total[worker_lost]"] == 1
    assert counts["job_attempts_ended_total[lost]"] == 1
    assert "job_requeues_total" not in counts
    assert "job_run_seconds_count" not in counts


def test_cancel_and_delete_are_ends_that_run_for_no_time(counted: Counted) -> None:
    counted.take(submitted(0.0), Cancelled(at=1.0, namespace="_", listed_until=2.0))
    counted.take(submitted(3.0), claimed(4.0), Deleted(at=5.0, namespace="*", forget_at=6.0))
    counts = counted.counts()
    assert counts["job_finishes_total[cancelled]"] == 1
    assert counts["job_finishes_total[deleted]"] == 1
    assert counts["job_attempts_ended_total[deleted]"] == 1
    assert "job_run_seconds_count" not in counts


def test_dropping_a_finished_job_is_no_second_finish(counted: Counted) -> None:
    counted.take(submitted(0.0), claimed(1.0), reported(2.0, 1), Deleted(at=5.0, namespace="*", forget_at=6.0))
    assert {n for n in counted.counts() if n.startswith("job_finishes")} == {"job_finishes_total[succeeded]"}


def test_expiry_is_counted_when_the_data_goes(counted: Counted) -> None:
    counted.take(submitted(0.0), Expired(at=2 * FAR, forget_at=3 * FAR))
    assert counted.counts()["job_expiries_total"] == 1


def test_webhook_calls_are_counted_as_settled_or_still_owed(counted: Counted) -> None:
    owed = Callback(event="queued", namespace="_", url="https://hook.example/", event_id="evt_1", due_at=0.0)
    counted.take(submitted(0.0, callbacks=(owed,)))
    counted.take(
        CallbackTried(at=1.0, event_id="evt_1", due_at=3.0), CallbackTried(at=3.0, event_id="evt_1", due_at=None)
    )
    counts = counted.counts()
    assert counts["webhook_attempts_total[owed]"] == 1
    assert counts["webhook_attempts_total[settled]"] == 1


def test_two_apps_count_apart() -> None:
    one, other = Counted(), Counted()
    assert [[type(plugin) for plugin in asman_metrics.asman_app_plugins(Config())] for _ in "ab"] == [[Metrics]] * 2
    one.take(submitted(0.0))
    assert one.counts() == {"job_submits_total[queued]": 1}
    assert other.counts() == {}


def test_no_queue_job_or_worker_is_named(counted: Counted) -> None:
    counted.job = replace(counted.job, queue="secret-queue-name")
    counted.take(submitted(0.0), claimed(1.0, worker="worker-7"), reported(2.0, 1, worker="worker-7"))
    text = counted.text().decode()
    assert not any(name in text for name in ("secret-queue-name", "worker-7", "a" * 64))


def test_known_label_values_are_there_from_the_start(counted: Counted) -> None:
    text = counted.text().decode()
    assert all(f'asman_job_finishes_total{{outcome="{outcome}"}} 0.0' in text for outcome in Outcome)


def test_without_the_extra_there_are_no_counters(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with caplog.at_level(logging.INFO, logger="asman_metrics"):
        assert asman_metrics.asman_app_plugins(Config()) == []
    assert [record.getMessage() for record in caplog.records] == ["jobs are not counted"]
