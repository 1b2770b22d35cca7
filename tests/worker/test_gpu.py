"""GPU flags, the driver's listing, and allocation."""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asman.errors import ConfigError, LimitExceeded
from asman_worker import gpu
from asman_worker.gpu import (
    Gpu,
    GpuChoice,
    allocate,
    choose,
    detect,
    parse_gpus,
    processes,
    read_listing,
    read_processes,
)

UUIDS = ("GPU-aaaaaaaa-0000-0000-0000-000000000000", "GPU-bbbbbbbb-0000-0000-0000-000000000000")
LISTING = f"0, {UUIDS[0]}, NVIDIA H100 80GB HBM3, 81559\n1, {UUIDS[1]}, Odd, with comma, [N/A]\nNo devices were found\n"


@pytest.mark.parametrize(
    ("spec", "choice"),
    [
        ("0", GpuChoice()),
        ("2", GpuChoice(count=2)),
        ("device=1,3", GpuChoice(names=("1", "3"))),
        ('"device=1,3"', GpuChoice(names=("1", "3"))),
        ("'\"device=1,3\"'", GpuChoice(names=("1", "3"))),
        ("all", GpuChoice(everything=True)),
        ('"all"', GpuChoice(everything=True)),
        (",".join(UUIDS), GpuChoice(names=UUIDS)),
        (f"device={UUIDS[1]}", GpuChoice(names=(UUIDS[1],))),
    ],
)
def test_specs_are_read(spec: str, choice: GpuChoice) -> None:
    assert parse_gpus(spec) == choice


@pytest.mark.parametrize("spec", ["", "one", "-1", "1,3", "device=", "device=1,,2", "GPU", "all,1", "1.5"])
def test_other_specs_are_refused(spec: str) -> None:
    with pytest.raises(ConfigError, match="names no devices"):
        parse_gpus(spec)


def test_a_device_named_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="twice"):
        parse_gpus("device=1,1")


def test_the_driver_listing_is_read_and_other_lines_are_left_out() -> None:
    first, second = read_listing(LISTING)
    assert first == Gpu(index=0, uuid=UUIDS[0], model="NVIDIA H100 80GB HBM3", memory_bytes=81559 << 20)
    assert (second.uuid, second.model, second.memory_bytes) == (UUIDS[1], "Odd, with comma", 0)


def test_devices_are_chosen_in_the_owners_order_by_index_or_uuid() -> None:
    detected = read_listing(LISTING)
    assert choose(parse_gpus("device=1,0"), detected) == (detected[1], detected[0])
    assert choose(parse_gpus(UUIDS[1]), detected) == (detected[1],)
    assert choose(parse_gpus("all"), detected) == detected
    assert choose(parse_gpus("1"), detected) == (detected[0],)


def test_more_than_the_host_has_is_refused() -> None:
    detected = read_listing(LISTING)
    for spec in ("3", "device=7", "GPU-cccc"):
        with pytest.raises(ConfigError):
            choose(parse_gpus(spec), detected)


def test_without_the_drivers_tool_words_are_believed_and_all_is_none() -> None:
    assert [g.device_id for g in choose(parse_gpus("2"), ())] == ["0", "1"]
    assert [g.device_id for g in choose(parse_gpus("device=1,3"), ())] == ["1", "3"]
    assert [g.device_id for g in choose(parse_gpus(UUIDS[0]), ())] == [UUIDS[0]]
    assert choose(parse_gpus("all"), ()) == ()


@given(st.integers(0, 8), st.sets(st.integers(0, 7)), st.integers(0, 9))
def test_allocation_never_hands_out_a_held_device_and_never_too_few(count: int, used: set[int], asked: int) -> None:
    lent = tuple(Gpu(index=i) for i in range(count))
    held = {str(i) for i in used}
    free = [g for g in lent if g.device_id not in held]
    if asked > len(free):
        with pytest.raises(LimitExceeded):
            allocate(lent, held, asked)
        return
    given_out = allocate(lent, held, asked)
    assert list(given_out) == free[:asked]


SEVERAL = tuple(Gpu(index=i, uuid=f"GPU-{i}") for i in range(6))


@given(
    st.permutations(SEVERAL).flatmap(lambda order: st.integers(0, 6).map(lambda n: tuple(order[:n]))),
    st.lists(st.one_of(st.integers(0, 4), st.just("release")), max_size=40),
    st.randoms(use_true_random=False),
    st.sets(st.sampled_from([gpu.device_id for gpu in SEVERAL])),
)
def test_over_any_sequence_no_device_is_ever_held_twice_and_each_job_has_what_it_asked_for(
    lent: tuple[Gpu, ...], steps: list[int | str], chance: random.Random, last: set[str]
) -> None:
    held: list[tuple[Gpu, ...]] = []
    for step in steps:
        if step == "release":
            if held:
                held.pop(chance.randrange(len(held)))
            continue
        asked = int(step)
        used = [gpu.device_id for job in held for gpu in job]
        if asked > len(lent) - len(used):
            with pytest.raises(LimitExceeded):
                allocate(lent, used, asked, last=last)
            continue
        given_out = allocate(lent, used, asked, last=last)
        assert len(given_out) == asked
        assert set(given_out) <= set(lent), "only what the owner lends"
        spared = {gpu.device_id for gpu in lent} - set(used) - {gpu.device_id for gpu in given_out}
        assert not {gpu.device_id for gpu in given_out} & last or spared <= last, "others come first"
        held.append(given_out)
        everything = [gpu.device_id for job in held for gpu in job]
        assert len(everything) == len(set(everything)), "a device is held twice"


def test_a_device_named_by_its_index_and_by_its_uuid_is_named_twice() -> None:
    with pytest.raises(ConfigError, match="twice"):
        choose(parse_gpus(f"device=0,{UUIDS[0]}"), read_listing(LISTING))


def test_a_part_of_a_card_is_believed_because_the_listing_shows_whole_cards() -> None:
    (part,) = choose(parse_gpus("MIG-12ab-34"), read_listing(LISTING))
    assert part.device_id == "MIG-12ab-34"


def test_processes_are_read_by_device() -> None:
    text = f"{UUIDS[0]}, 17\n{UUIDS[0]}, 18\n{UUIDS[1]}, [N/A]\nNo running processes found\n"
    assert read_processes(text) == {UUIDS[0]: (17, 18), UUIDS[1]: (0,)}
    assert read_processes("") == {}


async def test_a_tool_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nexec sleep 100\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(gpu, "_PROCESSES_LIMIT_S", 0.2)
    assert await asyncio.wait_for(processes(), 10) is None


@pytest.mark.gpu
async def test_a_real_driver_lists_devices_and_processes() -> None:
    found = await detect()
    if not found:
        pytest.skip("this machine has no NVIDIA device")
    assert all(device.uuid.startswith("GPU-") and device.model and device.memory_bytes > 1 << 28 for device in found)
    running = await processes()
    assert running is not None
    assert set(running) <= {device.uuid for device in found}


async def test_a_host_without_the_tool_has_no_detected_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert await asyncio.wait_for(detect(), 10) == ()


async def test_the_tool_is_asked_where_there_is_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\nprintf '%s' '{LISTING}'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert [g.uuid for g in await asyncio.wait_for(detect(), 10)] == list(UUIDS)


async def test_a_tool_that_fails_means_no_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\nprintf '%s' '{LISTING}'\nexit 9\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert await asyncio.wait_for(detect(), 10) == ()
