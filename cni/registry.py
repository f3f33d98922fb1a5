"""Which plugins there are: one line each. IPAM providers stand in ``ipam.registry``."""

from __future__ import annotations

PLUGINS = {
    "bridge": "cni.plugins.bridge",
    "firewall": "cni.plugins.firewall",
    "host-gw": "cni.plugins.host_gw",
    "loopback": "cni.plugins.loopback",
    "ptp": "cni.plugins.ptp",
}
