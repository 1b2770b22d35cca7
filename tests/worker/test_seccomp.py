"""The list of system calls under ``strict``: what it says, and what a kernel makes of it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from asman_worker.seccomp import ALLOWED, ANSWERED_ENOSYS, SOCKET_FAMILIES, strict_profile
from worker_bench import GRANT, Bench, text_of

NAMES = [name for names in ALLOWED.values() for name in names.split()]

REFUSED = """
    io_uring_setup io_uring_enter io_uring_register userfaultfd bpf perf_event_open keyctl add_key request_key unshare
    setns mount umount2 move_mount open_tree fsopen fsconfig fsmount fspick mount_setattr pivot_root chroot
    name_to_handle_at open_by_handle_at init_module finit_module delete_module kexec_load kexec_file_load reboot
    swapon swapoff acct quotactl syslog settimeofday clock_settime clock_adjtime adjtimex sethostname setdomainname
    iopl ioperm move_pages migrate_pages mbind set_mempolicy lookup_dcookie nfsservctl vhangup fanotify_init
    memfd_secret modify_ldt
    """.split()  # noqa: SIM905


def rules(name: str) -> list[dict[str, Any]]:
    return [rule for rule in json.loads(strict_profile())["syscalls"] if name in rule["names"]]


def test_nothing_is_allowed_that_is_not_listed() -> None:
    profile = json.loads(strict_profile())
    assert (profile["defaultAction"], profile["defaultErrnoRet"]) == ("SCMP_ACT_ERRNO", 1)
    assert {rule["action"] for rule in profile["syscalls"]} == {"SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO"}
    assert {*NAMES} & {*REFUSED, *ANSWERED_ENOSYS, "clone", "socket", "personality"} == set()


def test_every_name_stands_once_and_is_written_as_the_kernel_writes_it() -> None:
    assert len(NAMES) == len({*NAMES}) > 250
    assert all(name.replace("_", "").isalnum() and name.islower() for name in NAMES)


def test_no_rule_of_a_call_is_without_its_condition() -> None:
    assert [(rule["args"][0]["value"], rule["args"][0]["valueTwo"]) for rule in rules("clone")] == [(0x7E020000, 0)] * 2
    assert sorted(rule["args"][0]["value"] for rule in rules("socket")) == sorted(SOCKET_FAMILIES.values())
    assert all(rule["args"] for rule in rules("personality"))
    (clone3,) = rules("clone3")
    assert (clone3["action"], clone3["errnoRet"]) == ("SCMP_ACT_ERRNO", 38)


def test_the_text_is_the_same_each_time_and_fits_into_a_request() -> None:
    assert strict_profile() == strict_profile()
    assert len(strict_profile()) < 16_000


# On a real kernel -------------------------------------------------------------------------------------------------

PROBE = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/personality.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#define SAY(name, call) do { errno = 0; long r = (call); printf("%s %s\n", name, \
  r >= 0 ? "ok" : errno == EPERM ? "EPERM" : errno == ENOSYS ? "ENOSYS" : "other"); } while (0)
static void *run(void *given) { return given; }
static int child(void *given) { return 0; }
static char stack[65536];
int main(void) {
  CALLS
  SAY("clone3", syscall(SYS_clone3, 0, 0));
  SAY("clone newuser", clone(child, stack + sizeof stack, CLONE_NEWUSER | SIGCHLD, 0));
  SAY("clone newnet", clone(child, stack + sizeof stack, CLONE_NEWNET | SIGCHLD, 0));
  SAY("clone", clone(child, stack + sizeof stack, SIGCHLD, 0));
  SAY("fork", fork() ? 0 : (_exit(0), 0));
  pthread_t thread;
  SAY("thread", pthread_create(&thread, 0, run, 0) == 0 && pthread_join(thread, 0) == 0 ? 0 : -1);
  SAY("socket unix", socket(AF_UNIX, SOCK_STREAM, 0));
  SAY("socket inet", socket(AF_INET, SOCK_DGRAM, 0));
  SAY("socket inet6", socket(AF_INET6, SOCK_STREAM, 0) >= 0 || errno == EAFNOSUPPORT ? 0 : -1);
  SAY("socket packet", socket(AF_PACKET, SOCK_RAW, 0));
  SAY("socket alg", socket(38, SOCK_SEQPACKET, 0));
  SAY("socket vsock", socket(40, SOCK_STREAM, 0));
  SAY("personality read", personality(0xffffffff));
  SAY("personality fixed", personality(ADDR_NO_RANDOMIZE));
  SAY("personality bsd", personality(PER_BSD));
  return 0;
}
"""

EXPECTED = {
    **dict.fromkeys(
        ("clone", "fork", "thread", "socket unix", "socket inet", "socket inet6", "personality read"), "ok"
    ),
    "personality fixed": "ok",
    **dict.fromkeys(("clone newuser", "clone newnet", "socket packet", "socket alg", "socket vsock"), "EPERM"),
    "personality bsd": "EPERM",
    "clone3": "ENOSYS",
}


def probe() -> str:
    calls = "".join(f'\n#ifdef SYS_{n}\nSAY("{n}", syscall(SYS_{n}, -1, 0, 0, 0, 0, 0));\n#endif\n' for n in REFUSED)
    return PROBE.replace("CALLS", calls)


@pytest.mark.docker
@pytest.mark.slow
@pytest.mark.timeout(1500)
async def test_the_kernel_refuses_what_is_left_out_and_runs_threads(bench: Bench, debian_image: str) -> None:
    strict = bench.another(replace(GRANT, profile="strict"))
    report = await bench.run(
        "cd /tmp && gcc -w -pthread -o probe /inputs/probe.c && ./probe",
        strict,
        image=debian_image,
        inputs={"probe.c": {"value": probe()}},
    )
    said = dict(line.rsplit(" ", 1) for line in text_of(report).splitlines())
    assert report["outcome"] == "succeeded", report
    assert {name: answer for name, answer in said.items() if name in EXPECTED} == EXPECTED
    refused = {name: answer for name, answer in said.items() if name not in EXPECTED}
    assert {*refused.values()} == {"EPERM"}, refused
    assert len(refused) > 40


OLD_WAY = r"""
int main(void) { long r = 20; __asm__ volatile ("int $0x80" : "+a"(r)); return r < 0 ? 1 : 0; }
"""


@pytest.mark.docker
@pytest.mark.slow
@pytest.mark.timeout(1500)
async def test_calls_of_the_other_word_length_do_not_get_through(bench: Bench, debian_image: str) -> None:
    if (await bench.engine.info()).arch not in ("x86_64", "amd64"):
        pytest.skip("only x86 has them")
    strict = bench.another(replace(GRANT, profile="strict"))
    command = "cd /tmp && gcc -o old /inputs/old.c && ./old"
    report = await bench.run(command, strict, image=debian_image, inputs={"old.c": {"value": OLD_WAY}})
    assert report["outcome"] == "failed"
