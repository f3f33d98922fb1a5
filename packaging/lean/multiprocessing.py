"""What pyroute2's configuration module wants of multiprocessing at import: three names. For the bundle only.

No plugin call starts a worker process, and the real package costs 10 ms of import.
"""

from __future__ import annotations

Pipe = Queue = Process = None
