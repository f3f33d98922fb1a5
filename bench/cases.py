"""What is measured: a table of configurations, each with its plugin, the verbs to time, and leases to begin with."""

from __future__ import annotations

from typing import Any, NamedTuple


class Case(NamedTuple):
    """One measurement. ``config`` gets a name, a bridge and a data folder of its own for each peer."""

    name: str
    plugin: str
    verbs: tuple[str, ...]
    config: dict[str, Any]
    leases: int = 0


_RANGES = {"ranges": [[{"subnet": "10.1.0.0/16"}]], "routes": [{"dst": "0.0.0.0/0"}]}
_BRIDGE = {"type": "bridge", "isGateway": True, "ipam": {"type": "host-local", **_RANGES}}
_IPAM_ONLY = {"type": "bridge", "ipam": {"type": "host-local", **_RANGES}}
_ALL = ("ADD", "CHECK", "DEL")

CASES = (
    Case("start-up", "bridge", ("VERSION",), {"type": "bridge"}),
    Case("bridge + host-local", "bridge", _ALL, _BRIDGE),
    # 1.1.1 of the reference only knows iptables; each peer runs its own default.
    Case("bridge + host-local, ipMasq", "bridge", _ALL, {**_BRIDGE, "ipMasq": True}),
    *(Case(f"host-local, {count} leases", "host-local", ("ADD", "DEL"), _IPAM_ONLY, count) for count in (2, 1000, 10000)),
)
