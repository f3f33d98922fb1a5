"""Packet rules of the host: masquerade, MAC spoof check and firewall, and what the Go plugins left of them.

``masquerade``, ``spoof`` and ``firewall`` are what plugins call: ``look`` reads, the plans and checks are pure. ``masq``,
``masq_iptables``, ``forward``, ``forward_iptables`` and ``reference`` know how rules are written, ``elements`` how the kernel
takes them, ``listing`` how nft tells them, ``dbus`` how firewalld is asked, ``ops`` what plans are made of. The doors are
``apply`` (libnftables, and ``nfnetlink`` where that is slow), ``iptables`` (its programs) and ``firewalld`` (the message bus).
One concern has one table of ours; what carries another's label is never touched. From ``cni`` only ``cni.spec`` is imported
here.
"""
