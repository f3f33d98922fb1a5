"""What every netns test starts from: a lab, that is a private node, plugins under test, attachments."""

from __future__ import annotations

import copy
import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from tests.harness import observe

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.harness.node import Node
    from tests.harness.plugin import Executables, Outcome

Config = dict[str, Any]

# Of a test of CHECK, by name: where, what is done, what the message says, what the reference does not look at.
Damage = dict[str, tuple[str, str, str, str]]

# The newest version that the official Go plugins 1.1.1 know; what needs a newer one says so.
VERSION = "1.0.0"

V4: Config = {"type": "host-local", "subnet": "10.10.0.0/24"}
V6: Config = {"type": "host-local", "subnet": "fd00:10::/64"}
DUAL: Config = {"type": "host-local", "ranges": [[{"subnet": "10.10.0.0/24"}], [{"subnet": "fd00:10::/64"}]]}
DEFAULT_ROUTES = [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]

# 1.1.1 of the official plugins ignores ipMasqBackend and always masquerades by iptables.
BACKENDS = ("nftables", "iptables")


def bridge(ipam: Config | None = None, *, version: str = VERSION, name: str = "net", **keys: Any) -> Config:
    """A bridge configuration; without ipam a pure L2 one."""
    found: Config = {"cniVersion": version, "name": name, "type": "bridge", **keys}
    return found if ipam is None else {**found, "ipam": copy.deepcopy(ipam)}


def gateway(ipam: Config, **keys: Any) -> Config:
    """A bridge configuration as people use it: the bridge is the pods' default gateway."""
    return bridge(ipam, **{"isDefaultGateway": True, **keys})


def ptp(ipam: Config | None = None, **keys: Any) -> Config:
    """A ptp configuration."""
    return bridge(ipam, **{"type": "ptp", **keys})


def damaged(damage: Damage) -> list[Any]:
    """The names of damages as parameters of a test of CHECK."""
    return [
        pytest.param(name, marks=[pytest.mark.known_reference_failure(f"CHECK does not look at {what}.")] if what else [])
        for name, (_, _, _, what) in damage.items()
    ]


class Attachment:
    """One container on one network: the same parameters for ADD, CHECK and DEL, as a runtime keeps them."""

    def __init__(
        self,
        lab: Lab,
        plugin: str,
        config: Config,
        *,
        pod: str,
        container_id: str,
        ifname: str,
        args: str | None,
    ) -> None:
        self.lab, self.plugin, self.config = lab, plugin, config
        self.pod, self.container_id, self.ifname, self.args = pod, container_id, ifname, args
        self.netns = lab.node.pods.get(pod, f"/run/netns/{pod}")
        self.result: dict[str, Any] | None = None

    def call(self, verb: str, config: Config | None = None, **changes: Any) -> Outcome:
        """Any verb with this attachment's parameters, or changed ones."""
        given = {
            "container_id": self.container_id,
            "netns": self.netns,
            "ifname": self.ifname,
            "args": self.args,
        }
        return self.lab.plugins.call(
            verb,
            self.plugin,
            self.config if config is None else config,
            **{**given, **changes},
            node=self.lab.node,
        )

    def add(self, **changes: Any) -> dict[str, Any]:
        """ADD that must succeed; its result, which later CHECK and DEL get as prevResult."""
        self.result = self.call("ADD", **changes).result()
        return self.result

    def check(self, result: dict[str, Any] | None = None, **changes: Any) -> Outcome:
        """CHECK with the result of ADD (or another) as prevResult."""
        return self.call("CHECK", self.with_result(result), **changes)

    def delete(self, **changes: Any) -> Outcome:
        """DEL with the result of ADD as prevResult, if the version of the configuration has it."""
        early = self.config.get("cniVersion", "") < "0.4.0"
        return self.call("DEL", **{"config": self.config if early else self.with_result(), **changes})

    def with_result(self, result: dict[str, Any] | None = None) -> Config:
        """The configuration with prevResult, where there is one."""
        result = self.result if result is None else result
        return self.config if result is None else {**self.config, "prevResult": result}

    # -- what became of it --

    @property
    def addresses(self) -> list[str]:
        """The addresses of the result, without their length."""
        assert self.result is not None
        return [entry["address"].split("/")[0] for entry in self.result.get("ips", [])]

    @property
    def host_veth(self) -> str:
        """The host end of the pod's interface, found by interface index, as the kernel knows it."""
        inside = observe.links(self.lab.node, pod=self.pod)[self.ifname]
        found = [name for name, link in observe.links(self.lab.node).items() if link["ifindex"] == inside["link_index"]]
        assert found, f"{self.ifname} of {self.pod} has no host end in the node"
        return found[0]

    def leftovers(self, network: str = "net") -> list[str]:
        """Everything outside of the pod that still belongs to this attachment: leases, firewall, links."""
        node, found = self.lab.node, []
        for address, owner in observe.leases(node, network).items():
            if self.container_id.encode() in owner:
                found.append(f"lease {address}")
        words = (self.container_id, *(f"{address}" for address in self.addresses_or_none()))
        found += [f"firewall {line}" for line in observe.mentions(node, *words)]
        here = observe.links(node)
        found += [f"link {name}" for name in self._host_links() if name in here]
        found += [
            f"link {name}"
            for name, link in here.items()
            if f"/{self.container_id}/{self.ifname}" in json.dumps([link.get("ifalias"), link.get("altnames")])
        ]
        return found

    def _host_links(self) -> list[str]:
        """Links of the node that are the attachment's own by its result. Of bridge the first one listed is the bridge."""
        told = (self.result or {}).get("interfaces", [])[1 if self.plugin == "bridge" else 0 :]
        return [entry["name"] for entry in told if not entry.get("sandbox")]

    def addresses_or_none(self) -> list[str]:
        return self.addresses if self.result else []


class Chain:
    """One container on a network whose plugins are called one after the other, as libcni does."""

    def __init__(self, members: list[Attachment]) -> None:
        self.members = members

    @property
    def first(self) -> Attachment:
        """The plugin that attaches."""
        return self.members[0]

    @property
    def last(self) -> Attachment:
        """The plugin at the end."""
        return self.members[-1]

    def add(self) -> dict[str, Any]:
        """ADD of all, each with the result of the one before; the last one's result, which all of them get later."""
        result: dict[str, Any] | None = None
        for member in self.members:
            given = member.config if result is None else {**member.config, "prevResult": result}
            result = member.add(config=given)
        for member in self.members:
            member.result = result
        assert result is not None
        return result

    def check(self) -> None:
        """CHECK of all, with the result of ADD."""
        for member in self.members:
            member.check().succeeded()

    def delete(self) -> None:
        """DEL of all, the last one first."""
        for member in reversed(self.members):
            member.delete().succeeded()


class Lab:
    """A node and the plugins under test in it."""

    def __init__(self, node: Node, plugins: Executables) -> None:
        self.node, self.plugins = node, plugins
        self._count = 0

    def attachment(
        self,
        config: Config,
        *,
        plugin: str | None = None,
        pod: str | None = None,
        container_id: str | None = None,
        ifname: str = "eth0",
        args: str | None = None,
    ) -> Attachment:
        """A new attachment, by default of a new container in a new pod; nothing is called yet."""
        self._count += 1
        container_id = container_id or f"container-{self._count}"
        if pod is None:
            pod = os.path.basename(self.node.pod())
        plugin = plugin or config["type"]
        return Attachment(self, plugin, config, pod=pod, container_id=container_id, ifname=ifname, args=args)

    def added(self, config: Config, **how: Any) -> Attachment:
        """A new attachment after a successful ADD."""
        made = self.attachment(config, **how)
        made.add()
        return made

    def chain(self, *configs: Config, **how: Any) -> Chain:
        """A new container on a network of several plugins; nothing is called yet."""
        first = self.attachment(configs[0], **how)
        same = {"pod": first.pod, "container_id": first.container_id, "ifname": first.ifname, "args": first.args}
        return Chain([first, *(self.attachment(config, **same) for config in configs[1:])])

    def chained(self, *configs: Config, **how: Any) -> Chain:
        """The same after a successful ADD of all."""
        made = self.chain(*configs, **how)
        made.add()
        return made

    def call(self, verb: str, config: Config, **changes: Any) -> Outcome:
        """A call without an attachment: GC, STATUS."""
        nothing = {"container_id": "", "netns": "", "ifname": ""}
        return self.plugins.call(verb, config["type"], config, **{**nothing, **changes}, node=self.node)

    def snapshot(self) -> dict[str, Any]:
        return observe.snapshot(self.node)

    def unchanged_since(self, before: dict[str, Any]) -> None:
        """Assert that nothing of the node and its pods has changed."""
        found = observe.difference(before, self.snapshot())
        assert not found, "changed:\n" + "\n".join(found)


@pytest.fixture
def lab(node: Node, plugins: Executables) -> Lab:
    """A fresh node with the plugins under test."""
    return Lab(node, plugins)


@pytest.fixture
def own_promise(plugins: Executables) -> Iterator[None]:
    """For tests of what podwire promises beyond the specification."""
    if not plugins.ours:
        pytest.skip("a promise of podwire, not of the specification")
    yield
