"""Traffic control on a namespace in memory."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import msgspec

from cni.net.facts import Filter, Qdisc, Shaping
from cni.net.qdiscs import INGRESS_HANDLE, TBF_HANDLE
from cni.spec.errors import UnsupportedField
from tests.fakes.namespace import refused

if TYPE_CHECKING:
    from tests.fakes.kernel import FakeKernel


class FakeTraffic:
    """`cni.net.traffic.Traffic` on a FakeKernel."""

    def __init__(self, kernel: FakeKernel) -> None:
        self.kernel = kernel

    def shaping(self, name: str) -> Shaping:
        found = self.kernel.namespace.links.get(name)
        return Shaping() if found is None else found.shaping

    def knows_qdisc(self, kind: str) -> bool:
        return kind == "tbf" and self.kernel.machine.shapes

    def limit_rate(self, name: str, rate: int, limit: int, buffer: int, burst: int = 0) -> None:
        words = f"cannot limit the rate of {name}"
        link = self.kernel.must(name)
        if not self.kernel.machine.shapes:
            lacks = "it lacks CONFIG_NET_SCH_TBF (module sch_tbf)"
            raise UnsupportedField(f"{words}: this kernel has no token bucket", lacks)
        if link.shaping.root is not None:
            raise refused(words, errno.EEXIST, "Exclusivity flag on, cannot modify")
        if not rate or not (buffer or burst):
            raise refused(words, errno.EINVAL)
        link.shaping = msgspec.structs.replace(link.shaping, root=Qdisc("tbf", TBF_HANDLE, rate, limit, buffer))

    def unlimit_rate(self, name: str, handle: int = TBF_HANDLE) -> bool:
        link = self.kernel.namespace.links.get(name)
        if link is None or link.shaping.root is None:
            return False
        if link.shaping.root.handle != handle:
            raise refused(f"cannot take the rate limit from {name}", errno.EINVAL, "Invalid handle")
        link.shaping = msgspec.structs.replace(link.shaping, root=None)
        return True

    def redirect(self, name: str, to: str) -> None:
        link, target = self.kernel.must(name), self.kernel.must(to)
        if link.shaping.ingress is not None:
            raise refused(
                f"cannot redirect what comes in by {name} to {to}", errno.EEXIST, "Exclusivity flag on, cannot modify"
            )
        filters = (Filter("u32", True, target.index),)
        link.shaping = Shaping(link.shaping.root, Qdisc("ingress", INGRESS_HANDLE), filters)

    def drop_redirect(self, name: str) -> bool:
        link = self.kernel.namespace.links.get(name)
        if link is None or link.shaping.ingress is None:
            return False
        link.shaping = Shaping(link.shaping.root)
        return True
