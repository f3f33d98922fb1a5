"""The recorded answers that unit tests decide on are what the installed nft really says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.contract.nft_node import Doors, inside
from tests.unit.nft.recorded import ANSWERS, CHAIN, SAVED, SCRIPTS

if TYPE_CHECKING:
    from tests.harness.node import Node

pytestmark = pytest.mark.root


def _settled(value: Any) -> Any:
    """An answer without what depends on nft's version: handles, and a map's value in an answer to ``get element``."""
    if isinstance(value, dict):
        return {key: _settled(entry) for key, entry in value.items() if key != "handle"}
    return [_settled(entry) for entry in value] if isinstance(value, list) else value


@pytest.mark.parametrize("state", SCRIPTS)
def test_nft_says_what_was_recorded(node: Node, state: str) -> None:
    program, script = SCRIPTS[state]
    if program == "sh":
        node.sh(script)
    else:
        node.run("nft", "-f", "-", stdin=script)

    def ask(doors: Doors) -> dict[str, Any]:
        found = {}
        for question in ANSWERS.get(state, {}):
            match question.split(maxsplit=2):
                case ["list", "sets", family]:
                    found[question] = doors.nft.sets(family)
                case ["list", "chain", where]:
                    found[question] = doors.nft.chain(where)
                case _:
                    found[question] = doors.nft.query(question)
        return found

    for question, answer in inside(node, ask).items():
        assert _settled(answer) == _settled(ANSWERS[state][question]), question


def test_iptables_save_prints_what_was_recorded(node: Node) -> None:
    node.sh(SCRIPTS["go iptables"][1])
    printed = inside(node, lambda doors: doors.iptables.save(False))
    assert [line for line in printed.splitlines() if CHAIN in line] == [line for line in SAVED.splitlines() if CHAIN in line]
