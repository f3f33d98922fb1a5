"""containerd and podman in a host, and their containers. Both are handled by their own commands: `ctr` and `podman`."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any

from tests.harness.node import PATH, Failed

from . import image

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from .host import Host

CONF_FOLDER = "/etc/cni/net.d"
IMAGE = "/tmp/image.tar"
TOO_LONG_S = 20

# Its remote interface for Kubernetes is not asked here, and file systems that are not there are not looked for.
CONTAINERD_CONF = """
version = 2
disabled_plugins = [
    "io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
]
"""

PODMAN_CONF = """
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
[network]
network_backend = "cni"
cni_plugin_dirs = ["/opt/cni/bin"]
"""

# Prints the page that a web server has. Tries until there is one: a container runs before its server listens.
GET = """
import socket, sys, time
end = time.monotonic() + float(sys.argv[3])
while True:
    try:
        with socket.create_connection(sys.argv[1:3], 1) as s:
            s.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
            head, _, page = s.makefile("rb").read().partition(b"\\r\\n\\r\\n")
        if b" 200 " in head.splitlines()[0]:
            print(page.decode())
            break
    except (OSError, IndexError):
        pass
    if time.monotonic() > end:
        break
    time.sleep(0.02)
"""


def until(true: Callable[[], Any], otherwise: str) -> Any:
    """Wait until something is so; what it is."""
    end = time.monotonic() + TOO_LONG_S
    while not (found := true()):
        assert time.monotonic() < end, otherwise
        time.sleep(0.02)
    return found


class Podman:
    """podman with its CNI backend. `pods` of the host has its containers by name."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self._env = {"PATH": PATH, "LC_ALL": "C", "CONTAINERS_CONF": "/etc/containers/test.conf"}
        host.path("/etc/containers/test.conf").write_text(PODMAN_CONF)
        self("load", "-q", "-i", IMAGE)

    def __call__(self, *command: str, check: bool = True) -> str:
        """A command of podman; what it says."""
        done = self.host.run("podman", *command, env=self._env, check=check)
        return (done.stdout if check else done.stdout + done.stderr).decode().strip()

    def run(self, name: str, *options: str, command: tuple[str, ...] | None = None) -> dict[str, Any]:
        """Start a container, by default one that serves a page with its name; what `podman inspect` says of it."""
        self("run", "-d", "--name", name, *options, image.NAME, *(command or image.serve(name)))
        return self.look(name)

    def look(self, name: str) -> dict[str, Any]:
        """What `podman inspect` says of a container that runs."""
        [found] = json.loads(self("inspect", name))
        self.host.pods[name] = f"/proc/{found['State']['Pid']}/ns/net"
        return dict(found)

    def remove(self, name: str) -> None:
        """Take a container away, running or not."""
        self.host.pods.pop(name, None)
        self("rm", "-f", "-t", "0", name)

    def remove_all(self) -> None:
        """Take all containers and pods away."""
        self.host.pods = {name: path for name, path in self.host.pods.items() if not path.startswith("/proc/")}
        self("pod", "rm", "-a", "-f", "-t", "0")
        self("rm", "-a", "-f", "-t", "0")


class Containerd:
    """A running containerd, and `ctr run --cni`. `pods` of the host has its containers by name."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        host.path("/etc/containerd/config.toml").write_text(CONTAINERD_CONF)
        self.start()
        self("images", "import", IMAGE)

    def start(self) -> None:
        """Start the daemon, and wait until it answers."""
        self._daemon = self.host.spawn("sh", "-c", "exec containerd >>/var/log/containerd.log 2>&1")
        until(lambda: not self.host.run("ctr", "version", check=False).returncode, "containerd does not answer")

    def __call__(self, *command: str, check: bool = True) -> str:
        """A command of ctr; what it says."""
        done = self.host.run("ctr", *command, check=check)
        return (done.stdout if check else done.stdout + done.stderr).decode().strip()

    def run(self, name: str, *options: str, command: tuple[str, ...] | None = None) -> None:
        """Start a container, by default one that serves a page with its name, and wait until it has a network."""
        arguments = ("ctr", "run", "--rm", "--cni", *options, image.NAME, name, *(command or image.serve(name)))
        process = self.host.spawn(*arguments)
        pid = until(lambda: self._pid(name, process), f"{name} does not run")
        self._running[name] = process
        self.host.pods[name] = f"/proc/{pid}/ns/net"

    def _pid(self, name: str, process: subprocess.Popen[bytes]) -> str | None:
        if process.poll() is not None:
            assert process.stdout and process.stderr
            raise Failed(f"ctr run {name}: {process.stderr.read().decode()}{process.stdout.read().decode()}")
        for line in self("tasks", "ls", check=False).splitlines():
            if line.split()[0] == name and line.split()[2] == "RUNNING":
                return line.split()[1]
        return None

    def stop(self, name: str, signal: str = "SIGTERM") -> None:
        """End a container. `ctr run` then takes away its network and itself, and must have no complaints."""
        self("tasks", "kill", "--signal", signal, name)
        self.wait(name)

    def wait(self, name: str) -> None:
        """Wait for the end of a container and its network."""
        self.host.pods.pop(name, None)
        process = self._running.pop(name)
        _, said = process.communicate(timeout=TOO_LONG_S)
        complaints = [line for line in said.decode().splitlines() if "response:200" not in line]
        assert complaints == [], f"ctr run {name}"

    def stop_all(self) -> None:
        """End all containers."""
        for name in list(self._running):
            self.stop(name, "SIGKILL")


def get(host: Host, address: str, port: int = 80, *, pod: str | None = None, seconds: float = 5) -> str | None:
    """The page at an address, as seen by a namespace of the host; None when there is none within that time."""
    done = host.run(sys.executable, "-I", "-S", "-c", GET, address, str(port), str(seconds), pod=pod)
    return done.stdout.decode().strip() or None
