"""The allow list means what it means to the reference."""

from __future__ import annotations

import pytest

from cni.net import allowlist
from cni.net.allowlist import check
from cni.spec.errors import CNIError, ConfigError

NAME = "net.ipv4.conf.IFNAME.arp_filter"


@pytest.mark.parametrize(
    "lines",
    [
        *("arp", "^net", "filter$", NAME, "^net\\.ipv4\\.conf\\.[^.]+\\.arp_filter$", "a\nb\narp", "\n\narp\n", "(?i)ARP"),
        *("[[:alpha:]_]+$", "^[[:alnum:][:punct:]]+$", "^[^[:space:]]+$", "^(?P<a>net)", "\\w+_\\w+", "^[-a-zA-Z_.4]*$"),
        *(
            "^net[[:^digit:]]ipv",
            "^[^[:^print:]]+$",
            "^[[:^space:]_]+$",
            "^n[]e]t",
            "^net[^]]ipv",
            "[:i:]pv4",
            "[[:word:]-z]v4",
        ),
        *("^[[:lower:]0-9._IFNAME&&~~||]+$", "^[[a-z]et", "^[\\[a-z]et", "^[[:^ascii:][:graph:]]+$", "^(?:net){1}"),
    ],
)
def test_allowed(lines: str) -> None:
    check([NAME], lines.encode())


@pytest.mark.parametrize(
    "lines",
    [
        "",
        "\n",
        "^ipv4",
        "ARP",
        " arp",
        "arp\r",
        "# arp\n#",
        "[[:digit:]]{2}",
        "^[[:lower:]]+$",
        "[[:^print:]]",
        "^net\\.ipv4\\.x{,5}",
        "^x{,}",
        "[[:word:]-]{99}",
        "[[:word:]-z]{99}",
    ],
)
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


@pytest.mark.parametrize(
    "line",
    [
        "(",
        "[",
        "*",
        "\\pL",
        "\\Qa\\E",
        "a\\z",
        "[[:no:]]",
        "a{99999999999}",
        "(?<a>b)",
        "\udcff",
        "[[:alpha:]",
        "[[:^no:]]",
        "[a",
        "(?u)a",
        "[]",
        "[^]",
    ],
)
def test_a_line_that_is_no_pattern(line: str) -> None:
    """Also behind one that matches: whoever reads the list should know what all of it means."""
    with pytest.raises(CNIError, match=r"is no pattern|as text"):
        check([NAME], b"arp\n" + line.encode("utf-8", "surrogateescape"))


@pytest.mark.parametrize(
    ("line", "name"), [("^net\\.x{,5}$", "net.x{,5}"), ("^x{,}$", "x{,}"), ("^net\\.[[:^digit:]]$", "net.\xe9")]
)
def test_what_python_would_read_otherwise(line: str, name: str) -> None:
    """Braces without a first number are text to RE2, and characters beyond ASCII are no digits."""
    check([name], line.encode())


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", [*allowlist._CLASSES])
def test_a_class_and_its_opposite(name: str) -> None:
    """Each character is in one of the two, before whatever else stands in the brackets; Python warns of nothing."""
    for character in map(chr, range(128)):
        found = []
        for line in (f"[[:{name}:]]", f"[[:^{name}:]]", f"^[[:{name}:]-]$"):
            try:
                check([character], line.encode())
                found.append(True)
            except ConfigError:
                found.append(False)
        assert found[0] is not found[1]
        assert found[2] is (found[0] or character == "-")


def test_the_line_is_told() -> None:
    with pytest.raises(
        CNIError, match=r"line 2 of /etc/cni/tuning/allowlist.conf, '\[\[:no:\]\]', is no pattern: there is no class"
    ):
        check([NAME], b"arp\n[[:no:]]")


def test_classes_are_of_ascii() -> None:
    with pytest.raises(ConfigError):
        check(["net.\u0661"], b"\\d")
