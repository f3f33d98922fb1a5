"""Fetches the runtimes. Exit status 69: there is no way to, or this machine cannot run containers."""

from __future__ import annotations

import sys

from .host import unfit
from .packages import Unavailable, unpacked

UNAVAILABLE = 69

reason = unfit()
if reason is None:
    try:
        print(unpacked())
    except Unavailable as error:
        reason = str(error)
if reason is not None:
    print(f"runtimes: {reason}", file=sys.stderr)
    sys.exit(UNAVAILABLE)
