"""A picture of a node's bridge network, drawn from what ``ip`` and ``nft`` say about it, not from what a plugin claims."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.harness import observe

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.harness.node import Node


def draw(node: Node, bridge: str, pods: Sequence[str]) -> str:
    """The uplink, the bridge with its addresses, each port with its pod."""
    links = observe.links(node)
    by_index = {link["ifindex"]: name for name, link in links.items()}
    rows = [f"bridge {bridge}  {_addresses(node, bridge)}"]
    for position, pod in enumerate(pods):
        inside = observe.links(node, pod=pod)
        branch = "└──" if position == len(pods) - 1 else "├──"
        for name, link in inside.items():
            port = by_index.get(link.get("link_index", 0))
            if name == "lo" or port is None or links[port].get("master") != bridge:
                continue
            rows.append(f"{branch} {port} ═══ {name}  {pod}  {_addresses(node, name, pod)}")
    masqueraded = len(observe.mentions(node, "podwire/"))
    rows.append("")
    rows.append(f"nftables: {masqueraded} pod addresses are masqueraded towards the outside")
    width = max(map(len, rows)) + 2
    top = "┌─ node " + "─" * (width - 7) + "┐"
    body = [f"│ {row:<{width - 1}}│" for row in rows]
    uplink = f"up0  {_addresses(node, 'up0')}"
    lines = [
        "outside  " + _addresses(node, "out0", "outside"),
        "   │",
        "   │ " + uplink,
        top,
        *body,
        "└" + "─" * width + "┘",
    ]
    return "\n".join("  " + line for line in lines)


def _addresses(node: Node, device: str, pod: str | None = None) -> str:
    return " ".join(observe.addresses(node, device, pod=pod))
