"""The door to nftables: libnftables in process, and a socket to nfnetlink. Nothing else uses them, or the ``nft`` program.

An ``Nft`` works in the network namespace of the thread that first uses it, because the library's socket is made there,
and keeps one context, which threads use in turn: the library is not made for more than one. One transaction costs about
0.1 ms and the import 4 ms, so the library is loaded at first use. Contexts do not grow (0 kB after 50,000 transactions).

What callers should know about cost, with libnftables 1.0.6:

- ``sets`` and ``chain`` cost 0.04 to 0.3 ms, whatever the sets contain and whatever rules others have (measured beside
  5,000 chains of iptables). ``list chains`` grows with the chains of all families (1 us each).
- ``list table`` loads the elements of the table (5 us each); ``get element`` and ``list tables`` those of *all* tables.
- Writing elements by the library loads the names of all chains and sets: 0.2 ms, 10 ms beside 5,000 chains. So
  transactions of elements alone go to the kernel directly (``cni.nft.elements``), in less than 0.1 ms.
- A transaction that the kernel refuses takes 8 to 16 ms, however small it is. So does closing a context after something
  was *removed* (rules or elements): the kernel destroys it first. Adding leaves nothing to destroy.
"""

from __future__ import annotations

from _thread import allocate_lock  # threading costs a plugin call a millisecond
from errno import EEXIST, ENOENT
from os import strerror
from socket import AF_NETLINK, SOCK_RAW, socket
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from cni.nft import elements
from cni.nft.listing import parse_get
from cni.nft.nfnetlink import NETLINK_NETFILTER, Nfnetlink
from cni.spec.errors import CNIError, Unusable

if TYPE_CHECKING:
    from nftables import Nftables

Object = dict[str, Any]


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

# What the library says when its socket failed rather than the command, or when others changed the ruleset while it read.
# Then it is asked again with a new one: every transaction of ours may be repeated.
_TRIES = 10
_BROKEN = ("cache initialization failed", "No buffer space available", "Interrupted system call", "Bad file descriptor")

# ``list chain`` alone would load all elements of the table. A command beside it that needs none keeps libnftables
# from it, and this family has rules on hardly any host.
_WITHOUT_ELEMENTS = "\nlist ruleset arp"

# How many answers are kept: there is one for each subnet of pods.
_TOLD_MAX = 64

_OF_ELEMENTS = (*(f"{verb} element " for verb in elements.VERBS), "flush set ")

# Details go to a person: the first complaint says it, a long transaction repeats it for every line.
_DETAILS_MAX = 600


class _Told(NamedTuple):
    """An answer: which ruleset of others it is about, and when it was asked for."""

    others: int
    at: float
    objects: list[Object]


class Nft:
    """The nftables ruleset of one network namespace. Threads may share it.

    What ``sets`` and ``chain`` told is told again without asking the kernel as long as nobody else has changed the ruleset.
    That is known from its generation, which the kernel counts up with every transaction that changes anything: it tells which
    one a transaction of ours has made, and elements, which alone we send it directly, are no part of what was told. Who asks
    for what was so ``lately`` is told it for LATELY_S also where others have changed the ruleset: a kube-proxy does with every
    pod that starts, and never changes what is ours.
    """

    LATELY_S = 1.0

    def __init__(self) -> None:
        self._lock = allocate_lock()
        self._context: Nftables | None = None
        self._told: dict[str, _Told] = {}
        self._others = 0  # counts up whenever others have changed the ruleset
        self._generation: int | None = None
        self._kernel = Nfnetlink()

    def close(self) -> None:
        """Close what was opened beside the library's context, which closes itself."""
        with self._lock:
            self._kernel.close()

    def run(self, text: str, what: str = "change nftables rules") -> None:
        """Run commands as one transaction: all of them or none. NftError, or a subclass for what can be decided upon."""
        with self._lock:
            status, _, error = self._change(text)
            if status or not _of_elements(text):
                self._told.clear()
        if status:
            raise _error(f"cannot {what}", error)

    def query(self, text: str) -> list[Object]:
        """The objects that a ``list`` or ``get`` command tells, as nft's JSON has them; empty when the thing does not exist."""
        with self._lock:
            return self._read(text, elements=True)

    def sets(self, family: str, lately: bool = False) -> list[Object]:
        """The sets of a family, without elements and without maps."""
        return self._frame(f"list sets {family}", lately)

    def chain(self, where: str, lately: bool = False) -> list[Object]:
        """The chain ``family table name`` with its rules; empty when it does not exist."""
        text = f"list chain {where}{_WITHOUT_ELEMENTS}"
        if where.startswith("inet "):
            return self._frame(text, lately, where)
        with self._lock:  # of the reference, one for each attachment: nobody asks for it again
            return self._look(text, where)

    def available(self) -> str:
        """Why nftables cannot be used here; empty when it can."""
        try:
            self.sets("inet")
        except CNIError as error:
            return str(error)
        return ""

    def _change(self, text: str) -> tuple[int, str, str]:
        """Elements go to the kernel directly. What it refuses is in libnftables' words, but for what callers expect."""
        change = self._kernel.change(text)
        if change is not None:
            if change.generation:
                self._heed(change.generation, own=1)
            if change.errno == 0:
                return 0, "", ""
            if change.errno in (ENOENT, EEXIST):
                return 1, "", strerror(change.errno)
        return self._command(text, json=False, elements=True)

    def _frame(self, text: str, lately: bool, chain: str = "") -> list[Object]:
        """What a command tells that reads no elements."""
        with self._lock:
            self._heed(self._kernel.generation())
            told = self._told.get(text)
            now = monotonic()
            if told is None or (told.others != self._others and not (lately and now - told.at < self.LATELY_S)):
                if len(self._told) >= _TOLD_MAX:
                    self._told.clear()
                told = self._told[text] = _Told(self._others, now, self._look(text, chain))
            return told.objects

    def _look(self, text: str, chain: str) -> list[Object]:
        """What a command about a chain tells, or about all sets; the kernel says whether there is a chain in less time."""
        if chain and self._kernel.find_chain(chain) == ENOENT:
            return []
        return self._read(text, elements=False)

    def _heed(self, generation: int | None, own: int = 0) -> None:
        """Note whether others have changed the ruleset since the last time; the last ``own`` generations of it are our own."""
        if generation is None or self._generation is None or generation - own != self._generation:
            self._others += 1
        self._generation = generation

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
        answer = output.partition("\n")[0]  # each command's on its own line
        objects: list[Object] = msgspec.json.decode(answer)["nftables"]
        return [entry for entry in objects if "metainfo" not in entry]

    def _command(self, text: str, json: bool, elements: bool) -> tuple[int, str, str]:
        for _ in range(_TRIES):
            answer = self._once(text, json, elements)
            if not (answer[0] and any(sign in answer[2] for sign in _BROKEN)):
                break
            self._context = None
        return answer

    def _once(self, text: str, json: bool, elements: bool) -> tuple[int, str, str]:
        if self._context is None:
            self._context = _open()
        self._context.set_json_output(json)
        self._context.set_terse_output(not elements)
        status, output, error = self._context.cmd(text)
        return status, output, error


def _of_elements(text: str) -> bool:
    return all(line.startswith(_OF_ELEMENTS) for line in text.splitlines())


def _open() -> Nftables:
    try:  # libnftables ends the process, without a word to its caller, where this socket cannot be made
        socket(AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER).close()
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
