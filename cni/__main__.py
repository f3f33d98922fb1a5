"""``python -m cni PLUGIN``: one call from a checkout."""

import sys

from cni.oneshot import main

sys.exit(main())
