"""One queue's socket: registration, assigned work, leases, reports, logs, leaving."""

from __future__ import annotations

import json
from pathlib import Path

from asman_worker.intake import BY_OWNER, Intake
from asman_worker.outbox import Report
from asman_worker.telemetry import Telemetry
from worker_peers import Connected, LocalHost, ScriptedServer, job_id, running, until


def _lines(peers: list[Connected], job: str) -> list[tuple[int, str]]:
    """(number, text) of every line that was sent of a job, over several connections, repeats included."""
    batches = [payload for peer in peers for payload in peer.all_of("JobStatusLogs") if payload["jobId"] == job]
    return [(batch["seq"] + i, line[0]) for batch in batches for i, line in enumerate(batch["logs"])]


async def test_a_worker_says_who_it_is_and_what_it_lends(
    server: ScriptedServer, host: LocalHost, tmp_path: Path
) -> None:
    async with running(server.url, tmp_path, host, cpus=2.0, tags=("big",), name="desk") as worker:
        peer = await server.arrival()
        registration = await peer.register()
    assert peer.path == "/q/first/worker?protocol=2"
    assert registration["id"] == worker.worker_id
    assert (registration["cpus"], registration["gpus"], registration["protocol"]) == (2, 0, 2)
    assert (registration["maxJobDuration"], registration["name"]) == ("5m", "desk")
    assert registration["capacity"]["memory_bytes"] == 2 << 30
    assert registration["holding"] == {}


async def test_an_assigned_job_is_run_and_reported_and_kept_until_it_is_acknowledged(
    server: ScriptedServer, host: LocalHost, tmp_path: Path
) -> None:
    async with running(server.url, tmp_path, host):
        peer = await server.arrival()
        await peer.register()
        assert (await peer.hears("Ready"))["jobs"] == 1
        job = await peer.assign(1, "echo hello; exit 3", attempt=7)
        log = await peer.hears("JobStatusLogs")
        finished = await peer.hears("StateChange")
        assert [report.key for report in _on_disk(tmp_path)] == [("first", job, 7)]
        await peer.ack(finished)
        await peer.hears("Ready", lambda ready: ready["jobs"] == 1)
        await until(lambda: not _on_disk(tmp_path))
    assert (log["attempt"], log["seq"], log["step"], log["logs"][0][0]) == (7, 0, "Running", "hello\n")
    assert (finished["job"], finished["attempt"], finished["state"]) == (job, 7, "Finished")
    value = finished["value"]
    assert (value["reason"], value["outcome"], value["result"]["StatusCode"]) == ("Success", "failed", 3)


async def test_a_report_is_sent_again_after_every_reconnect_until_it_is_acknowledged(
    server: ScriptedServer, host: LocalHost, tmp_path: Path
) -> None:
    async with running(server.url, tmp_path, host):
        peer = await server.arrival()
        await peer.register()
        job = await peer.assign(1, "true")
        first = await peer.hears("StateChange")
        await peer.drop()
        again = await server.arrival()
        registration = await again.register()
        second = await again.hears("StateChange")
        await again.drop()
        last = await server.arrival()
        await last.register()
        third = await last.hears("StateChange")
        await last.ack(third)
        await until(lambda: not _on_disk(tmp_path))
    assert registration["holding"] == {job: 1}
    assert first == second == third
    assert host.started == [("first", job, 1)]


async def test_a_report_survives_a_crash_of_the_worker(server: ScriptedServer, host: LocalHost, tmp_path: Path) -> None:
    async with running(server.url, tmp_path, host):
        peer = await server.arrival()
        await peer.register()
        job = await peer.assign(1, "echo kept")
        first = await peer.hears("StateChange")
    async with running(server.url, tmp_path, host):
        peer = await server.arrival()
        registration = await peer.register()
        second = await peer.hears("StateChange")
        await peer.ack(second)
        await until(lambda: not _on_disk(tmp_path))
    assert registration["holding"] == {job: 1}
    assert first == second
    assert len(host.started) == 1


async def test_a_refused_report_is_dropped_and_an_undecided_one_is_kept(
    server: ScriptedServer, host: LocalHost, tmp_path: Path
) -> None:
    async with running(server.url, tmp_path, host, cpus=2.0):
        peer = await server.arrival()
        await peer.register()
        refused, undecided = await peer.assign(1, "true"), await peer.assign(2, "true")
        for _ in range(2):
            finished = await peer.hears("StateChange")
            code = "lease_lost" if finished["job"] == refused else "storage_full"
            await peer.ack(finished, accepted=False, code=code)
        await until(lambda: [report.job_id for report in _on_disk(tmp_path)] == [undecided])


async def test_a_revoked_job_is_ended_and_nothing_is_reported(
    server: ScriptedServer, host: LocalHost, tmp_path: Path
) -> None:
    async with running(server.url, tmp_path, host):
        peer = await server.arrival()
        await peer.register()
        job = await peer.assign(1, "echo started; sleep 60")
        await peer.hears("JobStatusLogs")
        await peer.say("Revoke", {"jobId": job, "attempt": 1, "reason": "cancelled"})
        await peer.hears("Ready", lambda ready: ready["jobs"] == 1)
        assert not host.processes
        assert not peer.all_of("StateChange")
        assert not _on_disk(tmp_path)


async def test_a_revoke_of_an_older_attempt_leaves_the_newer_one_alone(
    server: ScriptedServer, host: LocalHost, tmp_path: Path
) -> None:
    async with running(server.url, tmp_path, host):
        peer = await server.arrival()
        await peer.register()
        gate = tmp_path / "gate"
        job = await peer.assign(1, f"echo started; while [ ! -e {gate} ]; do sleep 0.02; done", attempt=5)
        await peer.hears("JobStatusLogs")
        await peer.say("Revoke", {"jobId": job, "attempt": 4, "reason": "late"})
        await peer.say("StatusRequest")
        assert list((await peer.hears("WorkerStatusResponse"))["queue"]) == [job], "the revoke has been read by now"
        gate.touch()
        finished = await peer.hears("StateChange")
    assert (finished["attempt"], finished["value"]["outcome"]) == (5, "succeeded")


async def test_a_lost_lease_ends_the_job(server: ScriptedServer, host: LocalHost, tmp_path: Path) -> None:
    async with running(server.url, tmp_path, host):
        peer = await server.arrival()
        await peer.register(renew_s=0.05)
        job = await peer.assign(1, "echo started; sleep 60")
        assert (await peer.hears("Renew", lambda renew: bool(renew["jobs"])))["jobs"] == {job: 1}
        await peer.say("Renewed", {"lost": [job]})
        await peer.hears("Ready", lambda ready: ready["jobs"] == 1)
        assert not host.processes
        assert not peer.all_of("StateChange")


async def test_a_lease_lost_for_an_older_attempt_leaves_the_newer_one_alone(
    server: ScriptedServer, host: LocalHost, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    async with running(server.url, tmp_path, host):
        peer = await server.arrival()
        await peer.register(renew_s=0.3)
        job = await peer.assign(1, "sleep 60", attempt=1)
        await peer.hears("Renew", lambda renew: renew["jobs"] == {job: 1})
        await peer.say("Revoke", {"jobId": job, "attempt": 1, "reason": "replaced"})
        await peer.hears("Ready", lambda ready: ready["jobs"] == 1)
        await peer.assign(1, f"while [ ! -e {gate} ]; do sleep 0.02; done", attempt=2)
        await until(lambda: ("first", job, 2) in host.processes)
        await peer.say("Renewed", {"lost": [job]})
        await peer.say("StatusRequest")
        assert (await peer.hears("WorkerStatusResponse"))["queue"][job]["attempt"] == 2
        gate.touch()
        assert (await peer.hears("StateChange"))["attempt"] == 2


async def test_jobs_run_on_over_a_lost_connection_and_are_offered_for_adoption(
    server: ScriptedServer, host: LocalHost, tmp_path: Path
) -> None:
    async with running(server.url, tmp_path, host, cpus=2.0):
        peer = await server.arrival()
        await peer.register()
        gate = tmp_path / "gate"
        kept = await peer.assign(1, f"while [ ! -e {gate} ]; do sleep 0.02; done; echo done")
        gone = await peer.assign(2, "sleep 60")
        await until(lambda: len(host.processes) == 2)
        await peer.drop()
        again = await server.arrival()
        registration = await again.register(adopted={kept: 1}, lost=[gone])
        await until(lambda: ("first", gone, 1) not in host.processes)
        gate.touch()
        finished = await again.hears("StateChange")
    assert registration["holding"] == {kept: 1, gone: 1}
    assert finished["job"] == kept
    assert len(host.started) == 2


async def test_under_kill_a_job_ends_when_its_lease_is_over_and_under_keep_it_goes_on(
    server: ScriptedServer, host: LocalHost, tmp_path: Path
) -> None:
    async with running(server.url, tmp_path, host, on_lease_lost="kill"):
        peer = await server.arrival()
        await peer.register(lease_s=0.5, renew_s=60.0)
        await peer.assign(1, "sleep 60")
        await until(lambda: bool(host.processes))
        await until(lambda: not host.processes)
    async with running(server.url, tmp_path / "other", host, on_lease_lost="keep"):
        peer = await server.arrival()
        await peer.register(lease_s=0.5, renew_s=60.0)
        await peer.assign(2, "sleep 2; echo still here")
        assert (await peer.hears("StateChange"))["value"]["outcome"] == "succeeded"


async def test_numbers_of_log_lines_have_no_gap_over_a_reconnect(
    server: ScriptedServer, host: LocalHost, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    command = f"for i in 1 2 3; do echo before $i; done; while [ ! -e {gate} ]; do sleep 0.02; done; echo after"
    async with running(server.url, tmp_path, host):
        peer = await server.arrival()
        await peer.register()
        job = await peer.assign(1, command)
        await until(lambda: len(_lines([peer], job)) == 3)
        await peer.drop()
        again = await server.arrival()
        gate.touch()
        await again.register()
        await again.hears("StateChange")
    seen = dict(_lines([peer, again], job))
    assert sorted(seen) == [0, 1, 2, 3]
    assert [seen[n] for n in sorted(seen)] == ["before 1\n", "before 2\n", "before 3\n", "after\n"]
    assert _lines([again], job)[-1] == (3, "after\n")


async def test_lines_that_a_dying_connection_swallowed_are_sent_again_under_their_numbers(
    server: ScriptedServer, host: LocalHost, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    async with running(server.url, tmp_path, host):
        peer = await server.arrival()
        await peer.register()
        job = await peer.assign(1, f"echo arrives; while [ ! -e {gate} ]; do sleep 0.02; done; echo is lost")
        await peer.hears("JobStatusLogs")
        peer.answers_pings, peer.loses = False, frozenset({"JobStatusLogs", "StateChange"})
        gate.touch()
        await until(lambda: any(kind == "StateChange" for kind, _ in peer.lost))
        await peer.drop()
        again = await server.arrival()
        await again.register()
        finished = await again.hears("StateChange")
    assert finished["job"] == job
    assert dict(_lines([peer, again], job)) == {0: "arrives\n", 1: "is lost\n"}


async def test_a_report_waits_until_the_server_has_taken_in_a_long_log(
    server: ScriptedServer, host: LocalHost, tmp_path: Path
) -> None:
    async with running(server.url, tmp_path, host):
        peer = await server.arrival()
        registration = await peer.register()
        await peer.heard_pings(1)
        peer.answers_pings = False
        job = await peer.assign(1, f"yes {'x' * 1000} | head -n 3000")
        await until(lambda: len(_on_disk(tmp_path)) == 1)
        await peer.heard_pings(2)
        await peer.say("StatusRequest")
        await peer.hears("WorkerStatusResponse")
        assert 0 < len(_lines([peer], job)) < 3000, "no more than a bound is under way unconfirmed"
        assert not peer.all_of("StateChange")
        peer.answers_pings = True
        await peer.socket.send_str(f"PONG {registration['id']}")
        await peer.hears("StateChange")
    assert len(_lines([peer], job)) == 3000


async def test_all_lines_of_a_job_come_before_its_report(
    server: ScriptedServer, host: LocalHost, tmp_path: Path
) -> None:
    async with running(server.url, tmp_path, host):
        peer = await server.arrival()
        await peer.register()
        job = await peer.assign(1, "seq 1 2000")
        await peer.hears("StateChange")
        kinds = [kind for kind, _ in peer.said]
    assert len(_lines([peer], job)) == 2000
    assert kinds.index("StateChange") > max(i for i, kind in enumerate(kinds) if kind == "JobStatusLogs")


async def test_two_queues_share_one_capacity_and_neither_starves(
    server: ScriptedServer, host: LocalHost, tmp_path: Path
) -> None:
    async with running(server.url, tmp_path, host, queues=("first", "second")):
        one, two = await server.arrival("first"), await server.arrival("second")
        await one.register()
        await two.register()
        for peer in (one, two):
            await peer.hears("Ready", lambda ready: ready["jobs"] == 1)
        gate = tmp_path / "gate"
        await one.assign(1, f"while [ ! -e {gate} ]; do sleep 0.02; done")
        await one.hears("Ready", lambda ready: ready["jobs"] == 0)
        missed = await two.assign(2, "true")
        assert (await two.hears("Goodbye"))["jobs"] == {missed: 1}
        await until(lambda: bool(host.started))
        assert host.started == [("first", job_id(1), 1)]
        gate.touch()
        await two.hears("Ready", lambda ready: ready["jobs"] == 1)
        assert one.all_of("Ready")[-1]["jobs"] == 0, "the queue that missed its chance gets the next one alone"
        await two.assign(2, "true", attempt=2)
        assert (await two.hears("StateChange"))["job"] == missed


async def test_a_worker_that_leaves_hands_its_jobs_back_and_ends_them(
    server: ScriptedServer, host: LocalHost, tmp_path: Path
) -> None:
    async with running(server.url, tmp_path, host) as worker:
        peer = await server.arrival()
        await peer.register()
        job = await peer.assign(1, "sleep 60")
        await until(lambda: bool(host.processes))
        worker.stop.set()
        assert (await peer.hears("Goodbye"))["jobs"] == {job: 1}
        await peer.say("Released", {"jobs": [job]})
        await worker.ends()
        assert not host.processes
        assert not peer.all_of("StateChange")
        assert peer.all_of("Ready")[-1]["jobs"] == 0


async def test_a_worker_with_time_to_drain_finishes_what_runs(
    server: ScriptedServer, host: LocalHost, tmp_path: Path
) -> None:
    async with running(server.url, tmp_path, host, drain_s=10.0) as worker:
        peer = await server.arrival()
        await peer.register()
        await peer.assign(1, "echo started; sleep 0.3")
        await peer.hears("JobStatusLogs")
        worker.stop.set()
        finished = await peer.hears("StateChange")
        await peer.ack(finished)
        await worker.ends()
        assert finished["value"]["outcome"] == "succeeded"
        assert not peer.all_of("Goodbye")


async def test_work_that_comes_while_leaving_is_handed_back(
    server: ScriptedServer, host: LocalHost, tmp_path: Path
) -> None:
    async with running(server.url, tmp_path, host, cpus=2.0, drain_s=10.0) as worker:
        peer = await server.arrival()
        await peer.register()
        gate = tmp_path / "gate"
        await peer.assign(1, f"echo started; while [ ! -e {gate} ]; do sleep 0.02; done")
        await peer.hears("JobStatusLogs")
        worker.stop.set()
        await peer.hears("Ready", lambda ready: ready["jobs"] == 0)
        late = await peer.assign(2, "true")
        assert (await peer.hears("Goodbye"))["jobs"] == {late: 1}
        gate.touch()
        await peer.ack(await peer.hears("StateChange"))
        await worker.ends()
    assert [key[1] for key in host.started] == [job_id(1)]


async def test_a_worker_that_is_not_known_registers_again(
    server: ScriptedServer, host: LocalHost, tmp_path: Path
) -> None:
    async with running(server.url, tmp_path, host):
        peer = await server.arrival()
        peer.knows_as = "unknown"
        await peer.register()
        await peer.register()
    assert len(peer.all_of("WorkerRegistration")) >= 2


async def test_a_status_request_is_answered_with_what_runs(
    server: ScriptedServer, host: LocalHost, tmp_path: Path
) -> None:
    async with running(server.url, tmp_path, host) as worker:
        peer = await server.arrival()
        await peer.register()
        job = await peer.assign(1, "echo started; sleep 60")
        await peer.hears("JobStatusLogs")
        await peer.say("StatusRequest")
        status = await peer.hears("WorkerStatusResponse")
    assert (status["id"], list(status["queue"])) == (worker.worker_id, [job])
    assert status["queue"][job] == {"jobId": job, "attempt": 1, "finished": False}


async def test_messages_that_make_no_sense_cost_nothing(
    server: ScriptedServer, host: LocalHost, tmp_path: Path
) -> None:
    async with running(server.url, tmp_path, host):
        peer = await server.arrival()
        await peer.register()
        for kind in ("Assign", "Revoke", "Renewed", "Ack", "Released", "Error", "JobStates", "FromTheFuture"):
            await peer.say(kind, {"jobId": 5, "attempt": "many"})
            await peer.say(kind)
        await peer.socket.send_str("{not json")
        job = await peer.assign(1, "true")
        assert (await peer.hears("StateChange"))["job"] == job


async def test_a_report_too_long_for_the_server_is_cut_and_says_so(
    server: ScriptedServer, host: LocalHost, tmp_path: Path
) -> None:
    async with running(server.url, tmp_path, host):
        peer = await server.arrival()
        await peer.register()
        await peer.assign(1, "yes 0123456789012345678901234567890123456789 | head -n 40000")
        whole = await peer.hears("StateChange")
        await peer.say("Error", {"code": "limit_exceeded", "error": "a frame is too long", "ref": ""})
        cut = await peer.hears("StateChange")
    lines = cut["value"]["result"]["logs"]
    assert len(lines) < len(whole["value"]["result"]["logs"]) == 40000
    assert any("bytes of log are left out" in line[0] for line in lines)
    assert sum(len(line[0]) for line in lines) < 1 << 20


async def test_a_drained_worker_stays_connected_and_takes_nothing_until_it_is_told_to(
    server: ScriptedServer, host: LocalHost, tmp_path: Path
) -> None:
    intake, telemetry = Intake(), Telemetry()
    async with running(server.url, tmp_path, host, cpus=2.0, intake=intake, telemetry=telemetry):
        peer = await server.arrival()
        await peer.register()
        assert (await peer.hears("Ready"))["jobs"] == 2
        first = await peer.assign(1, "read line < /dev/null; sleep 0.5; echo ran on")
        await peer.hears("Ready", lambda ready: ready["jobs"] == 1)
        intake.hold(BY_OWNER)
        assert (await peer.hears("Ready"))["jobs"] == 0
        second = await peer.assign(2, "true")
        assert await peer.hears("Goodbye") == {"jobs": {second: 1}}, "one that was under way is handed back at once"
        finished = await peer.hears("StateChange")
        assert (finished["job"], finished["value"]["outcome"]) == (first, "succeeded")
        await peer.ack(finished)
        intake.release(BY_OWNER)
        assert (await peer.hears("Ready", lambda ready: ready["jobs"] > 0))["jobs"] == 2
        await peer.assign(2, "true", attempt=2)
        assert (await peer.hears("StateChange"))["job"] == second
    assert [key[1] for key in host.started] == [first, second]


async def test_lost_leases_are_counted(server: ScriptedServer, host: LocalHost, tmp_path: Path) -> None:
    telemetry = Telemetry()
    async with running(server.url, tmp_path, host, cpus=2.0, telemetry=telemetry):
        peer = await server.arrival()
        await peer.register(renew_s=0.05)
        job = await peer.assign(1, "sleep 60")
        other = await peer.assign(2, "sleep 60")
        await peer.hears("Renew", lambda renew: len(renew["jobs"]) == 2)
        await peer.say("Renewed", {"lease_until": 0, "lost": [job]})
        await peer.say("Revoke", {"jobId": other, "attempt": 1, "reason": "cancelled"})
        await until(lambda: b'jobs_finished_total{outcome="stopped"} 2.0' in telemetry.text())
    assert b"asman_worker_leases_lost_total 1.0" in telemetry.text(), "a cancelled job is no lost lease"


async def test_an_ephemeral_worker_with_room_for_more_takes_no_more_than_its_number(
    server: ScriptedServer, host: LocalHost, tmp_path: Path
) -> None:
    queues = ("first", "second")
    async with running(server.url, tmp_path, host, queues=queues, ephemeral=2, cpus=8.0) as worker:
        peers = [await server.arrival(queue) for queue in queues]
        for peer in peers:
            await peer.register()
            assert (await peer.hears("Ready"))["jobs"] == 2
        one = await peers[0].assign(1, "sleep 0.3")
        two = await peers[1].assign(2, "sleep 0.3")
        await until(lambda: len(host.started) == 2)
        three = await peers[0].assign(3, "true")
        assert await peers[0].hears("Goodbye") == {"jobs": {three: 1}}
        for peer in peers:
            await peer.ack(await peer.hears("StateChange"))
        await worker.ends()
    assert {key[1] for key in host.started} == {one, two}


async def test_an_ephemeral_worker_does_not_count_what_it_hands_back_and_counts_what_is_taken_from_it(
    server: ScriptedServer, host: LocalHost, tmp_path: Path
) -> None:
    async with running(server.url, tmp_path, host, ephemeral=2, cpus=2.0) as worker:
        peer = await server.arrival()
        await peer.register()
        job = await peer.assign(1, "sleep 60", cpus=2)
        await until(lambda: bool(host.processes))
        too_much = await peer.assign(2, "true", cpus=2)
        assert await peer.hears("Goodbye") == {"jobs": {too_much: 1}}
        await peer.say("Revoke", {"jobId": job, "attempt": 1, "reason": "cancelled"})
        assert (await peer.hears("Ready", lambda ready: ready["jobs"] > 0))["jobs"] == 1, "one of two is left"
        await peer.assign(3, "true")
        await peer.ack(await peer.hears("StateChange"))
        await worker.ends()


async def test_an_ephemeral_worker_does_not_wait_for_reports_of_queues_that_it_does_not_serve(
    server: ScriptedServer, host: LocalHost, tmp_path: Path
) -> None:
    async with running(server.url, tmp_path, host, queues=("other",)):
        peer = await server.arrival("other")
        await peer.register()
        await peer.assign(1, "true")
        await peer.hears("StateChange")
    async with running(server.url, tmp_path, host, ephemeral=1) as worker:
        peer = await server.arrival()
        await peer.register()
        await peer.assign(2, "true")
        await peer.ack(await peer.hears("StateChange"))
        await worker.ends()


async def test_an_ephemeral_worker_ends_after_its_jobs(server: ScriptedServer, host: LocalHost, tmp_path: Path) -> None:
    async with running(server.url, tmp_path, host, ephemeral=1, cpus=4.0) as worker:
        peer = await server.arrival()
        await peer.register()
        assert (await peer.hears("Ready"))["jobs"] == 1
        await peer.assign(1, "true")
        await peer.ack(await peer.hears("StateChange"))
        await worker.ends()


def _on_disk(data: Path) -> tuple[Report, ...]:
    """Read beside the worker that writes them: opening its outbox would remove what it is writing."""
    return tuple(Report(**json.loads(file.read_bytes())) for file in sorted((data / "outbox").glob("*.json")))
