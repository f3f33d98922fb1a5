"""The bundle's program, `podwire`: `podwire bridge` is one call of a plugin, all else is for `agent.command`.

What lives here: what only a frozen program needs before and after these two. Nothing else.
"""

from __future__ import annotations

import os
import sys


def _restore_environment() -> None:
    """Take out what the bootloader put into the environment: it is for this process alone.

    Left there, the programs a plugin runs (iptables, another vendor's IPAM) would load the bundle's libraries in
    place of their own. The loader of this process has read the value already and goes on using it.
    """
    for name in [name for name in os.environ if name.startswith("_PYI_")]:
        del os.environ[name]
    original = os.environ.pop("LD_LIBRARY_PATH_ORIG", None)
    if original is None:
        os.environ.pop("LD_LIBRARY_PATH", None)
    else:
        os.environ["LD_LIBRARY_PATH"] = original


def _run() -> int:
    from cni import oneshot

    try:
        if oneshot.plugin_of(sys.argv):
            status = oneshot.main()
        else:  # nothing of this is for the way of a pod
            from agent.command import podwire

            status = podwire()
    except SystemExit as left:
        status = left.code
    if status is None or isinstance(status, int):
        return status or 0
    print(status, file=sys.stderr)
    return 1


_restore_environment()
_status = _run()
for _stream in (sys.stdout, sys.stderr):
    try:
        _stream.flush()
    except OSError:
        _status = _status or 1
# Taking the interpreter apart costs 12 ms, and all it frees ends with the process.
os._exit(_status)
