"""Running Python in a node: a forked child enters the node's namespaces, so that the real doors work there."""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import traceback
import warnings
from typing import TYPE_CHECKING, Any, TypeVar

from cni.nft.apply import Nft
from cni.nft.iptables import Iptables
from cni.nft.ops import (
    RunIptables,
    RunNft,
    Settle,
    SettleIptables,
    Sweep,
    apply_iptables,
    apply_nft,
    apply_settle,
    apply_settle_iptables,
    apply_sweep,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.harness.node import Node

T = TypeVar("T")


class Doors:
    """The real doors, as a call's host has them."""

    def __init__(self) -> None:
        self.nft = Nft()
        self.iptables = Iptables()

    def run(self, plan: list[Any]) -> list[str]:
        """Run a plan's operations of this package; what each says it does."""
        for op in plan:
            if isinstance(op, RunNft):
                apply_nft(op, self.nft)
            elif isinstance(op, Settle):
                apply_settle(op, self.nft, lambda _: True)
            elif isinstance(op, SettleIptables):
                apply_settle_iptables(op, self.iptables)
            elif isinstance(op, Sweep):
                apply_sweep(op, self.nft, int.from_bytes(os.urandom(4), "big"))
            else:
                assert isinstance(op, RunIptables), op
                apply_iptables(op, self.iptables)
        return [op.describe() for op in plan]


class Child:
    """A function at work in a node; ``result()`` waits for it."""

    def __init__(self, node: Node, work: Callable[[Doors], Any]) -> None:
        self._end, inner = os.pipe()
        with warnings.catch_warnings():
            # Later Pythons warn of forks beside threads. This child only enters namespaces and runs the function.
            warnings.simplefilter("ignore", DeprecationWarning)
            self._pid = os.fork()
        if self._pid:
            os.close(inner)
            return
        os.close(self._end)
        try:
            answer = (True, _enter_and_work(node, work))
        except BaseException as error:
            answer = (False, f"{error!r}\n{traceback.format_exc()}")
        try:
            with os.fdopen(inner, "wb") as pipe:
                pickle.dump(answer, pipe)
        finally:
            os._exit(0)

    def kill(self) -> None:
        """End it wherever it is."""
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        os.close(self._end)

    def result(self) -> Any:
        with os.fdopen(self._end, "rb") as pipe:
            raw = pipe.read()
        os.waitpid(self._pid, 0)
        assert raw, "the child died"
        fine, value = pickle.loads(raw)
        assert fine, value
        return value


def inside(node: Node, work: Callable[[Doors], T]) -> T:
    """What the function returns when it runs in the node."""
    result: T = Child(node, work).result()
    return result


def _enter_and_work(node: Node, work: Callable[[Doors], Any]) -> Any:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: a test run that is killed leaves no process
    for kind in ("mnt", "net"):
        with open(f"/proc/{node.pid}/ns/{kind}", "rb") as namespace:
            if libc.setns(namespace.fileno(), 0):
                raise OSError(ctypes.get_errno(), f"setns {kind}")
    return work(Doors())
