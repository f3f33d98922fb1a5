"""The plan operations of this package, and how they are run through the doors.

``RunNft`` and ``RunIptables`` are text that was rendered beforehand, which a door runs as one transaction: it happens whole or
not at all. ``Settle`` looks where the first did not fit, ``Sweep`` between two of them. ``Unread`` is a failure to look,
reported when all else is done.
``cni.net.execute`` runs what is in a plan, by the functions ``apply_*``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from cni.spec.addresses import Ip
from cni.spec.errors import CNIError, NotAvailable, TryAgain, Unusable

if TYPE_CHECKING:
    from cni.nft.apply import Nft
    from cni.nft.iptables import Iptables
    from cni.nft.readers import RuleReaders

Seen = TypeVar("Seen")

# Each alternative fits the state that made the text before it fail, so the first or second try succeeds unless others
# change the same element all the time. More tries than that are a fault somewhere else.
TRIES = 6


class Op(msgspec.Struct, frozen=True, kw_only=True):
    """A step of a plan that is text for a door; ``what`` is the step in words. ``shared`` says that it makes or changes what
    other attachments use too.
    """

    what: str
    shared: bool = False

    def describe(self) -> str:
        """The operation in words."""
        return self.what


class RunNft(Op, frozen=True, kw_only=True):
    """Run one nftables transaction.

    ``undo`` takes it back, empty where that is not wanted. ``exists`` and ``missing`` are for other states of affairs: what
    is tried after a try, of whatever text, that failed because something is there already, or is not there. ``yields``
    says that such a failure, where there is no other text for it, means that another call was here first and nothing is left
    to do.
    """

    text: str
    undo: str = ""
    exists: str = ""
    missing: str = ""
    yields: bool = False

    def inverse(self) -> RunNft | None:
        """The operation that takes this one back."""
        return RunNft(text=self.undo, what=f"undo: {self.what}", yields=True) if self.undo else None


class Sweep(Op, frozen=True, kw_only=True):
    """Remove the parts of a table of ours in which nothing is left, unless something is added meanwhile.

    Three steps, so that what was seen is what is removed: ``begin`` puts a token into the table that every addition takes
    away again; then ``listing`` is asked, and what else ``end`` should see (``also``); ``end`` decides from the answer, and its
    transaction fails as a whole if the token is gone. A sweep that was killed leaves its token, which the next addition takes
    away. ``idle`` says of a listing whether there is anything to do at all; without it there always is.
    """

    begin: Callable[[int], str]
    listing: str
    also: tuple[str, ...] = ()
    idle: Callable[[list[dict[str, Any]]], bool] | None = None
    end: Callable[[list[dict[str, Any]], int], str]

    def inverse(self) -> None:
        """What is empty is made again by who needs it."""


class Settle(Op, frozen=True, kw_only=True):
    """Run one nftables transaction, and where things are not as it expects, one that fits what is there.

    ``listing`` is asked then, and ``answer`` decides, given what it told and a function that says whether a link that an
    element names as its witness (see ``witness``) is still there. An empty text means that nothing is left to do.
    ``text`` may be empty: then it looks first. ``undo`` and ``undo_answer`` take it back in the same way. ``insists`` says that
    it looks also where nft does not take ``text`` at all. ``after`` tells of what was listed what is to be done besides.
    ``before`` is given what was listed last, for ``undo_answer``; then ``undo`` does not fit.
    """

    text: str
    listing: str
    answer: Callable[[list[dict[str, Any]], Callable[[str], bool]], str]
    undo: str = ""
    undo_answer: Callable[[list[dict[str, Any]], Callable[[str], bool]], str] | None = None
    before: list[dict[str, Any]] = []
    insists: bool = False
    after: Callable[[list[dict[str, Any]]], list[ForgetFlows]] | None = None

    def inverse(self) -> Settle | None:
        """The operation that takes this one back."""
        if self.undo_answer is None:
            return None
        text = "" if self.before else self.undo
        return Settle(text=text, listing=self.listing, answer=self.undo_answer, what=f"undo: {self.what}")


class RunIptables(Op, frozen=True, kw_only=True):
    """Run one ``iptables-restore --noflush`` of a family; ``legacy`` asks for the variant of the old kernel interface.

    ``exists`` is what is left to do when the text fails because a chain that it makes is there by now; empty for nothing.
    ``yields`` says that a failure is none: what was to be removed was never made, or others use it.
    """

    v6: bool
    text: str
    undo: str = ""
    exists: str | None = None
    yields: bool = False
    legacy: bool = False

    def inverse(self) -> RunIptables | None:
        """The operation that takes this one back."""
        if not self.undo:
            return None
        return RunIptables(v6=self.v6, text=self.undo, what=f"undo: {self.what}", legacy=self.legacy)


class SettleIptables(Op, frozen=True, kw_only=True):
    """Run one ``iptables-restore --noflush`` of a family, and where that fails the one that fits what is there by then.

    ``answer`` makes it of what ``iptables-save`` tells, and ``undo_answer`` what takes it back, empty where nothing is left.
    ``before`` is given what was told last, for ``undo_answer``.
    """

    v6: bool
    text: str
    answer: Callable[[str], str]
    undo_answer: Callable[[str], str] | None = None
    before: list[str] = []

    def inverse(self) -> SettleIptables | None:
        """The operation that takes this one back."""
        if self.undo_answer is None:
            return None
        return SettleIptables(v6=self.v6, text="", answer=self.undo_answer, what=f"undo: {self.what}")


class ForgetFlows(msgspec.Struct, frozen=True, kw_only=True):
    """Forget UDP connections to a port of the host, at ``address`` or, where that is unspecified, at any of its addresses.

    They are remembered as they went when the port led elsewhere, and a client that goes on sending would go on reaching that.
    """

    address: Ip
    port: int
    shared: bool = False

    def describe(self) -> str:
        """The operation in words."""
        return f"forget UDP connections to port {self.port}"

    def inverse(self) -> None:
        """Who sends is looked up anew."""


class BindSource(msgspec.Struct, frozen=True, kw_only=True):
    """Have a zone of firewalld hold for what comes from an address, or (``on`` False) not any more."""

    zone: str
    source: str
    on: bool = True
    shared: bool = False

    def describe(self) -> str:
        """The operation in words."""
        return (
            f"{'put' if self.on else 'take'} source {self.source} {'into' if self.on else 'from'} firewalld's zone {self.zone}"
        )

    def inverse(self) -> BindSource | None:
        """The operation that takes this one back."""
        return BindSource(zone=self.zone, source=self.source, on=False) if self.on else None


class InCaseOfUndo(msgspec.Struct, frozen=True, kw_only=True):
    """Do nothing; ``op`` is run if the plan is taken back.

    For what a later operation of the plan makes for others too: with ``shared`` it is run only while no other call is at work.
    """

    op: Any
    shared: bool = False

    def describe(self) -> str:
        """The operation in words."""
        return f"keep in mind to {self.op.describe()} when this call fails"

    def inverse(self) -> Any:
        """The operation that takes this one back."""
        return self.op


class Unread(msgspec.Struct, frozen=True, kw_only=True):
    """Fail with what kept packet rules from being read; it stands in a plan so that all else of the plan is done."""

    msg: str
    details: str
    code: int
    shared: bool = False

    def describe(self) -> str:
        """The operation in words."""
        return f"report that packet rules could not be read: {self.msg}"

    def inverse(self) -> None:
        """Nothing was done."""


def attempt(
    look: Callable[[], Seen], instead: Seen, wanted: bool, notes: list[str], spared: type[CNIError] = Unusable
) -> tuple[Seen, list[Unread]]:
    """What ``look`` sees, for DEL and GC: a failure becomes ``instead`` and an operation, and keeps nothing else from being
    removed.

    A host without nftables is none to a configuration that does not ask for it (``wanted``); ``spared`` is the kind of failure
    that is forgiven then.
    """
    try:
        return look(), []
    except CNIError as error:
        if isinstance(error, spared) and not wanted:
            notes.append(f"packet rules were not looked for: {error}")
            return instead, []
        return instead, [Unread(msg=error.msg, details=error.details, code=error.code)]


def require(host: RuleReaders, backends: Iterable[str]) -> None:
    """NotAvailable (50) for the first of these packet filters, ``nftables`` or ``iptables``, that cannot be used here."""
    for backend in dict.fromkeys(backends):
        reason = host.nft.available() if backend == "nftables" else host.iptables.available()
        if reason:
            raise NotAvailable(f"{backend} cannot be used: {reason}")


def apply_nft(op: RunNft, nft: Nft) -> None:
    """Run the operation; NftError with nft's own text when it fails, TryAgain when others keep changing the same thing."""
    from cni.nft.apply import Conflict, Exists, NotFound

    after: dict[type[CNIError], str] = {Exists: op.exists, NotFound: op.missing}
    text = op.text
    for _ in range(TRIES):
        try:
            nft.run(text, op.what)
            return
        except Conflict as error:
            former, text = text, after.get(type(error), "")
            if op.yields and text in ("", former):
                return
            if not text:
                raise
            last = error
    raise TryAgain(f"{op.what}: another call keeps changing the same rules", last.details)


def apply_settle(op: Settle, nft: Nft, alive: Callable[[str], bool]) -> list[ForgetFlows]:
    """Run the operation; what is to be done besides. NftError with nft's own text when it fails, TryAgain when others keep
    changing the same thing.
    """
    from cni.nft.apply import Conflict, NftError

    text = op.text
    besides: list[ForgetFlows] = []
    for number in range(TRIES):
        try:
            if text:
                nft.run(text, op.what)
                return besides
        except Conflict as error:
            last: NftError = error
        except NftError as error:
            if number or not op.insists:
                raise
            last = error
        listing = nft.query(op.listing)
        op.before[:] = listing
        text = op.answer(listing, alive)
        besides = op.after(listing) if op.after is not None else []
        if not text:
            return []
    raise TryAgain(f"{op.what}: another call keeps changing the same rules", last.details)


def apply_settle_iptables(op: SettleIptables, iptables: Iptables) -> None:
    """Run the operation; IptablesError with the program's own text when it fails though nothing has changed meanwhile, TryAgain
    when others keep changing the same thing.
    """
    from cni.nft.iptables import IptablesError

    text = op.text
    for _ in range(TRIES):
        if text:
            try:
                return iptables.restore(op.v6, text, op.what)
            except IptablesError as error:
                last = error
        saved = iptables.save(op.v6)
        op.before[:] = [saved]
        former, text = text, op.answer(saved)
        if not text:
            return None
        if text == former:
            raise last
    raise TryAgain(f"{op.what}: another call keeps changing the same rules", last.details)


def witness(name: str, index: int) -> str:
    """How an element names a link: a name alone may be another's by now."""
    return f"{index} {name}"


def witnessed(text: str) -> tuple[int, str]:
    """Index and name of the link that ``witness`` names; index 0 for a text of anybody else's."""
    index, _, name = text.partition(" ")
    return (int(index), name) if index.isdecimal() and name else (0, "")


def apply_sweep(op: Sweep, nft: Nft, token: int) -> None:
    """Run the operation; ``token`` (32 bits) is a number that no other sweep uses at the time. Gives way to additions."""
    from cni.nft.apply import Conflict

    if op.idle is not None and not op.idle(nft.query(op.listing)):
        return
    try:
        nft.run(op.begin(token), op.what)
        listed = [entry for text in (op.listing, *op.also) for entry in nft.query(text)]
        nft.run(op.end(listed, token), op.what)
    except Conflict:
        return


def apply_iptables(op: RunIptables, iptables: Iptables) -> None:
    """Run the operation; IptablesError with the program's own text when it fails."""
    from cni.nft.iptables import ChainExists, IptablesError

    try:
        iptables.restore(op.v6, op.text, op.what, op.legacy)
    except IptablesError as error:
        if op.exists and isinstance(error, ChainExists):
            _restore_rest(op.exists, op, iptables)
        elif not op.yields and not (op.exists == "" and isinstance(error, ChainExists)):
            raise


def _restore_rest(text: str, op: RunIptables, iptables: Iptables) -> None:
    from cni.nft.iptables import IptablesError

    try:
        iptables.restore(op.v6, text, op.what, op.legacy)
    except IptablesError as error:
        raise TryAgain(f"{op.what}: another call is making the same chains", error.details) from error
