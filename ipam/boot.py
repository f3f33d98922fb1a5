"""When this boot began, on the clock that stamps files. The only use: to tell leases of an earlier boot from those of this one.

No container outlives a reboot, so a lease written before it belongs to nobody. The clock is the danger: a machine that comes
up with a wrong time and has it corrected later, or a virtual machine resumed from a snapshot, moves the kernel's own figure
(``btime``, now minus uptime) by hours or years, past files that were written in this very boot. Three things protect them:

- the earlier of two witnesses counts: ``btime``, and the time that was stamped on ``/proc`` when it was mounted at boot,
  which no later correction moves (in a container with a /proc of its own it is younger, and only the first is left);
- a lease must be older than that by a margin;
- callers take such a lease only when its owner comes back or when nothing else is free.

A clock that was ahead when the lease was written makes it look young: it is kept, and DEL or GC removes it.
"""

from __future__ import annotations

import os
import time

# A clock read from hardware is off by seconds, and btime itself is rounded. A lease from the last minute before a reboot waits
# for DEL, GC or the next reboot instead.
MARGIN_S = 60.0


def boot_time() -> float:
    """The moment, in seconds of the epoch, before which a file must have been written to be of an earlier boot."""
    return earliest(time.time() - time.clock_gettime(time.CLOCK_BOOTTIME), _mounted("/proc"))


def earliest(*witnesses: float) -> float:
    """The earliest of the witnesses, less the margin."""
    return min(witnesses) - MARGIN_S


def _mounted(path: str) -> float:
    try:
        return os.stat(path).st_ctime
    except OSError:
        return 0.0  # no witness: nothing counts as old
