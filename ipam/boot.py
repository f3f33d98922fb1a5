"""Which boot of which host a lease was made in: the proof that nobody uses it any more.

No container outlives its kernel, so a lease of an earlier boot belongs to nobody. Times do not prove that: a clock that is
wrong at boot, is stepped back or comes out of a snapshot puts leases of running pods before any moment of booting. The
kernel's boot id does. Every kernel draws one when it starts, its containers share it, and a snapshot restores it together
with its pods. Each lease carries it as a *mark*, an extended attribute of the file (``ipam.folder``), which the reference
does not see and which goes with the file. Only a lease whose mark names another boot of this very host is of an earlier
boot. All else is kept until DEL or GC:

- a lease without a mark: the reference wrote it, it was copied, or the file system has no attributes;
- a lease that another host made, where hosts share a folder: the mark names the host by its name and machine id.
"""

from __future__ import annotations

import os
from hashlib import sha256

BOOT_ID = "/proc/sys/kernel/random/boot_id"
MACHINE_ID = "/etc/machine-id"


def this_boot() -> str:
    """The mark of leases that are made now; empty when the kernel's boot id is hidden, and then no lease counts as old."""
    boot = _read(BOOT_ID)
    host = os.fsencode(os.uname().nodename) + b" " + _read(MACHINE_ID)
    # Short enough to need no disk block of its own.
    return f"{boot.decode('ascii', 'replace')} {sha256(host).hexdigest()[:8]}" if boot else ""


def is_earlier(mark: str, now: str) -> bool:
    """Whether a lease's mark proves that it was made on the host of ``now``, but in another boot."""
    (boot, _, host), (this_boot, _, this_host) = mark.partition(" "), now.partition(" ")
    return "" not in (boot, this_boot) and boot != this_boot and host == this_host


def _read(path: str) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(descriptor, 128).strip()
    except OSError:
        return b""
    finally:
        os.close(descriptor)
