"""The command line: as functions, and as processes of its own against a real server and a worker that tells stories.

One file for the package: ``asman.cli.jobs`` and ``asman.cli.checks`` are run through their commands.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asman.cli import COMMANDS, asman, delegated, main, serving
from asman.cli.draft import INLINE_BYTES, command_of, draft_of
from asman.cli.engine import engine_address, find_engine
from asman.cli.exits import EXIT_CODES, exit_of_outcome
from asman.cli.following import Ending, read_ending
from asman.cli.reference import cli_reference
from asman.cli.running import run
from asman.cli.terminal import LogWriter, age, plain, print_table
from asman.client import Client
from asman.config import SETTINGS
from asman.job import Outcome
from asman_worker.command import split_words
from served import Served, Story, environ, run_asman, served, telling_worker

ECHO = {"image": "alpine:3.19.1", "command": "echo hi"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served("--backend", "memory", cwd=tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
async def client(server: Served) -> AsyncIterator[Client]:
    async with Client(server.url) as opened:
        yield opened


@pytest.fixture
def queue(request: pytest.FixtureRequest) -> str:
    return "q-" + hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:24]


# --- a command's arguments -------------------------------------------------------------------------------------------

NASTY = [
    *(
        "",
        " ",
        "a b",
        "$HOME",
        "${X}",
        "$(id)",
        "`id`",
        "*",
        "?",
        "#",
        "a#b",
        ";",
        "|",
        "&&",
        ">",
        "<(x)",
        "{a,b}",
        "~",
    ),
    *(
        "'",
        '"',
        "\\",
        "\\\\",
        "it's",
        "\\'",
        "'\\",
        'a\\"',
        "a\\",
        "\\$X",
        "\n",
        "\t",
        "é",
        "\u2028",
        "-",
        "--",
        "!",
        "=",
    ),
]
ARGUMENTS = st.lists(
    st.sampled_from(NASTY) | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
)


@given(ARGUMENTS.filter(bool))
def test_the_worker_starts_exactly_the_arguments_that_were_given(argv: list[str]) -> None:
    command = command_of(argv)
    env = {"HOME": "/root", "X": "expanded", "": "nothing"}
    assert (split_words(command, env) if isinstance(command, str) else command) == argv


@pytest.mark.parametrize("argument", NASTY)
def test_a_nasty_argument_between_plain_ones_arrives_as_it_is(argument: str) -> None:
    argv = ["printf", argument, "end"]
    command = command_of(argv)
    assert (split_words(command, {}) if isinstance(command, str) else command) == argv


def test_plain_arguments_stay_readable_text() -> None:
    assert command_of(["sh", "-c", "echo $JOB_ID && ls"]) == "sh -c 'echo $JOB_ID && ls'"


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["q", "img"], ()),
        (["q", "img", "ls", "-l", "--all"], ("ls", "-l", "--all")),
        (["q", "img", "--", "ls", "-l"], ("ls", "-l")),
        (["--cpus", "2", "q", "-e", "A=1", "img", "env", "-e", "x"], ("env", "-e", "x")),
        (["q", "img", "--quiet", "ls", "--", "-x"], ("ls", "--", "-x")),
        (["-qeA=1", "q", "img", "ls", "-q"], ("ls", "-q")),
    ],
)
def test_everything_after_the_image_belongs_to_the_container(arguments: list[str], command: tuple[str, ...]) -> None:
    context = _context(arguments)
    assert (context.params["queue"], context.params["image"], context.params["command"]) == ("q", "img", command)


def _draft(*arguments: str) -> Any:
    return draft_of(_context(["q", "img", *arguments]).params)


def _context(arguments: list[str]) -> click.Context:
    return run.make_context("run", arguments, parent=click.Context(asman, **asman.context_settings))


def test_every_flag_has_its_place_in_the_definition() -> None:
    flags = ["-e", "A=1=2", "--env", "B=", "--cpus", "0.5", "--memory", "2g", "--gpus", "1", "--max-duration", "20m"]
    flags += ["--tag", "x", "--tag", "y", "--workdir", "/w", "--entrypoint", "sh -c", "--shm-size", "64m"]
    assert _draft(*flags, "--", "run", "it").definition == {
        "image": "img",
        "command": "run it",
        "entrypoint": "sh -c",
        "workdir": "/w",
        "shmSize": "64m",
        "maxDuration": "20m",
        "env": {"A": "1=2", "B": ""},
        "tags": ["x", "y"],
        "requirements": {"cpus": 0.5, "memory": "2g", "gpus": 1},
    }


def test_no_flags_leave_nothing_but_the_image() -> None:
    assert _draft().definition == {"image": "img"}


def test_inputs_are_paths_text_or_whole_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a=b.txt").write_text("named with an equals sign")
    (tmp_path / "folder" / "sub").mkdir(parents=True)
    (tmp_path / "folder" / "sub" / "deep").write_text("deep")
    files = _draft("-i", "a=b.txt", "-i", "n=@a=b.txt", "-i", "t=some=text", "-i", "folder", "-i", "all=@folder").files
    assert files == {
        ("inputs", "a=b.txt"): Path("a=b.txt"),
        ("inputs", "n"): Path("a=b.txt"),
        ("inputs", "t"): b"some=text",
        ("inputs", "folder/sub/deep"): Path("folder/sub/deep"),
        ("inputs", "all/sub/deep"): Path("folder/sub/deep"),
    }
    assert _draft("--config-file", "/etc/x=a=b.txt").files == {("configFiles", "/etc/x"): Path("a=b.txt")}


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["-e", "NOVALUE"], "NAME=VALUE"),
        (["-i", "missing.txt"], "there is no file"),
        (["-i", "x=@missing.txt"], "there is no file"),
        (["-i", "=x"], "no name"),
        (["--config-file", "x"], "/path/in/container=FILE"),
        (["--memory", "lots"], "is not a size"),
        (["--max-duration", "soon"], "is not a duration"),
        (["--cpus", "0"], "0"),
        (["--definition", "missing.json"], "missing.json"),
    ],
)
def test_a_wrong_flag_is_told_with_its_value_before_anything_is_sent(
    flags: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status = main(["run", "q", "img", *flags, "--server", "http://127.0.0.1:9"])
    assert status in (1, 2)
    err = capsys.readouterr().err
    assert said in err
    assert "cannot talk" not in err


def test_a_run_without_an_image_asks_for_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "q"]) == 2
    assert "which image?" in capsys.readouterr().err


@pytest.mark.parametrize("outcome", list(Outcome))
def test_every_outcome_has_an_exit_code_that_the_help_explains(outcome: Outcome) -> None:
    status = exit_of_outcome(outcome, 0 if outcome is Outcome.SUCCEEDED else None)
    assert (status == 0) == (outcome is Outcome.SUCCEEDED)
    assert status in EXIT_CODES


@pytest.mark.parametrize(("exit_code", "status"), [(7, 7), (255, 255), (None, 1), (0, 1), (256, 1), (-9, 1)])
def test_a_failed_container_never_looks_like_success(exit_code: int | None, status: int) -> None:
    assert exit_of_outcome("failed", exit_code) == status


# --- run -------------------------------------------------------------------------------------------------------------


async def test_run_separates_the_streams_fetches_outputs_and_exits_as_the_container_did(
    server: Served, queue: str, tmp_path: Path, client: Client
) -> None:
    big, key = b"b" * (INLINE_BYTES + 1), hashlib.sha256(b"b" * (INLINE_BYTES + 1)).hexdigest()
    (tmp_path / "big.bin").write_bytes(big)
    (tmp_path / "small.bin").write_bytes(b"s")
    out = await client.upload_bytes(b"blob output")
    story = Story(
        lines=[
            ("docker image pull", "pulling", False),
            ("Running", "to stdout, no newline", False),
            ("Running", "to stderr\n", True),
        ],
        exit_code=7,
        outcome="failed",
        outputs={"sub/a.txt": {"type": "base64", "value": "aGk="}, "b.bin": {"type": "key", "value": out}},
    )
    async with telling_worker(server.url, queue, lambda _: story) as definitions:
        arguments = ["run", queue, "alpine:3.19.1", "-i", "big.bin", "-i", "small.bin", "-i", "t=x", "cat", "a b"]
        done = await run_asman(*arguments, cwd=tmp_path, server=server.url)
    assert done.returncode == 7, done.stderr
    assert done.stdout == "to stdout, no newline"
    assert "pulling\n" in done.stderr
    assert "to stderr\n" in done.stderr
    assert "failed with exit code 7" in done.stderr
    assert (tmp_path / "outputs" / "sub" / "a.txt").read_bytes() == b"hi"
    assert (tmp_path / "outputs" / "b.bin").read_bytes() == b"blob output"
    assert definitions == [
        {
            "image": "alpine:3.19.1",
            "command": "cat 'a b'",
            "inputs": {
                "big.bin": {"type": "key", "value": key},
                "small.bin": {"type": "base64", "value": "cw=="},
                "t": {"type": "utf8", "value": "x"},
            },
        }
    ]
    assert await client.has_blob(key)


async def test_a_second_run_says_it_is_the_stored_answer_and_rerun_runs_again(
    server: Served, queue: str, tmp_path: Path
) -> None:
    arguments = ["run", queue, "alpine:3.19.1", "echo", "hi"]
    async with telling_worker(server.url, queue, lambda _: Story(lines=[("Running", "hi\n", False)])) as definitions:
        first = await run_asman(*arguments, cwd=tmp_path, server=server.url)
        second = await run_asman(*arguments, cwd=tmp_path, server=server.url)
        assert len(definitions) == 1
        third = await run_asman("run", "--rerun", *arguments[1:], cwd=tmp_path, server=server.url)
        assert len(definitions) == 2
    assert [done.returncode for done in (first, second, third)] == [0, 0, 0], third.stderr
    assert [done.stdout for done in (first, second, third)] == ["hi\n"] * 3
    assert ["stored answer" in done.stderr for done in (first, second, third)] == [False, True, False]
    assert not (tmp_path / "outputs").exists()


async def test_quiet_says_only_what_the_container_said(server: Served, queue: str, tmp_path: Path) -> None:
    story = Story(lines=[("docker image pull", "x\n", False), ("Running", "out\n", False), ("Running", "err\n", True)])
    async with telling_worker(server.url, queue, lambda _: story):
        done = await run_asman("run", "-q", queue, "alpine:3.19.1", cwd=tmp_path, server=server.url)
    assert (done.returncode, done.stdout, done.stderr) == (0, "out\n", "err\n")


async def test_json_leaves_one_report_on_stdout(server: Served, queue: str, tmp_path: Path) -> None:
    story = Story(lines=[("Running", "out\n", False)], outputs={"o": {"type": "utf8", "value": "x"}})
    async with telling_worker(server.url, queue, lambda _: story):
        done = await run_asman("run", "--json", "-o", "here", queue, "alpine:3.19.1", cwd=tmp_path, server=server.url)
    report = json.loads(done.stdout)
    assert "out\n" in done.stderr
    assert (report["outcome"], report["exitCode"], report["queue"], report["cached"]) == ("succeeded", 0, queue, False)
    assert report["outputs"] == {"o": str(tmp_path / "here" / "o")}
    assert (tmp_path / "here" / "o").read_text() == "x"


@pytest.mark.parametrize(
    ("story", "status", "said"),
    [
        (Story(reason="Error", outcome="error", error="no such image: x"), 125, "no such image: x"),
        (Story(reason="TimedOut", outcome="timed_out"), 124, "timed out"),
        (Story(exit_code=137, outcome="out_of_memory"), 137, "out of memory"),
    ],
)
async def test_a_job_that_did_not_run_to_its_end_has_a_code_of_its_own(
    server: Served, queue: str, tmp_path: Path, story: Story, status: int, said: str
) -> None:
    async with telling_worker(server.url, queue, lambda _: story):
        done = await run_asman("run", "-q", queue, "alpine:3.19.1", cwd=tmp_path, server=server.url)
    assert done.returncode == status, done.stderr
    assert said in done.stderr


async def test_an_output_that_would_leave_the_directory_is_refused(server: Served, queue: str, tmp_path: Path) -> None:
    story = Story(outputs={"../escaped": {"type": "utf8", "value": "x"}})
    (tmp_path / "in").mkdir()
    async with telling_worker(server.url, queue, lambda _: story):
        done = await run_asman("run", queue, "alpine:3.19.1", cwd=tmp_path / "in", server=server.url)
    assert done.returncode == 1
    assert "does not stay inside" in done.stderr
    assert os.listdir(tmp_path) == ["in"]


async def test_a_job_nobody_takes_is_explained_and_a_timeout_leaves_it_queued(
    server: Served, queue: str, tmp_path: Path, client: Client
) -> None:
    done = await run_asman("run", "--timeout", "4", queue, "alpine:3.19.1", cwd=tmp_path, server=server.url)
    assert done.returncode == 75
    assert "no worker is connected" in done.stderr
    assert f"asman worker {queue} --server {server.url}" in done.stderr
    assert "it goes on" in done.stderr
    assert [record["state"] for record in (await client.list(queue)).values()] == ["Queued"]


@asynccontextmanager
async def _run_under_way(
    server: Served, queue: str, cwd: Path
) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """A run that has shown a first line of its job, which does not end by itself; and the job's id."""
    story = Story(lines=[("Running", "started\n", False)])
    async with telling_worker(server.url, queue, lambda _: story, until=asyncio.Event()), asyncio.timeout(30):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "asman", "run", queue, "alpine:3.19.1"),
            cwd=cwd,
            env=environ(ASMAN_SERVER=server.url),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            assert process.stdout is not None
            assert await process.stdout.readline() == b"started\n"
            async with Client(server.url) as client:
                [job_id] = await client.list(queue)
            yield process, job_id
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()


async def test_a_cancelled_job_ends_a_run_with_its_own_code(
    server: Served, queue: str, tmp_path: Path, client: Client
) -> None:
    async with _run_under_way(server, queue, tmp_path) as (process, job_id):
        await client.cancel(queue, job_id)
        _, said = await process.communicate()
    assert process.returncode == 130
    assert b"cancelled" in said


async def test_an_interrupted_run_leaves_the_job_and_says_how_to_go_on(
    server: Served, queue: str, tmp_path: Path, client: Client
) -> None:
    async with _run_under_way(server, queue, tmp_path) as (process, job_id):
        process.send_signal(signal.SIGINT)
        _, said = await process.communicate()
        assert (await client.list(queue))[job_id]["state"] == "Running"
    assert process.returncode == 130
    assert f"asman logs -f {queue} {job_id[:12]}" in said.decode()
    assert f"asman cancel {queue} {job_id[:12]}" in said.decode()
    assert b"Traceback" not in said


async def test_no_follow_prints_the_id_and_leaves(server: Served, queue: str, tmp_path: Path, client: Client) -> None:
    done = await run_asman("run", "--no-follow", "-q", queue, "alpine:3.19.1", cwd=tmp_path, server=server.url)
    assert done.stdout.splitlines() == list(await client.list(queue))


# --- submit and the rest ---------------------------------------------------------------------------------------------


async def test_submit_reads_a_definition_and_prints_the_id(
    server: Served, queue: str, tmp_path: Path, client: Client
) -> None:
    from_stdin = await run_asman(
        *("submit", queue, "-", "--namespace", "mine"), cwd=tmp_path, server=server.url, stdin=json.dumps(ECHO)
    )
    (tmp_path / "job.json").write_text(json.dumps({"definition": ECHO}))
    from_file = await run_asman("submit", queue, "--definition", "job.json", cwd=tmp_path, server=server.url)
    from_flags = await run_asman("submit", queue, "alpine:3.19.1", "echo", "hi", cwd=tmp_path, server=server.url)
    assert from_stdin.stdout == from_file.stdout == from_flags.stdout
    [(job_id, record)] = (await client.list(queue)).items()
    assert from_stdin.stdout.strip() == job_id
    assert record["namespaces"] == ["_", "mine"]


async def test_a_dry_run_names_the_job_and_stores_neither_it_nor_its_inputs(
    server: Served, queue: str, tmp_path: Path, client: Client
) -> None:
    (tmp_path / "big").write_bytes(queue.encode() * 20)
    arguments = ["submit", "--dry-run", "-i", "big", queue, "alpine:3.19.1"]
    done = await run_asman(*arguments, cwd=tmp_path, server=server.url)
    answer = json.loads(done.stdout)
    assert (answer["dryRun"], answer["cached"]) == (True, False)
    assert await client.list(queue) == {}
    assert not await client.has_blob(hashlib.sha256((tmp_path / "big").read_bytes()).hexdigest())
    real = await run_asman("submit", "-i", "big", queue, "alpine:3.19.1", cwd=tmp_path, server=server.url)
    assert real.stdout.strip() == answer["jobId"]


async def test_a_definition_that_the_server_refuses_names_every_fault(
    server: Served, queue: str, tmp_path: Path
) -> None:
    bad = json.dumps({"image": "a", "env": {"A": 1}, "workdir": "here"})
    done = await run_asman("submit", queue, "-", cwd=tmp_path, server=server.url, stdin=bad)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "definition.env.A" in done.stderr
    assert "definition.workdir" in done.stderr
    assert "hint: " in done.stderr
    assert "Traceback" not in done.stderr


async def test_a_finished_job_can_be_waited_for_read_and_fetched(server: Served, queue: str, tmp_path: Path) -> None:
    lines = [("docker build", "step 1\n", False), ("Running", "out\n", False), ("Running", "err\n", True)]
    outputs = {"a": {"type": "utf8", "value": "A"}, "b": {"type": "utf8", "value": "B"}}

    async def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        return await run_asman(*arguments, cwd=tmp_path, server=server.url)

    job_id = (await call("submit", queue, "alpine:3.19.1")).stdout.strip()
    early = await call("get", queue, job_id)
    assert (early.returncode, "it is Queued" in early.stderr) == (1, True)
    story = Story(lines=lines, exit_code=3, outcome="failed", outputs=outputs)
    async with telling_worker(server.url, queue, lambda _: story, name="w1"):
        waited = await call("wait", "--json", queue, job_id[:10])
        status = await call("status", queue)
    assert waited.returncode == 3
    assert json.loads(waited.stdout)["outputs"] == ["a", "b"]
    assert "w1" in status.stdout
    assert "1 worker" in status.stdout
    for follow in ([], ["-f"]):
        logs = await call("logs", *follow, queue, job_id)
        assert (logs.returncode, logs.stdout, logs.stderr) == (0, "out\n", "step 1\nerr\n")
    run_half = await call("logs", "--half", "run", "--json", queue, job_id)
    assert [json.loads(line)["stderr"] for line in run_half.stdout.splitlines()] == [False, True]
    got = await call("get", "--json", "-o", "x", queue, job_id, "b")
    assert json.loads(got.stdout)["b"]["bytes"] == 1
    assert os.listdir(tmp_path / "x") == ["b"]
    missing = await call("get", queue, job_id, "nope")
    assert 'no output "nope"' in missing.stderr
    listed = await call("ls", queue)
    assert job_id[:12] in listed.stdout
    assert "failed (3)" in listed.stdout
    assert (await call("ls", "-q", queue)).stdout == f"{job_id}\n"
    copied = await call("copy", job_id, queue + "-2")
    assert "with its result" in copied.stderr
    cancelled = await call("cancel", queue, job_id)
    assert (cancelled.returncode, "already Finished" in cancelled.stderr) == (0, True)
    assert (await call("delete", queue, job_id)).returncode == 0
    gone = await call("logs", queue, job_id)
    assert (gone.returncode, "error: " in gone.stderr) == (1, True)


async def test_cancel_ends_a_waiting_job_and_says_so(
    server: Served, queue: str, tmp_path: Path, client: Client
) -> None:
    job_id = (await client.submit(queue, ECHO)).job_id
    done = await run_asman("cancel", queue, job_id[:8], cwd=tmp_path, server=server.url)
    assert (done.returncode, "is Finished" in done.stderr) == (0, True)
    unknown = await run_asman("cancel", queue, "0" * 64, cwd=tmp_path, server=server.url)
    assert (unknown.returncode, "knows no job" in unknown.stderr) == (1, True)


async def test_the_first_characters_of_an_id_must_mean_one_job(server: Served, queue: str, tmp_path: Path) -> None:
    done = await run_asman("wait", queue, "abc", cwd=tmp_path, server=server.url)
    assert done.returncode == 1
    assert 'no listed job starts with "abc"' in done.stderr


# --- what a person sees ----------------------------------------------------------------------------------------------


class _Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


TITLE = "\x1b]0;owned\x07"


def test_on_a_terminal_a_job_cannot_reach_past_the_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = _Screen(), _Screen()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    monkeypatch.delenv("NO_COLOR", raising=False)
    writer = LogWriter()
    writer.write("run", [[f"{TITLE}\x1b[31mred\x1b[0m\r\n", 1], ["oops\n", 2, True]])
    writer.write("build", [[f"{TITLE}pull", 1]])
    assert out.getvalue() == "\x1b[31mred\x1b[0m\r\n"
    assert err.getvalue() == "oops\n\x1b[2mpull\n\x1b[0m"


def test_into_a_file_a_log_goes_byte_for_byte(capsys: pytest.CaptureFixture[str]) -> None:
    LogWriter().write("run", [[f"{TITLE}no newline", 1], ["\x9f", 1], ["err", 1, True]])
    assert capsys.readouterr() == (f"{TITLE}no newline\x9f", "err")


def test_a_log_that_the_stream_cannot_spell_is_shown_with_question_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    LogWriter().write("run", [["f\u00fcr\n", 1]])
    assert raw.getvalue() == b"f?r\n"


def test_a_table_is_as_wide_as_its_cells_and_shows_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("A", "LONGER"), [("wide cell", 1), ("x\x1b[2J\ny", None)])
    assert capsys.readouterr().out == "A          LONGER\nwide cell  1\nx?[2J?y    None\n"
    assert plain("a\tb\u202e") == "a?b?"


def test_an_age_is_never_negative() -> None:
    assert age(4_102_444_800_000) == "0s"
    assert age(None) == "-"


@pytest.mark.parametrize(
    ("record", "final", "outcome", "exit_code"),
    [
        ({"results": {"finishedReason": "Success", "finished": {"result": {"StatusCode": 3}}}}, {}, "failed", 3),
        ({"results": {"finishedReason": "Success", "finished": {"result": {"StatusCode": 0}}}}, {}, "succeeded", 0),
        ({"results": {"finishedReason": "Error", "finished": {"result": {"error": {"a": 1}}}}}, {}, "error", None),
        ({"definition": {}}, {"state": "Finished", "reason": "JobReplacedByClient"}, "replaced", None),
        ({"job": {"outcome": "out_of_memory", "exitCode": 137}}, {}, "out_of_memory", 137),
    ],
)
async def test_the_ending_is_read_from_servers_that_know_no_outcome_too(
    record: dict[str, Any], final: dict[str, Any], outcome: str, exit_code: int | None
) -> None:
    class Recorded(Client):
        async def record(self, queue: str, job_id: str) -> dict[str, Any]:
            return record

    ending = await read_ending(Recorded("http://localhost"), "q", "j" * 64, final)
    assert (ending.outcome, ending.exit_code) == (outcome, exit_code)


def test_the_last_sentence_says_what_happened_where_and_why() -> None:
    ending = Ending(
        job_id="a" * 64,
        outcome="out_of_memory",
        reason="Success",
        exit_code=137,
        error="killed\x1b[2J",
        worker="w1",
        attempt=1,
        duration_ms=1500.0,
        outputs={},
    )
    assert ending.sentence() == "job aaaaaaaaaaaa ran out of memory after 1.5s on w1: killed?[2J"


# --- without a server ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [["ls", "q"], ["run", "q", "i"], ["submit", "q", "i"], ["wait", "q", "0" * 64], ["logs", "-f", "q", "0" * 64]],
)
def test_a_server_that_is_not_there_ends_every_command_in_two_lines(
    arguments: list[str], free_port: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASMAN_SERVER", f"http://127.0.0.1:{free_port}")
    assert main(arguments) == 69
    said = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in said] == ["error", "hint"]


def test_the_help_names_every_command_and_every_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    for name in COMMANDS:
        assert f"\n  {name} " in said
    for code, text in EXIT_CODES.items():
        assert f"{code}  {text}" in said


def test_an_unknown_command_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nosuchcommand"]) == 2
    assert "nosuchcommand" in capsys.readouterr().err


def _asman(*arguments: str, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "asman", *arguments]
    if "PYTHONPATH" in more:
        more["PYTHONPATH"] = os.pathsep.join(filter(None, (more["PYTHONPATH"], os.environ.get("PYTHONPATH"))))
    return subprocess.run(
        command, cwd=cwd, env=environ(**more), capture_output=True, text=True, timeout=60, check=False
    )


def _installed_plugin(folder: Path, name: str, code: str) -> None:
    (folder / f"{name}.py").write_text(code)
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[asman]\n{name} = {name}\n")


def test_a_name_that_no_plugin_knows_is_no_command() -> None:
    assert delegated.command_of_a_plugin("nosuchcommand") is None


def test_an_installed_plugin_brings_its_own_command(tmp_path: Path) -> None:
    _installed_plugin(
        tmp_path,
        "zz_greeter",
        "import click\nfrom asman.hookspecs import hookimpl\n"
        "@click.command()\n@click.option('--name')\ndef greet(name):\n    click.echo('hello ' + name)\n    return 5\n"
        "@hookimpl\ndef asman_command(name):\n    return greet if name == 'greet' else None\n",
    )
    done = _asman("greet", "--name", "you", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stdout) == (5, "hello you\n"), done.stderr
    listed = json.loads(_asman("plugins", "--json", cwd=tmp_path, PYTHONPATH=str(tmp_path)).stdout)
    assert {
        "name": "zz_greeter",
        "version": "1.0",
        "hooks": ["command"],
        "module": "zz_greeter",
        "problem": "",
    } in listed["plugins"]


def test_a_worker_that_lacks_its_driver_says_what_to_install(tmp_path: Path) -> None:
    code = (
        "from asman.hookspecs import hookimpl\n"
        "@hookimpl\ndef asman_command(name):\n    if name == 'worker':\n        import no_such_driver\n"
    )
    _installed_plugin(tmp_path, "zz_worker", code)
    done = _asman("worker", "q", "--help", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert "no_such_driver" in done.stderr
    assert 'pip install "asman[worker]"' in done.stderr


def test_a_plugin_that_does_not_load_is_listed_with_the_reason(tmp_path: Path) -> None:
    _installed_plugin(tmp_path, "zz_broken", "raise RuntimeError('out of order')")
    listed = _asman("plugins", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert "does not load: out of order" in listed.stdout
    doctor = _asman("doctor", "--json", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert doctor.returncode == 1
    assert [c["result"] for c in json.loads(doctor.stdout) if c["name"] == "plugin zz_broken"] == ["fail"]


# --- settings --------------------------------------------------------------------------------------------------------


def test_config_says_where_each_value_comes_from_and_keeps_secrets(tmp_path: Path) -> None:
    (tmp_path / "asman.toml").write_text('port = 8001\nlease_s = "1m"\nwebhook_secret = "whsec_x"\n')
    done = _asman("config", "--json", "--lease", "90s", cwd=tmp_path, ASMAN_SWEEP="5", ASMAN_PORT="8002")
    shown = json.loads(done.stdout)
    assert set(shown) == {setting.name for setting in SETTINGS}
    assert shown["port"] == {"value": 8002, "from": "ASMAN_PORT"}
    assert shown["lease_s"] == {"value": 90.0, "from": "flag"}
    assert shown["sweep_s"] == {"value": 5.0, "from": "ASMAN_SWEEP"}
    assert shown["host"]["from"] == "default"
    assert shown["webhook_secret"]["from"] == "asman.toml"
    assert "whsec_x" not in done.stdout


def test_config_shows_no_password_of_a_url(tmp_path: Path) -> None:
    urls = {"ASMAN_REDIS": "redis+sentinel://u:ses-ame@a:1,b:2/mine", "ASMAN_POSTGRES": "postgresql://:ses-ame@h/d"}
    shown = _asman("config", cwd=tmp_path, **urls).stdout
    assert "ses-ame" not in shown
    assert "redis+sentinel://u:***@a:1,b:2/mine" in shown
    assert "postgresql://:***@h/d" in shown


def test_a_named_config_file_wins_over_the_one_that_lies_here(tmp_path: Path) -> None:
    (tmp_path / "asman.toml").write_text("port = 1\n")
    (tmp_path / "other.toml").write_text("port = 2\n")
    for arguments, more in ((["--config", "other.toml"], {}), ([], {"ASMAN_CONFIG": "other.toml"})):
        done = _asman("config", "--json", *arguments, cwd=tmp_path, **more)
        assert json.loads(done.stdout)["port"] == {"value": 2, "from": "other.toml"}


def test_a_wrong_setting_names_its_value_and_its_place(tmp_path: Path) -> None:
    (tmp_path / "asman.toml").write_text("nosuch = 1\n")
    done = _asman("serve", cwd=tmp_path)
    assert (done.returncode, "nosuch" in done.stderr, "Traceback" in done.stderr) == (1, True, False)


def test_doctor_fails_for_a_named_server_that_is_not_there(tmp_path: Path, free_port: int) -> None:
    guessed = _asman("doctor", "--json", cwd=tmp_path)
    named = _asman("doctor", "--json", "--server", f"http://127.0.0.1:{free_port}", cwd=tmp_path)
    result = {c["name"]: c for c in json.loads(named.stdout)}
    assert (guessed.returncode, named.returncode) == (0, 1)
    assert result["server"]["result"] == "fail"
    assert result["docker"]["result"] == "warn"
    assert result["docker"]["next_step"]
    assert (result["data"]["result"], result["python"]["result"]) == ("ok", "ok")
    assert os.listdir(tmp_path) == []


def test_checks_of_plugins_stand_beside_those_of_the_core_and_one_of_the_same_name_takes_its_place(
    tmp_path: Path,
) -> None:
    code = (
        "from asman.hookspecs import hookimpl\n"
        "async def look(environ):\n"
        "    mine = {'name': 'mine', 'result': 'warn', 'found': environ['MY_PLACE'], 'next_step': 'move'}\n"
        "    return [mine, {'name': 'docker', 'result': 'ok', 'found': 'not needed', 'next_step': ''}]\n"
        "@hookimpl\ndef asman_doctor(environ):\n    return look(environ)\n"
    )
    _installed_plugin(tmp_path, "zz_doctor", code)
    more = {"PYTHONPATH": str(tmp_path), "MY_PLACE": "here"}
    done = _asman("doctor", "--json", cwd=tmp_path, **more)
    checks = json.loads(done.stdout)
    assert {"name": "mine", "result": "warn", "found": "here", "next_step": "move"} in checks
    assert "not needed" in [check["found"] for check in checks if check["name"] == "docker"]
    assert "warn  mine: here\n      move\n" in _asman("doctor", cwd=tmp_path, **more).stdout


@pytest.mark.parametrize("fault", ["raise RuntimeError('out of order')", "return fail()"])
def test_a_plugin_that_cannot_look_is_a_fault_and_the_other_checks_go_on(tmp_path: Path, fault: str) -> None:
    code = (
        "from asman.hookspecs import hookimpl\n"
        "async def fail():\n    raise RuntimeError('out of order')\n"
        f"@hookimpl\ndef asman_doctor(environ):\n    {fault}\n"
    )
    _installed_plugin(tmp_path, "zz_doctor", code)
    done = _asman("doctor", "--json", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    checks = {check["name"]: check for check in json.loads(done.stdout)}
    assert done.returncode == 1
    assert "out of order" in checks["a plugin's checks"]["found"]
    assert checks["docker"]["result"] == "warn"
    assert checks["python"]["result"] == "ok"


async def test_doctor_sees_a_server_and_its_clock(server: Served, tmp_path: Path) -> None:
    done = await run_asman("doctor", "--json", cwd=tmp_path, server=server.url)
    result = {c["name"]: c["result"] for c in json.loads(done.stdout)}
    assert (done.returncode, result["server"], result["clock"]) == (0, "ok", "ok")


def test_every_setting_is_an_option_of_serve_with_its_help() -> None:
    served_by = {param.name: param for param in serving.serve.params}
    for setting in SETTINGS:
        option = served_by[setting.name]
        assert isinstance(option, click.Option)
        assert option.opts == [serving.option_name(setting)]
        assert option.help is not None
        assert option.help.startswith(setting.help)
        assert setting.env in option.help


def test_the_reference_has_every_command_and_exit_code() -> None:
    said = cli_reference()
    for name in COMMANDS:
        assert f"\n## asman {name}\n" in said
    for code, text in EXIT_CODES.items():
        assert f"| {code} | {text} |" in said


# --- up --------------------------------------------------------------------------------------------------------------


def test_up_without_an_engine_serves_all_the_same_and_says_how_to_get_one(tmp_path: Path) -> None:
    with served("--backend", "memory", cwd=tmp_path, command="up") as up:
        up.hear("Install one")
        assert up.stop(timeout_s=10) == 0
    assert up.said[1] == f"open:    {up.url}/#?queue=local"
    assert up.said[2] == f"try it:  asman run --server {up.url} local alpine:3.19.1 -- echo hello"
    assert up.said[3].startswith("no Docker engine answers on this machine")
    assert "docs.docker.com" in up.said[4]
    assert len(up.said) == 5


FAKE_WORKER = """
import pathlib, signal, sys
log = pathlib.Path("starts.txt")
starts = log.read_text().count("start") if log.exists() else 0
with log.open("a") as file:
    print("start", *sys.argv[1:], file=file)
if starts == 0:
    sys.exit(3)
signal.signal(signal.SIGTERM, lambda *_: (log.open("a").write("ended\\n"), sys.exit(0)))
log.open("a").write("ready\\n")
signal.pause()
"""


async def test_up_starts_a_worker_again_that_died_and_ends_it_with_itself(tmp_path: Path) -> None:
    (tmp_path / "asman_worker").mkdir()
    (tmp_path / "asman_worker" / "__init__.py").write_text("")
    (tmp_path / "asman_worker" / "__main__.py").write_text(FAKE_WORKER)
    address = tmp_path / "engine.sock"
    async with await asyncio.start_unix_server(_engine, address):
        more = {"DOCKER_HOST": f"unix://{address}", "PYTHONPATH": str(tmp_path)}
        options = ("--backend", "memory", "--queue", "mine", "--", "--cpus", "2")
        log = tmp_path / "starts.txt"
        url = await asyncio.to_thread(_up_until_ready, options, tmp_path, more, log)
    said = log.read_text().splitlines()
    start = f"start mine --server {url} --cpus {os.cpu_count()} --cpus 2"
    assert said == [start, start, "ready", "ended"]


def _up_until_ready(options: tuple[str, ...], cwd: Path, more: dict[str, str], log: Path) -> str:
    with served(*options, cwd=cwd, command="up", **more) as up:
        up.hear("the worker ended with 3; it is started again in 1 s")
        for _ in range(300):
            if log.read_text().endswith("ready\n"):
                break
            try:
                up.process.wait(0.05)
            except subprocess.TimeoutExpired:
                continue
        url = up.url
        assert up.stop() == 0
        return url


async def _engine(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    assert await reader.readline() == b"GET /_ping HTTP/1.1\r\n"
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK")
    await writer.drain()
    writer.close()


async def test_an_engine_is_found_by_its_address_and_a_silent_one_is_named(tmp_path: Path) -> None:
    address = f"unix://{tmp_path / 'engine.sock'}"
    async with await asyncio.start_unix_server(_engine, tmp_path / "engine.sock"):
        assert (await find_engine({"DOCKER_HOST": address})).problem == ""
    assert (await find_engine({"DOCKER_HOST": address})).problem
    assert "ssh://" in (await find_engine({"DOCKER_HOST": "ssh://host"})).problem


def test_the_engine_of_the_current_context_is_used_unless_docker_host_is_set(tmp_path: Path) -> None:
    digest = hashlib.sha256(b"far").hexdigest()
    meta = tmp_path / ".docker" / "contexts" / "meta" / digest
    meta.mkdir(parents=True)
    (meta / "meta.json").write_text(json.dumps({"Endpoints": {"docker": {"Host": "tcp://far:2375"}}}))
    (tmp_path / ".docker" / "config.json").write_text(json.dumps({"currentContext": "far"}))
    home = {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}
    assert engine_address(home) == "tcp://far:2375"
    assert engine_address({**home, "DOCKER_CONTEXT": "default"}).startswith("unix://")
    assert engine_address({**home, "DOCKER_HOST": "unix:///x"}) == "unix:///x"
    (tmp_path / ".docker" / "config.json").write_text("not json")
    assert engine_address(home).startswith("unix://")
