"""The door to nftables: libnftables in process. Nothing else in the project uses that library or the ``nft`` program.

An ``Nft`` works in the network namespace of the thread that first uses it, because the library's socket is made there,
and keeps one context. One transaction costs about 0.1 ms and the import 4 ms, so the library is loaded at first use.

What callers should know about the cost of reading with libnftables 1.0.6, which keeps a cache for as long as nobody
changes the ruleset: ``list chains``, ``outline`` and a chain of a table without elements cost 0.05 to 0.5 ms, whatever
the sets contain. ``list`` of a table or of something in it loads all elements of that table (about 14 us each), ``get
element`` and any command that fails for want of something those of *all* tables. Writing loads nothing (0.1 to 0.3 ms),
but a transaction that the kernel refuses takes 8 to 16 ms, however small it is.
"""

from __future__ import annotations

from socket import AF_NETLINK, SOCK_RAW, socket
from typing import TYPE_CHECKING, Any

import msgspec

from cni.nft.listing import parse_get
from cni.spec.errors import CNIError, Unusable

if TYPE_CHECKING:
    from nftables import Nftables

Object = dict[str, Any]

_NETLINK_NETFILTER = 12


class NftError(CNIError):
    """libnftables refused a command; ``details`` is its own text."""


class Conflict(NftError):
    """The ruleset is not as the command expects."""


class NotFound(Conflict):
    """A table, chain, set, rule or element is not there (ENOENT)."""


class Exists(Conflict):
    """It is there already, with another value (EEXIST)."""


class Busy(Conflict):
    """It is still used by something else (EBUSY)."""


# libnftables hands out the kernel's errno only as text.
_BY_TEXT: tuple[tuple[str, type[NftError]], ...] = (
    ("No such file or directory", NotFound),
    ("does not exist", NotFound),
    ("File exists", Exists),
    ("Device or resource busy", Busy),
)

# Details go to a person: the first complaint says it, a long transaction repeats it for every line.
_DETAILS_MAX = 600


class Nft:
    """The nftables ruleset of one network namespace."""

    def __init__(self) -> None:
        self._context: Nftables | None = None

    def run(self, text: str, what: str = "change nftables rules") -> None:
        """Run commands as one transaction: all of them or none. NftError, or a subclass for what can be decided upon."""
        status, _, error = self._command(text, json=False, elements=True)
        if status:
            raise _error(f"cannot {what}", error)

    def query(self, text: str) -> list[Object]:
        """The objects that a ``list`` or ``get`` command tells, as nft's JSON has them; empty when the thing does not exist."""
        return self._read(text, elements=True)

    def outline(self, family: str) -> list[Object]:
        """Every table, chain, rule and set of a family without the sets' elements: its cost does not grow with them."""
        return self._read(f"list ruleset {family}", elements=False)

    def available(self) -> str:
        """Why nftables cannot be used here; empty when it can."""
        try:
            self._read("list chains inet", elements=False)
        except CNIError as error:
            return str(error)
        return ""

    def _read(self, text: str, elements: bool) -> list[Object]:
        status, output, error = self._command(text, json=True, elements=elements)
        if status:
            failure = _error(f"cannot read nftables ({text})", error)
            if isinstance(failure, NotFound):
                return []
            raise failure
        if not output.strip():
            return []
        if not output.lstrip().startswith("{"):
            return parse_get(output)  # libnftables before 1.0.8 answers ``get element`` in its own language only
        objects: list[Object] = msgspec.json.decode(output)["nftables"]
        return [entry for entry in objects if "metainfo" not in entry]

    def _command(self, text: str, json: bool, elements: bool) -> tuple[int, str, str]:
        if self._context is None:
            self._context = _open()
        self._context.set_json_output(json)
        self._context.set_terse_output(not elements)
        status, output, error = self._context.cmd(text)
        return status, output, error


def _open() -> Nftables:
    try:  # libnftables ends the process, without a word to its caller, where this socket cannot be made
        socket(AF_NETLINK, SOCK_RAW, _NETLINK_NETFILTER).close()
    except OSError as error:
        raise Unusable("cannot use nftables", f"{error.strerror}: does this kernel have nfnetlink and nf_tables?") from error
    try:
        from nftables import Nftables

        context = Nftables()
    except (ImportError, OSError) as error:
        raise Unusable("cannot load libnftables", f"{error}; install the package libnftables1") from error
    context.set_handle_output(True)
    context.set_numeric_proto_output(True)
    return context


def _error(attempted: str, told: str) -> NftError:
    kind = next((kind for text, kind in _BY_TEXT if text in told), NftError)
    return kind(attempted, told.strip()[:_DETAILS_MAX])
