"""The host of these tests: what runs in it is none of this machine's business, and it ends with whoever made it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.harness.node import PATH
from tests.harness.wrappers import ROOT

from .host import Host

pytestmark = [pytest.mark.root, pytest.mark.runtimes]

# Makes a host, has something run in it, and waits to be killed.
OWNER = """
import sys, time
from pathlib import Path
from tests.runtimes.host import Host
host = Host(Path(sys.argv[1]))
host.spawn("setsid", "busybox", "sleep", "1000")
while "busybox" not in host.sh("ps -eo comm="):
    time.sleep(0.01)
print(host.pid, flush=True)
time.sleep(1000)
"""


def test_it_sees_the_packages_and_only_its_own_processes(packages: Path) -> None:
    """Files, processes, links and control groups."""
    with Host(packages) as host:
        assert host.sh("which podman containerd") == "/usr/bin/podman\n/usr/bin/containerd\n"
        assert host.sh("cat /proc/1/comm") == "sh\n"
        assert host.sh("ls /sys/class/net /opt/cni/bin /var/lib/cni").split() == [
            "/opt/cni/bin:",
            "/sys/class/net:",
            "lo",
            "/var/lib/cni:",
        ]
        assert {line.split(":")[2] for line in host.sh("cat /proc/self/cgroup").split()} <= {"/", "/first"}
        mounts = [line.split() for line in Path(f"/proc/{host.pid}/mountinfo").read_text().splitlines()]
        groups = [root for _, _, _, root, where, *_ in mounts if where.startswith("/sys/fs/cgroup/") or "cgroup2" in where]
        assert groups and all(re.search(r"/podwire-test-\d+$", group) for group in groups), groups
        host.sh("touch /etc/podwire-test /usr/local/podwire-test || touch /var/lib/podwire-test")
        assert host.run("sh", "-c", "echo 1 >/proc/sys/kernel/panic", check=False).returncode
    assert not Path("/etc/podwire-test").exists()


def test_it_does_not_outlive_who_made_it(packages: Path, tmp_path: Path) -> None:
    """Killed at once, without a chance to clean up."""
    command = [sys.executable, "-c", OWNER, str(packages)]
    environment = {"PATH": PATH, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    owner = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
    assert owner.stdout
    host = int(owner.stdout.readline())
    assert os.listdir(tmp_path)
    [group] = set(re.findall(r"podwire-test-\d+", Path(f"/proc/{host}/cgroup").read_text()))
    owner.send_signal(signal.SIGKILL)
    owner.communicate()
    until = time.monotonic() + 10
    while os.listdir(tmp_path) and time.monotonic() < until:
        time.sleep(0.05)
    assert not os.listdir(tmp_path)
    assert not is_running(host)
    assert subprocess.run(["find", "/sys/fs/cgroup", "-name", group], capture_output=True, check=True).stdout == b""


def is_running(pid: int) -> bool:
    """A process that has ended, and that nobody has asked about yet, has no command line."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() != b""
    except (FileNotFoundError, ProcessLookupError):
        return False
