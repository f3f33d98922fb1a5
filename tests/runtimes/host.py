"""A host that has container runtimes: a node with the files of this machine, and Debian's packages on top of them.

What it makes, in namespaces of every kind: a root folder whose changes vanish, processes that end with the host, control groups
below one of its own in each hierarchy. So runtimes run with their usual folders, sockets and settings, and none of it is this
machine's. Settings of the kernel that are not the network's can only be read.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tests.harness.booted import MOUNTS
from tests.harness.node import PATH, Failed, Node
from tests.harness.wrappers import ROOT

if TYPE_CHECKING:
    from collections.abc import Sequence

# Around the host, until its standard input is closed, by whoever made it or by the end of that process.
# $1: an empty folder, $2: the packages, $3: the checkout.
# Version 1 of control groups has a hierarchy a controller; version 2 has one, no process where there are groups below, and
# below its first level only what that level hands on.
AROUND = """
set -e
mount -t tmpfs -o mode=755 tmpfs "$1"
cd "$1"
mkdir changes work root packages groups
mount --bind "$2" packages
cat /proc/self/cgroup >hierarchies
while IFS=: read -r _ names own; do
    case $names in
        '') kind=cgroup2 options=rw place=unified own=/ ;;
        *) kind=cgroup options=$names place=$names ;;
    esac
    case $names in name=*) options=none,$names place=${names#name=} ;; esac
    mkdir "groups/$place"
    mount -t $kind -o "$options" cgroup "groups/$place"
    group=groups/$place${own%/}/podwire-test-$$
    mkdir "$group"
    case $names in
        *cpuset*) for key in cpus mems; do cat "${group%/*}/cpuset.$key" >"$group/cpuset.$key"; done ;;
    esac
    echo 0 >"$group/cgroup.procs"
    echo "$kind $options $place $group" >>groups.list
done <hierarchies
unshare --cgroup --pid --fork --kill-child --mount --net --uts --ipc sh -c "$INSIDE" inside "$3" </dev/null &
host=$!
trap '' HUP INT PIPE TERM
# Not before it has them for the root of all that it will see.
own=$(readlink /proc/self/ns/cgroup)
while [ "$(readlink /proc/$host/ns/cgroup)" = "$own" ]; do sleep 0.01; done
while read -r _ _ _ group; do
    for process in 0 $host; do echo $process >"${group%/*}/cgroup.procs"; done
done <groups.list
echo "host $host"
cat >/dev/null
kill -9 $host || true
wait $host || true
while read -r _ _ _ group; do
    for _ in $(seq 100); do
        find "$group" -depth -type d -exec rmdir {} + 2>/dev/null && break
        sleep 0.1
    done
done <groups.list
cd /
umount --recursive --lazy "$1"
rmdir "$1"
"""

# The first process of the host; at the end it waits for whatever loses its parent.
INSIDE = (
    MOUNTS
    + """
set -e
trap 'echo failed' EXIT
mount -t overlay -o lowerdir=/,upperdir=changes,workdir=work overlay root
mount -t overlay -o ro,lowerdir=packages/usr:/usr overlay root/usr
cp groups.list root/groups.list
cd root
rm -rf etc/cni etc/containerd etc/containers etc/default/podwire-agent opt/cni opt/podwire var/lib/cni
cp -R ../packages/etc/. etc
kernel_files
groups=sys/fs/cgroup
grep -q '^cgroup ' groups.list && mount -t tmpfs -o mode=755 tmpfs $groups || mount -t cgroup2 cgroup2 $groups
while read -r kind options place _; do
    if [ -e $groups/cgroup.controllers ]; then
        mkdir $groups/first && echo 0 >$groups/first/cgroup.procs
    else
        mkdir $groups/$place
        mount -t $kind -o $options cgroup $groups/$place
    fi
done <groups.list
rm groups.list
for folder in run var/lib/containerd var/lib/containers dev; do
    mkdir -p $folder
    mount -t tmpfs -o mode=755 tmpfs $folder
done
mount -t tmpfs -o mode=1777 tmpfs tmp
files_and_devices "$1"
mkdir dev/shm dev/pts run/former run/netns
mount -t devpts -o newinstance,ptmxmode=666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
mkdir -p var/lib/cni opt/cni/bin
pivot_root . run/former
cd /
umount -l /run/former
hostname host
ip link set lo up
trap - EXIT
echo ready
while :; do
    sleep 1000 &
    wait $!
done
"""
)

# What is started in the host belongs to its control groups.
JOIN = """
if [ -e /sys/fs/cgroup/first ]; then echo 0 >/sys/fs/cgroup/first/cgroup.procs
else for processes in /sys/fs/cgroup/*/cgroup.procs; do echo 0 >$processes; done
fi
exec "$@"
"""


def unfit() -> str | None:
    """Why containers cannot run on this machine; None when they can."""
    hierarchies = [line.split(":")[1] for line in Path("/proc/self/cgroup").read_text().splitlines()]
    if "memory" in hierarchies:
        return None
    with contextlib.suppress(OSError):
        if "pids" in Path("/sys/fs/cgroup/cgroup.subtree_control").read_text().split():
            return None
    return "runtimes need control groups, and the controllers of this machine's are not at hand in /sys/fs/cgroup"


class Host(Node):
    """One such host. Use as a context manager, or call close()."""

    def __init__(self, packages: Path) -> None:
        self._children: list[subprocess.Popen[bytes]] = []
        self.pods: dict[str, str] = {}
        self._folder = tempfile.mkdtemp(prefix="podwire-host-")
        around = ["unshare", "--mount", "--propagation", "private", "sh", "-c", AROUND, "around"]
        self._around = subprocess.Popen(
            [*around, self._folder, str(packages), str(ROOT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={"PATH": PATH, "LC_ALL": "C", "INSIDE": INSIDE},
        )
        assert self._around.stdout and self._around.stderr
        told = sorted(self._around.stdout.readline().decode().split() for _ in range(2))
        if ["ready"] not in told:
            _, why = self._around.communicate(b"")
            self._remove_folder()
            raise Failed(f"no host: {why.decode()}")
        unshare = int(told[0][1])
        with open(f"/proc/{unshare}/task/{unshare}/children") as children:
            self.pid = int(children.read())

    def close(self) -> None:
        """Cut its power, and wait until nothing of it is left."""
        assert self._around.stdin
        self._around.stdin.close()
        self._around.wait(60)
        self._around.stdin = None
        for child in (*self._children, self._around):
            child.wait(10)
            for pipe in (child.stdin, child.stdout, child.stderr):
                if pipe:
                    pipe.close()
        self._children.clear()
        self._remove_folder()

    def _remove_folder(self) -> None:
        """When all went well it is gone."""
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(self._folder)

    def argv(self, command: Sequence[str], *, pod: str | None = None) -> list[str]:
        """The command as the test process must start it: in the host, or with the network of one of its namespaces."""
        net = [f"--net={self.path(self.pods[pod])}"] if pod else []
        return ["nsenter", "-t", str(self.pid), "--all", *net, "--", "sh", "-c", JOIN, "join", *command]
