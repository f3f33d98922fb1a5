"""Deleting links together: calls that delete at the same time share the kernel's wait.

The kernel takes a link out of use and then waits until nobody can be using it any more: about 20 ms during which others who
delete wait for their turn. Links of one group are deleted by one message and share one wait. So the first caller deletes, and
what others bring meanwhile is deleted next, all at once, by one of them.
"""

from __future__ import annotations

import os
from _thread import allocate_lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cni.net.kernel import Kernel

# Groups are drawn from these, so that ours is nobody else's; 0 is the group of all links, and people number from 1.
GROUPS = range(1 << 29, 1 << 30)


class _Wish:
    """One caller's link, and what became of it. Its caller waits until ``ready`` is released; then it is done, or the caller's
    turn to delete.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.ready = allocate_lock()
        self.ready.acquire()
        self.done = False
        self.existed = False
        self.error: Exception | None = None


class Removals:
    """The links that callers of one process want deleted on the host."""

    def __init__(self) -> None:
        self._guard = allocate_lock()
        self._waiting: list[_Wish] = []
        self._busy = False

    def delete(self, kernel: Kernel, name: str) -> bool:
        """Delete a link; False when it was gone already. KernelError as ``Kernel.delete_link`` has it."""
        wish = _Wish(name)
        with self._guard:
            self._waiting.append(wish)
            waits = self._busy
            self._busy = True
        if waits:
            wish.ready.acquire()
        if not wish.done:
            self._delete_all(kernel)
        if wish.error is not None:
            raise wish.error
        return wish.existed

    def _delete_all(self, kernel: Kernel) -> None:
        """Delete all that waits now, the caller's own among it; then it is the turn of one who came meanwhile."""
        with self._guard:
            wishes, self._waiting = self._waiting, []
        try:
            _fulfil(kernel, wishes)
        finally:
            with self._guard:
                heir = self._waiting[0] if self._waiting else None
                self._busy = heir is not None
            for wish in [*wishes, *([heir] if heir is not None else [])]:
                wish.ready.release()


def _fulfil(kernel: Kernel, wishes: list[_Wish]) -> None:
    """Delete the links of all wishes; when that fails together, each on its own, so that each has its own failure."""
    together = len(wishes) > 1 and _together(kernel, wishes)
    for wish in wishes:
        if not together:
            _alone(kernel, wish)
        wish.done = True


def _together(kernel: Kernel, wishes: list[_Wish]) -> bool:
    group = GROUPS[int.from_bytes(os.urandom(4), "little") % len(GROUPS)]
    try:
        existed = kernel.delete_links([wish.name for wish in wishes], group)
    except Exception:  # each on its own will tell
        return False
    for wish in wishes:
        wish.existed = existed[wish.name]
    return True


def _alone(kernel: Kernel, wish: _Wish) -> None:
    try:
        wish.existed = kernel.delete_link(wish.name)
    except Exception as error:  # for its own caller
        wish.error = error
