"""resolv.conf text as the ``dns`` section of a result. Pure; ``host_local`` reads the file."""

from __future__ import annotations

from cni.spec.conf import Dns


def parse(text: str) -> Dns:
    """What the lines say, as resolv.conf(5) and the reference read them: nothing is validated.

    ``nameserver``, ``search`` and ``options`` add up over lines, the last ``domain`` wins. Lines that are empty, begin with
    ``#`` or ``;`` or have no value are skipped, and so are unknown keywords.
    """
    found: dict[str, list[str]] = {"nameserver": [], "domain": [], "search": [], "options": []}
    for line in text.split("\n"):
        keyword, *values = line.split() or [""]
        if keyword in found and values:
            found[keyword] += values if keyword in ("search", "options") else values[:1]
    return Dns(
        nameservers=tuple(found["nameserver"]),
        domain=found["domain"][-1] if found["domain"] else "",
        search=tuple(found["search"]),
        options=tuple(found["options"]),
    )
