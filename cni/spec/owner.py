"""Whose a thing is: the label that links, nftables elements and files of ours carry, and names made from it.

A label is ``podwire/<network>/<container id>/<ifname>``. Network names and container ids cannot contain ``/`` (spec section 2)
and interface names cannot either, so a label reads back unambiguously. Where it would be longer than its carrier allows,
network and attachment are replaced by ``~`` and a hash of each: still comparable, no longer readable.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import sha256

import msgspec

PREFIX = "podwire"

# The kernel keeps 255 bytes of an interface alias (IFALIASZ) and nft 128 of an element's comment (NFTNL_UDATA_COMMENT_MAXLEN).
LONGEST = 128


class Owner(msgspec.Struct, frozen=True):
    """An attachment as the owner of objects on the host."""

    network: str
    container_id: str
    ifname: str

    @property
    def label(self) -> str:
        """The label in its shortest exact form, at most LONGEST bytes."""
        plain = "/".join((PREFIX, self.network, self.container_id, self.ifname))
        if len(plain.encode()) <= LONGEST:
            return plain
        return "/".join((hashed_network(self.network), _hash(self.container_id, self.ifname)))

    def digest(self, purpose: str) -> bytes:
        """32 bytes that differ for every attachment and purpose: the source of names and addresses that must not be guessed
        anew at each call."""
        return _digest("\0".join((purpose, self.network, self.container_id, self.ifname)))

    @property
    def host_veth(self) -> str:
        """The name of the attachment's veth on the host: ``veth`` and 8 hex digits, the reference's form.

        It follows from the attachment, so that DEL and CHECK find it without a search, with the sandbox gone too.
        """
        return "veth" + self.digest("host veth").hex()[:8]

    @property
    def spare_name(self) -> str:
        """A name for an interface of the attachment that cannot have its own at once."""
        return "pw" + self.digest("spare name").hex()[:8]

    def mac(self, purpose: str) -> str:
        """A locally administered unicast address for one of the attachment's interfaces."""
        raw = bytearray(self.digest(purpose)[:6])
        raw[0] = raw[0] & 0xFC | 0x02
        return ":".join(f"{byte:02x}" for byte in raw)


def of_network(label: str, network: str) -> bool:
    """Whether a label, plain or hashed, is of an attachment to ``network``."""
    return label.startswith((f"{PREFIX}/{network}/", hashed_network(network) + "/"))


def of_interface(label: str, container_id: str, ifname: str) -> bool:
    """Whether a label, plain or hashed, is of an interface of a container, of whatever network."""
    return label.split("/", 2)[2:] in ([f"{container_id}/{ifname}"], [_hash(container_id, ifname)])


def hashed_network(network: str) -> str:
    """The beginning of every hashed label of a network."""
    return f"{PREFIX}/{_hash(network)}"


@lru_cache(512)
def _digest(text: str) -> bytes:
    return sha256(text.encode()).digest()


def _hash(*parts: str) -> str:
    return "~" + sha256("\0".join(parts).encode()).hexdigest()[:48]
