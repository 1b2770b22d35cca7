"""Hypothesis strategies for the things asman handles: JSON, definitions, records.

They draw what the rules allow and nothing prettier: keys beyond ASCII, numbers at the edge of a double, records in
every state. ``jobs`` draws records that can be written down and read again; not each could have come from the state
table, because stores must keep what they are given.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from asman.job import Attempt, Callback, Job, Outcome, Reason, Requirements, State

__all__ = ["definitions", "job_ids", "jobs", "json_values", "requirements", "texts"]


def texts(*, max_size: int = 20) -> st.SearchStrategy[str]:
    """Any text JSON can carry, unpaired surrogates and control characters included."""
    return st.text(st.characters(codec=None), max_size=max_size)


def json_values(*, max_leaves: int = 15) -> st.SearchStrategy[Any]:
    """Any JSON value as the strict decoder gives it: no NaN, no infinity."""
    numbers = st.integers(-(10**30), 10**30) | st.floats(allow_nan=False, allow_infinity=False)
    leaves = st.none() | st.booleans() | numbers | texts()
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts(), inner, max_size=4),
        max_leaves=max_leaves,
    )


def _refs() -> st.SearchStrategy[dict[str, Any]]:
    hashes = st.none() | job_ids()
    plain = st.text(max_size=40)
    return st.one_of(
        st.builds(lambda v: {"value": v}, plain),
        st.builds(lambda v: {"type": "utf8", "value": v}, plain),
        st.builds(lambda v, h: {"type": "utf8", "value": v, "hash": h}, plain, hashes),
        st.builds(lambda v: {"type": "json", "value": v}, json_values(max_leaves=5)),
        st.sampled_from([{"type": "base64", "value": "AAEC"}, {"type": "base64", "value": ""}]),
        st.builds(lambda k: {"type": "key", "value": k}, job_ids()),
        st.builds(lambda k: {"type": "url", "value": f"https://h.example/f/{k}"}, job_ids()),
    )


def _file_names() -> st.SearchStrategy[str]:
    return st.lists(st.from_regex(r"[A-Za-z0-9_~-]{1,8}", fullmatch=True), min_size=1, max_size=3).map("_/".join)


def definitions() -> st.SearchStrategy[dict[str, Any]]:
    """Definitions that workers can use, as different clients write them: members missing, null, empty or full."""
    env = st.dictionaries(
        st.from_regex(r"[A-Za-z_][A-Za-z0-9_-]{0,8}", fullmatch=True),
        st.text(st.characters(min_codepoint=1, codec="utf-8"), max_size=20),
    )
    files = st.dictionaries(_file_names(), _refs(), max_size=3)
    optional: dict[str, st.SearchStrategy[Any]] = {
        "v": st.sampled_from([None, 0, 1, 1.5]),
        "command": st.none() | st.sampled_from(["", "echo hi", "sh -c 'echo $A'"]),
        "entrypoint": st.none() | st.sampled_from(["", "sh"]),
        "env": st.none() | env,
        "workdir": st.sampled_from([None, "", "/srv"]),
        "shmSize": st.sampled_from([None, "64m", "1gb", 1024]),
        "inputs": st.none() | files,
        "configFiles": st.none() | files,
        "maxDuration": st.sampled_from([None, "10s", "1h30", "20m"]),
        "tags": st.none() | st.lists(st.sampled_from(["gpu", "big", "site-a"]), max_size=3),
        "requirements": st.none()
        | st.fixed_dictionaries(
            {},
            optional={
                "cpus": st.sampled_from([None, 0.5, 1, 8]),
                "gpus": st.sampled_from([None, 0, 1, True, 2.0]),
                "memory": st.sampled_from([None, "512m", "2g", 4096]),
                "maxDuration": st.sampled_from([None, "5m"]),
            },
        ),
        "x-note": json_values(max_leaves=3),
    }
    return st.fixed_dictionaries(
        {"image": st.sampled_from(["alpine:3.18.5", "h.example:5000/a/b@sha256:00"])}, optional=optional
    )


def job_ids() -> st.SearchStrategy[str]:
    return st.binary(min_size=32, max_size=32).map(bytes.hex)


def requirements() -> st.SearchStrategy[Requirements]:
    """Few distinct shapes, as queues have them."""
    return st.builds(
        Requirements,
        cores=st.sampled_from([0.5, 1.0, 2.0, 16.0]),
        memory_bytes=st.sampled_from([0, 1 << 30, 8 << 30]),
        gpus=st.sampled_from([0, 1, 2]),
        max_duration_s=st.sampled_from([None, 60.0, 3600.0]),
        tags=st.sampled_from([(), ("big",), ("big", "gpu")]),
    )


def _moments() -> st.SearchStrategy[float]:
    return st.floats(min_value=0, max_value=4e9, allow_nan=False)


def _attempts() -> st.SearchStrategy[Attempt]:
    return st.builds(
        Attempt,
        number=st.integers(0, 50),
        worker=texts(),
        started_at=_moments(),
        ended_at=_moments(),
        end=st.sampled_from(["reported", "lost", "released", "cancelled", "replaced", "deleted", "taken_over"]),
    )


def _callbacks() -> st.SearchStrategy[Callback]:
    return st.builds(
        Callback,
        event=st.sampled_from(["queued", "finished"]),
        namespace=texts(),
        url=st.just("https://h.example/hook"),
        payload=st.sampled_from(["{}", '{"a":1}']),
        event_id=texts(max_size=8),
        due_at=st.none() | _moments(),
        tries=st.integers(0, 20),
        done=st.booleans(),
    )


def jobs() -> st.SearchStrategy[Job]:
    """Records with anything in every member."""
    named_moments = st.dictionaries(texts(), _moments(), max_size=3).map(lambda d: tuple(sorted(d.items())))
    return st.builds(
        Job,
        queue=st.from_regex(r"[A-Za-z0-9_~-]{1,16}", fullmatch=True),
        job_id=job_ids(),
        state=st.sampled_from(State),
        version=st.integers(0, 10**9),
        generation=st.integers(0, 1000),
        queued_at=_moments(),
        changed_at=_moments(),
        attempt=st.integers(0, 1000),
        lost=st.integers(0, 3),
        worker=texts(),
        protocol=st.sampled_from([0, 1, 2]),
        claimed_at=_moments(),
        lease_until=st.none() | _moments(),
        reason=st.none() | st.sampled_from(Reason),
        outcome=st.none() | st.sampled_from(Outcome),
        exit_code=st.none() | st.integers(-1, 255),
        message=texts(),
        result_worker=texts(),
        finished_at=st.none() | _moments(),
        listed_until=st.none() | _moments(),
        expires_at=_moments(),
        namespaces=named_moments,
        replacements=named_moments,
        callbacks=st.lists(_callbacks(), max_size=2).map(tuple),
        history=st.lists(_attempts(), max_size=3).map(tuple),
        debug=st.none() | st.booleans(),
        requirements=requirements(),
        advertised=st.dictionaries(st.sampled_from(["requirements", "tags"]), json_values(max_leaves=4)),
        forgotten=st.booleans(),
    )
