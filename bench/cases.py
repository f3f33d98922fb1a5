"""What is measured, as a table of cases, and what it is to come to. Nothing here runs anything.

A case yields measures (``bridge + host-local: ADD``), each with samples of every lane: the peers, and the floor where it
has one.
"""

from __future__ import annotations

from typing import Any

import msgspec

# The lanes. The floor is the kernel's part of a call, by prepared messages (bench/floor.py).
RESIDENT, ONE_SHOT, REFERENCE, FLOOR = "resident", "one-shot", "reference", "floor"

# How many calls run at a time where several do; kubelets start pods about so.
CALLERS = 8


class Case(msgspec.Struct, frozen=True):
    """One set of calls. ``kind`` is the name of the function of bench/runner.py that makes them.

    ``leases``: how many others the networks have to begin with; several numbers are several networks. ``share``: how many
    rounds of a single call one round of this case stands for, so that ``--rounds`` suits all. ``pause``: seconds of quiet
    before each call. ``chain``: the plugins that follow in the list; a call is then one of each, as a runtime makes them.
    ``ports``: how many ports of each pod are published.
    """

    name: str
    config: dict[str, Any]
    kind: str = "in_turn"
    plugin: str = "bridge"
    verbs: tuple[str, ...] = ()
    leases: tuple[int, ...] = (0,)
    lanes: tuple[str, ...] = (RESIDENT, ONE_SHOT, REFERENCE)
    pods: int = 1
    share: int = 1
    pause: float = 0.0
    chain: tuple[dict[str, Any], ...] = ()
    ports: int = 0

    def title(self, leases: int) -> str:
        """What the measures of one network begin with."""
        return f"{self.name}, {leases:,} leases" if len(self.leases) > 1 else self.name

    def measure(self, leases: int, verb: str) -> str:
        """The name of a measure of calls in turn."""
        return f"{self.title(leases)}: {verb}" if len(self.verbs) > 1 else self.name

    def at_once(self) -> tuple[str, str]:
        """The names of the two measures of a crowd."""
        return f"{self.name}: ADDs per second, {CALLERS} at once", f"{self.name}: {self.pods} DELs at once"

    def measures(self) -> tuple[str, ...]:
        """The names of all measures."""
        in_turn = tuple(self.measure(leases, verb) for leases in self.leases for verb in self.verbs)
        return {"in_turn": in_turn, "crowd": self.at_once()}.get(self.kind, (self.name,))


class Aim(msgspec.Struct, frozen=True):
    """A limit of a figure: at most, or with ``least`` at least."""

    limit: float
    least: bool = False

    def met(self, value: float) -> bool:
        """Whether a figure is within it."""
        return value >= self.limit if self.least else value <= self.limit

    def __str__(self) -> str:
        return f"{'≥' if self.least else '≤'} {self.limit:g}"


_IPAM = {"type": "host-local", "routes": [{"dst": "0.0.0.0/0"}]}
_BRIDGE = {"type": "bridge", "isGateway": True, "ipam": _IPAM}
# 1.1.1 of the reference only knows iptables; each peer runs its own default.
_MASQUERADE = {**_BRIDGE, "ipMasq": True}
# What kind writes on its nodes, and what podman ships as its default network.
_PORTMAP = {"type": "portmap", "capabilities": {"portMappings": True}}
_KIND = {"type": "ptp", "ipMasq": False, "mtu": 1500, "ipam": _IPAM}
_PODMAN = {"type": "bridge", "isGateway": True, "ipMasq": True, "hairpinMode": True, "ipam": _IPAM}
_PODMAN_CHAIN = (_PORTMAP, {"type": "firewall"}, {"type": "tuning"})
_IPAM_ONLY = {"type": "bridge", "ipam": _IPAM}
_ALL = ("ADD", "CHECK", "DEL")
_PEERS_AND_FLOOR = (RESIDENT, ONE_SHOT, REFERENCE, FLOOR)
_FEWEST, _MOST = 2, 60_000

# Calls of a kind that follow each other, one at a time.
_IN_A_ROW = 8

CASES = (
    Case("start-up", {"type": "bridge"}, verbs=("VERSION",)),
    Case("bridge + host-local", _BRIDGE, verbs=_ALL, lanes=_PEERS_AND_FLOOR, pods=_IN_A_ROW, share=4),
    Case("with ipMasq", _MASQUERADE, verbs=_ALL, lanes=_PEERS_AND_FLOOR, pods=_IN_A_ROW, share=4),
    Case("with ipMasq, after a pause", _MASQUERADE, verbs=("ADD", "DEL"), share=2, pause=0.3),
    Case(
        "kind's list, two ports", _KIND, plugin="ptp", verbs=("ADD", "DEL"), pods=_IN_A_ROW, share=4, chain=(_PORTMAP,), ports=2
    ),
    Case("podman's list, two ports", _PODMAN, verbs=("ADD", "DEL"), pods=_IN_A_ROW, share=4, chain=_PODMAN_CHAIN, ports=2),
    # The reference 1.1.1 knows no STATUS.
    Case("STATUS", {**_BRIDGE, "cniVersion": "1.1.0"}, verbs=("STATUS",), lanes=(RESIDENT, ONE_SHOT)),
    Case("host-local", _IPAM_ONLY, plugin="host-local", verbs=("ADD", "DEL"), leases=(_FEWEST, 1_000, 10_000, _MOST)),
    Case("100 pods", _BRIDGE, "crowd", lanes=_PEERS_AND_FLOOR, pods=100, share=6),
    Case("100 pods with ipMasq", _MASQUERADE, "crowd", lanes=_PEERS_AND_FLOOR, pods=100, share=6),
    Case("memory", _MASQUERADE, "memory", lanes=(RESIDENT,), pods=CALLERS),
)

# The resident way's median by the reference's.
AIMS = {
    "bridge + host-local: ADD": Aim(0.4),
    "with ipMasq: ADD": Aim(0.15),
    "with ipMasq: DEL": Aim(0.5),
    "kind's list, two ports: ADD": Aim(0.2),
    "podman's list, two ports: ADD": Aim(0.2),
    "100 pods with ipMasq: ADDs per second, 8 at once": Aim(4, least=True),
    "100 pods with ipMasq: 100 DELs at once": Aim(0.15),
}

# The resident way's median of one measure by that of another.
FLAT = (f"host-local, {_MOST:,} leases: ADD", f"host-local, {_FEWEST:,} leases: ADD", Aim(1.2))

# MB of the agent, and how many of them may come between a tenth of the cycles and the last: Python asks for memory by the
# mebibyte, so less than two of them say nothing.
MEMORY, GROWTH = Aim(60), Aim(2)

# What the picture shows; the table has all.
PICTURED = (
    "bridge + host-local: ADD",
    "bridge + host-local: DEL",
    "with ipMasq: ADD",
    "with ipMasq: DEL",
    "host-local, 60,000 leases: ADD",
    "100 pods with ipMasq: ADDs per second, 8 at once",
    "100 pods with ipMasq: 100 DELs at once",
)
