"""Ways out of a container, as scripts, definitions and images; ``test_escapes`` tries each.

A name in braces is filled in: ``{secret}`` a file on the host and ``{folder}`` the one it lies in, ``{major}`` and
``{minor}`` of the host's disk, ``{socket}`` of the engine, ``{pid}`` of the worker. A script says GOT where something
succeeded that must not.
"""

from __future__ import annotations

from typing import Any

__all__ = ["DEEP", "DEFINITIONS", "ESCAPES", "IMAGES", "LINKS", "fill"]


def fill(text: str, places: dict[str, Any]) -> str:
    """Put the places into a text that may have other braces in it."""
    for name, value in places.items():
        text = text.replace("{" + name + "}", str(value))
    return text


LINKS = {
    "a link to a file": "ln -s {secret} /outputs/x",
    "a link to a folder": "ln -s {folder} /outputs/x",
    "a chain of links": "ln -s {secret} /outputs/z; ln -s z /outputs/y; ln -s y /outputs/x",
    "a link that climbs": "ln -s ../../../../../../../../../../../..{secret} /outputs/x",
    "a link through the first process": "ln -s /proc/1/root{secret} /outputs/x; ln -s /proc/1/cwd /outputs/y",
    "a link through itself": "ln -s /proc/self/root{folder} /outputs/x; ln -s /proc/self/fd /outputs/y",
    "a link below a folder": "mkdir -p /outputs/a/b; ln -s {folder} /outputs/a/b/c",
    "a link to the job's own neighbour": "ln -s ../../../../ /outputs/x; ln -s ../inputs /outputs/y",
    "a loop of links": "ln -s b /outputs/a; ln -s a /outputs/b; ln -s . /outputs/c",
}


ESCAPES = {
    "read through /proc": """
        for way in /proc/1/root /proc/1/cwd/../../.. /proc/self/root/../.. /proc/self/cwd/../../../..
        do cat $way{secret} && echo GOT; done; cat {secret} && echo GOT; true""",
    "hard links to what lies elsewhere": """
        ln /inputs/i /outputs/h && echo GOT; ln /etc/hosts /outputs/h && echo GOT
        ln /sbin/docker-init /outputs/h && echo GOT; true""",
    "device nodes": """
        mknod /outputs/disk b {major} {minor} && head -c 512 /outputs/disk && echo GOT
        mknod /tmp/disk b {major} {minor} && head -c 512 /tmp/disk && echo GOT
        mknod /tmp/mem c 1 1 && head -c 1 /tmp/mem && echo GOT; mknod /tmp/kmsg c 1 11 && echo x > /tmp/kmsg && echo GOT
        true""",
    "pipes and sockets": "mkfifo /outputs/p; (nc -l local:/outputs/s & sleep 0.2); mkfifo /outputs/q; true",
    "mounts of its own": """
        mkdir /tmp/m; mount -t tmpfs none /tmp/m && echo GOT; mount -t proc none /tmp/m && echo GOT
        mount --bind / /tmp/m && echo GOT; mount -t sysfs none /tmp/m && echo GOT
        mount -o remount,rw /inputs && echo GOT; mount -o remount,rw /inputs /inputs && echo GOT
        mount -t cgroup -o memory none /tmp/m && echo GOT; mount -t cgroup2 none /tmp/m && echo GOT
        mount -o remount,rw /sys && echo GOT; mount -o remount,rw /proc/sys && echo GOT
        umount /inputs && echo GOT; umount /proc/sys && echo GOT; umount -l /outputs && echo GOT
        mount -t overlay none /tmp/m -o lowerdir=/,upperdir=/tmp,workdir=/var && echo GOT; true""",
    "namespaces of its own": """
        unshare -Ur true && echo GOT; unshare -m true && echo GOT; unshare -n true && echo GOT
        unshare -p -f true && echo GOT; nsenter -t 1 -m -p true && echo GOT; true""",
    "another root": """
        mkdir /tmp/r; chroot /proc/1/root cat {secret} && echo GOT; chroot /proc/1/cwd cat {secret} && echo GOT
        chroot /proc/self/root/.. cat {secret} && echo GOT; pivot_root /tmp /tmp/r && echo GOT; true""",
    "the kernel's settings": """
        for file in /proc/sys/kernel/core_pattern /proc/sys/kernel/modprobe /proc/sys/vm/overcommit_memory \
          /proc/sys/kernel/hostname /sys/kernel/uevent_helper /sys/kernel/mm/transparent_hugepage/enabled \
          /proc/sys/fs/binfmt_misc/register /sys/module/apparmor/parameters/mode
        do now=$(cat $file) && (echo "$now" > $file) && echo GOT $file; done
        (echo h > /proc/sysrq-trigger) && echo GOT; (echo -999 > /proc/1/oom_score_adj) && echo GOT; true""",
    "control groups": """
        for file in $(find /sys/fs/cgroup -name release_agent -o -name notify_on_release -o -name cgroup.procs \
          -o -name '*limit_in_bytes' -o -name 'memory.max' -o -name 'devices.allow' -o -name 'pids.max')
        do (echo 1 > $file) && echo GOT $file; done; mkdir /sys/fs/cgroup/memory/mine && echo GOT
        mkdir /sys/fs/cgroup/pids/mine && echo GOT; true""",
    "the engine's socket": """
        [ -z "$(find / -xdev -name '*docker*.sock' -o -xdev -name 'containerd*.sock')" ] || echo GOT
        for place in /var/run/docker.sock /run/docker.sock /run/containerd/containerd.sock {socket}
        do nc local:$place < /dev/null && echo GOT; done
        for host in 127.0.0.1 $(ip route | awk '/default/ { print $3 }')
        do for port in 2375 2376; do nc -w 1 $host $port < /dev/null && echo GOT; done; done; true""",
    "other processes": """
        [ "$(ls -d /proc/[0-9]* | wc -l)" -lt 12 ] || echo GOT; kill -9 -1; for pid in 2 100 1000 {pid}
        do kill -0 $pid && [ $pid -gt 50 ] && echo GOT $pid; cat /proc/$pid/environ && [ $pid -gt 50 ] && echo GOT; done
        true""",
    "the machine": """
        reboot -f && echo GOT; date -s 2001-01-01; [ "$(date +%Y)" = 2001 ] && echo GOT; hostname evil && echo GOT
        insmod /tmp/x.ko && echo GOT; swapoff /dev/vda && echo GOT; dmesg && echo GOT
        head -c 1 /proc/kcore | grep . && echo GOT; head -c 1 /dev/mem && echo GOT; hwclock -w && echo GOT
        ip link set lo down && echo GOT; ip link add x type dummy && echo GOT; ionice -c 1 true && echo GOT; true""",
    "inputs in the way": """
        (echo x > /inputs/i) && echo GOT; rm -rf /inputs/i && echo GOT; mv /inputs /i && echo GOT; chmod 777 /inputs \
          && echo GOT; touch /inputs && echo GOT; ln -s {secret} /inputs/x && echo GOT; true""",
    "the outputs folder itself": """
        rmdir /outputs && echo GOT; mv /outputs /o && echo GOT; rm -rf /outputs; ln -sfn {folder} /outputs
        ls /outputs/.. | grep -x jobs && echo GOT; chmod 0 /outputs; chown 7:7 /outputs; true""",
    "long names": """
        n=$(head -c 255 /dev/zero | tr '\\0' n); touch /outputs/$n; mkdir -p /outputs/$n/x /outputs/d
        cd /outputs/d; for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18; do mkdir $n; cd $n; touch f; done
        true""",
    "names that are no text": """
        cd /outputs; touch "$(printf 'new\\nline')" "$(printf 'bad\\377')" "$(printf '\\033[2J')" \
          "$(printf 'r\\342\\200\\256x')" ' ' '-rf' '*' '\\' '..a' '__proto__' 'a"b' "$(printf 'a\\rb')" \
          '%2e%2e%2f' 'nul\\0'; true""",
    "a tree of closed folders": """
        mkdir -p /outputs/a/b/c; echo x > /outputs/a/b/c/f
        chmod 0 /outputs/a/b/c/f /outputs/a/b/c /outputs/a/b /outputs/a""",
    "programs that gain rights": """
        cp /bin/busybox /outputs/su; chmod 6777 /outputs/su; /outputs/su true; true""",
    "a sparse giant": "truncate -s 60g /outputs/x; truncate -s 15g /outputs/y; true",
    "the log": r"""printf '\001\000\000\000\377\377\377\377'; printf '\002\000\000\000\000\000\000\001x'
        printf '\033]0;x\007'; printf '{"x": 1}\n'; head -c 100000 /dev/urandom; true""",
    "signals of the first process": "kill -TERM 1; kill -KILL 1; kill -STOP 1; kill -CONT 1; true",
}


DEFINITIONS: dict[str, dict[str, Any]] = {
    "an input that climbs": {"inputs": {"../../../../x": {"value": "x"}}},
    "an input that is absolute": {"inputs": {"{secret}": {"value": "x"}}},
    "a config file that climbs": {"configFiles": {"/etc/../../x": {"value": "x"}}},
    "a config file in /proc": {"configFiles": {"/proc/sys/kernel/core_pattern": {"value": "x"}}},
    "inputs named like mount points": {
        "inputs": {"outputs/x": {"value": "1"}, "proc/self/root": {"value": "2"}, "inputs": {"value": "3"}},
        "command": "cat /inputs/outputs/x /inputs/proc/self/root /inputs/inputs",
    },
    "config files over the container's own": {
        "configFiles": {
            "/etc/passwd": {"value": "root:x:0:0::/:/bin/sh\nevil:x:0:0::/:/bin/sh\n"},
            "/etc/hosts": {"value": "127.0.0.1 evil\n"},
            "/etc/resolv.conf": {"value": "nameserver 127.0.0.1\n"},
            "/.dockerenv": {"value": "x"},
        },
        "command": "grep -c evil /etc/passwd; cat /etc/hosts",
    },
    "a config file over the first process": {
        "configFiles": {"/sbin/docker-init": {"value": "#!/bin/sh\ncat {secret}\n"}}
    },
    "a config file over a place of the host's": {
        "configFiles": {"{secret}": {"value": "mine"}},
        "command": "cat {secret}",
    },
    "a workdir on the engine's open files": {"workdir": "/proc/self/fd/7", "command": "cat ../../../..{secret}"},
    "a workdir on others": {"workdir": "/proc/self/fd/8/..", "command": "cat ../../../../..{secret}"},
    "a workdir through the first process": {"workdir": "/proc/1/cwd", "command": "cat ../../..{secret}"},
    "a workdir that climbs": {"workdir": "/outputs/../../..{folder}", "command": "ls; cat secret"},
    "an environment with lines": {"env": {"A": "x\nJOB_ID=evil\nCANARY="}, "command": "env | grep JOB_ID"},
    "an environment with a NUL": {"env": {"A": "x\0JOB_ID=evil"}},
    "the worker's own variables": {"command": 'sh -c "echo $CANARY ${CANARY} $HOME"'},
    "the worker's own variables, unquoted": {"command": "echo $CANARY ${CANARY} `printenv CANARY`"},
    "a command substitution": {"command": "echo $(cat {secret})"},
    "a preloaded library": {"env": {"LD_PRELOAD": "/outputs/x.so", "LD_LIBRARY_PATH": "{folder}"}, "command": "true"},
    "options for the engine": {"command": ["--privileged", "-v", "/:/host", "sh"]},
    "an entrypoint of the host's": {"entrypoint": "/proc/1/root/bin/sh -c", "command": "cat {secret}"},
    "an engine's link file": {"entrypoint": ["/proc/self/exe"], "command": ["--version"]},
}


IMAGES = {
    "outputs as a link": ("rm -rf /outputs; ln -s /etc /outputs", ()),
    "outputs as a link to the host's place": ("ln -s {folder} /outputs", ()),
    "inputs as a link": ("ln -s /proc /inputs", ()),
    "the cache as a link that climbs": ("ln -s ../../../../../..{folder} /job-cache", ()),
    "its own volumes": ("mkdir -p /data", ("VOLUME /data", "VOLUME /outputs/x")),
    "a volume on the root": ("true", ("VOLUME /",)),
    "a health check": ("true", ("HEALTHCHECK --interval=1s CMD touch /outputs/health",)),
    "variables for an engine": ("true", ("ENV NVIDIA_VISIBLE_DEVICES=all DOCKER_HOST=unix:///var/run/docker.sock",)),
    "another's labels": ("true", ("LABEL asman.worker=other asman.job=x container.mtfm.io=true",)),
    "a user that is none": ("true", ("USER ../../etc",)),
    "a workdir on the engine's open files": ("true", ("WORKDIR /proc/self/fd/7",)),
    "programs of its own": ("cp /bin/busybox /tmp/x; chmod 6755 /tmp/x; rm /bin/chmod", ("USER 65534",)),
}


DEEP = """
chain() { i=0; path=$1; while [ $i -lt 1000 ]; do path=$path/d; i=$((i+1)); done; mkdir -p $path; echo $path; }
for turn in 1 2 3 4 5; do bottom=$(chain /outputs/n$turn); [ $turn = 1 ] || mv /outputs/n$((turn-1)) $bottom/; done
touch $bottom/f
"""
