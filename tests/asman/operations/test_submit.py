from __future__ import annotations

import asyncio

import pytest

from asman import operations as ops
from asman.errors import BadDefinition, BadRequest, IdMismatch, RateLimited, Unprocessable
from asman.identity import known_id, verbatim_id
from asman.job import Outcome, Reason, State
from core import QUEUE, core, definition
from in_process import Held


async def test_a_submit_is_stored_under_the_id_of_its_definition() -> None:
    async with core() as c:
        job = await c.submit(definition("echo a"))
        stored = await c.load(job)
        assert job.job_id == known_id(definition("echo a"))
        assert stored == job
        assert await ops.read_definition_of(c.services, job) == definition("echo a")


async def test_a_stated_id_of_the_older_rule_is_kept_as_stated() -> None:
    raw = definition(env={})
    assert known_id(raw) != verbatim_id(raw)
    async with core() as c:
        assert (await c.submit(raw, id=verbatim_id(raw))).job_id == verbatim_id(raw)


async def test_a_wrong_id_is_refused_and_nothing_is_stored() -> None:
    async with core() as c:
        with pytest.raises(IdMismatch):
            await c.submit(definition(), id="0" * 64)
        assert await c.services.jobs.counts(None) == {}


@pytest.mark.parametrize("body", [None, [], "text", 5, {}, {"id": "x"}, {"definition": definition(), "nonsense": 1}])
async def test_a_body_that_is_no_submit_is_refused(body: object) -> None:
    async with core() as c:
        with pytest.raises(BadRequest):
            ops.read_submission(c.services, body)


async def test_a_bad_definition_names_every_fault() -> None:
    async with core() as c:
        with pytest.raises(BadDefinition) as caught:
            ops.read_submission(c.services, {"definition": {"command": 5, "inputs": {"../x": {"value": "a"}}}})
        assert len(caught.value.details) >= 3


async def test_submitting_again_changes_only_the_time_to_live() -> None:
    async with core() as c:
        first = await c.submit()
        c.clock.tick(100)
        again = await c.submit()
        assert (again.queued_at, again.generation, again.state) == (first.queued_at, 1, State.QUEUED)
        assert again.expires_at == first.expires_at + 100


async def test_a_stored_result_answers_and_is_said_as_such() -> None:
    async with core() as c:
        await c.run(await c.submit())
        submission = ops.read_submission(c.services, {"definition": definition()})
        receipt = await ops.submit(c.services, QUEUE, submission)
        assert (receipt.is_cached, receipt.is_new, receipt.job.state) == (True, False, State.FINISHED)


async def test_a_result_does_not_answer_in_another_queue() -> None:
    async with core() as c:
        await c.run(await c.submit())
        other = await c.submit(queue="another-queue-of-the-tests")
        assert (other.state, other.has_result) == (State.QUEUED, False)


async def test_a_copy_takes_the_result_along() -> None:
    async with core() as c:
        job = await c.run(await c.submit(), code=3)
        receipt = await ops.copy(c.services, job.job_id, "the-target-queue", None)
        assert receipt.is_cached
        assert (receipt.job.outcome, receipt.job.exit_code) == (Outcome.FAILED, 3)
        result = await ops.find_result(c.services, job.job_id, "the-target-queue")
        assert result is not None
        assert result["finished"]["result"]["StatusCode"] == 3


async def test_a_newer_job_of_a_namespace_takes_the_older_ones_place() -> None:
    async with core() as c:
        older = await c.submit(definition("a"), control={"namespace": "doc"})
        newer = await c.submit(definition("b"), control={"namespace": "doc"})
        gone = await c.load(older)
        assert gone is not None
        assert (gone.reason, gone.outcome) == (Reason.REPLACED, Outcome.REPLACED)
        assert (await c.load(newer)).state is State.QUEUED  # type: ignore[union-attr]


async def test_the_default_namespace_replaces_nothing() -> None:
    async with core() as c:
        older = await c.submit(definition("a"))
        await c.submit(definition("b"))
        assert (await c.load(older)).state is State.QUEUED  # type: ignore[union-attr]


async def test_an_older_job_is_replaced_after_a_few_seconds() -> None:
    async with core() as c:
        older = await c.submit(definition("a"), control={"namespace": "doc"})
        c.clock.tick(30)
        await c.submit(definition("b"), control={"namespace": "doc"})
        assert (await c.load(older)).state is State.QUEUED  # type: ignore[union-attr]
        c.clock.tick(4)
        await c.sweep()
        assert (await c.load(older)).reason is Reason.REPLACED  # type: ignore[union-attr]


async def test_an_older_job_is_spared_when_the_newer_one_is_gone() -> None:
    async with core() as c:
        older = await c.submit(definition("a"), control={"namespace": "doc"})
        c.clock.tick(90)
        newer = await c.submit(definition("b"), control={"namespace": "doc"})
        await ops.cancel(c.services, QUEUE, newer.job_id, "doc")
        c.clock.tick(8)
        await c.sweep()
        spared = await c.load(older)
        assert spared is not None
        assert (spared.state, spared.replacements) == (State.QUEUED, ())


async def test_a_replaced_job_runs_again_when_it_is_submitted_again() -> None:
    async with core() as c:
        await c.submit(definition("a"), control={"namespace": "doc"})
        await c.submit(definition("b"), control={"namespace": "doc"})
        again = await c.submit(definition("a"), control={"namespace": "doc"})
        assert (again.state, again.generation) == (State.QUEUED, 2)


async def test_a_full_queue_refuses_with_the_limit() -> None:
    async with core(profile="public") as c:
        for number in range(600):
            await c.submit(definition(str(number)))
        c.clock.tick(60)
        for number in range(400):
            await c.submit(definition(f"more {number}"))
        c.clock.tick(60)
        with pytest.raises(RateLimited, match="holds 1000 waiting jobs; at most 1000"):
            await c.submit(definition("one more"))


async def test_callbacks_without_a_deliverer_are_refused() -> None:
    async with core() as c:
        with pytest.raises(Unprocessable, match="delivers no callbacks"):
            await c.submit(control={"callbacks": {"finished": {"url": "https://example.com/"}}})


async def test_members_of_control_without_effect_are_told() -> None:
    async with core() as c:
        body = {"definition": definition(), "control": {"maxDuration": "5m", "outputs": {"nhost": {"PAT": "x"}}}}
        assert len(ops.read_submission(c.services, body).control.warnings) == 2
        with pytest.raises(Unprocessable, match=r"control\.priority is not supported"):
            ops.read_submission(c.services, {"definition": definition(), "control": {"priority": 1}})


async def test_a_large_definition_is_kept_beside_the_record_and_read_back() -> None:
    async with core() as c:
        raw = definition("x" * 50_000)
        job = await c.submit(raw)
        assert await ops.read_definition_of(c.services, job) == raw
        await c.submit(raw)
        assert await ops.read_definition_of(c.services, job) == raw


async def test_a_submit_that_was_begun_is_carried_through_when_its_caller_is_cancelled() -> None:
    """Older jobs of the namespace give way to it although nobody waits for the answer any more."""
    async with core() as c:
        older = await c.submit(definition("older"), control={"namespace": "n"})
        held = Held(c.services.jobs, "save", answered=True)
        caller = asyncio.create_task(c.submit(definition("newer"), control={"namespace": "n"}))
        await held.cancel(caller)
        gone = await c.load(older)
        assert gone is not None
        assert (gone.state, gone.outcome) == (State.FINISHED, Outcome.REPLACED)
        (newer,) = await c.services.jobs.in_namespace(QUEUE, "n")
        assert newer.state is State.QUEUED


async def test_a_copy_that_was_begun_is_carried_through_when_its_caller_is_cancelled() -> None:
    async with core() as c:
        done = await c.run(await c.submit())
        held = Held(c.services.jobs, "save", answered=True)
        caller = asyncio.create_task(ops.copy(c.services, done.job_id, "another-queue", {"namespace": "n"}))
        await held.cancel(caller)
        copied = await c.services.jobs.load("another-queue", done.job_id)
        assert copied is not None
        assert copied.has_result
        assert "n" in copied.namespace_names
