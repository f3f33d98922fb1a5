"""Packet rules of the host: masquerade and MAC spoof check, and what the Go plugins left of both.

``masquerade`` and ``spoof`` are what plugins call: ``look`` reads, the plans and checks are pure. ``masq``,
``masq_iptables`` and ``reference`` know how rules are written, ``elements`` how the kernel takes them, ``listing`` how nft
tells them, ``ops`` what plans are made of. The doors are ``apply`` (libnftables, and ``nfnetlink`` where that is slow) and
``iptables`` (its programs). One concern has one table of ours; what carries another's label is never touched. From ``cni``
only ``cni.spec`` is imported here.
"""
