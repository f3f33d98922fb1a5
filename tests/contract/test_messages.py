"""Our packing and cutting of rtnetlink messages against pyroute2's own, byte for byte and attribute for attribute."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any

import pytest

from cni.net import messages as m
from cni.net import qdiscs
from cni.net.kernel import Kernel
from cni.net.netlink import Request, Wire
from cni.spec.addresses import parse_cidr
from tests.harness.node import Node

if TYPE_CHECKING:
    from collections.abc import Iterator

V4, V6 = "10.1.2.3", "fd00::3"
PEER = {"index": 7, "attrs": [["IFLA_IFNAME", "eth0"], ["IFLA_ADDRESS", "02:00:00:00:00:02"], ["IFLA_NET_NS_FD", 5]]}
VETH = {"attrs": [["VETH_INFO_PEER", PEER]]}
PORT = {"attrs": [["IFLA_BRPORT_MODE", 1], ["IFLA_BRPORT_ISOLATED", 0]]}
VLANS = [["IFLA_BRIDGE_FLAGS", 2], ["IFLA_BRIDGE_VLAN_INFO", {"flags": 8, "vid": 5}]]

REQUESTS = {
    "link by name": Request(m.RTM_GETLINK, 0, {}, [["IFLA_IFNAME", "br0"], ["IFLA_EXT_MASK", 8]]),
    "link by index": Request(m.RTM_GETLINK, 0, {"index": 3}, [["IFLA_EXT_MASK", 8]]),
    "dump": Request(m.RTM_GETROUTE, m.NLM_F_DUMP, {"family": 2, "table": 0}, [["RTA_OIF", 4]]),
    "bridge": Request(
        m.RTM_NEWLINK,
        m.NLM_F_CREATE | m.NLM_F_EXCL,
        {"flags": 1, "change": 1},
        [
            ["IFLA_IFNAME", "a-name-of-five"],
            ["IFLA_MTU", 1400],
            ["IFLA_LINKINFO", {"attrs": [["IFLA_INFO_KIND", "bridge"], ["IFLA_INFO_DATA", {"attrs": []}]]}],
        ],
    ),
    "filtering": Request(
        m.RTM_NEWLINK,
        0,
        {},
        [
            [
                "IFLA_LINKINFO",
                {"attrs": [["IFLA_INFO_KIND", "bridge"], ["IFLA_INFO_DATA", {"attrs": [["IFLA_BR_VLAN_FILTERING", 1]]}]]},
            ]
        ],
    ),
    "veth": Request(
        m.RTM_NEWLINK,
        m.NLM_F_CREATE,
        {"flags": 1, "change": 1},
        [
            ["IFLA_IFNAME", "veth1"],
            ["IFLA_ADDRESS", "02:00:00:00:00:01"],
            ["IFLA_MASTER", 9],
            ["IFLA_LINKINFO", {"attrs": [["IFLA_INFO_KIND", "veth"], ["IFLA_INFO_DATA", VETH]]}],
        ],
    ),
    "macvlan": Request(
        m.RTM_NEWLINK,
        m.NLM_F_CREATE,
        {},
        [
            ["IFLA_IFNAME", "eth0"],
            ["IFLA_LINK", 3],
            ["IFLA_NET_NS_FD", 5],
            [
                "IFLA_LINKINFO",
                {"attrs": [["IFLA_INFO_KIND", "macvlan"], ["IFLA_INFO_DATA", {"attrs": [["IFLA_MACVLAN_MODE", 4]]}]]},
            ],
        ],
    ),
    "links of another namespace": Request(m.RTM_GETLINK, m.NLM_F_DUMP, {}, [["IFLA_EXT_MASK", 8], ["IFLA_IF_NETNSID", 3]]),
    "label": Request(m.RTM_NEWLINK, 0, {}, [["IFLA_IFNAME", "veth1"], ["IFLA_IFALIAS", "podwire/n/c/eth0"]]),
    "port": Request(
        m.RTM_NEWLINK,
        0,
        {},
        [["IFLA_LINKINFO", {"attrs": [["IFLA_INFO_SLAVE_KIND", "bridge"], ["IFLA_INFO_SLAVE_DATA", PORT]]}]],
    ),
    "802.1Q": Request(
        m.RTM_NEWLINK,
        0,
        {},
        [
            ["IFLA_LINK", 3],
            ["IFLA_LINKINFO", {"attrs": [["IFLA_INFO_KIND", "vlan"], ["IFLA_INFO_DATA", {"attrs": [["IFLA_VLAN_ID", 100]]}]]}],
        ],
    ),
    "port's VLANs": Request(m.RTM_SETLINK, 0, {"family": socket.AF_BRIDGE, "index": 3}, [["IFLA_AF_SPEC", {"attrs": VLANS}]]),
    "attributes": Request(m.RTM_NEWLINK, 0, {}, [["IFLA_IFNAME", "eth0"], ["IFLA_TXQLEN", 77], ["IFLA_MTU", 1300]]),
    "group": Request(m.RTM_NEWLINK, 0, {"index": 3}, [["IFLA_GROUP", 77]]),
    "address": Request(
        m.RTM_NEWADDR,
        m.NLM_F_CREATE,
        {"family": 2, "prefixlen": 24, "index": 3},
        [["IFA_LOCAL", V4], ["IFA_ADDRESS", V4], ["IFA_BROADCAST", "10.1.2.255"]],
    ),
    "address of IPv6": Request(
        m.RTM_DELADDR, 0, {"family": 10, "prefixlen": 64, "index": 3, "flags": 2}, [["IFA_ADDRESS", V6]]
    ),
    "route": Request(
        m.RTM_NEWROUTE,
        m.NLM_F_CREATE,
        {"family": 2, "dst_len": 24, "table": 252, "proto": 4, "scope": 253, "type": 1},
        [
            ["RTA_OIF", 3],
            ["RTA_DST", "10.9.0.0"],
            ["RTA_GATEWAY", "10.1.2.1"],
            ["RTA_PRIORITY", 70],
            ["RTA_TABLE", 1000],
            ["RTA_METRICS", {"attrs": [["RTAX_MTU", 1400], ["RTAX_ADVMSS", 1300]]}],
        ],
    ),
    "neighbour": Request(
        m.RTM_NEWNEIGH,
        m.NLM_F_CREATE | m.NLM_F_REPLACE,
        {"family": 2, "ifindex": 3, "state": 0x80},
        [["NDA_DST", V4], ["NDA_LLADDR", "02:00:00:00:00:01"]],
    ),
    "route lookup": Request(m.RTM_GETROUTE, 0, {"family": 10, "dst_len": 128, "flags": 0x2000}, [["RTA_DST", V6]]),
    "next hop goes": Request(m.RTM_DELROUTE, 0, {"family": 2, "dst_len": 24, "proto": 112}, [["RTA_DST", "10.9.0.0"]]),
    "qdisc": Request(m.RTM_GETQDISC, m.NLM_F_ACK, {"index": 3, "parent": qdiscs.ROOT}, []),
    "qdisc goes": Request(m.RTM_DELQDISC, 0, {"index": 3, "parent": qdiscs.INGRESS, "handle": 0xFFFF0000}, []),
    "ingress": Request(m.RTM_NEWQDISC, 0, {"index": 3, "parent": qdiscs.INGRESS}, [["TCA_KIND", "ingress"]]),
    "filters": Request(m.RTM_GETTFILTER, m.NLM_F_DUMP, {"index": 3, **qdiscs.redirect_fields()}, []),
    "number of a namespace": Request(m.RTM_GETNSID, 0, {}, [["NETNSA_FD", 5]]),
    "route of IPv6": Request(m.RTM_NEWROUTE, 0, {"family": 10, "dst_len": 64}, [["RTA_DST", "fd00:9::"], ["RTA_GATEWAY", V6]]),
}


def pyroute2s(asked: Request) -> Any:
    """pyroute2's class for a message; those that the plugins do not import included."""
    from pyroute2.netlink.rtnl.nsidmsg import nsidmsg
    from pyroute2.netlink.rtnl.tcmsg import tcmsg

    return {qdiscs.Definitions: tcmsg, m.Namespaces: nsidmsg}.get(m.CLASSES[asked.kind], m.CLASSES[asked.kind])()


@pytest.mark.parametrize("asked", REQUESTS.values(), ids=REQUESTS)
def test_requests_have_pyroute2s_bytes(asked: Request) -> None:
    message = pyroute2s(asked)
    flags = asked.flags | m.NLM_F_REQUEST
    message["header"] = {"type": asked.kind, "flags": flags, "sequence_number": 9, "pid": 0, "error": None}
    message.update(asked.fields)
    message["attrs"] = asked.attrs
    message.encode()
    assert m.encode(asked.kind, asked.flags, 9, asked.fields, asked.attrs) == bytes(message.data)


def decoded(attrs: list[Any]) -> Any:
    """What pyroute2 understands of the options of a message of ours."""
    from pyroute2.netlink.rtnl.tcmsg import tcmsg

    message = tcmsg(m.encode(m.RTM_NEWQDISC, 0, 9, {"index": 3}, attrs))
    message.decode()
    return message.get_attr("TCA_OPTIONS")


@pytest.mark.parametrize(("rate", "told"), [(125_000, 125_000), (5_000_000_000, 0xFFFFFFFF)])
def test_a_token_bucket_as_pyroute2_decodes_it(rate: int, told: int) -> None:
    """It has no words for a rate of 64 bits."""
    seen = decoded(qdiscs.tbf_attrs(rate, 1000, 77, 0)).get_attr("TCA_TBF_PARMS")
    assert {name: value for name, value in seen.items() if value} == {
        "rate": told,
        "rate___reserved": 1,  # the link layer
        "limit": 1000,
        "buffer": 77,
    }


def test_a_redirect_as_pyroute2_decodes_it() -> None:
    options = decoded(qdiscs.redirect_attrs(7))
    selector = options.get_attr("TCA_U32_SEL")
    assert (selector["flags"], selector["nkeys"], options.get_attr("TCA_U32_CLASSID")) == (1, 1, 0x10001)
    action = options.get_attr("TCA_U32_ACT").get_attr("TCA_ACT_PRIO_1")
    assert action.get_attr("TCA_ACT_KIND") == "mirred"
    parms = action.get_attr("TCA_ACT_OPTIONS").get_attr("TCA_MIRRED_PARMS")
    assert (parms["ifindex"], parms["eaction"], parms["action"]) == (7, 1, 4)


@pytest.fixture(scope="module")
def datagrams() -> Iterator[list[bytes]]:
    """What a kernel with a bridge, a veth, routes and addresses answers when asked for all of them."""
    heard: list[bytes] = []

    class Hearing(Wire):
        def _receive(self, words: str) -> list[m.Answer]:
            heard.append(self._socket.recv(1 << 18))
            return m.decode(heard[-1])

    with Node() as node:
        pod = node.pod("pod")
        fds = [os.open(f"/proc/{node.pid}/ns/net", os.O_RDONLY), os.open(f"/proc/{node.pid}/root{pod}", os.O_RDONLY)]
        root, wire = Kernel(fds[0]), Hearing(fds[0])
        try:
            root.create_bridge("br0", 1400, False)
            root.create_veth(
                "veth1",
                "02:00:00:00:00:01",
                0,
                "br0",
                "a label",
                {"hairpin": True, "isolated": True},
                "eth0",
                "02:00:00:00:00:02",
                fds[1],
            )
            for address in ("10.0.0.1/24", "fd00::1/64"):
                root.add_address("br0", parse_cidr(address))
            node.sh("ip route add 10.9.0.0/24 nexthop via 10.0.0.2 nexthop via 10.0.0.3")
            node.sh("ip route add 10.8.0.0/24 via 10.0.0.4 metric 5 table 1000")
            for kind, fields in (
                (m.RTM_GETLINK, {}),
                (m.RTM_GETADDR, {}),
                (m.RTM_GETROUTE, {"family": 2}),
                (m.RTM_GETROUTE, {"family": 10}),
            ):
                assert wire.dump(kind, fields, [], "cannot list")
            yield heard
        finally:
            root.close()
            wire.close()
            for fd in fds:
                os.close(fd)


@pytest.mark.root
def test_answers_are_cut_as_pyroute2_decodes_them(datagrams: list[bytes]) -> None:
    compared = 0
    for data in datagrams:
        offset = 0
        for answer in m.decode(data):
            length = int.from_bytes(data[offset : offset + 4], "little")
            if answer.message is not None:
                theirs = m.CLASSES[answer.kind](data, offset=offset)
                theirs.decode()
                assert all(theirs[field] == answer.message[field] for field in answer.message.fields)
                compared += _compare(answer.message, theirs)
            offset += length + 3 & ~3
    assert compared > 60


def _compare(ours: m.Attributes, theirs: Any) -> int:
    """Compare all attributes that the project reads, nested ones too; how many were there."""
    count = 0
    for name, (_, kind) in m.DEFINITIONS.items():
        value = theirs.get_attr(name)
        if value is None or ours.raw(name) is None:
            # A definition of another class may have the same number; what both know counts.
            continue
        if kind in ("uint8", "uint16", "uint32"):
            assert ours.number(name) == value, name
        elif kind == "asciiz":
            assert ours.text(name) == value, name
        elif kind == "l2addr":
            assert ours.mac(name) == value, name
        elif kind in ("ipaddr", "target"):
            family = socket.AF_INET6 if ":" in value else socket.AF_INET
            assert socket.inet_ntop(family, ours.raw(name) or b"") == value, name
        elif kind in ("ifinfo", "info_data", "info_slave_data", "metrics") and hasattr(value, "get_attr"):
            count += _compare(ours.nested(name), value)
        else:
            continue
        count += 1
    return count
