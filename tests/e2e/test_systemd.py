"""The agent's units with a real systemd: started by a call, over restarts and upgrades, when it cannot start, and taken off.

Each machine is booted for the test (tests/harness/booted.py) and has podwire installed with the default paths. A call that
may not be served without the agent has no program to do so: it then fails with code 11.
"""

from __future__ import annotations

import json
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from tests.harness.booted import Booted
from tests.harness.node import PATH
from tests.harness.wrappers import BUNDLE, ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.root

SOCKET, SERVICE = "podwire-agent.socket", "podwire-agent.service"
INSTALL = str(ROOT / "packaging" / "install.sh")
BY_AGENT_ALONE = {"PODWIRE_ONESHOT": "/nowhere/podwire"}

LIST = {
    "type": "bridge",
    "bridge": "cni0",
    "isGateway": True,
    "ipMasq": True,
    "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.77.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]},
}


@pytest.fixture
def machine() -> Iterator[Booted]:
    if not (BUNDLE / "podwire").exists():
        pytest.skip("the bundle is not built (make bundle)")
    with Booted() as made:
        yield made


@pytest.fixture
def installed(machine: Booted) -> Booted:
    machine.run(INSTALL, "install", str(BUNDLE))
    return machine


def version(machine: Booted, **env: str) -> subprocess.CompletedProcess[str]:
    return machine.run("/opt/cni/bin/bridge", env={"CNI_COMMAND": "VERSION", **env}, check=False)


def served(machine: Booted) -> int:
    """How many VERSION calls the agent has answered, as its log tells; the journal may have to catch up."""
    machine.run("journalctl", "--sync")
    return machine.sh("journalctl -u podwire-agent -o cat").count(" plugin=bridge verb=VERSION code=0 ")


def agent(machine: Booted) -> tuple[str, str]:
    """The process of the agent, and the release it is of."""
    pid = machine.state(SERVICE, "MainPID")
    return pid, machine.sh(f"readlink /proc/{pid}/exe")


def test_nothing_is_switched_on_unasked(machine: Booted) -> None:
    told = machine.run(INSTALL, "install", str(BUNDLE)).stdout
    assert "systemctl enable --now podwire-agent" in told
    assert machine.run("systemctl", "is-enabled", SOCKET, SERVICE, check=False).stdout.split() == ["disabled", "disabled"]
    assert (machine.state(SOCKET), machine.state(SERVICE)) == ("inactive", "inactive")
    assert version(machine).returncode == 0


def test_a_call_starts_the_agent(installed: Booted) -> None:
    installed.run("systemctl", "start", SOCKET)
    assert installed.sh("stat -c '%a %F' /run/podwire /run/podwire/cni.sock").split("\n")[:2] == ["700 directory", "600 socket"]
    assert installed.state(SERVICE) == "inactive"
    assert version(installed, **BY_AGENT_ALONE).returncode == 0
    assert served(installed) == 1
    assert installed.state(SERVICE) == "active"
    assert agent(installed)[1].startswith("/opt/podwire/lib/podwire-2")


def test_one_command_switches_it_on(installed: Booted) -> None:
    """And it is warm before the first call."""
    installed.run("systemctl", "enable", "--now", "podwire-agent")
    assert (installed.state(SOCKET), installed.state(SERVICE)) == ("active", "active")
    assert installed.run("systemctl", "is-enabled", SOCKET, SERVICE).stdout.split() == ["enabled", "enabled"]
    assert version(installed, **BY_AGENT_ALONE).returncode == 0
    assert "switch" not in installed.run(INSTALL, "install", str(BUNDLE)).stdout


def test_the_journal_has_levels(installed: Booted) -> None:
    installed.run("systemctl", "start", SERVICE)
    env = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c1", "CNI_NETNS": "/run/netns/gone", "CNI_IFNAME": "eth0"}
    config = json.dumps({"cniVersion": "1.0.0", "name": "net", "type": "loopback"})
    failed = installed.run("/opt/cni/bin/loopback", env=env, stdin=config, check=False)
    assert (failed.returncode, json.loads(failed.stdout)["code"]) == (1, 3)
    installed.run("journalctl", "--sync")
    (line,) = installed.sh("journalctl -u podwire-agent -o cat -p warning").splitlines()
    assert line.startswith("level=warning plugin=loopback verb=ADD network=net container=c1 ifname=eth0 code=3 ")


CALLS = 600


def calls(machine: Booted) -> subprocess.Popen[str]:
    """One VERSION call after the other; each that fails is told."""
    loop = f"for i in $(seq {CALLS}); do /opt/cni/bin/bridge </dev/null >/dev/null || echo failed; done"
    env = {"PATH": PATH, "CNI_COMMAND": "VERSION"}
    return subprocess.Popen(machine.argv("sh", "-c", loop), env=env, stdout=subprocess.PIPE, text=True)


def test_no_call_fails_over_restarts(installed: Booted) -> None:
    """Calls wait in the socket for the next agent. One that waits in the agent that ends is declined, and serves itself."""
    installed.run("systemctl", "start", SERVICE)
    former = agent(installed)
    calling = calls(installed)
    for _ in range(3):
        installed.run("systemctl", "restart", SERVICE)
    assert calling.poll() is None, "the calls ended before the restarts"
    assert calling.communicate(timeout=120)[0] == ""
    assert agent(installed) != former
    assert served(installed) in range(CALLS - 3, CALLS + 1)


def test_an_upgrade_starts_the_new_agent_and_no_call_fails(installed: Booted) -> None:
    installed.run("systemctl", "start", SERVICE)
    former, release = agent(installed)
    calling = calls(installed)
    assert installed.run(INSTALL, "install", str(BUNDLE)).stderr == ""
    assert calling.communicate(timeout=120)[0] == ""
    assert served(installed) in (CALLS - 1, CALLS)
    now = agent(installed)
    assert now[0] != former and now[1] != release
    assert installed.sh("readlink -f /opt/podwire/bin/podwire").strip() == now[1].strip()
    # What is not switched on stays so, but runs on.
    assert installed.run("systemctl", "is-enabled", SERVICE, check=False).stdout.strip() == "disabled"


def test_the_release_of_an_agent_by_hand_is_kept(installed: Booted) -> None:
    """Nobody but who started it can start it anew."""
    by_hand = subprocess.Popen(
        installed.argv("/opt/podwire/bin/podwire", "agent"), env={"PATH": PATH}, stderr=subprocess.PIPE, text=True
    )
    assert by_hand.stderr and "event=listening" in by_hand.stderr.readline()
    release = installed.sh("readlink -f /opt/podwire/lib/podwire").strip()
    for _ in range(2):
        installed.run(INSTALL, "install", str(BUNDLE))
    assert release in installed.sh("ls -d /opt/podwire/lib/podwire-*").split()
    assert version(installed, **BY_AGENT_ALONE).returncode == 0
    told = installed.run(INSTALL, "uninstall").stdout
    assert f"kept, because a call or an agent is running; uninstall again later: {release}" in told
    installed.sh("kill $(pidof podwire)")
    by_hand.communicate(timeout=30)
    assert by_hand.returncode == 0
    installed.run(INSTALL, "uninstall")
    assert installed.sh("ls /opt/podwire 2>&1 || true").strip().endswith("No such file or directory")


def test_without_an_agent_that_can_start_calls_are_served_all_the_same(installed: Booted) -> None:
    """systemd gives it up and closes the socket; a call that waited in it goes on by itself."""
    installed.sh("echo 'AGENT_OPTIONS=--nonsense' >/etc/default/podwire-agent")
    installed.run("systemctl", "start", SOCKET)
    began = time.monotonic()
    assert version(installed).returncode == 0
    assert time.monotonic() - began < 20
    assert (installed.state(SOCKET), installed.state(SERVICE)) == ("failed", "failed")
    assert version(installed).returncode == 0
    installed.sh("rm /etc/default/podwire-agent; systemctl reset-failed; systemctl restart podwire-agent.socket podwire-agent")
    assert version(installed, **BY_AGENT_ALONE).returncode == 0


def test_an_upgrade_tells_of_an_agent_that_does_not_start_again(installed: Booted) -> None:
    installed.run("systemctl", "start", SERVICE)
    installed.sh("echo 'AGENT_OPTIONS=--nonsense' >/etc/default/podwire-agent")
    done = installed.run(INSTALL, "install", str(BUNDLE), check=False)
    assert done.returncode == 1
    assert "the plugins are installed, but the agent did not start again: systemctl status podwire-agent" in done.stderr
    assert version(installed).returncode == 0


def test_stopping_both_leaves_the_folder_and_its_locks(installed: Booted) -> None:
    installed.run("systemctl", "start", SERVICE)
    installed.sh("touch /run/podwire/some.lock")
    installed.run("systemctl", "stop", SOCKET)  # the service goes with it
    assert (installed.state(SOCKET), installed.state(SERVICE)) == ("inactive", "inactive")
    assert installed.sh("ls /run/podwire").split() == ["some.lock"]
    assert version(installed).returncode == 0


def test_options_and_metrics(installed: Booted) -> None:
    installed.sh("echo 'AGENT_OPTIONS=--metrics unix:/run/podwire/metrics.sock --workers 3' >/etc/default/podwire-agent")
    installed.run("systemctl", "start", SERVICE)
    assert version(installed, **BY_AGENT_ALONE).returncode == 0
    ask = (
        "import socket; s = socket.socket(socket.AF_UNIX); s.connect('/run/podwire/metrics.sock')\n"
        "s.sendall(b'GET /metrics HTTP/1.0\\r\\n\\r\\n'); print(s.makefile().read())"
    )
    told = installed.run("python3", "-c", ask).stdout
    assert 'podwire_calls_total{code="0",plugin="bridge",verb="VERSION"} 1.0' in told


@pytest.mark.parametrize("backend", ["nftables", "iptables"])
def test_a_pod_is_wired_within_the_units_limits(installed: Booted, backend: str) -> None:
    installed.sh("ip netns add blue")
    installed.run("systemctl", "start", SERVICE)

    def call(verb: str, **more: object) -> str:
        env = {"CNI_COMMAND": verb, "CNI_CONTAINERID": "c1", "CNI_NETNS": "/run/netns/blue", "CNI_IFNAME": "eth0"}
        config = {"cniVersion": "1.0.0", "name": "net", **LIST, "ipMasqBackend": backend, **more}
        env |= {"CNI_PATH": "/opt/cni/bin", **BY_AGENT_ALONE}
        return installed.run("/opt/cni/bin/bridge", env=env, stdin=json.dumps(config)).stdout

    result = json.loads(call("ADD"))
    assert result["ips"][0]["address"] == "10.77.0.2/24"
    installed.sh("ip netns exec blue ping -c 1 -W 5 10.77.0.1")
    assert installed.sh("ls /var/lib/cni/networks/net | grep -c 10.77.0.2").strip() == "1"
    call("CHECK", prevResult=result)
    call("DEL", prevResult=result)
    assert "eth0" not in installed.sh("ip netns exec blue ip -br link")
    assert installed.sh("ls /var/lib/cni/networks/net | grep -c 10.77.0.2 || true").strip() == "0"
    assert "level=error" not in installed.sh("journalctl -u podwire-agent -o cat")


@pytest.mark.parametrize("enabled", [True, False])
def test_uninstall_takes_all_of_it_off(machine: Booted, enabled: bool) -> None:
    files = "find /etc/systemd/system /opt -mindepth 1 | sort"
    before = machine.sh(f"mkdir -p /opt/cni/bin; {files}")
    machine.run(INSTALL, "install", str(BUNDLE))
    machine.run("systemctl", *(["enable", "--now"] if enabled else ["start"]), SERVICE)
    done = machine.run(INSTALL, "uninstall")
    assert done.stderr == ""
    assert [line for line in machine.sh(files).splitlines() if not line.endswith(".wants")] == [
        line for line in before.splitlines() if not line.endswith(".wants")
    ]
    assert machine.state(SERVICE, "LoadState") == machine.state(SOCKET, "LoadState") == "not-found"
    assert machine.sh("pgrep -c podwire || true").strip() == "0"
    assert machine.sh("ls /run/podwire").strip() == ""


# Without a systemd that has booted the machine: what hands over the socket can be tried alone.


def test_the_agent_takes_a_socket_that_was_handed_over(tmp_path: Path) -> None:
    """The socket stays, and is still systemd's, when the agent has ended."""
    path = tmp_path / "cni.sock"
    command = ["systemd-socket-activate", "-l", str(path), BUNDLE / "podwire", "agent", "--socket", "/nowhere/cni.sock"]
    activated = subprocess.Popen(command, env={"PATH": PATH}, stderr=subprocess.PIPE, text=True)
    try:
        assert activated.stderr and "Listening on" in activated.stderr.readline()
        env = {"PATH": PATH, "CNI_COMMAND": "VERSION", "PODWIRE_SOCKET": str(path), **BY_AGENT_ALONE}
        for _ in range(2):
            done = subprocess.run([BUNDLE / "bridge"], env=env, stdin=subprocess.DEVNULL, capture_output=True, check=False)
            assert done.returncode == 0, done
    finally:
        activated.terminate()
        _, told = activated.communicate(timeout=30)
    assert activated.returncode == 0, told
    assert f"event=listening socket={path} " in told
    assert told.count(" plugin=bridge verb=VERSION code=0 ") == 2
    assert path.is_socket()
