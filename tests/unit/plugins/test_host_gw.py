"""host-gw: what goes on at the same time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cni.net import execute, ops
from tests.unit.calls import CONFIGS, Runtime, runtime

if TYPE_CHECKING:
    import pytest

__all__ = ["runtime"]


def test_routes_go_before_anything_that_takes_long(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """While GC deletes links, an ADD that knows of a node again is content with the route it finds: it has to stay."""
    runtime.machine.uplink()
    config = runtime.config(**CONFIGS["host-gw-everything"])
    runtime.add(config, runtime.pod())
    delete = execute.APPLY[ops.DeleteLink]

    def slowly(op: Any, host: Any) -> bool:
        runtime.add(config, runtime.pod(), CNI_CONTAINERID="other")
        return delete(op, host)

    monkeypatch.setitem(execute.APPLY, ops.DeleteLink, slowly)
    wanted = dict(runtime.machine.root.next_hops)
    assert runtime.call("GC", {**config, "nodes": [], "cni.dev/valid-attachments": []}).status == 0
    assert runtime.machine.root.next_hops == wanted != {}
