"""What a report says for each way in which a job can end."""

from __future__ import annotations

from aiohttp import ClientConnectionError

from asman.errors import LimitExceeded
from asman_worker.disk import DiskShort
from asman_worker.docker import EngineError
from asman_worker.images import ImageTooLarge, PullFailed, PullTimedOut
from asman_worker.logs import KeptLog
from asman_worker.meter import LayerTooLarge
from asman_worker.report import (
    CODES,
    StepFailed,
    code_of,
    explain,
    failure_report,
    first_cause,
    is_expected,
    notes,
    run_report,
)
from asman_worker.runtime import ContainerLost, Exit
from asman_worker.workspace import OutputsTooLarge


def ended(code: int = 0, *, timed_out: bool = False, oom_killed: bool = False) -> Exit:
    return Exit(code=code, duration_s=1.2345, timed_out=timed_out, oom_killed=oom_killed)


def said(end: Exit) -> list[str]:
    return list(notes(end, limit_s=60, memory_bytes=64 << 20))


def log_of(*lines: str) -> KeptLog:
    log = KeptLog()
    for number, line in enumerate(lines):
        log.add([line, number])
    return log


def test_exit_zero_adds_no_line_and_is_a_success() -> None:
    assert said(ended()) == []
    report = run_report(ended(), log_of("hi\n"), outputs={"a": {"value": "", "type": "base64"}})
    assert report == {
        "reason": "Success",
        "outcome": "succeeded",
        "result": {
            "StatusCode": 0,
            "logs": [["hi\n", 0]],
            "duration": 1234,
            "isTimedOut": False,
            "outputs": {"a": {"value": "", "type": "base64"}},
        },
    }


def test_another_exit_code_is_a_success_on_the_wire_and_failed_in_truth() -> None:
    assert said(ended(3)) == ["[asman] exit code 3"]
    report = run_report(ended(3), log_of(), outputs={})
    assert (report["reason"], report["outcome"], report["result"]["StatusCode"]) == ("Success", "failed", 3)


def test_running_out_of_memory_says_the_limit() -> None:
    first, second = said(ended(137, oom_killed=True))
    assert "64.0 MiB" in first
    assert second == "[asman] exit code 137"
    report = run_report(ended(137, oom_killed=True), log_of(), outputs={})
    assert (report["reason"], report["outcome"], report["result"]["oomKilled"]) == ("Success", "out_of_memory", True)


def test_a_child_that_ran_out_of_memory_does_not_make_a_good_end_a_bad_one() -> None:
    assert said(ended(0, oom_killed=True)) == []
    assert run_report(ended(0, oom_killed=True), log_of(), outputs={})["outcome"] == "succeeded"


def test_a_kill_from_outside_is_told_apart_from_a_timeout() -> None:
    assert said(ended(137)) == ["[asman] the container was killed after 1.23s", "[asman] exit code 137"]


def test_a_timeout_is_137_whatever_the_program_made_of_its_grace() -> None:
    assert said(ended(0, timed_out=True))[0].startswith("[asman] timed out: the container ran longer than 1m")
    report = run_report(ended(0, timed_out=True), log_of(), outputs={})
    assert (report["reason"], report["outcome"]) == ("TimedOut", "timed_out")
    assert (report["result"]["StatusCode"], report["result"]["isTimedOut"]) == (137, True)


def test_a_failure_after_the_run_keeps_what_is_known_of_it() -> None:
    failure = StepFailed("outputs", "no upload", "transfer_refused")
    report = run_report(ended(0), log_of("hi\n"), outputs={}, failure=failure)
    assert (report["reason"], report["outcome"]) == ("Error", "error")
    result = report["result"]
    assert (result["StatusCode"], result["error"]) == (0, "[asman] step outputs failed: no upload")
    assert result["errorCode"] == "transfer_refused"


def test_skipped_outputs_and_dropped_bytes_are_listed() -> None:
    log = KeptLog(head_bytes=1, tail_bytes=1)
    for text in ("a", "b", "c"):
        log.add([text, 0])
    result = run_report(ended(), log, outputs={}, skipped=(("l", "a symbolic link"),))["result"]
    assert result["outputsSkipped"] == [{"name": "l", "reason": "a symbolic link"}]
    assert result["logsDropped"] == 1


def test_every_cause_has_a_code_that_is_documented() -> None:
    here = (PullFailed, PullTimedOut, ImageTooLarge, OutputsTooLarge, LayerTooLarge, DiskShort, ContainerLost)
    assert {kind.code for kind in here} <= set(CODES)
    world = (EngineError(500, "x"), FileNotFoundError(2, "x"), ClientConnectionError())
    errors = (*world, KeyError("x"), LimitExceeded("x"))
    codes = [code_of(error) for error in errors]
    assert codes == ["engine_refused", "worker_io_failed", "worker_io_failed", "internal_error", "limit_exceeded"]
    assert set(codes) <= set(CODES)


def test_the_peak_of_memory_is_left_out_where_it_is_not_known() -> None:
    assert "peakMemoryBytes" not in run_report(ended(), log_of(), outputs={})["result"]
    assert run_report(ended(), log_of(), outputs={}, peak_memory_bytes=5)["result"]["peakMemoryBytes"] == 5


def test_a_failed_step_names_itself() -> None:
    report = failure_report(StepFailed("inputs", "no such blob"), log_of("x\n"))
    assert report["reason"] == "Error"
    assert report["result"]["error"] == "[asman] step inputs failed: no such blob"
    assert "StatusCode" not in report["result"]
    assert report["result"]["outputs"] == {}


def test_the_first_of_several_failures_is_told() -> None:
    group = ExceptionGroup("all", [ExceptionGroup("inner", [ValueError("first")]), KeyError("second")])
    assert str(first_cause(group)) == "first"


def test_words_for_the_submitter_hold_the_hint_and_no_path_of_this_machine() -> None:
    assert explain(LimitExceeded("too big", hint="Ask for less.")) == "too big (Ask for less.)"
    assert "Permission denied" in explain(PermissionError(13, "Permission denied", "/secret/place"))
    assert "/secret/place" not in explain(PermissionError(13, "Permission denied", "/secret/place"))
    assert "same path" in explain(EngineError(400, "bind source path does not exist: /x"))


def test_faults_of_this_program_are_told_apart() -> None:
    assert is_expected(LimitExceeded("x"))
    assert is_expected(OSError("x"))
    assert not is_expected(KeyError("x"))
