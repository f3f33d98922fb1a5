"""The call's environment: the order of its checks, CNI_ARGS, GC's list."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni.spec.call import ARGS_KEYS, Call, check_env, parse_args
from cni.spec.errors import ConfigError, EnvError
from cni.spec.owner import Owner

GOOD = {"CNI_CONTAINERID": "c0ffee", "CNI_NETNS": "/run/netns/x", "CNI_IFNAME": "eth0", "CNI_PATH": "/opt/cni/bin"}
NEEDED = {
    "ADD": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "CHECK": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "DEL": ("CNI_CONTAINERID", "CNI_IFNAME"),
    "GC": (),
    "STATUS": (),
    "VERSION": (),
    "NONSENSE": (),
}


@pytest.mark.parametrize("verb", NEEDED)
@pytest.mark.parametrize("empty", [False, True])
def test_each_verb_needs_its_variables(verb: str, empty: bool) -> None:
    env = {"CNI_COMMAND": verb}
    check_env({**env, **GOOD})
    check_env({**env, **{name: GOOD[name] for name in NEEDED[verb]}})
    for name in NEEDED[verb]:
        lacking = {**env, **GOOD, name: ""}
        if not empty:
            del lacking[name]
        with pytest.raises(EnvError) as caught:
            check_env(lacking)
        assert caught.value.msg == f"required env variables [{name}] missing"


def test_all_that_is_missing_is_said_at_once_in_the_order_of_the_reference() -> None:
    with pytest.raises(EnvError, match=r"^required env variables \[CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME\] missing$"):
        check_env({"CNI_COMMAND": "ADD"})
    with pytest.raises(EnvError, match=r"^required env variables \[CNI_COMMAND\] missing$"):
        check_env(GOOD)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"CNI_CONTAINERID": "a/b"}, "invalid characters in containerID"),
        ({"CNI_CONTAINERID": "-a"}, "invalid characters in containerID"),
        ({"CNI_CONTAINERID": "a\n"}, "invalid characters in containerID"),
        ({"CNI_IFNAME": "eth0:1"}, "CNI_IFNAME"),
        ({"CNI_IFNAME": "a" * 16}, "CNI_IFNAME"),
        # A bad value is refused at once, whatever else is missing before or behind it.
        ({"CNI_CONTAINERID": "a/b", "CNI_IFNAME": "x y"}, "containerID"),
        ({"CNI_CONTAINERID": "", "CNI_IFNAME": "x y"}, "CNI_IFNAME"),
        ({"CNI_CONTAINERID": "", "CNI_NETNS": "", "CNI_IFNAME": ".."}, "CNI_IFNAME"),
    ],
)
def test_bad_values(changes: dict[str, str], says: str) -> None:
    for verb in ("ADD", "CHECK", "DEL"):
        with pytest.raises(EnvError, match=says):
            check_env({"CNI_COMMAND": verb, **GOOD, **changes})
    for verb in ("GC", "STATUS", "VERSION"):
        check_env({"CNI_COMMAND": verb, **GOOD, **changes})


def test_cni_path_is_optional() -> None:
    """Spec section 3 calls it optional; it is missed only when something has to be run."""
    for verb in NEEDED:
        check_env({"CNI_COMMAND": verb, **GOOD, "CNI_PATH": ""})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("IP=10.0.0.1", {"IP": "10.0.0.1"}),
        ("IP=", {"IP": ""}),
        (
            "IP=10.0.0.1;MAC=02:00:00:00:00:01;GATEWAY=10.0.0.254",
            {"IP": "10.0.0.1", "MAC": "02:00:00:00:00:01", "GATEWAY": "10.0.0.254"},
        ),
        ("IP=1;IP=2", {"IP": "2"}),
        ("IgnoreUnknown=1;K8S_POD_NAME=x;IP=1", {"IP": "1"}),
        ("K8S_POD_NAME=x;IP=1;IgnoreUnknown=TRUE", {"IP": "1"}),
        ("IgnoreUnknown=true;ip=1", {}),
        ("IgnoreUnknown=false;IP=1", {"IP": "1"}),
        ("IgnoreUnknown=0", {}),
    ],
)
def test_args(text: str, expected: dict[str, str]) -> None:
    assert parse_args(text) == expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("IP", "invalid CNI_ARGS pair 'IP'"),
        ("IP=1;", "invalid CNI_ARGS pair ''"),
        (";", "invalid CNI_ARGS pair ''"),
        ("IP=1=2", "invalid CNI_ARGS pair 'IP=1=2'"),
        ("K8S_POD_NAME=x", r"unknown args \['K8S_POD_NAME'\]"),
        ("a=1;IP=2;b=3", r"unknown args \['a', 'b'\]"),
        ("ip=1", r"unknown args \['ip'\]"),
        ("a=1;IgnoreUnknown=0", "unknown args"),
        ("IgnoreUnknown=yes", "IgnoreUnknown is 'yes'"),
        ("IgnoreUnknown=", "IgnoreUnknown is ''"),
        ("ignoreunknown=1", "unknown args"),
    ],
)
def test_bad_args(text: str, says: str) -> None:
    with pytest.raises(EnvError, match=says):
        parse_args(text)


@given(st.text(alphabet=st.sampled_from("IP=;MAC1aIgnoreUnknown=1;"), max_size=30))
def test_any_args_are_known_keys_or_code_4(text: str) -> None:
    try:
        assert set(parse_args(text)) <= set(ARGS_KEYS)
    except EnvError:
        pass


def gc(config: dict[str, Any]) -> Call:
    return Call(verb="GC", network="net", config=config)


ONE = {"containerID": "c1", "ifname": "eth0"}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, None),
        ({"cni.dev/valid-attachments": []}, []),
        ({"cni.dev/valid-attachments": None}, None),
        ({"cni.dev/valid-attachments": [ONE]}, [("c1", "eth0")]),
        ({"cni.dev/attachments": [ONE]}, [("c1", "eth0")]),
        ({"cni.dev/attachments": []}, []),
        ({"cni.dev/valid-attachments": [ONE], "cni.dev/attachments": []}, [("c1", "eth0")]),
        ({"CNI.dev/Valid-Attachments": [{"containerid": "c1", "IFNAME": "eth0"}]}, [("c1", "eth0")]),
        (
            {"cni.dev/valid-attachments": [ONE, ONE, {"containerID": "c1", "ifname": "eth1", "more": 1}]},
            [("c1", "eth0"), ("c1", "eth1")],
        ),
    ],
)
def test_valid_attachments(config: dict[str, Any], expected: list[tuple[str, str]] | None) -> None:
    """Absent is not empty: without a list nothing is known to be dead."""
    found = gc(config).valid_owners
    assert found == (None if expected is None else {Owner("net", *owner) for owner in expected})


@pytest.mark.parametrize(
    "listed",
    [
        *(0, False, "", {}),
        *(1, True, "c1", ONE, [1], [None], ["c1"], [[]], [{"ifname": "eth0"}], [{"containerID": "c1"}]),
    ],
)
def test_a_list_that_cannot_be_read_is_never_an_empty_one(listed: Any) -> None:
    """An empty list means that everything is dead, so whatever is wrong must not be taken for one."""
    with pytest.raises(ConfigError, match=r"cni\.dev/valid-attachments"):
        gc({"cni.dev/valid-attachments": listed}).valid_owners  # noqa: B018


def test_the_owner_of_a_call() -> None:
    assert Call(verb="ADD", network="net", container_id="c1", ifname="eth0").owner == Owner("net", "c1", "eth0")
