"""Which module provides addresses for an ``ipam.type``. A new provider is one module and one line here."""

from __future__ import annotations

PROVIDERS = {
    "host-local": "ipam.host_local",
    "static": "ipam.static",
}
