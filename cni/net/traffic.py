"""Traffic control of one network namespace, over rtnetlink: rates that links are limited to, and what comes in by a link
redirected to another. The messages' layouts are ``cni.net.qdiscs``'; who wants which rate is ``cni.net.shaping``'s.
"""

from __future__ import annotations

import errno as errors
from typing import TYPE_CHECKING

from cni.net import messages as m
from cni.net import qdiscs
from cni.net.facts import Shaping
from cni.net.netlink import GONE, Request, failure
from cni.net.seen import filters_of, qdisc_of
from cni.spec.errors import KernelError, UnsupportedField

if TYPE_CHECKING:
    from cni.net.facts import Qdisc
    from cni.net.links import Links


class Traffic:
    """What shapes the traffic of the links of a namespace."""

    def __init__(self, links: Links) -> None:
        self._links = links
        self._wire = links.wire

    def shaping(self, name: str) -> Shaping:
        """The qdiscs that somebody gave a link, and the filters of its ingress; none when there is no such link."""
        index = self._links.index(name, must=False)
        if not index:
            return Shaping()
        words = f"cannot list the filters of {name}"
        root, ingress = (self._qdisc(name, index, parent) for parent in (qdiscs.ROOT, qdiscs.INGRESS))
        if ingress is None:
            return Shaping(root)
        fields = {"index": index, "parent": qdiscs.INGRESS_HANDLE}
        return Shaping(root, ingress, filters_of(self._links.objects(name, m.RTM_GETTFILTER, fields, [], words)))

    def _qdisc(self, name: str, index: int, parent: int) -> Qdisc | None:
        """A link's qdisc at a place; None for the one that the kernel gives each link (of handle 0).

        Of that it mostly tells nothing, or EINVAL on older kernels: the acknowledgement is then the only answer. And it tells
        qdiscs only to those who listen, unless it is asked for an echo.
        """
        words = f"cannot look up the qdisc of {name}"
        flags = m.NLM_F_ECHO | m.NLM_F_ACK
        answer = self._wire.ask(words, Request(m.RTM_GETQDISC, flags, {"index": index, "parent": parent}, []))
        if answer.errno and answer.errno not in (*GONE, errors.EINVAL):
            raise failure(words, answer)
        found = None if answer.message is None else qdisc_of(answer.message)
        return found if found is not None and found.handle else None

    def knows_qdisc(self, kind: str) -> bool:
        """Whether this kernel has, or can load, a kind of qdisc that takes options: it is asked for one without any."""
        request = Request(m.RTM_NEWQDISC, m.NLM_F_CREATE | m.NLM_F_EXCL, self._at("lo"), [["TCA_KIND", kind]])
        return self._wire.refusal(request) != errors.ENOENT

    def limit_rate(self, name: str, rate: int, limit: int, buffer: int, burst: int = 0) -> None:
        """Give a link a token bucket for what it sends, see ``ops.LimitRate``. KernelError with EEXIST when it has a qdisc."""
        words = f"cannot limit the rate of {name}"
        fields = {**self._at(name), "handle": qdiscs.TBF_HANDLE}
        attrs = qdiscs.tbf_attrs(rate, limit, buffer, burst)
        try:
            self._wire.run(words, Request(m.RTM_NEWQDISC, m.NLM_F_CREATE | m.NLM_F_EXCL, fields, attrs))
        except KernelError as error:
            if error.errno == errors.ENOENT:
                lacks = "it lacks CONFIG_NET_SCH_TBF (module sch_tbf)"
                raise UnsupportedField(f"{words}: this kernel has no token bucket", lacks) from error
            raise

    def unlimit_rate(self, name: str, handle: int = qdiscs.TBF_HANDLE) -> bool:
        """Take the token bucket of a handle from a link; False when it was gone already."""
        return self._drop_qdisc(f"cannot take the rate limit from {name}", name, qdiscs.ROOT, handle)

    def redirect(self, name: str, to: str) -> None:
        """Have all that comes in by a link leave by another. KernelError with EEXIST when it has an ingress qdisc."""
        words = f"cannot redirect what comes in by {name} to {to}"
        index, target = self._links.index(name), self._links.index(to)
        at = {"index": index, "parent": qdiscs.INGRESS, "handle": qdiscs.INGRESS_HANDLE}
        own = Request(m.RTM_NEWQDISC, m.NLM_F_CREATE | m.NLM_F_EXCL, at, [["TCA_KIND", "ingress"]])
        rule = {"index": index, **qdiscs.redirect_fields()}
        lead = Request(m.RTM_NEWTFILTER, m.NLM_F_CREATE | m.NLM_F_EXCL, rule, qdiscs.redirect_attrs(target))
        lacks = "it lacks one of CONFIG_NET_SCH_INGRESS, CONFIG_NET_CLS_U32, CONFIG_NET_ACT_MIRRED"
        made = False
        try:
            self._wire.run(words, own)
            made = True
            self._wire.run(words, lead)  # a message of its own: it must not get into somebody else's ingress
        except KernelError as error:
            if made:
                self.drop_redirect(name)
            if error.errno == errors.ENOENT:
                raise UnsupportedField(f"{words}: this kernel cannot", lacks) from error
            raise

    def drop_redirect(self, name: str) -> bool:
        """Take a link's ingress qdisc with its filters; False when it was gone already."""
        return self._drop_qdisc(f"cannot remove the ingress qdisc of {name}", name, qdiscs.INGRESS, qdiscs.INGRESS_HANDLE)

    def _at(self, name: str) -> dict[str, int]:
        return {"index": self._links.index(name), "parent": qdiscs.ROOT}

    def _drop_qdisc(self, words: str, name: str, parent: int, handle: int) -> bool:
        index = self._links.index(name, must=False)
        if not index or self._qdisc(name, index, parent) is None:
            return False
        return self._wire.remove(words, Request(m.RTM_DELQDISC, 0, {"index": index, "parent": parent, "handle": handle}, []))
