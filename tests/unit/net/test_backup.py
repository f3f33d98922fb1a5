"""The file of former values: the reference's form, both ways, and nothing that could do harm."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni.net.backup import Backup, Own, attributes_of, file_of, handed_over, merged, read, siblings, text
from cni.net.facts import Link
from cni.spec.errors import CNIError
from cni.spec.owner import Owner

OWNER = Owner("net", "a", "b_c")
OWN = Own(owner=OWNER.label, sandbox="4:7", index=3, sysctls={"net/ipv4/ip_forward": "0"})
ALL = {"mac": "02:00:00:00:00:01", "promisc": False, "mtu": 1500, "allmulti": False, "txQLen": 0}

# As the reference's tuning 1.1.1 wrote it.
REFERENCE = b'{\n "mac": "a6:d3:61:0d:41:d1",\n "promisc": false,\n "mtu": 1500,\n "allmulti": false\n}'


def test_it_is_laid_out_like_the_reference() -> None:
    found = read(REFERENCE)
    assert found == Backup({"mac": "a6:d3:61:0d:41:d1", "promisc": False, "mtu": 1500, "allmulti": False}, None)
    assert text(found) == REFERENCE
    assert file_of("/run/cni/tuning", OWNER) == "/run/cni/tuning/a_b_c.json"


def test_both_ways() -> None:
    backup = Backup(ALL, OWN)
    assert read(text(backup)) == backup
    document = json.loads(text(backup))
    assert list(document) == [*ALL, "podwire"]


def test_the_attributes_of_a_link() -> None:
    link = Link(index=3, name="eth0", mac="02:00:00:00:00:01", mtu=1500)
    assert attributes_of(link) == ALL


@pytest.mark.parametrize(
    "raw",
    [
        *(b"", b"{", b"[]", b"null", b"[" * 100000, b"\xff", b'{"mtu": "1500"}', b'{"mtu": -1}', b'{"mtu": 9999999999}'),
        *(b'{"mac": "x"}', b'{"mac": "02:00"} x', b'{"mac": "zz:00"}', b'{"mac": 5}', b'{"txQLen": 1.5}', b'{"promisc": 1}'),
        *(b'{"podwire": 1}', b'{"podwire": {"sysctls": {"kernel/hostname": "x"}}}', b'{"podwire": {"sysctls": []}}'),
        *(b'{"podwire": {"sysctls": {"net/../kernel/x": "x"}}}', b'{"podwire": {"sysctls": {"net.ipv4.ip_forward": "1"}}}'),
    ],
)
def test_what_nobody_wrote(raw: bytes) -> None:
    with pytest.raises(CNIError, match="it is no backup of tuning"):
        read(raw)


@given(st.binary(max_size=60))
def test_any_bytes(raw: bytes) -> None:
    try:
        read(raw)
    except CNIError:
        pass


def test_what_is_not_set() -> None:
    assert read(b'{"mac": "", "mtu": 0, "promisc": null, "txQLen": 0, "more": {}}') == Backup({"txQLen": 0}, None)


def test_the_older_value_is_the_original() -> None:
    old = Backup({"mtu": 1500}, Own(owner=OWN.owner, sandbox="4:7", sysctls={"net/a": "0"}))
    new = Backup(
        {"mtu": 1400, "promisc": False}, Own(owner=OWN.owner, sandbox="4:7", index=3, sysctls={"net/a": "1", "net/b": "2"})
    )
    both = merged(new, old)
    assert both.attributes == {"mtu": 1500, "promisc": False}
    assert both.own == Own(owner=OWN.owner, sandbox="4:7", index=3, sysctls={"net/a": "0", "net/b": "2"})
    assert merged(Backup({}, OWN), Backup({"mtu": 1500}, None)) == Backup({"mtu": 1500}, OWN)


def test_the_last_to_go_brings_a_sysctl_back() -> None:
    """What a later one wants stays, and the first value of all becomes its former one; an earlier one's value comes back."""

    def of(ifname: str, turn: int, sandbox: str = "4:7", **sysctls: str) -> tuple[str, bytes]:
        own = Own(
            owner=Owner("net", "a", ifname).label,
            sandbox=sandbox,
            turn=turn,
            sysctls={f"net/{key}": value for key, value in sysctls.items()},
        )
        return f"/x/a_{ifname}.json", text(Backup({}, own))

    mine = of("eth1", 2, a="1", b="1", c="1")
    files = [of("eth3", 4, a="3", d="3"), of("eth2", 3, a="2", b="2"), of("eth0", 1, c="0"), of("eth9", 9, "4:8", c="9"), mine]
    files.append(("/x/a_broken.json", b"{"))
    others = siblings("/x/a_eth1.json", "4:7", files)
    assert [each.turn for each in others] == [1, 3, 4]
    left, heirs = handed_over(read(mine[1]), others)
    assert left == {"net/c": "1"}
    assert [(each.path, each.backup.sysctls) for each in heirs] == [("/x/a_eth2.json", {"net/a": "1", "net/b": "1"})]


def test_whose_it_is() -> None:
    mine, theirs = Backup(ALL, OWN), Backup(ALL, None)
    assert (mine.is_of(OWNER), mine.is_of(Owner("net", "a_b", "c")), theirs.is_of(OWNER)) == (True, False, True)
    assert [mine.is_at(Owner(*it)) for it in (("other", "a", "b_c"), ("n" * 200, "a", "b_c"), ("net", "a_b", "c"))] == [
        True,
        True,
        False,
    ]
    assert Backup({}, Own(owner=Owner("n" * 200, "a", "b_c").label)).is_at(OWNER)
    assert [mine.is_about(*at) for at in (("4:7", 3), ("4:7", 0), ("4:7", 4), ("4:8", 3))] == [True, True, False, False]
    assert theirs.is_about("4:8", 9)
