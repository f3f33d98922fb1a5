"""One CNI plugin call, from bytes to kernel and back.

``spec`` is pure data and rules, ``net`` and ``nft`` speak to the kernel, ``plugins`` decide, ``dispatch`` puts a call together.
Arrows point one way; ``tests/unit/test_layers.py`` holds them.
"""

from __future__ import annotations

__version__ = "0.1.0"
