"""Things that people do in containers, as scripts for the Debian image; ``test_still_works`` runs each."""

from __future__ import annotations

from dataclasses import dataclass, field

from debian_image import NOT_INSTALLED

__all__ = ["PROGRAMS", "Program"]

READ_ONLY = "its root file system is read-only and nobody is root"


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """Something that has to work.

    Shape:  ``script`` is for bash; ``shows`` is a pattern that its output must match somewhere; ``files`` become
            inputs; ``not_strict`` says why it does not work there.
    """

    name: str
    script: str
    shows: str
    files: dict[str, str] = field(default_factory=dict)
    not_strict: str = ""
    memory: str = "600m"


HELLO_C = '#include <stdio.h>\nint main(void) { puts("hello from C"); return 0; }\n'
MAKEFILE = "all: a b\na: hello.c\n\tcc -O2 -o $@ $<\nb: hello.c\n\tcc -g -o $@ $<\n"
SETUP = "from setuptools import setup\nsetup(name='mine', version='1.0', py_modules=['mine'])\n"

SHM = """
import multiprocessing as mp
from multiprocessing import shared_memory

def fill(name, start):
    block = shared_memory.SharedMemory(name=name)
    block.buf[start : start + 1000] = bytes([start // 1000]) * 1000
    block.close()

if __name__ == "__main__":
    block = shared_memory.SharedMemory(create=True, size=16 << 20)
    with mp.Pool(3) as pool:
        pool.starmap(fill, [(block.name, n * 1000) for n in range(9)])
    print("sum", sum(block.buf[:9000]), flush=True)
    with mp.get_context("spawn").Pool(2) as pool:
        print("pool", pool.map(abs, range(-3, 3)), flush=True)
    block.close()
    block.unlink()
"""

NUMPY = """
import os, threading, numpy as np
a = np.random.default_rng(1).random((900, 900))
print("error", np.abs(np.linalg.solve(a, a @ np.ones(900)) - 1).max() < 1e-6)
print("threads", len(os.listdir("/proc/self/task")))
"""

MPI_C = r"""
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
int main(int argc, char **argv) {
  int rank, size, n = 4 << 20;
  MPI_Init(&argc, &argv);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  char *big = calloc(1, n);
  if (rank == 0) { big[n - 1] = 42; MPI_Send(big, n, MPI_CHAR, 1, 0, MPI_COMM_WORLD); }
  else { MPI_Recv(big, n, MPI_CHAR, 0, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    printf("got %d of %d\n", big[n - 1], size); }
  MPI_Finalize();
  return 0;
}
"""

PAGE = """<p id="p"></p>
<script>document.getElementById("p").textContent = "6 times 7 is " + 6 * 7</script>"""

PROGRAMS = [
    Program(
        name="apt-get install as root",
        script=(
            "export DEBIAN_FRONTEND=noninteractive; apt-get update -q && apt-get install -q -y "
            f"{' '.join(NOT_INSTALLED)} && hello && stat -c 'crontab is %G %a' /usr/bin/crontab"
        ),
        shows=r"Hello, world!\ncrontab is crontab 2755",
        not_strict=READ_ONLY,
    ),
    Program(
        name="pip install into the system, or the user's own place",
        script=(
            "cp -r /inputs/mine /tmp/mine && cd /tmp "
            "&& pip wheel -q --no-index --no-build-isolation -w /tmp/wheels ./mine "
            "&& pip install -q --break-system-packages --no-index --find-links /tmp/wheels mine && cd / "
            "&& python3 -c 'import mine; print(mine.WORD, mine.__file__)'"
        ),
        shows=r"works /(usr/local|tmp/\.local)/lib/python3",
        files={"mine/setup.py": SETUP, "mine/mine.py": "WORD = 'works'\n"},
    ),
    Program(
        name="pip install into an environment of its own",
        script=(
            "python3 -m venv --system-site-packages $HOME/v && cp -r /inputs/mine /tmp/mine && cd /tmp "
            "&& $HOME/v/bin/pip install -q --no-index --no-build-isolation ./mine && $HOME/v/bin/python -c "
            "'import mine; print(mine.WORD)'"
        ),
        shows=r"^works$",
        files={"mine/setup.py": SETUP, "mine/mine.py": "WORD = 'works'\n"},
    ),
    Program(
        name="gcc and make",
        script="cp /inputs/* /tmp && cd /tmp && make -s -j2 && ./a && ./b",
        shows="^hello from C\nhello from C$",
        files={"hello.c": HELLO_C, "Makefile": MAKEFILE},
    ),
    Program(
        name="processes that share memory",
        script="python3 /inputs/shm.py",
        shows=r"^sum 36000\npool \[3, 2, 1, 0, 1, 2\]$",
        files={"shm.py": SHM},
    ),
    Program(
        name="numpy with the threads of OpenBLAS",
        script="OPENBLAS_NUM_THREADS=4 python3 /inputs/n.py",
        shows=r"^error True\nthreads [2-9]$",
        files={"n.py": NUMPY},
    ),
    Program(
        name="R, also with several processes",
        script=(
            'Rscript -e \'cat("sum", sum(solve(matrix(c(2,0,0,4),2))), "\\n"); '
            'cat("fork", unlist(parallel::mclapply(1:3, function(n) n * n, mc.cores = 2)), "\\n")\''
        ),
        shows=r"sum 0.75 \nfork 1 4 9 ",
    ),
    Program(
        name="MPI on one node, by copying between processes",
        script=(
            "cd /tmp && mpicc -o ring /inputs/ring.c "
            "&& export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 "
            "&& mpirun --oversubscribe -np 2 --mca pml ob1 --mca btl self,vader "
            "--mca btl_vader_single_copy_mechanism cma ./ring"
        ),
        shows=r"^got 42 of 2$",
        files={"ring.c": MPI_C},
    ),
    Program(
        name="git",
        script=(
            "cd /tmp && git init -q a && cd a && git config user.email a@b && git config user.name n && echo 1 > f "
            "&& git add f && git commit -q -m first && git clone -q /tmp/a /tmp/b && git -C /tmp/b log --format=%s"
        ),
        shows=r"^first$",
    ),
    Program(
        name="Java that knows its container",
        script=(
            "java -XX:+PrintFlagsFinal -version 2>&1 | awk '$2 == \"MaxHeapSize\" {print $2, $4 / 1048576}'; "
            "java -XshowSettings:system -version 2>&1 | grep -E 'Memory Limit|Effective CPU'"
        ),
        shows=r"MaxHeapSize 150\n(.*\n)*.*Memory Limit: 600",
    ),
    Program(
        name="a browser without its own sandbox",
        script=(
            "chromium --headless --no-sandbox --disable-gpu --user-data-dir=/tmp/c --virtual-time-budget=1000 "
            "--dump-dom file:///inputs/page.html 2> /tmp/said || tail -n 5 /tmp/said"
        ),
        shows=r"<p id=\"p\">6 times 7 is 42</p>",
        files={"page.html": PAGE},
        memory="1000m",
    ),
    Program(
        name="a debugger of its own process",
        script=(
            "cd /tmp && gcc -g -o a /inputs/hello.c && gdb -batch "
            "-ex 'break main' -ex run -ex 'print 6 * 7' -ex continue ./a 2>&1"
        ),
        shows=r"\$1 = 42\n(.*\n)*.*hello from C",
        files={"hello.c": HELLO_C},
    ),
    Program(
        name="a trace of its own system calls",
        script="strace -f -e trace=write -o /tmp/t sh -c 'echo traced' && grep -c 'write(1, \"traced' /tmp/t",
        shows=r"^traced\n1$",
    ),
    Program(
        name="a process with many threads",
        script=(
            "python3 -c 'import threading as t; e = t.Event(); all = [t.Thread(target=e.wait) for _ in range(200)]; "
            '[x.start() for x in all]; print("threads", t.active_count()); e.set(); [x.join() for x in all]\''
        ),
        shows=r"^threads 201$",
    ),
]
