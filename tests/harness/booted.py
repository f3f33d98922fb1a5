"""A machine that systemd has booted: a copy of this one's files, with processes, mounts and a network of its own.

It is made of namespaces, in tenths of a second. The files are this machine's, below a layer that takes all changes and
vanishes; the checkout can be read. Of the distribution's own units only the journal runs. Settings of the kernel that are not
the network's can only be read, and the control groups are below one of its own.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from .node import PATH, Failed
from .wrappers import ROOT

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

# Around the machine: its control group, which is removed when all has ended. $1: an empty folder, $2: the checkout.
AROUND = """
set -e
mount -t tmpfs -o mode=755 tmpfs "$1"
cd "$1"
mkdir changes work root cgroup
mount -t cgroup2 cgroup2 cgroup
own=cgroup$(sed -n 's/^0:://p' /proc/self/cgroup)
group=$own/podwire-test-$$
mkdir "$group"
echo 0 >"$group/cgroup.procs"
trap '' TERM
unshare --cgroup --pid --fork --kill-child --mount --net --uts --ipc sh -c "$INSIDE" inside "$2" <&- &
echo 0 >"$own/cgroup.procs"
echo $!
wait $! || true
for _ in $(seq 100); do
    find "$group" -depth -type d -exec rmdir {} + 2>/dev/null && break
    sleep 0.1
done
"""

# For the first process, which stands in the new root. What the kernel tells: of its settings only those of the network
# namespace may be changed. Then the folder $1, for reading, and devices.
MOUNTS = """
kernel_files() {
    mount -t proc proc proc
    mount --bind proc/sys proc/sys
    mount -o remount,ro,bind proc/sys
    mount -t proc proc tmp
    mount --bind tmp/sys/net proc/sys/net
    umount tmp
    mount -t sysfs -o ro sysfs sys
}
files_and_devices() {
    mkdir -p "./$1"
    mount --bind -o ro "$1" "./$1"
    for node in null:3 zero:5 full:7 random:8 urandom:9; do mknod -m 666 "dev/${node%:*}" c 1 "${node#*:}"; done
    ln -s /proc/self/fd dev/fd
}
"""

# The first process of the machine, until it is systemd. Units that a distribution wants would set up hardware and the kernel.
INSIDE = (
    MOUNTS
    + """
set -e
mount -t overlay -o lowerdir=/,upperdir=changes,workdir=work overlay root
cd root
kernel_files
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mount -t tmpfs -o mode=755 tmpfs dev
files_and_devices "$1"
mkdir dev/shm dev/pts run/former
rm -rf etc/systemd/system etc/cni opt/cni opt/podwire etc/default/podwire-agent var/lib/cni
rm -rf lib/systemd/system/*.wants lib/systemd/system-generators etc/systemd/system-generators
mkdir -p etc/systemd/system/sysinit.target.wants
ln -s /lib/systemd/system/systemd-journald.service etc/systemd/system/sysinit.target.wants/
echo 0123456789abcdef0123456789abcdef >etc/machine-id
pivot_root . run/former
cd /
umount -l /run/former
hostname booted
ip link set lo up
exec env -i container=podwire-test PATH="$PATH" /lib/systemd/systemd --unit=multi-user.target --log-target=journal
"""
)


class Booted:
    """One such machine. Use as a context manager."""

    def __init__(self) -> None:
        self._folder = tempfile.mkdtemp(prefix="podwire-booted-")
        around = ["unshare", "--mount", "--propagation", "private", "sh", "-c", AROUND, "around", self._folder, str(ROOT)]
        self._around = subprocess.Popen(
            around,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={"PATH": PATH, "LC_ALL": "C", "INSIDE": INSIDE},
            text=True,
        )
        assert self._around.stdout
        told = self._around.stdout.readline()
        self._unshare = int(told) if told else 0
        try:
            self.pid = self._first_process()
            self._wait_until_up()
        except BaseException:
            self.close()
            raise

    def _first_process(self) -> int:
        """Of the machine; its number out here."""
        until = time.monotonic() + 10
        while time.monotonic() < until and self._around.poll() is None:
            children = Path(f"/proc/{self._unshare}/task/{self._unshare}/children").read_text().split()
            if children:
                return int(children[0])
            time.sleep(0.01)
        raise Failed(f"the machine did not start: {self._said()}")

    def _wait_until_up(self) -> None:
        until = time.monotonic() + 30
        while time.monotonic() < until:
            if self._around.poll() is not None:
                raise Failed(f"the machine did not boot: {self._said()}")
            done = self.run("systemctl", "is-system-running", check=False)
            if done.stdout.strip() == "running":
                return
            time.sleep(0.05)
        raise Failed(
            f"the machine is not up: {done.stdout}{done.stderr}{self.run('systemctl', '--failed', check=False).stdout}"
        )

    def _said(self) -> str:
        assert self._around.stderr
        self._around.wait(20)
        return self._around.stderr.read()

    def __enter__(self) -> Booted:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Cut its power."""
        if self._unshare and self._around.poll() is None:
            os.kill(self._unshare, 9)
        self._around.wait(20)
        for pipe in (self._around.stdout, self._around.stderr):
            if pipe:
                pipe.close()
        os.rmdir(self._folder)

    def argv(self, *command: str) -> list[str]:
        """The command as this process must start it."""
        return ["nsenter", "-t", str(self.pid), "--all", "--", *command]

    def run(
        self, *command: str, stdin: str = "", env: Mapping[str, str] | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end in the machine; unless check=False, Failed when it fails."""
        known = {"PATH": PATH, "LC_ALL": "C", **(env or {})}
        done = subprocess.run(
            self.argv(*command), input=stdin, env=known, capture_output=True, text=True, check=False, timeout=150
        )
        if check and done.returncode:
            raise Failed(f"{' '.join(command)}: {done.stderr}{done.stdout}")
        return done

    def sh(self, script: str, *, check: bool = True) -> str:
        """Run a shell script up to its first failing line; its standard output."""
        return self.run("sh", "-ec", script, check=check).stdout

    def state(self, unit: str, key: str = "ActiveState") -> str:
        """A property of a unit."""
        return self.run("systemctl", "show", "--value", "--property", key, unit).stdout.strip()
