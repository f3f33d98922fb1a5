"""The allow list means what it means to the reference."""

from __future__ import annotations

import pytest

from cni.net.allowlist import check
from cni.spec.errors import CNIError, ConfigError

NAME = "net.ipv4.conf.IFNAME.arp_filter"


@pytest.mark.parametrize(
    "lines",
    [
        *("arp", "^net", "filter$", NAME, "^net\\.ipv4\\.conf\\.[^.]+\\.arp_filter$", "a\nb\narp", "\n\narp\n", "(?i)ARP"),
        *("[[:alpha:]_]+$", "^[[:alnum:][:punct:]]+$", "^[^[:space:]]+$", "^(?P<a>net)", "\\w+_\\w+", "^[-a-zA-Z_.4]*$"),
    ],
)
def test_allowed(lines: str) -> None:
    check([NAME], lines.encode())


@pytest.mark.parametrize("lines", ["", "\n", "^ipv4", "ARP", " arp", "arp\r", "# arp\n#", "[[:digit:]]{2}", "^[[:lower:]]+$"])
def test_not_allowed(lines: str) -> None:
    with pytest.raises(ConfigError, match="is not allowed on this node"):
        check([NAME], lines.encode())


def test_every_name_must_be_allowed() -> None:
    check([], b"")
    check(["net.a", "net.b"], b"a$\nb$")
    with pytest.raises(ConfigError, match=r"net\.c"):
        check(["net.a", "net.c"], b"a$\nb$")


def test_without_a_list_everything_is() -> None:
    check([NAME], None)


@pytest.mark.parametrize("line", ["(", "[", "*", "\\pL", "\\Qa\\E", "a\\z", "[[:no:]]", "a{99999999999}", "(?<a>b)", "\udcff"])
def test_a_line_that_is_no_pattern(line: str) -> None:
    """Also behind one that matches: whoever reads the list should know what all of it means."""
    with pytest.raises(CNIError, match=r"is no pattern|as text"):
        check([NAME], b"arp\n" + line.encode("utf-8", "surrogateescape"))


def test_classes_are_of_ascii() -> None:
    with pytest.raises(ConfigError):
        check(["net.\u0661"], b"\\d")
