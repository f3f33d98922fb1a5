"""``python -m cni PLUGIN``: one call from a checkout."""

from __future__ import annotations

import sys

from cni.oneshot import main

sys.exit(main())
