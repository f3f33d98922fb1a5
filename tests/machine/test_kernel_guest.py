"""What the machine's kernel is for: kinds of links and other abilities that kernels made for small machines lack."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.harness import observe

if TYPE_CHECKING:
    from tests.harness.node import Node


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        ("bridge", "ip link add x type bridge vlan_filtering 1"),
        ("vlan", "ip link add x link base type vlan id 5"),
        ("dummy", "ip link add x type dummy"),
        ("ipvlan", "ip link add x link base type ipvlan mode l2"),
        ("macvlan", "ip link add x link base type macvlan mode bridge"),
        ("vrf", "ip link add x type vrf table 10"),
        ("vxlan", "ip link add x type vxlan id 5 dev base dstport 4789"),
        ("geneve", "ip link add x type geneve id 5 remote 192.0.2.1"),
        ("wireguard", "ip link add x type wireguard"),
        ("ipip", "ip link add x type ipip local 192.0.2.1 remote 192.0.2.2"),
        ("bond", "ip link add x type bond"),
        ("ifb", "ip link add x type ifb"),
        ("tun", "ip tuntap add x mode tap"),
    ],
)
def test_a_kind_of_link_can_be_made(node: Node, kind: str, make: str) -> None:
    """And making it makes no other link: modules that bring devices of their own are told not to."""
    node.sh(f"ip link add base type veth peer name other; {make}")
    links = observe.links(node)
    assert links["x"]["linkinfo"]["info_kind"] == kind
    assert set(links) == {"lo", "base", "other", "x"}


@pytest.mark.parametrize("discipline", ["netem delay 1ms", "tbf rate 1mbit burst 10k latency 1ms", "fq_codel", "ingress"])
def test_traffic_can_be_shaped(node: Node, discipline: str) -> None:
    """Delay and loss are what tests of a network want to ask for."""
    node.sh(f"ip link add x type dummy; tc qdisc add dev x {'' if discipline == 'ingress' else 'root'} {discipline}")
    assert discipline.split()[0] in node.sh("tc qdisc show dev x")


def test_nftables_has_what_rules_here_use(node: Node) -> None:
    """Every family, and the expressions that live in modules of their own."""
    rules = """
        table inet filter {
            set pods { type ipv4_addr . ifname; flags interval; }
            flowtable fast { hook ingress priority 0; }
            chain in {
                type filter hook input priority 0
                ct state established accept
                fib daddr type local accept
                limit rate 5/second log prefix "x" accept
                meta l4proto tcp reject with tcp reset
            }
        }
        table inet nat {
            chain post {
                type nat hook postrouting priority 100
                masquerade
            }
            chain pre {
                type nat hook prerouting priority -100
                tcp dport 80 dnat ip to 10.0.0.1:80
                tcp dport 81 redirect to :82
            }
        }
        table bridge spoof {
            chain pre {
                type filter hook prerouting priority -300
                ether saddr 0:0:0:0:0:1 drop
            }
        }
        table netdev edge {
            chain in {
                type filter hook ingress device lo priority 0
                drop
            }
        }
    """
    node.run("nft", "-f", "-", stdin=rules)
    tables = {entry["table"]["name"] for entry in observe.ruleset(node) if "table" in entry}
    assert tables == {"filter", "nat", "spoof", "edge"}


@pytest.mark.parametrize("tool", ["iptables", "ip6tables"])
def test_iptables_has_the_matches_of_plugins(node: Node, tool: str) -> None:
    """Those that masquerading and port mapping with the iptables backend use."""
    node.sh(f"""
        {tool} -t nat -N X -w
        {tool} -t nat -A POSTROUTING -m comment --comment x -j X
        {tool} -t nat -A X -m addrtype --dst-type LOCAL -j RETURN
        {tool} -t nat -A X -p tcp -m multiport --destination-ports 1,2 -j MASQUERADE
        {tool} -A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT
        {tool} -t nat -A PREROUTING -p tcp -m mark --mark 1 -j REDIRECT --to-ports 80
    """)
    assert any("--destination-ports" in rule or "--dports" in rule for rule in observe.iptables_rules(node))
