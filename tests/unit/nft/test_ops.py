"""Running operations: the two states of affairs, giving way, and giving up."""

from __future__ import annotations

from typing import Any

import pytest

from cni.nft.apply import Busy, Exists, NftError, NotFound
from cni.nft.ops import TRIES, RunIptables, RunNft, apply_iptables, apply_nft
from cni.spec.errors import CNIError, TryAgain


class FailingNft:
    """Fails as told, then succeeds; remembers what it ran."""

    def __init__(self, *failures: type[NftError]) -> None:
        self.failures, self.ran = list(failures), list[str]()

    def run(self, text: str, what: str) -> None:
        self.ran.append(text)
        if self.failures:
            raise self.failures.pop(0)(f"cannot {what}", "told by nft")


def run(op: RunNft, *failures: type[NftError]) -> list[str]:
    nft: Any = FailingNft(*failures)
    apply_nft(op, nft)
    return list(nft.ran)


@pytest.mark.parametrize(
    ("failures", "ran"),
    [
        ((), ["a"]),
        ((Exists,), ["a", "b"]),
        ((Exists, NotFound), ["a", "b", "a"]),
        ((NotFound, NotFound, Exists), ["a", "b", "a", "b"]),
    ],
)
def test_a_text_and_its_alternative_take_turns(failures: tuple[type[NftError], ...], ran: list[str]) -> None:
    assert run(RunNft(text="a", instead="b", what="do it"), *failures) == ran


def test_endless_conflict_is_a_reason_to_try_again_later() -> None:
    with pytest.raises(TryAgain, match="do it") as caught:
        run(RunNft(text="a", instead="b", what="do it"), *[Exists] * TRIES)
    assert caught.value.code == 11 and "told by nft" in str(caught.value)


@pytest.mark.parametrize("failure", [Exists, NotFound, Busy])
def test_what_yields_lets_others_win(failure: type[NftError]) -> None:
    assert run(RunNft(text="a", yields=True, what="do it"), failure) == ["a"]


@pytest.mark.parametrize("op", [RunNft(text="a", what="do it"), RunNft(text="a", what="do it", yields=True, instead="b")])
def test_other_failures_are_told(op: RunNft) -> None:
    with pytest.raises(NftError, match="cannot do it: told by nft"):
        run(op, NftError)


def test_a_conflict_without_alternative_is_told() -> None:
    with pytest.raises(NotFound):
        run(RunNft(text="a", what="do it"), NotFound)


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
