"""The official cnitool with the VLAN lists of conf/, refused where a kernel has none: add, check, del, del in every version."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.e2e.conftest import CNITOOL, Runtime, leftovers, snapshot
from tests.e2e.test_cnitool import VERSIONS, VLAN, agrees_with_kernel, conflist, own_promise

if TYPE_CHECKING:
    from pathlib import Path

    from tests.harness.node import Node
    from tests.harness.plugin import Executables

__all__ = ["own_promise"]

GATEWAY = "cni-vlan.100"


@pytest.fixture
def runtime(node: Node, plugins: Executables, tmp_path: Path) -> Runtime:
    """A fresh node with cnitool, which came along with the checkout."""
    assert CNITOOL.exists(), "make cnitool builds it"
    return Runtime(node, str(plugins.folder), tmp_path)


@pytest.mark.parametrize("name", VLAN)
def test_add_check_del_del(runtime: Runtime, name: str) -> None:
    """What was promised is there, CHECK agrees, and after DEL nothing is left but what pods share; DEL again is fine."""
    document = conflist(name)
    netns = runtime.node.pod()
    before = snapshot(runtime.node)
    for version in VERSIONS:
        network = runtime.network({**document, "cniVersion": version})
        result = runtime.call("add", network, netns)
        assert result["cniVersion"] == version
        agrees_with_kernel(runtime, result, netns)
        if version != "0.3.1":
            runtime.call("check", network, netns)
        runtime.call("del", network, netns)
        runtime.call("del", network, netns)
        after = snapshot(runtime.node)
        after["node links"].pop(GATEWAY, None)
        after["node routes"] = [route for route in after["node routes"] if json.loads(route)["dev"] != GATEWAY]
        assert leftovers(before, after, document["plugins"][0]["bridge"]) == []
