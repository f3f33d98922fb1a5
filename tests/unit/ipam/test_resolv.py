"""resolv.conf text as dns settings."""

from __future__ import annotations

import pytest

from cni.spec.conf import Dns
from ipam.resolv import parse


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", Dns()),
        ("nameserver 192.0.2.1\nnameserver 192.0.2.2 # 192.0.2.3\n", Dns(nameservers=("192.0.2.1", "192.0.2.2"))),
        ("search a b\nsearch c\n", Dns(search=("a", "b", "c"))),
        ("options ndots:2 rotate\noptions timeout:1\n", Dns(options=("ndots:2", "rotate", "timeout:1"))),
        ("domain one.example\ndomain two.example x\n", Dns(domain="two.example")),
        ("  \tnameserver\t 2001:db8::1 \r\n", Dns(nameservers=("2001:db8::1",))),
        ("#nameserver 192.0.2.1\n;nameserver 192.0.2.1\n# x\n\n   \n", Dns()),
        ("nameserver\nsearch\ndomain\noptions\n", Dns()),
        ("sortlist 192.0.2.0\nNameserver 192.0.2.1\nwhatever you like\n", Dns()),
        ("nameserver no-address", Dns(nameservers=("no-address",))),
        ("\0\0\ufffd\n", Dns()),
        ("search a\x0bnameserver\x85b\u2028c\n", Dns(search=("a", "nameserver", "b", "c"))),  # one line, many kinds of space
    ],
)
def test_lines(text: str, expected: Dns) -> None:
    assert parse(text) == expected
