"""The system calls that a job of strangers may make: a list of what is allowed, everything else fails. Pure.

Engines bring a list of their own, made so that nearly every image runs. Under ``strict`` a job has no capability at
all, so calls that need one are of no use to it, and a kernel fault behind a call that is not needed is the likeliest
way out of a container. This list therefore leaves out, beyond what engines leave out: ``io_uring``, ``userfaultfd``,
``bpf``, performance events, keys, new namespaces in every form, handles of files, pages moved between nodes, clocks,
modules, and every family of sockets but local ones and the internet's.

What is left out answers EPERM, which programs take as "not allowed". ``clone3`` answers ENOSYS: its arguments lie in
memory where a filter cannot read them, and C libraries then fall back to ``clone``, whose flags it can read. So do
calls that a program only tries because a newer kernel might have them.

Programs of a machine's other word length (32 bit on a 64-bit machine) do not run: their calls have other numbers, and
old kernel paths of their own.

Source: names as in the kernel's table (``man 2 syscalls``); form as in Docker's ``--security-opt seccomp=FILE``;
``unshare(2)``, ``clone(2)`` for the flags.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

__all__ = ["ALLOWED", "ANSWERED_ENOSYS", "SOCKET_FAMILIES", "strict_profile"]

_EPERM, _ENOSYS = 1, 38
_NEW_NAMESPACES = 0x7E020000
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET."""

SOCKET_FAMILIES: Mapping[str, int] = {"AF_UNIX": 1, "AF_INET": 2, "AF_INET6": 10, "AF_NETLINK": 16}
"""Netlink because resolvers ask it for the interfaces; without capabilities it can only be asked."""

_PERSONALITIES = (0x0, 0x0008, 0x20000, 0x20008, 0x40000, 0xFFFFFFFF)
"""Linux, 32-bit uname and fixed addresses (debuggers), and "which is it?"."""

ANSWERED_ENOSYS = ("clone3", "cachestat", "fchmodat2", "map_shadow_stack", "mseal", "statmount", "listmount")

ALLOWED: Mapping[str, str] = {
    "files: open, read, write, place": """
        open openat openat2 creat close close_range read pread64 readv preadv preadv2 write pwrite64 writev pwritev
        pwritev2 lseek _llseek sendfile sendfile64 splice tee vmsplice copy_file_range readahead fadvise64
        fadvise64_64 arm_fadvise64_64 sync sync_file_range syncfs fsync fdatasync truncate truncate64 ftruncate
        ftruncate64 fallocate flock fcntl fcntl64 dup dup2 dup3 ioctl pipe pipe2 memfd_create
        """,
    "files: names, folders, attributes": """
        stat stat64 lstat lstat64 fstat fstat64 fstatat64 newfstatat statx statfs statfs64 fstatfs fstatfs64 ustat
        access faccessat faccessat2 getdents getdents64 getcwd chdir fchdir mkdir mkdirat rmdir link linkat unlink
        unlinkat rename renameat renameat2 symlink symlinkat readlink readlinkat mknod mknodat umask utime utimes
        utimensat utimensat_time64 futimesat chmod fchmod fchmodat chown chown32 fchown fchown32 lchown lchown32
        fchownat getxattr lgetxattr fgetxattr listxattr llistxattr flistxattr setxattr lsetxattr fsetxattr
        removexattr lremovexattr fremovexattr inotify_init inotify_init1 inotify_add_watch inotify_rm_watch
        """,
    "memory": """
        brk mmap mmap2 munmap mremap mprotect madvise process_madvise process_mrelease mincore msync mlock mlock2
        mlockall munlock munlockall membarrier pkey_alloc pkey_free pkey_mprotect remap_file_pages get_mempolicy
        shmget shmat shmctl shmdt
        """,
    "processes and threads": """
        fork vfork execve execveat exit exit_group wait4 waitid waitpid kill tkill tgkill getpid getppid gettid
        getpgid setpgid getpgrp getsid setsid set_tid_address set_robust_list get_robust_list set_thread_area
        get_thread_area arch_prctl prctl rseq futex futex_time64 futex_waitv futex_wake futex_wait futex_requeue
        pidfd_open pidfd_send_signal pidfd_getfd ptrace process_vm_readv process_vm_writev kcmp
        capget capset seccomp landlock_create_ruleset landlock_add_rule landlock_restrict_self
        """,
    "scheduling and limits": """
        sched_yield sched_getaffinity sched_setaffinity sched_getattr sched_setattr sched_getparam sched_setparam
        sched_getscheduler sched_setscheduler sched_get_priority_max sched_get_priority_min sched_rr_get_interval
        sched_rr_get_interval_time64 getpriority setpriority ioprio_get ioprio_set nice getrlimit ugetrlimit
        setrlimit prlimit64 getrusage times getcpu
        """,
    "users and groups": """
        getuid getuid32 geteuid geteuid32 getgid getgid32 getegid getegid32 getresuid getresuid32 getresgid
        getresgid32 getgroups getgroups32 setuid setuid32 setgid setgid32 setreuid setreuid32 setregid setregid32
        setresuid setresuid32 setresgid setresgid32 setgroups setgroups32 setfsuid setfsuid32 setfsgid setfsgid32
        """,
    "signals": """
        rt_sigaction rt_sigprocmask rt_sigpending rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait
        rt_sigtimedwait_time64 rt_tgsigqueueinfo sigaltstack sigreturn sigaction sigprocmask signalfd signalfd4
        pause alarm restart_syscall
        """,
    "time": """
        time gettimeofday clock_gettime clock_gettime64 clock_getres clock_getres_time64 clock_nanosleep
        clock_nanosleep_time64 nanosleep getitimer setitimer timer_create timer_delete timer_getoverrun
        timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime
        timerfd_gettime64 timerfd_settime timerfd_settime64
        """,
    "waiting for many things": """
        select _newselect pselect6 pselect6_time64 poll ppoll ppoll_time64 epoll_create epoll_create1 epoll_ctl
        epoll_ctl_old epoll_wait epoll_wait_old epoll_pwait epoll_pwait2 eventfd eventfd2 io_setup io_destroy
        io_submit io_cancel io_getevents io_pgetevents io_pgetevents_time64
        """,
    "sockets that exist": """
        socketpair bind connect listen accept accept4 getsockname getpeername getsockopt setsockopt send sendto
        sendmsg sendmmsg recv recvfrom recvmsg recvmmsg recvmmsg_time64 shutdown
        """,
    "queues and semaphores": """
        mq_open mq_unlink mq_timedsend mq_timedsend_time64 mq_timedreceive mq_timedreceive_time64 mq_notify
        mq_getsetattr msgget msgsnd msgrcv msgctl semget semop semctl semtimedop semtimedop_time64
        """,
    "about the machine": """
        uname sysinfo getrandom riscv_flush_icache riscv_hwprobe swapcontext
        """,
}
"""What for -> names. Names that a kernel or a machine does not have are passed over by the engine."""


@cache
def strict_profile() -> str:
    """The profile as the engine takes it, one JSON text. Shape: the same text at every call."""
    rules = [
        _rule([name for names in ALLOWED.values() for name in names.split()]),
        _rule(["clone"], [_masked(0, _NEW_NAMESPACES)], unless_arches=["s390", "s390x"]),
        _rule(["clone"], [_masked(1, _NEW_NAMESPACES)], only_arches=["s390", "s390x"]),
        *(_rule(["socket"], [_equal(0, family)]) for family in SOCKET_FAMILIES.values()),
        *(_rule(["personality"], [_equal(0, value)]) for value in _PERSONALITIES),
        {"names": list(ANSWERED_ENOSYS), "action": "SCMP_ACT_ERRNO", "errnoRet": _ENOSYS},
    ]
    profile = {"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": _EPERM, "archMap": _ARCHES, "syscalls": rules}
    return json.dumps(profile, separators=(",", ":"))


_ARCHES = [
    {"architecture": f"SCMP_ARCH_{name}", "subArchitectures": []}
    for name in ("X86_64", "AARCH64", "PPC64LE", "S390X", "RISCV64")
]


def _rule(
    names: list[str],
    conditions: list[dict[str, Any]] | None = None,
    *,
    only_arches: list[str] | None = None,
    unless_arches: list[str] | None = None,
) -> dict[str, Any]:
    rule: dict[str, Any] = {"names": names, "action": "SCMP_ACT_ALLOW", "args": conditions or []}
    if only_arches:
        rule["includes"] = {"arches": only_arches}
    if unless_arches:
        rule["excludes"] = {"arches": unless_arches}
    return rule


def _equal(index: int, value: int) -> dict[str, Any]:
    return {"index": index, "value": value, "op": "SCMP_CMP_EQ"}


def _masked(index: int, mask: int) -> dict[str, Any]:
    """None of these bits is set."""
    return {"index": index, "value": mask, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}
