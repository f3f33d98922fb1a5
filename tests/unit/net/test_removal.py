"""Deletions of many callers at once: who deletes for whom, and whose failure is whose."""

from __future__ import annotations

import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, cast

import pytest

from cni.net.removal import GROUPS, Removals
from cni.spec.errors import KernelError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cni.net.kernel import Kernel

PATIENCE_S = 10


def refused(what: str) -> KernelError:
    return KernelError(what, OSError(errno.EBUSY, os.strerror(errno.EBUSY)))


class Links:
    """A kernel's links. The first deletion waits until ``go``; those in ``stuck`` cannot be deleted, nor a group with one."""

    def __init__(self, *names: str, stuck: Iterable[str] = (), together: Exception | None = None) -> None:
        self.names, self.stuck, self.together = set(names), set(stuck), together
        self.went: list[tuple[str, ...]] = []
        self.groups: list[int] = []
        self.began, self.go = threading.Event(), threading.Event()

    def delete_link(self, name: str) -> bool:
        self.went.append((name,))
        if len(self.went) == 1:
            self.began.set()
            assert self.go.wait(PATIENCE_S)
        if name in self.stuck:
            raise refused(f"cannot delete link {name}")
        return self._drop(name)

    def delete_links(self, names: Iterable[str], group: int) -> dict[str, bool]:
        self.went.append(tuple(names))
        self.groups.append(group)
        if self.together is not None:
            raise self.together
        if self.stuck.intersection(names):
            raise refused("cannot delete links")
        return {name: self._drop(name) for name in names}

    def _drop(self, name: str) -> bool:
        there = name in self.names
        self.names.discard(name)
        return there


def delete_all(links: Links, names: list[str]) -> list[Any]:
    """Every name by a caller of its own: the first deletes while all the others come. What became of each."""
    removals, kernel = Removals(), cast("Kernel", links)
    with ThreadPoolExecutor(len(names)) as pool:
        first = pool.submit(removals.delete, kernel, names[0])
        assert links.began.wait(PATIENCE_S)
        others = [pool.submit(removals.delete, kernel, name) for name in names[1:]]
        while len(removals._waiting) < len(others):
            pass
        links.go.set()
        ends = [one.exception(PATIENCE_S) or one.result() for one in (first, *others)]
    assert not removals._busy and not removals._waiting
    assert removals.delete(kernel, "one more") is False, "the next caller does not wait for anybody"
    return ends


def test_one_alone_is_deleted_alone() -> None:
    links = Links("a")
    links.go.set()
    assert Removals().delete(cast("Kernel", links), "a") is True
    assert links.went == [("a",)] and not links.names


def test_those_who_come_meanwhile_are_deleted_together() -> None:
    links = Links("a", "b", "c", "d")
    assert delete_all(links, ["a", "b", "gone", "c"]) == [True, True, False, True]
    assert [set(names) for names in links.went] == [{"a"}, {"b", "gone", "c"}, {"one more"}]
    assert links.names == {"d"}
    assert all(group in GROUPS for group in links.groups)


@pytest.mark.parametrize("together", [None, refused("no groups here"), RuntimeError("a mistake of ours"), MemoryError()])
def test_a_failure_is_its_own_callers(together: Exception | None) -> None:
    """Also where nothing can be deleted together, for whatever reason."""
    links = Links("a", "b", "stuck", "c", stuck=["stuck"], together=together)
    a, b, stuck, c = delete_all(links, ["a", "b", "stuck", "c"])
    assert (a, b, c) == (True, True, True)
    assert isinstance(stuck, KernelError) and "stuck" in str(stuck)
    assert links.names == {"stuck"}


def test_the_first_ones_failure_keeps_nobody_else() -> None:
    links = Links("stuck", "a", "b", stuck=["stuck"])
    stuck, a, b = delete_all(links, ["stuck", "a", "b"])
    assert isinstance(stuck, KernelError) and (a, b) == (True, True)
