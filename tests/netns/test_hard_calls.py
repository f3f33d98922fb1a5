"""Calls that end in an unusual way: nobody reads the answer, the process is killed while a program works for it, a later plugin
changed what CHECK looks at."""

from __future__ import annotations

import json
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from tests.conftest import through_agent
from tests.harness import observe
from tests.netns.conftest import V4, bridge

if TYPE_CHECKING:
    from tests.netns.conftest import Lab

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("own_promise")]


def test_an_answer_that_cannot_be_written(lab: Lab, pytestconfig: pytest.Config) -> None:
    """ADD is all or nothing: an attachment that nobody heard of would stay for ever."""
    lab.added(bridge(V4, isGateway=True, ipMasq=True))
    it = lab.attachment(bridge(V4, isGateway=True, ipMasq=True))
    before = observe.snapshot(lab.node, with_files=False)
    env = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": it.container_id,
        "CNI_NETNS": it.netns,
        "CNI_IFNAME": "eth0",
        "CNI_PATH": str(lab.plugins.folder),
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    }
    argv = lab.node.argv([str(lab.plugins.folder / "bridge")])
    with open("/dev/full", "wb") as full:
        stdin = json.dumps(it.config).encode()
        done = subprocess.run(argv, input=stdin, env=env, stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 1
    if through_agent(pytestconfig):  # it learns of the failure from the client's end
        it.delete().succeeded()  # waits for its turn
    else:
        assert b"it is taken back" in done.stderr
    assert observe.difference(before, observe.snapshot(lab.node, with_files=False)) == []
    assert it.container_id.encode() not in b"".join(observe.leases(lab.node, "net").values())


def test_a_killed_call_takes_its_programs_with_it(lab: Lab) -> None:
    """iptables-restore waits for its lock, the call is killed, DEL succeeds: nothing may write rules after that."""
    lab.node.path("/run/slow").mkdir()
    program = lab.node.path("/run/slow/iptables-restore")
    program.write_text('#!/bin/sh\nsleep 1\nexec /usr/sbin/iptables-restore "$@"\n')
    program.chmod(0o755)
    it = lab.attachment(bridge(V4, isGateway=True, ipMasq=True, ipMasqBackend="iptables"))
    slow = {"PATH": "/run/slow:/usr/sbin:/usr/bin:/sbin:/bin"}
    with pytest.raises(subprocess.TimeoutExpired):
        it.call("ADD", env=slow, timeout=0.6)
    it.delete().succeeded()
    time.sleep(1.5)
    assert it.leftovers() == []
    assert b"CNI-" not in lab.node.run("iptables-save", "-t", "nat").stdout


def test_a_later_plugin_made_the_mtu_smaller(lab: Lab) -> None:
    """CHECK must allow for a later chained plugin to have modified networking resources: tuning, with its key mtu."""
    it = lab.added(bridge(V4, isGateway=True, mtu=1450))
    lab.node.run("ip", "link", "set", "eth0", "mtu", "1300", pod=it.pod)
    it.check().succeeded()
