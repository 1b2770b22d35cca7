"""A network of a test's own, in which any address can be this machine's: what public and private hosts are is real."""

from __future__ import annotations

import ctypes
import os
import subprocess
import threading
from collections.abc import Callable

import pytest

__all__ = ["in_own_network"]

_CLONE_NEWNET = 0x40000000


def in_own_network(body: Callable[[], None], *addresses: str) -> None:
    """Call ``body`` in a thread whose network has these addresses and nothing else; it is gone with the thread."""
    if os.geteuid() != 0:
        pytest.skip("needs root to make a network namespace")
    failures: list[BaseException] = []

    def run() -> None:
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.unshare(_CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "unshare")
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
            for address in addresses:
                subprocess.run(["ip", "address", "add", f"{address}/32", "dev", "lo"], check=True)
            body()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
