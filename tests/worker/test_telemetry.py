"""Counting: each event moves its own numbers, at the same cost whatever else there is."""

from __future__ import annotations

import math

from asman import __version__
from asman.job import Outcome
from asman_worker.telemetry import PHASES, STOPPED, Telemetry


class _Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def _numbers(telemetry: Telemetry) -> dict[str, float]:
    lines = [line for line in telemetry.text().decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def test_everything_that_can_be_counted_is_shown_before_it_happens() -> None:
    shown = _numbers(Telemetry())
    for outcome in (*(outcome.value for outcome in Outcome), STOPPED):
        assert shown[f'asman_worker_jobs_finished_total{{outcome="{outcome}"}}'] == 0
    for phase in PHASES:
        assert shown[f'asman_worker_jobs{{phase="{phase}"}}'] == 0
    assert shown[f'asman_worker_info{{version="{__version__}"}}'] == 1
    for name in ("jobs_taken", "leases_lost", "log_dropped_bytes"):
        assert shown[f"asman_worker_{name}_total"] == 0


def test_a_job_is_at_one_step_and_the_step_before_is_measured() -> None:
    clock = _Clock()
    telemetry = Telemetry(clock=clock)
    telemetry.job_at("a", "inputs")
    telemetry.job_at("b", "inputs")
    clock.now += 3.0
    telemetry.job_at("a", "wait")
    shown = _numbers(telemetry)
    assert (shown['asman_worker_jobs{phase="inputs"}'], shown['asman_worker_jobs{phase="wait"}']) == (1, 1)
    assert shown['asman_worker_step_seconds_sum{step="inputs"}'] == 3.0
    telemetry.job_gone("a")
    telemetry.job_gone("a")
    telemetry.job_gone("b")
    shown = _numbers(telemetry)
    assert [value for name, value in shown.items() if name.startswith("asman_worker_jobs{") and value] == []
    assert shown['asman_worker_step_seconds_count{step="wait"}'] == 1


def test_each_event_moves_its_own_number() -> None:
    telemetry = Telemetry()
    telemetry.job_taken()
    telemetry.job_ended("failed", 2.0)
    telemetry.job_ended(STOPPED, 1.0)
    telemetry.pulled(7.0)
    telemetry.moved("download", 10)
    telemetry.moved("upload", 4)
    telemetry.log_dropped(9)
    telemetry.lease_lost()
    shown = _numbers(telemetry)
    assert shown["asman_worker_jobs_taken_total"] == 1
    assert shown['asman_worker_jobs_finished_total{outcome="failed"}'] == 1
    assert shown['asman_worker_jobs_finished_total{outcome="stopped"}'] == 1
    assert (shown["asman_worker_job_seconds_count"], shown["asman_worker_job_seconds_sum"]) == (2, 3.0)
    assert shown["asman_worker_pull_seconds_sum"] == 7.0
    assert shown['asman_worker_transfer_bytes_total{direction="download"}'] == 10
    assert shown['asman_worker_transfer_bytes_total{direction="upload"}'] == 4
    assert shown["asman_worker_log_dropped_bytes_total"] == 9
    assert shown["asman_worker_leases_lost_total"] == 1


def test_a_gauge_is_asked_when_somebody_looks() -> None:
    telemetry, now = Telemetry(), [5.0]
    telemetry.gauge("cores", "Cores", lambda: now[0], state="free")
    telemetry.gauge("cores", "Cores", lambda: 8.0, state="granted")
    telemetry.gauge("queues", "Queues", lambda: 2)
    now[0] = 3.0
    shown = _numbers(telemetry)
    assert shown['asman_worker_cores{state="free"}'] == 3.0
    assert shown['asman_worker_cores{state="granted"}'] == 8.0
    assert shown["asman_worker_queues"] == 2


def test_a_number_that_cannot_be_had_takes_no_other_away() -> None:
    def fail() -> float:
        raise FileNotFoundError("/gone")

    telemetry = Telemetry()
    telemetry.gauge("disk_free_bytes", "Free", fail, place="data")
    telemetry.job_taken()
    shown = _numbers(telemetry)
    assert math.isnan(shown['asman_worker_disk_free_bytes{place="data"}'])
    assert shown["asman_worker_jobs_taken_total"] == 1


def test_two_workers_in_one_process_count_apart() -> None:
    one, other = Telemetry(), Telemetry()
    one.lease_lost()
    assert _numbers(other)["asman_worker_leases_lost_total"] == 0
