"""Which plugins there are: one line each. IPAM providers stand in ``ipam.registry``."""

from __future__ import annotations

PLUGINS = {
    "bandwidth": "cni.plugins.bandwidth",
    "bridge": "cni.plugins.bridge",
    "firewall": "cni.plugins.firewall",
    "host-gw": "cni.plugins.host_gw",
    "loopback": "cni.plugins.loopback",
    "macvlan": "cni.plugins.macvlan",
    "portmap": "cni.plugins.portmap",
    "ptp": "cni.plugins.ptp",
    "tuning": "cni.plugins.tuning",
}
