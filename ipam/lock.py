"""An exclusive lock on a file, shared with the reference: flock(2), whose waiting here is bounded.

Each lock has an open file description of its own, so it holds between the threads of one process as between processes.
"""

from __future__ import annotations

import _thread
import errno
import fcntl
import os
import stat

# A holder needs milliseconds; with tens of thousands of leases and hundreds of pods in the queue, seconds.
PATIENCE_S = 60.0

# What the reference creates the file with (less the umask).
MODE = 0o750


class Busy(Exception):
    """The lock is another's and was not to be had in time, or could not be waited for."""


def lock(name: str, folder: int, patience_s: float = PATIENCE_S) -> int:
    """Lock a file in an open folder, making it if need be; the descriptor to close for unlocking.

    Busy after ``patience_s``, OSError (with ``filename``) when it cannot be opened, or is no file, such as a FIFO.
    """
    descriptor = os.open(name, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, MODE, dir_fd=folder)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", name)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        _Waiter(descriptor).wait(patience_s)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


class _Waiter:
    """Waits for the lock in a thread of its own, so that the caller can stop waiting.

    Trying again and again instead would let every blocked process of the reference go first, because the kernel hands the
    lock to those who block. A thread that was given up closes the descriptor whenever it gets the lock.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._guard = _thread.allocate_lock()
        self._done = _thread.allocate_lock()
        self._finished = self._given_up = False
        self._error: OSError | None = None

    def wait(self, patience_s: float) -> None:
        """Return when the lock is held; Busy, or the error of flock, when it is not."""
        self._done.acquire()
        try:
            _thread.start_new_thread(self._block, ())
        except RuntimeError as error:  # no thread can be started
            os.close(self._descriptor)
            raise Busy from error
        try:
            self._done.acquire(timeout=patience_s)
        finally:
            with self._guard:
                self._given_up = not self._finished
        if self._given_up:
            raise Busy
        if self._error is not None:
            os.close(self._descriptor)
            raise self._error

    def _block(self) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        except OSError as error:
            self._error = error
        with self._guard:
            self._finished = True
            if self._given_up:
                os.close(self._descriptor)
        self._done.release()
