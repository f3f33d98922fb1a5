"""Versions: how they compare, and which verbs a configuration of each may use."""

from __future__ import annotations

import pytest

from cni.spec import versions
from cni.spec.errors import DecodeError, VersionError


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1.0.0", (1, 0, 0)), ("0.3.1", (0, 3, 1)), ("1", (1, 0, 0)), ("1.1", (1, 1, 0)), ("10.20.30", (10, 20, 30))],
)
def test_parse(text: str, expected: tuple[int, int, int]) -> None:
    assert versions.parse(text) == expected


@pytest.mark.parametrize("text", ["", ".", "1.", "1.0.0.0", "v1.0.0", "1.0.0-rc1", "1..0", " 1.0.0", "-1.0.0", "١.0.0", "1,0"])
def test_no_version(text: str) -> None:
    with pytest.raises(DecodeError, match="is not a version"):
        versions.parse(text)


def test_numbers_compare_as_numbers() -> None:
    assert versions.at_least("0.10.0", "0.9.9")
    assert versions.at_least("0.4.0", "0.4.0")
    assert not versions.at_least("0.3.1", "0.4.0")


def test_the_list_is_ascending_and_complete() -> None:
    assert versions.SUPPORTED == ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
    assert list(versions.SUPPORTED) == sorted(versions.SUPPORTED, key=versions.parse)
    assert versions.LATEST == "1.1.0"
    assert versions.DEFAULT == "0.1.0"


FIRST = {"ADD": "0.1.0", "DEL": "0.1.0", "CHECK": "0.4.0", "GC": "1.1.0", "STATUS": "1.1.0"}


@pytest.mark.parametrize("version", versions.SUPPORTED)
@pytest.mark.parametrize("verb", FIRST)
def test_a_verb_from_its_version_on(verb: str, version: str) -> None:
    if version >= FIRST[verb]:
        versions.require(verb, version)
    else:
        with pytest.raises(VersionError) as caught:
            versions.require(verb, version)
        assert caught.value.msg == f"config version does not allow {verb}"
        assert version in caught.value.details


@pytest.mark.parametrize("version", ["2.0.0", "1.2.0", "1.0", "1", "0.4.1", "01.0.0"])
@pytest.mark.parametrize("verb", ["ADD", "DEL", "CHECK"])
def test_only_exact_members_are_served(verb: str, version: str) -> None:
    with pytest.raises(VersionError) as caught:
        versions.require(verb, version)
    assert caught.value.msg == "incompatible CNI versions"
    known = '["0.1.0" "0.2.0" "0.3.0" "0.3.1" "0.4.0" "1.0.0" "1.1.0"]'
    assert caught.value.details == f'config is "{version}", plugin supports {known}'


def test_what_is_no_version_is_code_1_for_add_and_6_where_versions_are_compared() -> None:
    with pytest.raises(VersionError):
        versions.require("ADD", "nonsense")
    for verb in ("CHECK", "GC", "STATUS"):
        with pytest.raises(DecodeError):
            versions.require(verb, "nonsense")
