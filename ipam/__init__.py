"""Addresses: ranges, the choice of a free one, the store of leases, and the providers that plugins delegate to.

Knows only ``cni.spec``. A provider is a module named in ``ipam.registry`` with six functions: ``parse(call) -> Conf``,
``add(conf, call) -> Result``, ``delete(conf, call)``, ``check(conf, call, prev) -> problems``,
``gc(conf, call, keep) -> lines`` and ``status(conf, call)``. Nothing here touches links, routes or namespaces.
"""
