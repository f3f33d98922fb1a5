"""What the kernel and the disk of a node really look like, read by foreign tools only: ip, bridge, nft.

Every function returns plain data. snapshot() puts all of it together, for "as before" and "nothing is left".
"""

from __future__ import annotations

import json
import os
import stat
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .node import Node

Json = dict[str, Any]

FORWARDING = ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding")
SYSCTLS = (*FORWARDING, *(f"net/ipv{v}/conf/{w}/forwarding" for v in "46" for w in ("all", "default")))
FOLDERS = ("/run", "/var/lib/cni")
# xtables.lock: made by any iptables command, the host's own included.
VOLATILE_FILES = ("/run/xtables.lock",)


def ip(node: Node, *arguments: str, pod: str | None = None) -> list[Json]:
    """`ip -j <arguments>`; an empty answer is an empty list."""
    out = node.run("ip", "-j", *arguments, pod=pod).stdout
    found = json.loads(out) if out.strip() else []
    return [entry for entry in found if entry]


def links(node: Node, *, pod: str | None = None) -> dict[str, Json]:
    """Links by name, with details (linkinfo, alias, alternative names)."""
    return {link["ifname"]: link for link in ip(node, "-d", "link", "show", pod=pod)}


def addresses(node: Node, device: str, *, pod: str | None = None, link_local: bool = False) -> dict[str, Json]:
    """Addresses of a device as `address/length`; IPv6 link-local ones only on request."""
    found = {}
    for link in ip(node, "addr", "show", "dev", device, pod=pod):
        for entry in link["addr_info"]:
            if link_local or entry["family"] == "inet" or entry["scope"] != "link":
                found[f"{entry['local']}/{entry['prefixlen']}"] = entry
    return found


def routes(node: Node, *, pod: str | None = None, table: str = "main", link_local: bool = False) -> list[Json]:
    """Routes of both families in one table ("all": every table but the kernel's own `local`)."""
    found = []
    for family in ("-4", "-6"):
        for route in ip(node, family, "route", "show", "table", table, pod=pod):
            if route.get("table") == "local" or (not link_local and _automatic(route)):
                continue
            found.append({"family": family, **route})
    return found


def default_gateways(node: Node, *, pod: str | None = None) -> set[str]:
    """The gateways of the default routes, both families."""
    return {str(route.get("gateway", route["dev"])) for route in routes(node, pod=pod) if route["dst"] == "default"}


def qdiscs(node: Node, device: str = "") -> list[Json]:
    """Queueing disciplines that somebody gave a device, or any, with their numbers (`tc -j qdisc`)."""
    where = ("dev", device) if device else ()
    told = json.loads(node.run("tc", "-j", "-d", "-r", "qdisc", "show", *where).stdout or b"[]")
    return [qdisc for qdisc in told if qdisc["handle"] != "0:"]


def filters(node: Node, device: str) -> list[Json]:
    """The filters of what comes in by a device (`tc -j filter`), without the tables that they are in."""
    told = json.loads(node.run("tc", "-j", "-d", "filter", "show", "dev", device, "parent", "ffff:").stdout or b"[]")
    return [rule for rule in told if "actions" in rule.get("options", {})]


def bridge_port(node: Node, device: str) -> Json:
    """The bridge port flags of a device (`bridge -d link`): master, hairpin, isolated ..."""
    out = json.loads(node.run("bridge", "-j", "-d", "link", "show", "dev", device).stdout or b"[]")
    assert out, f"{device} is no bridge port"
    return dict(out[0])


def ruleset(node: Node) -> list[Json]:
    """The whole nftables ruleset without handles, counters and order of set elements."""
    out = json.loads(node.run("nft", "-j", "list", "ruleset").stdout)
    return [_settled(entry) for entry in out["nftables"] if "metainfo" not in entry]


def iptables_rules(node: Node) -> list[str]:
    """Every rule and chain that iptables-save and ip6tables-save tell of, counters removed."""
    found = []
    for tool in ("iptables-save", "ip6tables-save"):
        for line in node.run(tool).stdout.decode().splitlines():
            if line and not line.startswith("#"):
                found.append(f"{tool[:-5]} {line.split(' [')[0] if line.startswith(':') else line}")
    return found


def mentions(node: Node, *words: str) -> list[str]:
    """Firewall rules, chains and set elements of any backend that contain one of the words."""
    told = [json.dumps(entry) for entry in _flat(ruleset(node))] + iptables_rules(node)
    return [line for line in told if any(word in line for word in words)]


def files(node: Node, *folders: str) -> dict[str, str | bytes]:
    """Files below the folders of the node: path to content, or to the kind of what is no regular file."""
    found: dict[str, str | bytes] = {}
    for folder in folders or FOLDERS:
        top = str(node.path(folder))
        for where, names, plain in os.walk(top):
            for name in (*names, *plain):
                full = os.path.join(where, name)
                inside = folder + full[len(top) :]
                mode = os.lstat(full).st_mode
                if inside in VOLATILE_FILES:
                    continue
                if stat.S_ISREG(mode) and not inside.startswith("/run/netns/"):
                    with open(full, "rb") as file:
                        found[inside] = file.read()
                else:
                    found[inside] = "folder" if stat.S_ISDIR(mode) else "other"
    return found


def leases(node: Node, network: str, data_dir: str = "/var/lib/cni/networks") -> dict[str, bytes]:
    """The addresses held in a host-local store, and who holds them (the files' bytes)."""
    folder = node.path(f"{data_dir}/{network}")
    if not folder.is_dir():
        return {}
    return {
        file.name: file.read_bytes()
        for file in sorted(folder.iterdir())
        if file.is_file() and file.name[0] in "0123456789abcdef" and ("." in file.name or ":" in file.name)
    }


def snapshot(node: Node, *, with_files: bool = True) -> Json:
    """All of the node and its pods that a plugin could have left changed, in a form that compares equal.

    Left out because they change by themselves or are nobody's: IPv6 link-local addresses and their routes,
    DAD flags, operational state, the kernel's `local` table, packet counters, handles. host-local's
    `last_reserved_ip.N` is left out as well: after a failed ADD round robin may go on with the next address.
    """
    seen: Json = {
        "nft": sorted(json.dumps(entry, sort_keys=True) for entry in ruleset(node)),
        "iptables": sorted(iptables_rules(node)),
        "sysctls": dict(zip(SYSCTLS, _read(node, SYSCTLS), strict=True)),
    }
    if with_files:
        seen["files"] = {path: content for path, content in files(node).items() if "/last_reserved_ip." not in path}
    seen["qdiscs"] = [json.dumps(qdisc, sort_keys=True) for qdisc in qdiscs(node)]
    ingresses = {qdisc["dev"] for qdisc in map(json.loads, seen["qdiscs"]) if qdisc["kind"] in ("ingress", "clsact")}
    seen["filters"] = {device: [json.dumps(rule) for rule in filters(node, device)] for device in sorted(ingresses)}
    for pod in (None, *node.pods):
        where = pod or "node"
        seen[f"{where} links"] = {link["ifname"]: _link_facts(link) for link in ip(node, "-d", "addr", "show", pod=pod)}
        seen[f"{where} routes"] = sorted(
            json.dumps({k: v for k, v in route.items() if k != "flags"}, sort_keys=True)
            for route in routes(node, pod=pod, table="all")
        )
        seen[f"{where} rules"] = [ip(node, family, "rule", "show", pod=pod) for family in ("-4", "-6")]
    return seen


def difference(before: Json, after: Json, path: str = "") -> list[str]:
    """The places where two snapshots differ, one line each; empty when they are equal."""
    told = []
    for key in sorted({*before, *after}):
        here, old, new = f"{path}/{key}", before.get(key), after.get(key)
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            told += difference(old, new, here)
        elif isinstance(old, list) and isinstance(new, list):
            told += [f"{here}: gone: {entry}" for entry in old if entry not in new]
            told += [f"{here}: new: {entry}" for entry in new if entry not in old]
        else:
            told.append(f"{here}: was {old!r}, is {new!r}")
    return told


def _read(node: Node, names: tuple[str, ...]) -> list[str]:
    return node.run("cat", *(f"/proc/sys/{name}" for name in names)).stdout.decode().split()


def _automatic(route: Json) -> bool:
    """Whether the kernel made the route by itself, for an IPv6 link-local or multicast prefix."""
    return str(route["dst"]).startswith(("fe80:", "ff00:", "multicast ff00:")) or route.get("type") == "anycast"


def _link_facts(link: Json) -> Json:
    info = link.get("linkinfo", {})
    port = info.get("info_slave_data", {})
    return {
        "index": link["ifindex"],
        "up": "UP" in link["flags"],
        "promiscuous": "PROMISC" in link["flags"] or bool(link.get("promiscuity")),
        "allmulticast": "ALLMULTI" in link["flags"],
        "queue": link.get("txqlen"),
        "mtu": link["mtu"],
        "mac": link.get("address"),
        "kind": info.get("info_kind"),
        "master": link.get("master"),
        "alias": link.get("ifalias"),
        "altnames": sorted(link.get("altnames", [])),
        "port": {key: port[key] for key in ("hairpin", "isolated", "learning", "flood") if key in port},
        "addresses": sorted(
            f"{entry['local']}/{entry['prefixlen']}"
            for entry in link["addr_info"]
            if entry and (entry["family"] == "inet" or entry["scope"] != "link")
        ),
    }


def _settled(entry: Any) -> Any:
    """An nft object without what differs between two equal rulesets."""
    if isinstance(entry, dict):
        kept = {k: _settled(v) for k, v in entry.items() if k not in ("handle", "packets", "bytes")}
        if isinstance(kept.get("elem"), list):
            kept["elem"].sort(key=json.dumps)
        return kept
    return [_settled(item) for item in entry] if isinstance(entry, list) else entry


def _flat(entries: list[Json]) -> list[Any]:
    """The ruleset with each set or map element on its own, so that one line tells of one thing."""
    told: list[Any] = []
    for entry in entries:
        (kind, body), *_ = entry.items()
        if isinstance(body, dict) and isinstance(body.get("elem"), list) and kind in ("set", "map"):
            told += body["elem"]
            body = {key: value for key, value in body.items() if key != "elem"}
        told.append({kind: body})
    return told
