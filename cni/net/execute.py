"""Running plans: one loop, one table from operation to verb, one undo list.

``execute`` stops at the first failure and leaves taking back to ``undo``, which runs the inverses of what was done backwards.
``remove`` is for DEL and GC: it goes on through failures and returns them.
"""

from __future__ import annotations

import errno
import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cni.net import backup, macvlan, ops
from cni.nft import ops as rules
from cni.spec import sysctl
from cni.spec.errors import CNIError, KernelError, UnsupportedField

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from cni.net.host import Host
    from cni.net.kernel import Kernel
    from cni.spec.addresses import Ip

# The reference looks at the port after 0, 50, 500, 1000 and 1000 ms. The port opens within a millisecond, so look sooner, as
# long.
PORT_WAIT_S = 2.55

# Detection takes the kernel about 1.5 s; the reference waits as long and accepts what is still undecided then.
DAD_WAIT_S = 5.0


def execute(plan: Iterable[Any], host: Host, done: list[Any]) -> None:
    """Run a plan in order. Operations that changed something are appended to ``done`` for ``undo``."""
    for op in plan:
        if APPLY[type(op)](op, host):
            done.append(op)


def undo(done: list[Any], host: Host) -> list[CNIError]:
    """Take back what ``execute`` did, last first; returns what could not be taken back.

    What attachments share (a bridge, a table) is taken back only while no other call is at work on this host, and after all
    that is private: a bridge is in use as long as our own veth is its port.
    """
    failures: list[CNIError] = []
    private = [op for op in reversed(done) if not op.shared]
    shared = [op for op in reversed(done) if op.shared]
    done.clear()
    for op in private + shared:
        inverse = op.inverse()
        if inverse is not None and (not op.shared or host.alone()):
            failures += _attempt(inverse, host, [])
    return failures


def remove(plan: Iterable[Any], host: Host, done: list[Any]) -> list[CNIError]:
    """Run every operation of a plan whatever becomes of the others; returns the failures. Operations that removed something are
    appended to ``done``.
    """
    failures: list[CNIError] = []
    for op in plan:
        failures += _attempt(op, host, done)
    return failures


def _attempt(op: Any, host: Host, done: list[Any]) -> list[CNIError]:
    """Run an operation; its failure, of whatever kind: nothing may keep the next one from running."""
    try:
        execute([op], host, done)
    except CNIError as error:
        return [error]
    except Exception as error:
        return [CNIError(f"cannot {op.describe()}: {type(error).__name__}: {error}")]
    return []


def _create_veth(op: ops.CreateVeth, host: Host) -> bool:
    port = {"hairpin": op.hairpin, "isolated": op.isolated} if op.bridge else {}
    host.root.create_veth(op.name, op.mac, op.mtu, op.bridge, op.label, port, op.peer, op.peer_mac, peer_fd=host.sandbox_fd)
    return True


def _create_macvlan(op: ops.CreateMacvlan, host: Host) -> bool:
    """Whatever fails, no link of this call stays, and none of anybody else's goes."""
    master, sandbox = host.kernel(op.side), host.kernel(ops.SANDBOX)
    fd = host.sandbox_fd if op.side is ops.HOST else None
    name = op.name
    try:
        try:
            master.create_macvlan(name, op.master, op.mode, op.mac, op.mtu, op.queue, fd)
        except KernelError as error:
            if error.errno != errno.EEXIST or sandbox.link(name) is not None:
                raise
            name = op.spare
            sandbox.delete_link(name)  # of a call that was killed
            master.create_macvlan(name, op.master, op.mode, op.mac, op.mtu, op.queue, fd)
    except KernelError as error:
        raise macvlan.refusal(error, op, host) from error
    try:
        sandbox.adopt(name, op.name, op.label)
        name = op.name
        made = sandbox.link(name) if op.queue else None
        if made is not None and made.queue is None:
            told = f"it came with Linux 5.11; remove 'bcqueuelen' {op.queue} to go without"
            raise UnsupportedField("this kernel has no broadcast queue of a length to choose for macvlan", told)
    except BaseException:
        sandbox.delete_link(name)
        raise
    return True


def _admit_vlan(op: ops.AdmitVlan, host: Host) -> bool:
    host.root.admit_vlan(op.bridge, op.vid, True)
    return True


def _expel_vlan(op: ops.ExpelVlan, host: Host) -> bool:
    if not _unused(op.bridge, host):
        return False
    host.root.admit_vlan(op.bridge, op.vid, False)
    return True


def _unused(bridge: str, host: Host) -> bool:
    """Whether a bridge is there and has no port."""
    seen = host.root.link(bridge)
    return seen is not None and all(link.master != seen.index for link in host.root.links())


def _delete_unused_bridge(op: ops.DeleteUnusedBridge, host: Host) -> bool:
    return _unused(op.name, host) and host.root.delete_link(op.name)


def _drop_vlan_gateway(op: ops.DropVlanGateway, host: Host) -> bool:
    return _unused(op.bridge, host) and host.root.delete_link(op.name)


def _drop_gateway(op: ops.DropGateway, host: Host) -> bool:
    return _unused(op.bridge, host) and host.root.delete_address(op.ifname, op.address)


def _create_bridge(op: ops.CreateBridge, host: Host) -> bool:
    with _asked_for_by(op.keys):
        if host.root.create_bridge(op.name, op.mtu, op.vlan_filtering):
            return True
        made = host.root.link(op.name)  # by somebody who was faster, and may have wanted another bridge
        if made is None or made.kind != "bridge":
            raise CNIError(f"{op.name!r} already exists but is not a bridge", "name another bridge, or remove it")
        host.root.set_link(op.name, up=True, vlan_filtering=op.vlan_filtering or None)
        return False


def _set_link(op: ops.SetLink, host: Host) -> bool:
    try:
        with _asked_for_by(op.keys):
            host.kernel(op.side).set_link(op.name, op.up, op.promisc, op.vlan_filtering)
    except KernelError as error:
        raise macvlan.not_up(error, op) from error
    return True


@contextmanager
def _asked_for_by(keys: str) -> Iterator[None]:
    """Name the keys that ask for what this kernel does not have (spec section 5, code 2: the key and its value)."""
    try:
        yield
    except UnsupportedField as error:
        raise UnsupportedField(error.msg, f"{error.details}; remove {keys} to go without") from error


def _pin_mac(op: ops.PinMac, host: Host) -> bool:
    try:
        bridge = host.root.link(op.name)
        if bridge is not None:
            host.root.set_mac(op.name, bridge.mac)
    except KernelError:
        return False  # the address moved in between; the next call pins it
    return True


def _set_vlans(op: ops.SetVlans, host: Host) -> bool:
    wanted = {op.pvid} | {vid for low, high in op.tagged for vid in range(low, high + 1)}
    old = () if op.keep else tuple(vlan.vid for vlan in host.root.vlans(op.name) if vlan.vid not in wanted)
    host.root.set_vlans(op.name, old, op.pvid, op.tagged)
    return True


def _add_route(op: ops.AddRoute, host: Host) -> bool:
    try:
        return host.kernel(op.side).add_route(op.ifname, op.route, op.source, op.protocol, op.sole)
    except KernelError as error:
        if not op.sole or error.errno != errno.EEXIST:
            raise
        told = "another attachment was given the address at this moment; have IPAM give each its own"
        raise CNIError(f"address {op.route.dst.ip} has a route of the host already", told) from error


def _add_neighbour(op: ops.AddNeighbour, host: Host) -> bool:
    host.kernel(op.side).add_neighbour(op.ifname, op.address, op.mac)
    return True


def _set_next_hop(op: ops.SetNextHop, host: Host) -> bool:
    host.root.set_next_hop(op.dst, op.via, op.metric)
    return True


def _set_sysctls(op: ops.SetSysctls, host: Host) -> bool:
    host.write_sysctls(op.side, op.values, op.must, op.if_there)
    return True


def _confirm_sysctls(op: ops.ConfirmSysctls, host: Host) -> bool:
    seen = host.sysctls(ops.SANDBOX, [key for key, _ in op.values])
    for key, value in op.values:
        if not sysctl.same(seen.get(key, value), value):
            raise CNIError(
                f"sysctl {key} was set to {value!r}, and is {seen[key]!r}",
                "if another sysctl of the configuration changes it, put that one before it; else write what the kernel tells",
            )
    return False


def _tune_link(op: ops.TuneLink, host: Host) -> bool:
    try:
        _tune(op, host.kernel(ops.SANDBOX))
    except Exception:
        back = op.inverse()
        if back is not None and op.neighbours:  # the address may be there already, without them
            _tune(back, host.kernel(ops.SANDBOX))
        raise
    return True


def _tune(op: Any, kernel: Kernel) -> None:
    _TUNERS[op.key](kernel, op.name, op.value)
    for known in op.neighbours:
        kernel.add_neighbour(op.name, known.address, known.mac)


_TUNERS: dict[str, Callable[[Any, str, Any], None]] = {
    backup.MAC: lambda kernel, name, value: kernel.set_mac(name, value),
    backup.PROMISC: lambda kernel, name, value: kernel.set_link(name, promisc=value),
    backup.MTU: lambda kernel, name, value: kernel.set_mtu(name, value),
    backup.ALLMULTI: lambda kernel, name, value: kernel.set_link(name, allmulti=value),
    backup.QUEUE: lambda kernel, name, value: kernel.set_queue(name, value),
}


def _write_file(op: ops.WriteFile, host: Host) -> bool:
    host.write_file(op.path, op.content, op.before is None)
    return True


def _try(op: ops.Attempt, host: Host) -> bool:
    try:
        return APPLY[type(op.op)](op.op, host)
    except CNIError as error:
        op.notes.append(f"going on: {error}")
        return False


def _await_port(op: ops.AwaitPort, host: Host) -> bool:
    deadline = time.monotonic() + PORT_WAIT_S
    pause = 0.0001
    while True:
        state = host.root.operstate(op.name)
        if state == "up":
            return True
        if time.monotonic() > deadline:
            raise CNIError(f"bridge port in error state: {state}", f"{op.name} did not come up within {PORT_WAIT_S} s")
        time.sleep(pause)
        pause = min(pause * 2, 0.05)


def _await_dad(op: ops.AwaitDad, host: Host) -> bool:
    deadline = time.monotonic() + DAD_WAIT_S
    while True:
        pending, failed = host.kernel(ops.SANDBOX).dad_state(op.ifname)
        if failed:
            raise CNIError(f"duplicate address detection failed for {', '.join(map(str, failed))} on {op.ifname}")
        if not pending or time.monotonic() > deadline:
            return True
        time.sleep(0.02)


def _announce(op: ops.Announce, host: Host) -> bool:
    try:
        host.kernel(ops.SANDBOX).set_mac(op.ifname, op.mac)
    except KernelError:
        return False  # a courtesy to neighbours; the attachment works without it
    return True


def _create_ifb(op: ops.CreateIfb, host: Host) -> bool:
    with _asked_for_by(op.key):
        host.root.create_ifb(op.name, op.mac, op.mtu, op.label)
    return True


def _limit_rate(op: ops.LimitRate, host: Host) -> bool:
    with _asked_for_by(op.key):
        host.root.traffic.limit_rate(op.name, op.rate, op.limit, op.buffer, op.burst)
    return True


def _redirect(op: ops.Redirect, host: Host) -> bool:
    with _asked_for_by(op.key):
        host.root.traffic.redirect(op.name, op.to)
    return True


def _run_nft(op: rules.RunNft, host: Host) -> bool:
    rules.apply_nft(op, host.nft)
    return True


def _sweep(op: rules.Sweep, host: Host) -> bool:
    rules.apply_sweep(op, host.nft, int.from_bytes(os.urandom(4), "big"))
    return False  # what it removes is empty, and nothing that anybody had asked for


def _run_iptables(op: rules.RunIptables, host: Host) -> bool:
    rules.apply_iptables(op, host.iptables)
    return True


def _settle(op: rules.Settle, host: Host) -> bool:
    def alive(witness: str) -> bool:
        index, name = rules.witnessed(witness)
        link = host.root.link(name) if index else None
        return index == 0 or (link is not None and link.index == index)

    for besides in rules.apply_settle(op, host.nft, alive):
        _forget_flows(besides, host)
    return True


def _settle_iptables(op: rules.SettleIptables, host: Host) -> bool:
    rules.apply_settle_iptables(op, host.iptables)
    return True


def _forget_flows(op: rules.ForgetFlows, host: Host) -> bool:
    def here(address: Ip) -> bool:
        if not op.address.is_unspecified:
            return address == op.address
        way = host.root.way(address)
        return way is not None and way.local

    try:
        return host.conntrack.forget(op.address.version, op.port, here) > 0
    except KernelError:
        return False  # a kernel without connection tracking remembers nothing; else, the entries expire


def _bind_source(op: rules.BindSource, host: Host) -> bool:
    change = host.firewalld.add_source if op.on else host.firewalld.remove_source
    return change(op.zone, op.source)


def _isolate_port(op: ops.IsolatePort, host: Host) -> bool:
    host.root.isolate_port(op.name, op.on)
    return True


def _fail(op: rules.Unread, host: Host) -> bool:
    raise CNIError(op.msg, op.details, op.code)


APPLY: dict[type[Any], Callable[[Any, Host], bool]] = {
    ops.CreateBridge: _create_bridge,
    ops.DeleteUnusedBridge: _delete_unused_bridge,
    ops.CreateVeth: _create_veth,
    ops.CreateMacvlan: _create_macvlan,
    ops.AdmitVlan: _admit_vlan,
    ops.ExpelVlan: _expel_vlan,
    ops.CreateVlanGateway: lambda op, host: host.root.create_vlan(op.name, op.bridge, op.vid),
    ops.DeleteLink: lambda op, host: host.delete_link(op.side, op.name),
    ops.SetLink: _set_link,
    ops.PinMac: _pin_mac,
    ops.SetVlans: _set_vlans,
    ops.IsolatePort: _isolate_port,
    ops.AddAddress: lambda op, host: host.kernel(op.side).add_address(op.ifname, op.address, op.dad, op.subnet),
    ops.AddGateway: lambda op, host: host.root.add_address(op.ifname, op.address),
    ops.DropGateway: _drop_gateway,
    ops.DropVlanGateway: _drop_vlan_gateway,
    ops.DeleteAddress: lambda op, host: host.kernel(op.side).delete_address(op.ifname, op.address),
    ops.AddRoute: _add_route,
    ops.AddNeighbour: _add_neighbour,
    ops.SetNextHop: _set_next_hop,
    ops.DropNextHop: lambda op, host: host.root.drop_next_hop(op.dst, op.via, op.metric),
    ops.SetSysctls: _set_sysctls,
    ops.ConfirmSysctls: _confirm_sysctls,
    ops.TuneLink: _tune_link,
    ops.WriteFile: _write_file,
    ops.RemoveFile: lambda op, host: host.remove_file(op.path),
    ops.Attempt: _try,
    ops.AwaitPort: _await_port,
    ops.AwaitDad: _await_dad,
    ops.Announce: _announce,
    ops.CreateIfb: _create_ifb,
    ops.LimitRate: _limit_rate,
    ops.UnlimitRate: lambda op, host: host.root.traffic.unlimit_rate(op.name, op.handle),
    ops.Redirect: _redirect,
    ops.DropRedirect: lambda op, host: host.root.traffic.drop_redirect(op.name),
    rules.RunNft: _run_nft,
    rules.RunIptables: _run_iptables,
    rules.Sweep: _sweep,
    rules.Settle: _settle,
    rules.SettleIptables: _settle_iptables,
    rules.ForgetFlows: _forget_flows,
    rules.BindSource: _bind_source,
    rules.InCaseOfUndo: lambda op, host: True,
    rules.Unread: _fail,
}
