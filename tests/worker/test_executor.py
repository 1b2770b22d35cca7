"""Whole jobs on a real engine: from assignment to report, and nothing left behind."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from asman.errors import BadRequest
from asman_worker import quota
from asman_worker.container import cache_volume
from asman_worker.disk import DiskShort
from asman_worker.executor import CANCELLED, Assignment, Executor
from asman_worker.gpu import Gpu
from asman_worker.secrets import SecretStore
from asman_worker.telemetry import Telemetry
from docker_engine import IMAGE, DockerEngine
from registries import tiny_registry
from worker_bench import GRANT, QUEUE, Bench, text_of
from worker_peers import until

pytestmark = pytest.mark.docker

# Reports ----------------------------------------------------------------------------------------------------------


async def test_a_job_that_succeeds_reports_its_output_and_nothing_else(bench: Bench) -> None:
    report = await bench.run("echo hello")
    assert (report["reason"], report["outcome"]) == ("Success", "succeeded")
    result = report["result"]
    assert [line[0] for line in result["logs"]] == ["hello\n"]
    assert result["logs"] == [line for _, line in bench.lines]
    assert (result["StatusCode"], result["isTimedOut"], result["outputs"]) == (0, False, {})
    assert 0 <= result["duration"] < 10_000
    assert "error" not in result


async def test_the_container_holds_the_images_root_and_the_three_folders(bench: Bench) -> None:
    report = await bench.run("ls -a /")
    names = set(text_of(report).split())
    assert {".dockerenv", "inputs", "job-cache", "outputs"} < names
    plain = {"bin", "dev", "etc", "home", "proc", "root", "sbin", "sys", "tmp", "usr", "var", ".", ".."}
    assert names - plain - {"linuxrc"} == {".dockerenv", "inputs", "job-cache", "outputs"}


async def test_a_failing_job_is_a_success_on_the_wire_that_collects_its_outputs(bench: Bench) -> None:
    report = await bench.run("sh -c 'echo partial > /outputs/p; echo bad >&2; exit 3'")
    assert (report["reason"], report["outcome"], report["result"]["StatusCode"]) == ("Success", "failed", 3)
    assert report["result"]["outputs"] == {"p": {"value": base64.b64encode(b"partial\n").decode(), "type": "base64"}}
    assert text_of(report, stderr=True) == "bad\n[asman] exit code 3\n"


async def test_a_job_over_its_time_is_stopped_and_keeps_its_log_but_no_outputs(bench: Bench) -> None:
    report = await bench.run("sh -c 'echo begun; touch /outputs/x; sleep 60'", maxDuration="1s")
    assert (report["reason"], report["outcome"]) == ("TimedOut", "timed_out")
    result = report["result"]
    assert (result["StatusCode"], result["isTimedOut"], result["outputs"]) == (137, True, {})
    assert 1000 <= result["duration"] < 10_000
    assert text_of(report) == "begun\n"
    assert "timed out" in text_of(report, stderr=True)


async def test_a_job_over_its_memory_says_so(bench: Bench) -> None:
    report = await bench.run("tail /dev/zero", requirements={"memory": "16m"})
    assert (report["reason"], report["outcome"], report["result"]["oomKilled"]) == ("Success", "out_of_memory", True)
    assert "16.0 MiB" in text_of(report, stderr=True)


async def test_a_program_that_is_not_there_fails_with_127(bench: Bench) -> None:
    report = await bench.run("no-such-program")
    assert (report["outcome"], report["result"]["StatusCode"]) == ("failed", 127)


async def test_shell_text_without_an_entrypoint_runs_in_a_shell(bench: Bench) -> None:
    report = await bench.run("echo a | tr a b && echo $WORD > /outputs/w; cat /outputs/w", env={"WORD": "from env"})
    assert text_of(report) == "b\nfrom env\n"


@pytest.mark.parametrize(
    ("definition", "step", "words"),
    [
        ({"build": {"dockerfile": 1}}, "limits", "build.dockerfile"),
        ({"build": {"dockerfile": f"FROM {IMAGE}\nRUN exit 3"}}, "build", "code: 3"),
        ({"image": "https://github.com/a/b"}, "limits", "no image name"),
        ({"requirements": {"cpus": 64}}, "limits", "asks for 64"),
        ({"maxDuration": "soon"}, "limits", "maxDuration"),
        ({"inputs": {"../x": {"value": "y"}}}, "inputs", "../x"),
        ({"inputs": {"x": {"type": "key", "value": "missing"}}}, "inputs", "404"),
        ({"image": "127.0.0.1:1/no/registry:1"}, "image", "could not be pulled"),
        ({"env": {"A=": "1"}}, "create", "A="),
        ({"configFiles": {"/etc": {"value": "a file"}}}, "start", "engine answered"),
    ],
)
async def test_the_step_that_fails_names_itself_and_why(
    bench: Bench, definition: dict[str, Any], step: str, words: str
) -> None:
    report = await bench.run("true", **definition)
    assert (report["reason"], report["outcome"]) == ("Error", "error")
    result = report["result"]
    assert result["error"].startswith(f"[asman] step {step} failed: ")
    assert words in result["error"]
    assert text_of(report, stderr=True) == result["error"] + "\n"
    assert (result["outputs"], result["isTimedOut"]) == ({}, False)
    assert "StatusCode" not in result
    await bench.settle()
    assert await bench.containers() == []
    assert bench.files() == []


@pytest.mark.parametrize(
    ("limit", "hold", "code", "step"),
    [("fetch_limit_s", "GET", "fetch_timed_out", "inputs"), ("upload_limit_s", "PUT", "upload_timed_out", "outputs")],
)
async def test_each_transfer_has_a_time_of_its_own_and_says_which_was_over(
    bench: Bench, limit: str, hold: str, code: str, step: str
) -> None:
    hasty = bench.another(replace(GRANT, **{limit: 0.5}))
    bench.blobs.hold = hold
    inputs = {"k": {"type": "key", "value": bench.blobs.add(b"x" * 1000)}}
    report = await bench.run("tr x y < /inputs/k > /outputs/o", hasty, inputs=inputs)
    result = report["result"]
    assert (report["reason"], report["outcome"]) == ("Error", "error")
    assert (result["errorCode"], result["isTimedOut"]) == (code, False)
    assert result["error"].startswith(f"[asman] step {step} failed: ")
    assert "within 0.5s" in result["error"]


async def test_a_pull_that_takes_too_long_says_so(
    bench: Bench, docker_engine: DockerEngine, free_port: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with tiny_registry(docker_engine, free_port, tmp_path_factory.mktemp("registry")) as registry:
        registry.hold()
        hasty = bench.another(replace(GRANT, pull_limit_s=0.5))
        report = await bench.run("true", hasty, image=f"{registry.address}/held-for-a-job:1")
        registry.release()
    assert (report["outcome"], report["result"]["errorCode"]) == ("error", "pull_timed_out")


async def test_a_job_that_the_disk_cannot_bear_is_ended_at_whatever_step_it_is(bench: Bench) -> None:
    bench.blobs.hold = "GET"
    inputs = {"k": {"type": "key", "value": bench.blobs.add(b"x" * 1000)}}
    fetching = bench.assignment({"command": "true", "inputs": inputs})
    running = bench.assignment({"command": "echo up; echo o > /outputs/o; while :; do sleep 0.1; done"})
    tasks = [bench.begin(assignment) for assignment in (fetching, running)]
    await until(lambda: "up" in bench.live() and bench.blobs.held == 1)
    for assignment in (fetching, running):
        await bench.executor.break_off(assignment.key, DiskShort("no room"))
    reports = await asyncio.wait_for(asyncio.gather(*tasks), 20)
    assert [report["result"]["errorCode"] for report in reports] == ["disk_limit", "disk_limit"]
    assert [report["outcome"] for report in reports] == ["error", "error"]
    assert list(reports[1]["result"]["outputs"]) == ["o"]


# Files ------------------------------------------------------------------------------------------------------------


async def test_inputs_are_there_and_cannot_be_written(bench: Bench) -> None:
    key = bench.blobs.add(b"from a blob\n")
    report = await bench.run(
        "cat /inputs/a/b.txt /inputs/k /etc/app.conf; echo x > /inputs/new || echo read-only; "
        "echo x >> /inputs/k || echo read-only; echo x > /etc/app.conf || echo read-only",
        inputs={"a/b.txt": {"value": "inline\n"}, "k": {"type": "key", "value": key}},
        configFiles={"/etc/app.conf": {"value": "config\n"}},
    )
    assert text_of(report) == "inline\nfrom a blob\nconfig\nread-only\nread-only\nread-only\n"


async def test_outputs_of_every_size_come_back_and_links_do_not(bench: Bench) -> None:
    script = (
        "mkdir -p /outputs/sub/dir /outputs/empty-folder; touch /outputs/empty; printf hi > /outputs/small; "
        "yes | head -c 100000 > /outputs/sub/dir/big; ln -s /etc/passwd /outputs/link; mkfifo /outputs/pipe"
    )
    report = await bench.run(script)
    big = b"y\n" * 50_000
    key = hashlib.sha256(big).hexdigest()
    result = report["result"]
    assert result["outputs"] == {
        "empty": {"value": "", "type": "base64"},
        "small": {"value": base64.b64encode(b"hi").decode(), "type": "base64"},
        "sub/dir/big": {"value": f"{bench.blobs.url}/f/{key}", "type": "url", "hash": key},
    }
    assert bench.blobs.blobs[key] == big
    assert result["outputsSkipped"] == [
        {"name": "link", "reason": "a symbolic link"},
        {"name": "pipe", "reason": "a pipe"},
    ]
    assert "/outputs/link is left out" in text_of(report, stderr=True)
    assert report["outcome"] == "succeeded"


async def test_outputs_that_cannot_be_uploaded_fail_the_job_but_keep_its_log(bench: Bench) -> None:
    bench.blobs.fail_next, bench.blobs.fail_status = 1, 403
    report = await bench.run("echo done; head -c 5000 /dev/zero > /outputs/big")
    assert (report["reason"], report["outcome"]) == ("Error", "error")
    assert report["result"]["error"].startswith("[asman] step outputs failed")
    assert text_of(report) == "done\n"
    assert report["result"]["outputs"] == {}


async def test_more_outputs_than_the_owner_allows_are_refused(bench: Bench) -> None:
    few = bench.another(replace(GRANT, max_output_files=3))
    report = await bench.run("for n in 1 2 3 4; do touch /outputs/$n; done", few)
    assert "more than 3 files" in report["result"]["error"]


async def test_a_job_that_fills_the_disk_is_ended_while_it_runs(bench: Bench) -> None:
    small = bench.another(replace(GRANT, max_output_bytes=1 << 20))
    script = "n=0; while :; do n=$((n+1)); head -c 500000 /dev/zero > /outputs/$n; sleep 0.2; done"
    report = await bench.run(script, small)
    assert (report["reason"], report["outcome"]) == ("Error", "error")
    result = report["result"]
    assert result["errorCode"] == "outputs_too_large"
    assert "1.0 MiB" in result["error"]
    assert result["duration"] < 30_000
    assert {"1", "2"} <= set(result["outputs"])


async def test_no_single_file_can_outgrow_the_outputs(bench: Bench) -> None:
    small = bench.another(replace(GRANT, max_output_bytes=1 << 20))
    report = await bench.run("head -c 9000000 /dev/zero > /tmp/x; wc -c < /tmp/x", small)
    assert "1048576\n" in text_of(report)


async def test_files_of_the_containers_root_are_read_and_removed(bench: Bench) -> None:
    report = await bench.run(
        "mkdir -m 700 /outputs/d; echo x > /outputs/d/f; chmod 600 /outputs/d/f; chown -R 7:7 /outputs/d"
    )
    assert list(report["result"]["outputs"]) == ["d/f"]
    await bench.settle()
    assert bench.files() == []


async def test_the_cache_is_kept_for_the_queue(bench: Bench, docker_engine: DockerEngine) -> None:
    await bench.run("echo remembered > /job-cache/x")
    report = await bench.run("cat /job-cache/x")
    assert text_of(report) == "remembered\n"
    await bench.settle()
    assert docker_engine.request("DELETE", f"/volumes/{cache_volume(QUEUE)}")[0] == 204


# Isolation --------------------------------------------------------------------------------------------------------


async def inspected(bench: Bench, executor: Executor | None = None, **definition: Any) -> dict[str, Any]:
    """What the engine says about the container of a running job."""
    running = asyncio.create_task(bench.run("echo up; sleep 60", executor, **definition))
    await until(lambda: "up" in bench.live())
    (container,) = await bench.containers()
    shown: dict[str, Any] = await bench.engine._quick.containers.container(container.id).show()
    assignment = bench.assignment({"command": "echo up; sleep 60", **definition})
    await (executor or bench.executor).stop(*assignment.key)
    assert await running == CANCELLED
    return shown


async def test_the_engine_confirms_every_limit(bench: Bench) -> None:
    shown = await inspected(bench, requirements={"cpus": 1.5, "memory": "200m"}, shmSize="32m")
    config = shown["HostConfig"]
    assert (config["NanoCpus"], config["Memory"], config["MemorySwap"]) == (1_500_000_000, 200 << 20, 200 << 20)
    assert (config["PidsLimit"], config["ShmSize"], config["OomScoreAdj"]) == (1024, 32 << 20, 500)
    assert (config["Privileged"], config["CapDrop"], config["Init"]) == (False, ["ALL"], True)
    assert sorted(c.removeprefix("CAP_") for c in config["CapAdd"]) == [
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "SETGID",
        "SETUID",
    ]
    assert config["SecurityOpt"] == ["no-new-privileges"]
    assert config["NetworkMode"].startswith("container:")
    assert (config["IpcMode"], config["PidMode"]) == ("private", "")
    assert (config["RestartPolicy"]["Name"], config["AutoRemove"]) == ("no", False)
    assert config["LogConfig"] == {"Type": "local", "Config": {"max-file": "2", "max-size": "5m"}}
    assert {mount["Destination"]: mount["RW"] for mount in shown["Mounts"]} == {
        "/inputs": False,
        "/outputs": True,
        "/job-cache": True,
    }
    assert shown["Config"]["Labels"]["asman.worker"] == bench.worker_id
    assert shown["Config"]["Labels"]["asman.attempt"] == "1"


async def test_a_job_has_only_the_capabilities_of_the_profile_and_seccomp(bench: Bench) -> None:
    report = await bench.run("grep -E '^(CapEff|NoNewPrivs|Seccomp):' /proc/self/status")
    values = dict(line.split(":\t") for line in text_of(report).splitlines())
    assert values == {"CapEff": "00000000000000fb", "NoNewPrivs": "1", "Seccomp": "2"}


async def test_a_job_cannot_start_more_processes_than_allowed(bench: Bench) -> None:
    tight = bench.another(replace(GRANT, pids=20))
    report = await bench.run("for n in $(seq 100); do sleep 5 & done; wait", tight, maxDuration="20s")
    assert "fork" in text_of(report, stderr=True)


async def test_two_jobs_cannot_reach_each_other(bench: Bench) -> None:
    listening = bench.assignment({"command": "sh -c 'ip -4 addr show eth0 | grep inet; nc -l -p 7000'"})
    first = asyncio.create_task(bench.executor.run(listening, bench.log))
    await until(lambda: "inet" in bench.live())
    address = bench.live().split()[1].partition("/")[0]
    report = await bench.run(f"sh -c 'nc -w 2 {address} 7000 < /dev/null && echo reached || echo blocked'")
    assert text_of(report) == "blocked\n"
    await bench.executor.stop(*listening.key)
    assert await first == CANCELLED


async def test_no_network_means_loopback_only(bench: Bench) -> None:
    report = await bench.run("ip -o link | wc -l", bench.another(replace(GRANT, network="none")))
    assert text_of(report) == "1\n"


async def test_a_strict_worker_runs_jobs_without_root_and_with_a_fresh_cache(bench: Bench) -> None:
    strict = bench.another(replace(GRANT, profile="strict"))
    script = (
        "id -u; touch /x 2>/dev/null || echo read-only; echo y > /tmp/y; echo z > /job-cache/z; echo o > /outputs/o"
    )
    report = await bench.run(script, strict)
    assert text_of(report) == "65532\nread-only\n"
    assert list(report["result"]["outputs"]) == ["o"]
    report = await bench.run("ls -A /job-cache | wc -l", strict)
    assert text_of(report) == "0\n"


async def test_a_trusted_worker_runs_jobs_too(bench: Bench) -> None:
    report = await bench.run("echo fine", bench.another(replace(GRANT, profile="trusted")))
    assert text_of(report) == "fine\n"


async def test_an_image_with_its_own_user_can_write_where_it_should(bench: Bench, docker_engine: DockerEngine) -> None:
    container = await bench.engine.create({"Image": IMAGE})
    changes = "repo=asman-test&tag=user&changes=USER%2065534"
    assert docker_engine.request("POST", f"/commit?container={container}&{changes}", b"{}")[0] == 201
    await bench.engine.remove(container)
    report = await bench.run(
        "id -u; cat /inputs/i; echo c > /job-cache/mine; cat /job-cache/mine; echo o > /outputs/o",
        image="asman-test:user",
        inputs={"i": {"value": "input\n"}},
    )
    assert text_of(report) == "65534\ninput\nc\n"
    assert list(report["result"]["outputs"]) == ["o"]


# Ending early, and starting again ---------------------------------------------------------------------------------


async def test_a_stopped_job_is_gone_within_its_grace_and_reports_nothing(bench: Bench) -> None:
    script = "trap 'echo stopping; exit 0' TERM; echo up; while :; do sleep 0.1; done"
    assignment = bench.assignment({"command": script})
    running = asyncio.create_task(bench.executor.run(assignment, bench.log))
    await until(lambda: "up" in bench.live())
    begun = time.monotonic()
    await bench.executor.stop(*assignment.key)
    assert time.monotonic() - begun < GRANT.stop_grace_s + 5
    assert await running == CANCELLED
    assert await bench.containers() == []
    assert bench.files() == []
    assert bench.executor.free().cores == GRANT.cores


async def test_stopping_also_ends_a_download(bench: Bench) -> None:
    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbegin")
        asked.set()
        await ended.wait()
        writer.close()

    asked, ended = asyncio.Event(), asyncio.Event()
    server = await asyncio.start_server(never, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    definition = {"command": "true", "inputs": {"x": {"type": "url", "value": f"{url}/x"}}}
    assignment = replace(bench.assignment(definition), server_url=url)
    running = asyncio.create_task(bench.executor.run(assignment, bench.log))
    async with asyncio.timeout(10):
        await asked.wait()
        await bench.executor.stop(*assignment.key)
        assert await running == CANCELLED
    ended.set()
    server.close()
    assert bench.files() == []


async def test_an_attempt_that_was_stopped_before_it_began_does_not_begin(bench: Bench) -> None:
    assignment = bench.assignment({"command": "echo never"})
    await bench.executor.stop(*assignment.key)
    assert await bench.executor.run(assignment, bench.log) == CANCELLED
    assert bench.lines == []
    report = await bench.executor.run(replace(assignment, attempt=2), bench.log)
    assert report["outcome"] == "succeeded"


async def test_one_attempt_is_not_run_twice_at_once(bench: Bench) -> None:
    assignment = bench.assignment({"command": "echo up; sleep 60"})
    running = asyncio.create_task(bench.executor.run(assignment, bench.log))
    await until(lambda: "up" in bench.live())
    with pytest.raises(RuntimeError, match="under way already"):
        await bench.executor.run(assignment, bench.log)
    await bench.executor.stop(*assignment.key)
    assert await running == CANCELLED


async def interrupted(bench: Bench, script: str, marker: str) -> Assignment:
    """A job whose worker process ended while it ran: the task is cancelled, the container stays."""
    assignment = bench.assignment({"command": script})
    running = asyncio.create_task(bench.executor.run(assignment, bench.log))
    await until(lambda: marker in bench.live())
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    await bench.settle()
    return assignment


async def test_a_job_survives_its_worker_and_is_taken_up_again(bench: Bench) -> None:
    script = "sh -c 'echo one; sleep 2; echo two; echo kept > /outputs/k'"
    assignment = await interrupted(bench, script, "one")
    again = bench.another()
    (held,) = await again.held()
    assert (held.key, held.running) == (assignment.key, True)
    bench.lines.clear()
    async with asyncio.timeout(30):
        report = await again.resume(assignment, bench.log, skip_lines=1)
    assert report is not None
    assert report["outcome"] == "succeeded"
    assert text_of(report) == "one\ntwo\n"
    assert bench.live() == "two\n"
    assert list(report["result"]["outputs"]) == ["k"]
    assert report["result"]["duration"] >= 1990
    await bench.settle()
    assert await bench.containers() == []
    assert bench.files() == []


async def test_a_job_that_ended_while_nobody_looked_is_reported(bench: Bench) -> None:
    assignment = await interrupted(bench, "sh -c 'echo one; sleep 1; echo two >&2; exit 5'", "one")
    (container,) = await bench.containers()
    assert await bench.engine.wait(container.id) == 5
    again = bench.another()
    (held,) = await again.held()
    assert held.running is False
    report = await again.resume(assignment, bench.log)
    assert report is not None
    assert (report["outcome"], report["result"]["StatusCode"]) == ("failed", 5)
    assert text_of(report, stderr=True) == "two\n[asman] exit code 5\n"


# Secrets and counting --------------------------------------------------------------------------------------------


def _secrets(folder: Path, text: str = '[TOKEN]\nvalue = "tok-42-42"\n[OTHER]\nvalue = "other-value"\n') -> SecretStore:
    file = folder.parent / f"{folder.name}.secrets"
    file.write_text(text)
    file.chmod(0o600)
    return SecretStore(file)


async def test_a_job_gets_a_secret_by_name_and_nobody_else_sees_it(bench: Bench) -> None:
    executor = bench.another(secrets=_secrets(bench.data))
    script = "echo have $T; printf %s $T | base64; printf tok-; sleep 1.5; echo 42-42; echo $T >&2; "
    script += "echo ${#T} > /outputs/n; exit 4"
    report = await bench.run(["sh", "-c", script], executor, env={"T": "secret:TOKEN", "P": "plain"})
    assert report["outcome"] == "failed"
    assert base64.b64decode(report["result"]["outputs"]["n"]["value"]) == b"9\n"
    assert text_of(report) == "have [secret TOKEN]\n[secret TOKEN]\n[secret TOKEN]\n"
    assert text_of(report, stderr=True) == "[secret TOKEN]\n[asman] exit code 4\n"
    assert "".join(line[0] for line in report["result"]["logs"]) == bench.live()
    for shown in (json.dumps(report), bench.live(), repr(executor.__dict__)):
        assert "tok-42-42" not in shown
        assert base64.b64encode(b"tok-42-42").decode() not in shown


async def test_a_secret_in_the_command_is_kept_out_of_what_is_said_about_it(bench: Bench) -> None:
    executor = bench.another(secrets=_secrets(bench.data))
    report = await bench.run("/nowhere/$T", executor, env={"T": "secret:TOKEN"})
    assert report["outcome"] != "succeeded"
    assert "/nowhere/[secret TOKEN]" in text_of(report, stderr=True)
    assert "tok-42-42" not in json.dumps(report)


async def test_a_secret_that_is_not_given_ends_the_job_before_any_work_is_done(bench: Bench) -> None:
    executor = bench.another(secrets=_secrets(bench.data))
    asked = {"T": "secret:NOBODYS"}
    report = await bench.run("true", executor, image="nowhere.example.org/none:1", env=asked)
    assert (report["reason"], report["outcome"]) == ("Error", "error")
    assert "step limits failed" in report["result"]["error"]
    assert 'the secret "NOBODYS"' in report["result"]["error"]
    assert "TOKEN" not in json.dumps(report)
    assert bench.live("docker image pull") == ""


async def test_a_job_that_is_taken_up_again_is_redacted_by_what_its_container_was_given(bench: Bench) -> None:
    store = _secrets(bench.data)
    script = ["sh", "-c", "echo up $T; sleep 2; echo $T"]
    assignment = bench.assignment({"command": script, "env": {"T": "secret:TOKEN"}})
    running = asyncio.create_task(bench.another(secrets=store).run(assignment, bench.log))
    await until(lambda: "up" in bench.live())
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    again = bench.another(secrets=_secrets(bench.data, '[TOKEN]\nvalue = "a-new-value"\n'))
    bench.lines.clear()
    async with asyncio.timeout(30):
        report = await again.resume(assignment, bench.log, skip_lines=1)
    assert report is not None
    assert text_of(report) == "up [secret TOKEN]\n[secret TOKEN]\n"
    assert bench.live() == "[secret TOKEN]\n"


async def test_watchers_hear_of_each_step_as_it_begins_and_the_report_says_when(bench: Bench) -> None:
    told: list[tuple[str, int, float]] = []
    key = bench.blobs.add(b"x")
    definition = {
        "command": ["sh", "-c", "sleep 1; echo late; echo x > /outputs/out"],
        "inputs": {"in": {"type": "url", "value": f"{bench.blobs.url}/f/{key}"}},
    }
    async with asyncio.timeout(60):
        report = await bench.executor.run(
            bench.assignment(definition), lambda step, lines: told.append((step, len(lines), time.time()))
        )
    assert report["outcome"] == "succeeded", report
    assert [(step, count) for step, count, _ in told] == [
        ("fetching inputs", 0),
        ("starting", 0),
        ("Running", 0),
        ("Running", 1),
        ("uploading outputs", 0),
    ]
    begun = [(step, at) for step, count, at in told if not count]
    assert [step for step, _ in report["result"]["steps"]] == [step for step, _ in begun]
    for (_, said_ms), (_, at) in zip(report["result"]["steps"], begun, strict=True):
        assert said_ms == pytest.approx(at * 1000, abs=100)
    assert told[3][2] - told[2][2] > 0.8, "it runs before it says anything"


async def test_a_failed_job_says_which_steps_it_came_to(bench: Bench) -> None:
    report = await bench.run("true", image="asman-test-nowhere:1")
    assert (report["outcome"], [step for step, _ in report["result"]["steps"]]) == ("error", ["fetching inputs"])


async def test_steps_and_bytes_of_a_job_are_counted(bench: Bench) -> None:
    telemetry = Telemetry()
    key = bench.blobs.add(b"x" * 1000)
    inputs = {"in": {"type": "url", "value": f"{bench.blobs.url}/f/{key}"}}
    script = "sh -c 'head -c 100000 /dev/zero > /outputs/out'"
    report = await bench.run(script, bench.another(telemetry=telemetry), inputs=inputs)
    assert report["outcome"] == "succeeded"
    lines = telemetry.text().decode().splitlines()
    shown = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    for step in ("limits", "room", "inputs", "image", "create", "start", "wait", "outputs", "report"):
        assert float(shown[f'asman_worker_step_seconds_count{{step="{step}"}}']) >= 1, step
        assert float(shown[f'asman_worker_jobs{{phase="{step}"}}']) == 0, step
    assert float(shown['asman_worker_transfer_bytes_total{direction="download"}']) == 1000
    assert float(shown['asman_worker_transfer_bytes_total{direction="upload"}']) == 100_000


async def test_outputs_are_found_again_after_a_restart_of_the_machine(bench: Bench) -> None:
    if not (await bench.executor.abilities()).mounts:
        pytest.skip("needs root and e2fsprogs, mount: outputs have no file system of their own here")
    assignment = await interrupted(bench, "sh -c 'echo one; echo kept > /outputs/k; sleep 1'", "one")
    (container,) = await bench.containers()
    assert await bench.engine.wait(container.id) == 0
    (outputs,) = bench.data.glob("jobs/*/*/*/1/outputs")
    quota.detach(outputs)
    assert list(outputs.iterdir()) == []
    report = await bench.another().resume(assignment, bench.log)
    assert report is not None
    assert (report["outcome"], list(report["result"]["outputs"])) == ("succeeded", ["k"])
    await bench.settle()
    assert bench.files() == []


async def test_there_is_nothing_to_take_up_where_nothing_was_started(bench: Bench) -> None:
    assignment = bench.assignment({"command": "true"})
    assert await bench.executor.resume(assignment, bench.log) is None


async def test_a_job_that_was_taken_up_again_can_be_stopped(bench: Bench) -> None:
    assignment = await interrupted(bench, "echo up; sleep 60", "up")
    again = bench.another()
    bench.lines.clear()
    running = asyncio.create_task(again.resume(assignment, bench.log))
    await until(lambda: "up" in bench.live())
    assert again.free().cores == 1
    await again.stop(*assignment.key)
    assert await running == CANCELLED
    assert await bench.containers() == []


async def test_cleaning_removes_what_nobody_keeps_and_leaves_other_workers_alone(bench: Bench) -> None:
    stray = await interrupted(bench, "echo stray; sleep 60", "stray")
    kept = await interrupted(bench, "echo kept; sleep 60", "kept")
    created = await bench.engine.create({"Image": IMAGE, "Labels": {"asman.worker": bench.worker_id}})
    other = bench.another(worker_id=f"{bench.worker_id}-other")
    others = bench.assignment({"command": "echo other; sleep 60"})
    running = asyncio.create_task(other.run(others, bench.log))
    await until(lambda: "other" in bench.live())
    again = bench.another()
    await again.clean({kept.key})
    assert [held.key for held in await again.held()] == [kept.key]
    assert created not in [c.id for c in await bench.containers()]
    assert [held.key for held in await other.held()] == [others.key]
    folders = {path.name for path in bench.data.glob("jobs/*/*/*")}
    assert folders == {kept.job_id, others.job_id}
    assert stray.job_id not in folders
    await again.clean(set())
    assert await again.held() == []
    await other.stop(*others.key)
    assert await running == CANCELLED


async def test_cleaning_never_touches_a_job_that_is_under_way(bench: Bench) -> None:
    assignment = bench.assignment({"command": "echo up; sleep 1; echo done"})
    running = asyncio.create_task(bench.executor.run(assignment, bench.log))
    await until(lambda: "up" in bench.live())
    await bench.executor.clean(set())
    assert (await running)["outcome"] == "succeeded"


async def test_a_job_leaves_nothing_behind(bench: Bench, docker_engine: DockerEngine) -> None:
    volumes = json.loads(docker_engine.request("GET", "/volumes")[1])["Volumes"] or []
    await bench.run("echo x > /outputs/x", inputs={"i": {"value": "y"}})
    await bench.settle()
    assert await bench.containers() == []
    assert bench.files() == []
    left = json.loads(docker_engine.request("GET", "/volumes")[1])["Volumes"] or []
    assert {v["Name"] for v in left} - {v["Name"] for v in volumes} <= {cache_volume(QUEUE)}


# Room -------------------------------------------------------------------------------------------------------------


async def test_what_runs_is_accounted_and_what_does_not_fit_waits(bench: Bench) -> None:
    grant = replace(GRANT, gpus=(Gpu(index=0, uuid="GPU-a"),))
    executor = bench.another(grant)
    assert (executor.free().cores, executor.free().jobs, executor.free().gpus) == (2, 2, 1)
    first = bench.assignment({"command": "echo first; sleep 60", "requirements": {"cpus": 1.5}})
    running = asyncio.create_task(executor.run(first, bench.log))
    await until(lambda: "first" in bench.live())
    free = executor.free()
    assert (free.cores, free.jobs) == (0.5, 0)
    assert free.memory_bytes == GRANT.memory_bytes - int(GRANT.memory_bytes * 0.75)
    second = asyncio.create_task(bench.run("echo second", executor))
    third = await bench.run("echo third", executor, requirements={"cpus": 0.5})
    assert third["outcome"] == "succeeded"
    assert "second" not in bench.live()
    await executor.stop(*first.key)
    assert await running == CANCELLED
    assert (await second)["outcome"] == "succeeded"
    assert executor.free().cores == 2


async def test_a_waiting_job_can_be_stopped(bench: Bench) -> None:
    first = bench.assignment({"command": "echo first; sleep 60", "requirements": {"cpus": 2}})
    second = bench.assignment({"command": "echo second"})
    running = asyncio.create_task(bench.executor.run(first, bench.log))
    await until(lambda: "first" in bench.live())
    waiting = asyncio.create_task(bench.executor.run(second, bench.log))
    await until(
        lambda: bench.executor._jobs[second.key].step == "room" if second.key in bench.executor._jobs else False
    )
    await bench.executor.stop(*second.key)
    assert await asyncio.wait_for(waiting, 5) == CANCELLED
    await bench.executor.stop(*first.key)
    assert await running == CANCELLED


async def test_several_jobs_run_side_by_side(bench: Bench) -> None:
    wide = bench.another(replace(GRANT, cores=4))
    reports = await asyncio.gather(*(bench.run(f"echo job {n}", wide) for n in range(6)))
    assert sorted(text_of(report) for report in reports) == [f"job {n}\n" for n in range(6)]


def test_a_grant_that_cannot_be_kept_is_refused_at_once(bench: Bench) -> None:
    with pytest.raises(BadRequest):
        bench.another(replace(GRANT, profile="loose"))


async def test_what_a_pull_says_goes_to_the_step_of_its_name(bench: Bench, docker_engine: DockerEngine) -> None:
    assert docker_engine.request("POST", f"/images/{IMAGE}/tag?repo=127.0.0.1:1/moving&tag=latest")[0] == 201
    report = await bench.run("echo y", image="127.0.0.1:1/moving")
    assert "using the copy that is here" in bench.live("docker image pull")
    assert bench.live("Running") == text_of(report) == "y\n"
