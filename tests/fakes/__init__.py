"""The kernel, the packet filter and the host of a call in memory: second implementations of the doors of `cni.net` and
`cni.nft`, for tests without root.

`Machine` holds the host's namespace, those of pods, the packet rules and who is at work; `host()` gives the doors that a
call gets. Verbs and errors are the real ones' (tests/contract runs one suite on both). `dump()` tells everything in words, so
that "as before" is an equality of texts. What the fake does not know (an operation, a sysctl, a word of nft) is an
AssertionError, never a silent success. Left out, because no decision rests on them: link-local addresses, delays, counters.
"""

from __future__ import annotations

from tests.fakes.iptables import FakeIptables
from tests.fakes.kernel import FakeKernel
from tests.fakes.machine import FakeConntrack, FakeFirewalld, FakeHost, Machine
from tests.fakes.namespace import FakeLink, Namespace
from tests.fakes.nft import FakeNft
from tests.fakes.ruleset import FakeChain, FakeRule, FakeSet, FakeTable, Ruleset
from tests.fakes.traffic import FakeTraffic

__all__ = [
    "FakeChain",
    "FakeConntrack",
    "FakeFirewalld",
    "FakeHost",
    "FakeIptables",
    "FakeKernel",
    "FakeLink",
    "FakeNft",
    "FakeRule",
    "FakeSet",
    "FakeTable",
    "FakeTraffic",
    "Machine",
    "Namespace",
    "Ruleset",
]
