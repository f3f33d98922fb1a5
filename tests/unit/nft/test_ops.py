"""Running operations: the two states of affairs, giving way, and giving up."""

from __future__ import annotations

from typing import Any

import pytest

from cni.nft.apply import Busy, Exists, NftError, NotFound
from cni.nft.iptables import ChainExists, IptablesError
from cni.nft.ops import TRIES, RunIptables, RunNft, Sweep, apply_iptables, apply_nft, apply_sweep
from cni.spec.errors import CNIError, TryAgain


class FailingNft:
    """Fails as told (None: not), then succeeds; remembers what it ran."""

    def __init__(self, *failures: type[NftError] | None) -> None:
        self.failures, self.ran = list(failures), list[str]()

    def run(self, text: str, what: str) -> None:
        self.ran.append(text)
        failure = self.failures.pop(0) if self.failures else None
        if failure is not None:
            raise failure(f"cannot {what}", "told by nft")

    def query(self, text: str) -> list[Any]:
        self.ran.append(text)
        return [text]


def run(op: RunNft, *failures: type[NftError]) -> list[str]:
    nft: Any = FailingNft(*failures)
    apply_nft(op, nft)
    return list(nft.ran)


@pytest.mark.parametrize(
    ("failures", "ran"),
    [
        ((), ["a"]),
        ((Exists,), ["a", "e"]),
        ((NotFound,), ["a", "m"]),
        ((Exists, NotFound), ["a", "e", "m"]),
        ((NotFound, Exists), ["a", "m", "e"]),
        ((NotFound, NotFound, Exists, NotFound), ["a", "m", "m", "e", "m"]),
    ],
)
def test_the_failure_says_which_text_is_next(failures: tuple[type[NftError], ...], ran: list[str]) -> None:
    assert run(RunNft(text="a", exists="e", missing="m", what="do it"), *failures) == ran


def test_endless_conflict_is_a_reason_to_try_again_later() -> None:
    with pytest.raises(TryAgain, match="do it") as caught:
        run(RunNft(text="a", exists="e", missing="m", what="do it"), *[Exists] * TRIES)
    assert caught.value.code == 11 and "told by nft" in str(caught.value)


@pytest.mark.parametrize("failure", [Exists, NotFound, Busy])
def test_what_yields_lets_others_win(failure: type[NftError]) -> None:
    assert run(RunNft(text="a", yields=True, what="do it"), failure) == ["a"]


@pytest.mark.parametrize(
    ("failures", "ran"),
    [
        ((NotFound,), ["a", "m"]),
        ((Exists,), ["a"]),
        ((NotFound, Exists), ["a", "m"]),
        ((NotFound, NotFound), ["a", "m"]),
    ],
)
def test_what_yields_does_before_what_is_left_to_do(failures: tuple[type[NftError], ...], ran: list[str]) -> None:
    assert run(RunNft(text="a", missing="m", yields=True, what="do it"), *failures) == ran


@pytest.mark.parametrize("op", [RunNft(text="a", what="do it"), RunNft(text="a", what="do it", yields=True, exists="e")])
def test_other_failures_are_told(op: RunNft) -> None:
    with pytest.raises(NftError, match="cannot do it: told by nft"):
        run(op, NftError)


@pytest.mark.parametrize(
    ("op", "failure"),
    [
        (RunNft(text="a", what="do it"), NotFound),
        (RunNft(text="a", exists="e", what="do it"), NotFound),
        (RunNft(text="a", missing="m", what="do it"), Exists),
        (RunNft(text="a", exists="e", missing="m", what="do it"), Busy),
    ],
)
def test_a_conflict_without_alternative_is_told(op: RunNft, failure: type[NftError]) -> None:
    with pytest.raises(failure):
        run(op, failure)


SWEEP = Sweep(what="sweep", begin=lambda token: f"begin {token}", listing="look", end=lambda seen, token: f"end {seen} {token}")


@pytest.mark.parametrize(
    ("failures", "ran"),
    [
        ((), ["begin 7", "look", "end ['look'] 7"]),
        ((NotFound,), ["begin 7"]),
        ((None, NotFound), ["begin 7", "look", "end ['look'] 7"]),
        ((None, Busy), ["begin 7", "look", "end ['look'] 7"]),
    ],
)
def test_a_sweep_looks_between_its_transactions_and_gives_way(
    failures: tuple[type[NftError] | None, ...], ran: list[str]
) -> None:
    nft: Any = FailingNft(*failures)
    apply_sweep(SWEEP, nft, 7)
    assert nft.ran == ran


def test_other_failures_of_a_sweep_are_told() -> None:
    nft: Any = FailingNft(None, NftError)
    with pytest.raises(NftError, match="cannot sweep: told by nft"):
        apply_sweep(SWEEP, nft, 7)


def test_inverses() -> None:
    assert RunNft(text="a", what="do it").inverse() is None
    assert RunNft(text="a", what="do it", undo="u").inverse() == RunNft(text="u", what="undo: do it", yields=True)
    assert RunIptables(v6=True, text="a", what="do it").inverse() is None
    inverse = RunIptables(v6=True, text="a", what="do it", undo="u", legacy=True).inverse()
    assert inverse == RunIptables(v6=True, text="u", what="undo: do it", legacy=True)


def test_iptables_gets_text_family_and_variant() -> None:
    class Door:
        def restore(self, v6: bool, text: str, what: str, legacy: bool) -> None:
            raise CNIError(f"{v6} {text} {what} {legacy}")

    door: Any = Door()
    with pytest.raises(CNIError, match="True a do it False"):
        apply_iptables(RunIptables(v6=True, text="a", what="do it"), door)


class FailingIptables:
    """Fails as told (None: not), then succeeds; remembers what it ran."""

    def __init__(self, *failures: type[IptablesError] | None) -> None:
        self.failures, self.ran = list(failures), list[str]()

    def restore(self, v6: bool, text: str, what: str, legacy: bool) -> None:
        self.ran.append(text)
        failure = self.failures.pop(0) if self.failures else None
        if failure is not None:
            raise failure(f"cannot {what}", "told by iptables-restore")


@pytest.mark.parametrize(
    ("keys", "failures", "ran", "error"),
    [
        ({}, (), ["a"], None),
        ({}, (ChainExists,), ["a"], ChainExists),
        ({"exists": "e"}, (ChainExists,), ["a", "e"], None),
        ({"exists": "e"}, (IptablesError,), ["a"], IptablesError),
        ({"exists": "e"}, (ChainExists, IptablesError), ["a", "e"], TryAgain),
        ({"exists": ""}, (ChainExists,), ["a"], None),
        ({"exists": ""}, (IptablesError,), ["a"], IptablesError),
        ({"yields": True}, (IptablesError,), ["a"], None),
        ({"yields": True}, (ChainExists,), ["a"], None),
    ],
)
def test_iptables_and_others_who_make_the_same_chains(keys: Any, failures: Any, ran: list[str], error: Any) -> None:
    door: Any = FailingIptables(*failures)
    op = RunIptables(v6=False, text="a", what="do it", **keys)
    if error is None:
        apply_iptables(op, door)
    else:
        with pytest.raises(error):
            apply_iptables(op, door)
    assert door.ran == ran


@pytest.mark.parametrize("idle", [True, False])
def test_a_sweep_that_would_find_nothing_is_none(idle: bool) -> None:
    nft: Any = FailingNft()
    op = Sweep(
        what="sweep", begin=str, listing="list", also=("more",), idle=lambda seen: idle, end=lambda seen, token: f"end {seen}"
    )
    apply_sweep(op, nft, 7)
    assert nft.ran == (["list", "7", "list", "more", "end ['list', 'more']"] if idle else ["list"])
