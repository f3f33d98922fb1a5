"""Answers of nft 1.0.6 to what the code asks, and doors that give them. tests/contract/test_nft_recorded.py asks the real one.

SCRIPTS are the commands that made each state; ANSWERS what nft said then. The commands are those of the Go plugins.
"""

from __future__ import annotations

import copy
from ipaddress import ip_interface
from typing import TYPE_CHECKING, Any

from cni.nft import masq, spoof
from cni.spec.owner import Owner

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

OWNER = Owner("dbnet", "abc123", "eth0")
CHAIN = "CNI-2c9d881d1924f1d6a7733ee3"
VETH = OWNER.host_veth
MAC = "02:00:00:00:00:01"
COMMENT = "77fa157b4f32b23b-ebce0e3dd4dafae3, net: dbnet, if: eth0, id: abc123"
GO_SPOOF = "cni-br-iface-abc123-eth0"

_NAMED = """-m comment --comment 'name: "dbnet" id: "abc123"'"""

# name of a state: (program, its input or script)
SCRIPTS: dict[str, tuple[str, str]] = {
    "go iptables": (
        "sh",
        f"""
        iptables -t nat -N {CHAIN}
        iptables -t nat -A {CHAIN} -d 10.1.0.5/16 -j ACCEPT {_NAMED}
        iptables -t nat -A {CHAIN} ! -d 224.0.0.0/4 -j MASQUERADE {_NAMED}
        iptables -t nat -A POSTROUTING -s 10.1.0.5 -j {CHAIN} {_NAMED}
        """,
    ),
    "go nftables": (
        "nft",
        f"""
        add table inet cni_plugins_masquerade
        add chain inet cni_plugins_masquerade masq_checks
        add chain inet cni_plugins_masquerade postrouting {{ type nat hook postrouting priority 100; }}
        add rule inet cni_plugins_masquerade postrouting ip daddr == 224.0.0.0/4 return
        add rule inet cni_plugins_masquerade postrouting ip6 daddr == ff00::/8 return
        add rule inet cni_plugins_masquerade postrouting goto masq_checks
        add rule inet cni_plugins_masquerade masq_checks \
            ip saddr == 10.1.0.5 ip daddr != 10.1.0.0/16 masquerade comment "{COMMENT}"
        add rule inet cni_plugins_masquerade masq_checks \
            ip6 saddr == fd00::5 ip6 daddr != fd00::/64 masquerade comment "{COMMENT}"
        """,
    ),
    "go spoof check": (
        "nft",
        f"""
        add table bridge nat
        add chain bridge nat PREROUTING {{ type filter hook prerouting priority -300; policy accept; }}
        add chain bridge nat {GO_SPOOF}
        add chain bridge nat {GO_SPOOF}-mac
        add rule bridge nat PREROUTING iifname "veth1" jump {GO_SPOOF} comment "macspoofchk-abc123-eth0"
        add rule bridge nat {GO_SPOOF} jump {GO_SPOOF}-mac comment "macspoofchk-abc123-eth0"
        add rule bridge nat {GO_SPOOF}-mac ether saddr {MAC} return comment "macspoofchk-abc123-eth0"
        add rule bridge nat {GO_SPOOF}-mac drop comment "macspoofchk-abc123-eth0"
        """,
    ),
    "ours": (
        "nft",
        masq.add(OWNER.label, ip_interface("10.1.0.5/16")) + masq.add(OWNER.label, ip_interface("fd00::5/64")),
    ),
    "our spoof check": ("nft", spoof.add(OWNER.label, VETH, MAC)),
}


def _payload(protocol: str, field: str) -> dict[str, Any]:
    return {"payload": {"protocol": protocol, "field": field}}


def _match(op: str, protocol: str, field: str, right: Any) -> dict[str, Any]:
    return {"match": {"op": op, "left": _payload(protocol, field), "right": right}}


def _prefix(address: str, length: int) -> dict[str, Any]:
    return {"prefix": {"addr": address, "len": length}}


def _rule(family: str, table: str, chain: str, handle: int, *expr: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"rule": {"family": family, "table": table, "chain": chain, "handle": handle, **more, "expr": list(expr)}}


def _chain(family: str, table: str, name: str, handle: int, **more: Any) -> dict[str, Any]:
    return {"chain": {"family": family, "table": table, "name": name, "handle": handle, **more}}


_HOOK = {"type": "nat", "hook": "postrouting", "prio": 100, "policy": "accept"}
_XT_COMMENT: dict[str, Any] = {"xt": {"type": "match", "name": "comment"}}
_COUNTER: dict[str, Any] = {"counter": {"packets": 0, "bytes": 0}}
_T = masq.TABLE
_CHAINS = [
    _chain("inet", _T, "pods_10.1.0.0/16", 4, **_HOOK),
    _chain("inet", _T, "pods_fd00--/64", 8, **_HOOK),
]
_RULES = [
    _rule(
        "inet",
        _T,
        "pods_10.1.0.0/16",
        5,
        _match("==", "ip", "saddr", "@pods_10.1.0.0/16"),
        _match("!=", "ip", "daddr", _prefix("10.1.0.0", 16)),
        _match("!=", "ip", "daddr", _prefix("224.0.0.0", 4)),
        {"masquerade": None},
    ),
    _rule(
        "inet",
        _T,
        "pods_fd00--/64",
        9,
        _match("==", "ip6", "saddr", "@pods_fd00--/64"),
        _match("!=", "ip6", "daddr", _prefix("fd00::", 64)),
        _match("!=", "ip6", "daddr", _prefix("ff00::", 8)),
        {"masquerade": None},
    ),
]


def _map(name: str, kind: str, address: str, handle: int) -> dict[str, Any]:
    element = [{"elem": {"val": address, "comment": OWNER.label}}, masq.mark(OWNER.label)]
    return {
        "map": {
            "family": "inet", "name": name, "table": _T, "type": kind, "handle": handle, "map": "mark", "elem": [element]
        }
    }  # fmt: skip


def _set(name: str, kind: str, address: str, handle: int) -> dict[str, Any]:
    return {"set": {"family": "inet", "name": name, "table": _T, "type": kind, "handle": handle, "elem": [address]}}


def _got(kind: str, name: str, element: Any) -> list[dict[str, Any]]:
    """An answer to ``get element``: what both the text of old versions and the JSON of new ones come down to."""
    return [{kind: {"family": "inet", "table": _T, "name": name, "elem": [element]}}]


def _labelled(address: str) -> dict[str, Any]:
    return {"elem": {"val": address, "comment": OWNER.label}}


_TABLE = [
    {"table": {"family": "inet", "name": _T, "handle": 1}},
    {"set": {"family": "inet", "name": "sweeps", "table": _T, "type": "mark", "handle": 1}},
    _map("owners4", "ipv4_addr", "10.1.0.5", 2),
    _set("pods_10.1.0.0/16", "ipv4_addr", "10.1.0.5", 3),
    _map("owners6", "ipv6_addr", "fd00::5", 6),
    _set("pods_fd00--/64", "ipv6_addr", "fd00::5", 7),
    *_CHAINS,
    *_RULES,
]


def _sets(table: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The answer to ``list sets``: no maps, no elements."""
    found = [entry["set"] for entry in table if "set" in entry]
    return [{"set": {key: value for key, value in body.items() if key != "elem"}} for body in found]


def _chain_of(table: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """The answer to ``list chain``."""
    return [entry for entry in table if name in (entry.get("chain", {}).get("name"), entry.get("rule", {}).get("chain"))]


_S = spoof.TABLE
_ALLOWED = {"elem": {"val": {"concat": [VETH, MAC]}, "comment": OWNER.label}}
_SPOOF_CHAINS = [
    _chain("bridge", _S, "check", 4, type="filter", hook="prerouting", prio=-300, policy="accept"),
]
_SPOOF_TABLE = [
    {"table": {"family": "bridge", "name": _S, "handle": 1}},
    {"set": {"family": "bridge", "name": "sweeps", "table": _S, "type": "mark", "handle": 1}},
    {"set": {"family": "bridge", "name": "guarded", "table": _S, "type": "ifname", "handle": 2, "elem": [VETH]}},
    {
        "set": {
            "family": "bridge", "name": "allowed", "table": _S, "type": ["ifname", "ether_addr"], "handle": 3,
            "elem": [_ALLOWED],
        }
    },
    *_SPOOF_CHAINS,
    _rule(
        "bridge", _S, "check", 5,
        {"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "@guarded"}},
        {
            "match": {
                "op": "!=",
                "left": {"concat": [{"meta": {"key": "iifname"}}, _payload("ether", "saddr")]},
                "right": "@allowed",
            }
        },
        {"drop": None},
    ),
]  # fmt: skip

ANSWERS: dict[str, dict[str, list[dict[str, Any]]]] = {
    "go iptables": {
        "list chains ip": [
            _chain("ip", "nat", CHAIN, 1),
            _chain("ip", "nat", "POSTROUTING", 4, **_HOOK),
        ],
        f"list chain ip nat {CHAIN}": [
            _chain("ip", "nat", CHAIN, 1),
            _rule(
                "ip", "nat", CHAIN, 2,
                _match("==", "ip", "daddr", _prefix("10.1.0.0", 16)), _XT_COMMENT, _COUNTER, {"accept": None},
            ),
            _rule(
                "ip", "nat", CHAIN, 3,
                _match("!=", "ip", "daddr", _prefix("224.0.0.0", 4)), _XT_COMMENT, _COUNTER,
                {"xt": {"type": "target", "name": "MASQUERADE"}},
            ),
        ],
        "list chain ip nat POSTROUTING": [
            _chain("ip", "nat", "POSTROUTING", 4, **_HOOK),
            _rule(
                "ip", "nat", "POSTROUTING", 5,
                _match("==", "ip", "saddr", "10.1.0.5"), _XT_COMMENT, _COUNTER, {"jump": {"target": CHAIN}},
            ),
        ],
    },
    "go nftables": {
        "list chain inet cni_plugins_masquerade masq_checks": [
            _chain("inet", "cni_plugins_masquerade", "masq_checks", 1),
            _rule(
                "inet", "cni_plugins_masquerade", "masq_checks", 6,
                _match("==", "ip", "saddr", "10.1.0.5"), _match("!=", "ip", "daddr", _prefix("10.1.0.0", 16)),
                {"masquerade": None}, comment=COMMENT,
            ),
            _rule(
                "inet", "cni_plugins_masquerade", "masq_checks", 7,
                _match("==", "ip6", "saddr", "fd00::5"), _match("!=", "ip6", "daddr", _prefix("fd00::", 64)),
                {"masquerade": None}, comment=COMMENT,
            ),
        ],
    },
    "go spoof check": {
        "list chains bridge": [
            _chain("bridge", "nat", "PREROUTING", 1, type="filter", hook="prerouting", prio=-300, policy="accept"),
            _chain("bridge", "nat", GO_SPOOF, 2),
            _chain("bridge", "nat", GO_SPOOF + "-mac", 3),
        ],
        "list chain bridge nat PREROUTING": [
            _chain("bridge", "nat", "PREROUTING", 1, type="filter", hook="prerouting", prio=-300, policy="accept"),
            _rule(
                "bridge", "nat", "PREROUTING", 4,
                {"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "veth1"}},
                {"jump": {"target": GO_SPOOF}}, comment="macspoofchk-abc123-eth0",
            ),
        ],
        "list table bridge nat": [
            {"table": {"family": "bridge", "name": "nat", "handle": 1}},
            _chain("bridge", "nat", "PREROUTING", 1, type="filter", hook="prerouting", prio=-300, policy="accept"),
            _chain("bridge", "nat", GO_SPOOF, 2),
            _chain("bridge", "nat", GO_SPOOF + "-mac", 3),
            _rule(
                "bridge", "nat", "PREROUTING", 4,
                {"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "veth1"}},
                {"jump": {"target": GO_SPOOF}}, comment="macspoofchk-abc123-eth0",
            ),
            _rule(
                "bridge", "nat", GO_SPOOF, 5,
                {"jump": {"target": GO_SPOOF + "-mac"}}, comment="macspoofchk-abc123-eth0",
            ),
            _rule(
                "bridge", "nat", GO_SPOOF + "-mac", 6,
                _match("==", "ether", "saddr", MAC), {"return": None}, comment="macspoofchk-abc123-eth0",
            ),
            _rule("bridge", "nat", GO_SPOOF + "-mac", 7, {"drop": None}, comment="macspoofchk-abc123-eth0"),
        ],
    },
    "ours": {
        f"list table inet {_T}": _TABLE,
        "list sets inet": _sets(_TABLE),
        f"list chain inet {_T} pods_10.1.0.0/16": _chain_of(_TABLE, "pods_10.1.0.0/16"),
        f"list chain inet {_T} pods_fd00--/64": _chain_of(_TABLE, "pods_fd00--/64"),
        f"get element inet {_T} owners4 {{ 10.1.0.5 }}": _got("map", "owners4", _labelled("10.1.0.5")),
        f"get element inet {_T} owners6 {{ fd00::5 }}": _got("map", "owners6", _labelled("fd00::5")),
        f"get element inet {_T} pods_10.1.0.0/16 {{ 10.1.0.5 }}": _got("set", "pods_10.1.0.0/16", "10.1.0.5"),
        f"get element inet {_T} pods_fd00--/64 {{ fd00::5 }}": _got("set", "pods_fd00--/64", "fd00::5"),
        f"get element inet {_T} owners4 {{ 10.1.0.6 }}": [],
    },
    "our spoof check": {
        f"list chain bridge {_S} check": _chain_of(_SPOOF_TABLE, "check"),
        f"list table bridge {_S}": _SPOOF_TABLE,
    },
}  # fmt: skip

SAVED = f"""\
# Generated by iptables-save
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:{CHAIN} - [0:0]
-A POSTROUTING -s 10.1.0.5/32 -m comment --comment "name: \\"dbnet\\" id: \\"abc123\\"" -j {CHAIN}
-A {CHAIN} -d 10.1.0.0/16 -m comment --comment "name: \\"dbnet\\" id: \\"abc123\\"" -j ACCEPT
-A {CHAIN} ! -d 224.0.0.0/4 -m comment --comment "name: \\"dbnet\\" id: \\"abc123\\"" -j MASQUERADE
COMMIT
"""


class ScriptedDoors:
    """Doors that answer from recordings, for the code that only reads, and remember the questions.

    What was not recorded does not exist, as with the real ones.
    """

    def __init__(
        self,
        *states: str,
        saved: Mapping[tuple[bool, bool], str] | None = None,
        legacy: Iterable[bool] = (),
        changes: Mapping[str, list[dict[str, Any]]] | None = None,
    ) -> None:
        self.answers: dict[str, list[dict[str, Any]]] = {}
        for state in states:
            for question, answer in ANSWERS[state].items():
                self.answers[question] = self.answers.get(question, []) + copy.deepcopy(answer)
        self.answers.update(changes or {})
        self._saved, self._legacy = dict(saved or {}), set(legacy)
        self.asked: list[str] = []
        self.lately: set[bool] = set()  # whether it was enough to know what was so lately

    @property
    def nft(self) -> ScriptedDoors:
        return self

    @property
    def iptables(self) -> ScriptedDoors:
        return self

    def query(self, text: str) -> list[dict[str, Any]]:
        self.asked.append(text)
        return self.answers.get(text, [])

    def sets(self, family: str, lately: bool = False) -> list[dict[str, Any]]:
        self.lately.add(lately)
        return self.query(f"list sets {family}")

    def chain(self, where: str, lately: bool = False) -> list[dict[str, Any]]:
        self.lately.add(lately)
        return self.query(f"list chain {where}")

    def save(self, v6: bool, legacy: bool = False, table: str = "nat") -> str:
        self.asked.append(f"save {'v6' if v6 else 'v4'}{' legacy' if legacy else ''}")
        return self._saved.get((v6, legacy), "")

    def legacy(self, v6: bool, table: str = "nat") -> bool:
        return v6 in self._legacy
