"""The host of a call, with pods."""

from __future__ import annotations

import errno
import os
import re
from ipaddress import ip_interface
from typing import TYPE_CHECKING, Any

from cni.net.ops import Side
from cni.nft.firewalld import FirewalldError
from cni.spec.errors import EnvError, UnknownSandbox
from tests.fakes.iptables import FakeIptables
from tests.fakes.kernel import FakeKernel
from tests.fakes.namespace import LINK_SYSCTLS, OF_NAMESPACE, FakeLink, Namespace, refused
from tests.fakes.nft import FakeNft
from tests.fakes.ruleset import Ruleset

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from cni.spec.addresses import Cidr, Ip


class FakeConntrack:
    """`cni.nft.conntrack.Conntrack` of a host that nobody sends anything to."""

    def forget(self, version: int, port: int, to: Callable[[Ip], bool]) -> int:
        return 0


class FakeFirewalld:
    """`cni.nft.firewalld.Firewalld`: the sources of zones; None where no firewalld runs."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def running(self) -> bool:
        return self.machine.zones is not None

    def add_source(self, zone: str, source: str) -> bool:
        there = self._zone(zone)
        if source in there:
            return False
        there.add(source)
        return True

    def remove_source(self, zone: str, source: str) -> bool:
        there = self._zone(zone)
        if source not in there:
            return False
        there.remove(source)
        return True

    def has_source(self, zone: str, source: str) -> bool:
        return source in self._zone(zone)

    def _zone(self, zone: str) -> set[str]:
        if self.machine.zones is None:
            raise FirewalldError("cannot talk to firewalld", "it does not run")
        if zone not in self.machine.zones:
            raise FirewalldError("firewalld refused a call", f"INVALID_ZONE: {zone}")
        return self.machine.zones[zone]


class FakeHost:
    """`cni.net.host.Host` on a Machine."""

    def __init__(self, machine: Machine, sandbox_fd: int | None) -> None:
        self.machine, self.sandbox_fd = machine, sandbox_fd
        self.root = FakeKernel(machine, machine.root)
        self.sandbox = None if sandbox_fd is None else FakeKernel(machine, machine.at_fd(sandbox_fd))
        self.nft, self.iptables, self.conntrack = FakeNft(machine.rules), FakeIptables(machine.rules), FakeConntrack()
        self.firewalld = FakeFirewalld(machine)
        self.closed = False

    def kernel(self, side: Side) -> FakeKernel:
        if side is Side.HOST:
            return self.root
        assert self.sandbox is not None, "a plan for a sandbox that is gone"
        return self.sandbox

    def delete_link(self, side: Side, name: str) -> bool:
        return self.kernel(side).delete_link(name)

    def sysctl(self, side: Side, key: str) -> str | None:
        return self._sysctls(side, key).get(key)

    def write_sysctls(self, side: Side, values: tuple[tuple[str, str], ...], must: bool, if_there: bool = False) -> None:
        for key, value in values:
            found = self._sysctls(side, key)
            if key in found:
                found[key] = value
            elif must and not if_there:
                raise refused(f"cannot set sysctl {key} to {value!r}", errno.ENOENT)

    def sysctls(self, side: Side, keys: Iterable[str]) -> dict[str, str]:
        return {key: value for key in keys if (value := self.sysctl(side, key)) is not None}

    def write_only(self, side: Side, key: str) -> bool:
        self._sysctls(side, key)
        return False

    def file(self, path: str, follow: bool = True) -> bytes | None:
        return self.machine.files.get(path)

    def files(self, folder: str) -> list[str]:
        return sorted(path[len(folder) + 1 :] for path in self.machine.files if path.rpartition("/")[0] == folder)

    def write_file(self, path: str, content: bytes, new: bool) -> None:
        if new and path in self.machine.files:
            raise refused(f"cannot write {path}", errno.EEXIST)
        self.machine.files[path] = content

    def remove_file(self, path: str) -> bool:
        return self.machine.files.pop(path, None) is not None

    def unwritable(self, folder: str) -> str:
        return self.machine.unwritable

    @property
    def sandbox_name(self) -> str:
        return "" if self.sandbox is None else self.sandbox.namespace.name

    def is_sandbox(self, path: str) -> bool:
        return self.sandbox is not None and self.machine.pods.get(path) is self.sandbox.namespace

    def work(self) -> None:
        if self not in self.machine.at_work:
            self.machine.at_work.append(self)

    def alone(self) -> bool:
        return self.machine.at_work == [self]

    def rest(self) -> None:
        if self in self.machine.at_work:
            self.machine.at_work.remove(self)

    def close(self) -> None:
        assert not self.closed, "closed twice"
        self.closed = True
        self.rest()
        if self.sandbox_fd is not None:
            self.machine.close_fd(self.sandbox_fd)
            self.sandbox_fd = None

    def _sysctls(self, side: Side, key: str) -> dict[str, str]:
        known = [*OF_NAMESPACE, *(re.escape(name).replace(r"\{\}", "[^/]+") for name in LINK_SYSCTLS)]
        assert any(re.fullmatch(name, key) for name in known), f"the fake does not know sysctl {key}"
        return self.kernel(side).namespace.sysctls


class Machine:
    """A host with pods, in memory."""

    def __init__(self, *, filters_vlans: bool = False, shapes: bool = True) -> None:
        self.filters_vlans = filters_vlans
        # What older kernels do: refuse names in a pod that the master's namespace has; have no broadcast queues to choose.
        self.names_are_hosts = False
        self.lacks_queues = False
        self.shapes = shapes  # has token buckets and ifbs
        self.root = Namespace("host", lo_up=True)
        self.rules = Ruleset()
        self.zones: dict[str, set[str]] | None = None
        self.pods: dict[str, Namespace] = {}
        self.files: dict[str, bytes] = {}
        # Why no file could be made, for STATUS.
        self.unwritable = ""
        self.at_work: list[Any] = []
        # What duplicate address detection will find, for the test of the failure.
        self.duplicates: tuple[Cidr, ...] = ()
        self._fds: dict[int, Namespace] = {}
        self._macs = 0

    def pod(self, path: str) -> Namespace:
        """A new pod's namespace, as a runtime makes it."""
        assert path not in self.pods
        self.pods[path] = Namespace(path, lo_up=False)
        return self.pods[path]

    def uplink(self) -> None:
        """Give the host a link to a segment of nodes, 192.0.2.0/24 and fd00:2::/64, where it is the first."""
        link = self.root.add(FakeLink(0, "up0", "veth", self.mac()))
        self.root.switch(link, True)
        for address in (ip_interface("192.0.2.1/24"), ip_interface("fd00:2::1/64")):
            link.addresses.append(address)
            self.root.connect(link, address)

    def host(self, sandbox_fd: int | None = None, search_path: str = "") -> FakeHost:
        """The doors of one call."""
        return FakeHost(self, sandbox_fd)

    def mac(self) -> str:
        """The next hardware address that the kernel gives by itself."""
        self._macs += 1
        return f"0e:00:00:00:{self._macs >> 8:02x}:{self._macs & 255:02x}"

    def open_sandbox(self, path: str) -> int:
        """`cni.net.netns.open_sandbox`: a real descriptor (of nothing) that stands for the namespace at a path."""
        if path == "host":
            namespace = self.root
        elif path in self.pods:
            namespace = self.pods[path]
        elif path.endswith("/not-a-namespace"):
            raise EnvError(f"CNI_NETNS {path!r} is not a network namespace")
        else:
            raise UnknownSandbox(f"cannot open CNI_NETNS {path!r}: No such file or directory")
        fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._fds[fd] = namespace
        return fd

    def is_own(self, fd: int) -> bool:
        """`cni.net.netns.is_own`."""
        return self._fds[fd] is self.root

    def at_fd(self, fd: int) -> Namespace:
        return self._fds[fd]

    def close_fd(self, fd: int) -> None:
        del self._fds[fd]
        os.close(fd)

    @property
    def open_fds(self) -> int:
        """How many sandboxes are open: none after a call."""
        return sum(os.path.exists(f"/proc/self/fd/{fd}") for fd in self._fds)

    def dump(self) -> str:
        """Everything there is, in words."""
        told: list[str] = []
        for namespace in (self.root, *self.pods.values()):
            told += [f"namespace {namespace.name}", *(f"  {line}" for line in namespace.dump())]
        told += [*self.rules.dump()]
        told += [f"file {path} {content!r}" for path, content in sorted(self.files.items())]
        told += [f"zone {zone}: {' '.join(sorted(found))}" for zone, found in (self.zones or {}).items()]
        told += [f"at work: {len(self.at_work)}"] if self.at_work else []
        return "\n".join(told) + "\n"
