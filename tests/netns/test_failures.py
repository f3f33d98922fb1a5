"""On the real kernel: whatever step of an ADD fails, the node is as before, judged by foreign tools.

The failing calls run in a process inside the node (this file as a program), because an executable cannot be told to fail at a
step. It imports the code under test; the judging side does not.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.harness import observe
from tests.harness.node import PATH
from tests.harness.wrappers import ROOT, make_wrappers, python
from tests.unit.calls import CONFIGS, SHARED_SETS, Failing, each_operation, needs_uplink, with_ports_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.harness.node import Node

pytestmark = pytest.mark.root

# What the configurations of tuning change in a pod.
TUNED = ("net/core/somaxconn", "net/ipv4/conf/eth0/arp_notify", "net/ipv4/ip_local_port_range")

OWN_TABLES = ("podwire_masquerade", "podwire_macspoofchk", "podwire_portmap", "podwire_firewall")


class Worker:
    """Calls plugins in the node, and lets a step fail."""

    def __init__(self, node: Node) -> None:
        self.bin = str(make_wrappers())
        env = {"PATH": PATH, "PYTHONPATH": str(ROOT), "LC_ALL": "C"}
        self._process = node.spawn(python(), "-m", "tests.netns.test_failures", env=env)

    def add(self, config: dict[str, Any], netns: str, container_id: str = "c0ffee", at: int | str = -1) -> dict[str, Any]:
        """ADD whose step of the given number fails, or its `report`; what it answered and which step that was."""
        env = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": container_id, "CNI_NETNS": netns}
        env |= {"CNI_IFNAME": "eth0", "CNI_PATH": self.bin}
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps({"env": env, "config": config, "at": at}).encode() + b"\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, self._process.communicate()[1].decode()
        return dict(json.loads(answer))


@pytest.fixture
def worker(node: Node) -> Iterator[Worker]:
    return Worker(node)


def config_of(name: str) -> dict[str, Any]:
    """A configuration of the common table, of bridge unless it says otherwise, with its leases in the node's own folder."""
    return {"cniVersion": "1.1.0", "name": "net", "type": "bridge", **CONFIGS[name]}


def ready(worker: Worker, name: str, pod: str, container_id: str = "c0ffee") -> dict[str, Any]:
    """The configuration as it can be called for a pod: of a chained plugin with the result of the one before it."""
    config = config_of(name)
    first = config.pop("after", None)
    if first is None:
        return config
    answer = worker.add({"cniVersion": config["cniVersion"], "name": "net", "type": "bridge", **first}, pod, container_id)
    assert answer["status"] == 0, answer
    return {**with_ports_of(config, container_id), "prevResult": answer["result"]}


def uplink(node: Node, name: str) -> None:
    """A link to a segment, where the configuration needs one; as in `tests.fakes.Machine.uplink`."""
    if needs_uplink(CONFIGS[name]):
        node.sh("""
            ip link add up0 type veth peer name up1
            ip link set up1 up
            ip link set up0 up
            ip addr add 192.0.2.1/24 dev up0
            ip addr add fd00:2::1/64 dev up0 nodad
        """)


def fresh(node: Node, worker: Worker, name: str) -> None:
    """Nothing was ever there, but for folders and locks, and tables that every call of iptables makes; or, where attachments
    share chains of iptables that stay, another pod.
    """
    if CONFIGS[name].get("backend") == "iptables":
        return second(node, worker, name)
    uplink(node, name)
    pod = node.pod("first")
    at = int(CONFIGS[name].get("type") == "tuning")  # its folder is made by its first step
    assert worker.add(ready(worker, name, pod, "other"), pod, "other", at)["failed"]
    if "iptables" in name:
        for tool in ("iptables", "ip6tables"):
            node.sh(f"{tool} -t nat -A POSTROUTING -j RETURN; {tool} -t nat -D POSTROUTING -j RETURN")
    if name.startswith("firewall"):
        for tool in ("iptables", "ip6tables"):
            node.sh(f"{tool} -P FORWARD DROP" + ("" if "iptables" in name else f"; {tool} -N CNI-ADMIN"))
    return None


def second(node: Node, worker: Worker, name: str) -> None:
    """Another pod of the network is there."""
    uplink(node, name)
    pod = node.pod("first")
    answer = worker.add(ready(worker, name, pod, "other"), pod, "other")
    assert answer["status"] == 0, answer


def by_hand(node: Node, worker: Worker, name: str) -> None:
    """An administrator made the bridge, otherwise than the configuration wants it; nothing is attached."""
    fresh(node, worker, name)
    node.sh("ip link add cni0 address 02:00:00:00:00:aa type bridge; echo 2 >/proc/sys/net/ipv6/conf/cni0/accept_ra")
    if CONFIGS[name].get("forceAddress"):
        node.sh("ip addr add 10.7.0.1/16 dev cni0; ip addr add 10.8.0.1/16 dev cni0")


BEFORE = {"fresh": fresh, "second": second, "by-hand": by_hand}

# On the real kernel each step costs a look at the whole node, so "by-hand" is for those that treat the bridge specially.
ON_A_BRIDGE_BY_HAND = ("layer-2", "dual-stack", "promiscuous", "force-address")
NEEDS_VLANS = ("vlan", "trunk")
CASES = [
    (name, before)
    for name in CONFIGS
    if name not in NEEDS_VLANS
    for before in BEFORE
    if before != "by-hand" or name in ON_A_BRIDGE_BY_HAND
]


def look(node: Node, tuned: bool = False) -> dict[str, Any]:
    """The node as it is, without what stays on purpose: tables of ours in which nothing is left, which stand for no attachment,
    and routes to other nodes, which others may use.
    """
    seen = observe.snapshot(node)
    rules = [json.loads(entry) for entry in seen["nft"]]
    bodies = [next(iter(rule.values())) for rule in rules]
    seen["node routes"] = [route for route in seen["node routes"] if not _leads_to_a_node(json.loads(route))]
    used = {body["table"] for body in bodies if body.get("elem") and body["name"] not in SHARED_SETS}
    empty = set(OWN_TABLES) - used
    seen["nft"] = [
        text for text, body in zip(seen["nft"], bodies, strict=True) if (body.get("table") or body["name"]) not in empty
    ]
    for pod in node.pods if tuned else ():
        seen[f"{pod} sysctls"] = {name: node.sysctl(name, pod=pod) for name in TUNED if "eth0" in seen[f"{pod} links"]}
    seen["accept_ra"] = node.sysctl("net/ipv6/conf/cni0/accept_ra") if "cni0" in seen["node links"] else ""
    return seen


def _leads_to_a_node(route: dict[str, Any]) -> bool:
    return route.get("protocol") == "112" and "gateway" in route


@pytest.mark.parametrize(("name", "before"), CASES, ids=str)
def test_as_before(node: Node, worker: Worker, name: str, before: str) -> None:
    BEFORE[before](node, worker, name)
    pod = node.pod("second")
    config = ready(worker, name, pod)
    tuned = config["type"] == "tuning"
    was = look(node, tuned)
    for at in range(100):
        answer = worker.add(config, pod, at=at)
        if not answer["failed"]:
            break
        assert (answer["status"], "injected" in answer["error"]["msg"]) == (1, True), answer
        assert not answer["notes"], answer
        found = observe.difference(was, look(node, tuned))
        assert not found, f"after a failure of step {at}, {answer['failed']}:\n" + "\n".join(found)
    assert answer["status"] == 0, answer
    assert at >= 1
    assert observe.difference(was, look(node, tuned)), "the ADD that did not fail changed nothing"


@pytest.mark.parametrize("before", BEFORE)
def test_as_before_when_the_report_fails(node: Node, worker: Worker, before: str) -> None:
    """Forwarding alone stays on, once the last step has switched it on."""
    BEFORE[before](node, worker, "everything")
    pod = node.pod("second")
    was = look(node)
    answer = worker.add(config_of("everything"), pod, at="report")
    assert (answer["status"], answer["failed"], answer["notes"]) == (1, "report", ""), answer
    found = [line for line in observe.difference(was, look(node)) if not line.startswith("/sysctls/net/ipv")]
    assert not found, "\n".join(found)


def main() -> None:
    """Inside the node: a request a line on stdin, an answer a line on stdout."""
    from cni.dispatch import dispatch
    from cni.plugins import bridge
    from cni.spec.errors import KernelError

    def injected() -> Exception:
        return KernelError("injected", OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS)))

    def no_report(*given: Any) -> Any:
        failing.steps.append("report")
        failing.failed = True
        raise injected()

    for line in sys.stdin:
        request = json.loads(line)
        at = request["at"]
        failing = Failing(at if isinstance(at, int) else -1, injected)
        with pytest.MonkeyPatch.context() as patch:
            each_operation(patch, failing)
            if at == "report":
                patch.setattr(bridge, "report", no_report)
            reply = dispatch(request["config"]["type"], request["env"], json.dumps(request["config"]).encode())
        answer = {
            "status": reply.status,
            "failed": failing.steps[-1] if failing.failed else "",
            "error": json.loads(reply.stdout) if reply.status else None,
            "result": None if reply.status else json.loads(reply.stdout),
            "notes": reply.stderr,
        }
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
