"""static: where addresses come from, and what CHECK compares."""

from __future__ import annotations

from typing import Any

import pytest

from cni.spec.addresses import parse_cidr, parse_ip
from cni.spec.call import Call
from cni.spec.conf import Dns
from cni.spec.errors import ConfigError, EnvError
from cni.spec.result import AssignedIp, Result, Route
from ipam import static

TWO = {
    "type": "static",
    "addresses": [{"address": "192.0.2.9/24", "gateway": "192.0.2.1"}, {"address": "fd00::9/64", "gateway": "fd00::1"}],
}


def call(verb: str, ipam: Any, *, version: str = "1.0.0", env: dict[str, str] | None = None, **config: Any) -> Call:
    return Call(
        verb=verb, ifname="eth0", network="net", version=version, args=env or {}, config={"name": "net", "ipam": ipam, **config}
    )


def add(ipam: Any, **more: Any) -> Result:
    made = call("ADD", ipam, **more)
    return static.add(static.parse(made), made)


def told(result: Result) -> str:
    return " ".join(f"{ip.address}@{ip.gateway}" if ip.gateway else str(ip.address) for ip in result.ips)


@pytest.mark.parametrize(
    ("env", "args", "runtime", "expected"),
    [
        ({}, [], [], "192.0.2.9/24@192.0.2.1 fd00::9/64@fd00::1"),
        ({"IP": "10.9.8.7/24"}, [], [], "192.0.2.9/24@192.0.2.1 fd00::9/64@fd00::1 10.9.8.7/24"),
        (
            {"IP": "10.9.8.7/24, fd01::7/64", "GATEWAY": "fd01::1,10.9.8.2,10.9.8.1,192.0.2.254"},
            [],
            [],
            "192.0.2.9/24@192.0.2.1 fd00::9/64@fd00::1 10.9.8.7/24@10.9.8.1 fd01::7/64@fd01::1",
        ),
        ({"IP": "", "GATEWAY": ""}, [], [], "192.0.2.9/24@192.0.2.1 fd00::9/64@fd00::1"),
        ({"IP": "10.9.8.7/24"}, ["10.1.1.1/24"], [], "10.1.1.1/24"),
        ({}, ["10.1.1.1/24"], ["10.2.2.2/24"], "10.2.2.2/24"),
        ({}, ["192.0.2.77/24"], [], "192.0.2.77/24@192.0.2.1"),
        ({}, [], ["fd00::77/64", "192.0.2.77/32"], "fd00::77/64@fd00::1 192.0.2.77/32@192.0.2.1"),
    ],
)
def test_sources(env: dict[str, str], args: list[str], runtime: list[str], expected: str) -> None:
    made = call("ADD", TWO, env=env, runtimeConfig={"ips": runtime, "mac": "x"})
    made.config["args"] = {"cni": {"ips": args}}
    assert told(static.add(static.parse(made), made)) == expected
    assert made.notes == []


def test_routes_and_dns_are_passed_on() -> None:
    result = add({**TWO, "routes": [{"dst": "0.0.0.0/0", "priority": 5}], "dns": {"nameservers": ["192.0.2.53"]}})
    assert result.routes == (Route(parse_cidr("0.0.0.0/0"), priority=5),)
    assert result.dns == Dns(nameservers=("192.0.2.53",))


@pytest.mark.parametrize(
    ("ipam", "config", "says"),
    [
        (None, {}, "IPAM config missing 'ipam' key"),
        ({"addresses": [{"address": "192.0.2.9"}]}, {}, r"configuration\.ipam\.addresses\[0\]\.address"),
        ({"addresses": [{"gateway": "192.0.2.9"}]}, {}, r"addresses\[0\]: it has no address"),
        ({"addresses": [{"address": "192.0.2.9/24", "gateway": "x"}]}, {}, r"addresses\[0\]\.gateway"),
        (TWO, {"runtimeConfig": {"ips": ["192.0.2.77"]}}, r"runtimeConfig\.ips\[0\]: invalid CIDR address 192\.0\.2\.77"),
        (TWO, {"runtimeConfig": {"ips": ["192.0.2.7/24", "192.0.2.7/32"]}}, r"address 192\.0\.2\.7/32 is given twice"),
        ({"addresses": [{"address": "192.0.2.9/24"}] * 2}, {}, "given twice"),
        (
            {"addresses": [{"address": "192.0.2.9/24", "gateway": "fd00::1"}]},
            {},
            r"\[0\]: gateway fd00::1 is of another family",
        ),
        (
            {"addresses": [{"address": "fd00::9/64", "gateway": "192.0.2.1"}]},
            {},
            r"\[0\]: gateway 192.0.2.1 is of another family",
        ),
        ({"addresses": [{"address": "::ffff:192.0.2.9/95"}]}, {}, r"\[0\]\.address: .*whose length is at least 96"),
        ({}, {}, "no IP addresses given: .*runtimeConfig.ips"),
    ],
)
def test_configurations_without_sense(ipam: Any, config: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        add(ipam, **config)


@pytest.mark.parametrize(
    ("env", "says"),
    [
        ({"IP": "10.9.8.7"}, "CNI_ARGS: IP: invalid CIDR address 10.9.8.7"),
        ({"IP": "10.9.8.7/24,"}, "CNI_ARGS: IP"),
        ({"IP": "10.9.8.7/24", "GATEWAY": "x"}, "CNI_ARGS: GATEWAY: invalid IP address x"),
    ],
)
def test_bad_values_in_the_environment(env: dict[str, str], says: str) -> None:
    with pytest.raises(EnvError, match=says):
        add(TWO, env=env)


GOOD_IPS = {"ips": ["10.2.2.2/24"]}


@pytest.mark.parametrize(
    ("ipam", "env", "args", "says"),
    [
        ({"addresses": [{"gateway": "192.0.2.1"}]}, {}, [], r"ipam\.addresses\[0\]: it has no address"),
        ({"addresses": [{"address": "x"}]}, {}, [], r"ipam\.addresses\[0\]\.address"),
        ({"addresses": [{"address": "192.0.2.9/24", "gateway": "fd00::1"}]}, {}, [], "another family"),
        (TWO, {"IP": "x"}, [], "CNI_ARGS: IP"),
        (TWO, {"GATEWAY": "x"}, [], "CNI_ARGS: GATEWAY"),
        (TWO, {}, ["10.1.1.1"], r"args\.cni\.ips\[0\]: invalid CIDR address 10\.1\.1\.1"),
    ],
)
def test_what_the_runtime_replaces_must_be_valid_too(ipam: Any, env: dict[str, str], args: list[str], says: str) -> None:
    made = call("ADD", ipam, env=env, runtimeConfig=GOOD_IPS)
    made.config["args"] = {"cni": {"ips": args}}
    with pytest.raises((ConfigError, EnvError), match=says):
        static.parse(made)


def test_what_the_runtime_replaces_may_be_given_twice() -> None:
    """The rule of one address once is for those that are used; so is that of one for each family."""
    twice = {"addresses": [{"address": "192.0.2.9/24"}] * 2}
    assert told(add(twice, version="0.2.0", runtimeConfig=GOOD_IPS)) == "10.2.2.2/24"


def test_v4_in_v6_notation_is_v4_as_in_go() -> None:
    assert told(add({"addresses": [{"address": "::ffff:192.0.2.9/120"}]})) == "192.0.2.9/24"
    assert told(add({}, runtimeConfig={"ips": ["::ffff:192.0.2.9/96", "::FFFF:c000:20a/128"]})) == "192.0.2.9/0 192.0.2.10/32"


def test_old_versions_have_one_address_of_each_family() -> None:
    assert len(add(TWO, version="0.2.0").ips) == 2
    with pytest.raises(ConfigError, match="does not support more than 1 address per family"):
        add(TWO, version="0.2.0", env={"IP": "192.0.2.10/24"})


def test_misspelt_keys_are_noted() -> None:
    made = call("ADD", {"addresses": [{"address": "192.0.2.9/24", "gatway": "192.0.2.1"}]})
    static.parse(made)
    assert len(made.notes) == 1
    assert "'gateway'" in made.notes[0]


# -- CHECK and the others ------------------------------------------------------------------------------------------------


def check(prev: Result | None, ipam: Any = TWO) -> list[str]:
    made = call("CHECK", ipam)
    return static.check(static.parse(made), made, prev)


def prev(*ips: tuple[str, str]) -> Result:
    return Result(ips=tuple(AssignedIp(parse_cidr(cidr), parse_ip(gw) if gw else None) for cidr, gw in ips))


def test_check_compares_addresses_and_gateways() -> None:
    four, six = ("192.0.2.9/24", "192.0.2.1"), ("fd00::9/64", "fd00::1")
    assert check(prev(four, six)) == []
    assert check(prev(("203.0.113.1/24", ""), six, four)) == []
    (missing,) = check(prev(six))
    assert missing == "static: Failed to match addr 192.0.2.9 on interface eth0: prevResult has no such address"
    (other,) = check(prev(("192.0.2.9/24", "192.0.2.254"), six))
    assert "192.0.2.254 in prevResult and 192.0.2.1" in other
    assert len(check(prev(("192.0.2.9/24", "")))) == 2


def test_a_gateway_that_a_plugin_added_is_no_problem() -> None:
    assert check(prev(("192.0.2.9/24", "192.0.2.1")), {"addresses": [{"address": "192.0.2.9/24"}]}) == []


def test_check_needs_a_result() -> None:
    with pytest.raises(ConfigError, match="prevResult missing"):
        check(None)


@pytest.mark.parametrize("verb", ["DEL", "GC"])
@pytest.mark.parametrize("ipam", [None, 5, {"addresses": "x"}, TWO], ids=repr)
def test_release_needs_nothing_and_does_nothing(verb: str, ipam: Any) -> None:
    made = call(verb, ipam, env={"IP": "nonsense"})
    conf = static.parse(made)
    static.delete(conf, made)
    assert static.gc(conf, made, frozenset()) == []


def test_status_is_content_with_what_can_be_read() -> None:
    made = call("STATUS", {})
    static.status(static.parse(made), made)
    with pytest.raises(ConfigError):
        static.parse(call("STATUS", {"addresses": 5}))
