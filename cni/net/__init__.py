"""Links, addresses, routes, sysctls: what can be done (``ops``) and seen (``facts``) as data, and the doors that do it.

Doors: ``kernel`` (rtnetlink), ``netns`` (entering namespaces, sysctls). ``execute`` runs a plan through them.
"""
