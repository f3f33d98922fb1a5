"""A stand-in for firewalld on a real message bus: the methods that plugins use, answered as firewalld 1.3 does.

Run as a program it serves until it is ended, and prints what its zones hold after each call. Its messages are
packed and read by jeepney, a D-Bus library that the code under test does not use.
"""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

from tests.harness.node import PATH
from tests.harness.wrappers import ROOT, python

if TYPE_CHECKING:
    import subprocess

    from tests.harness.node import Node

SOCKET = "/run/dbus/system_bus_socket"
NAME = "org.fedoraproject.FirewallD1"

BUS = f"""<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:path={SOCKET}</listen><auth>EXTERNAL</auth><policy context="default">
<allow user="*"/><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/></policy></busconfig>"""


def start_bus(node: Node) -> subprocess.Popen[bytes]:
    """A system bus of the node's own."""
    node.sh(f"mkdir -p {os.path.dirname(SOCKET)}; cat >/run/bus.conf <<'X'\n{BUS}\nX")
    bus = node.spawn("dbus-daemon", "--config-file=/run/bus.conf", "--nofork", "--nopidfile", "--print-address=1")
    assert bus.stdout and bus.stdout.readline().startswith(b"unix:")
    return bus


def start(node: Node) -> subprocess.Popen[bytes]:
    """firewalld, or what stands for it, on a bus that is there."""
    found = node.spawn(python(), "-m", "tests.harness.firewalld", env={"PATH": PATH, "PYTHONPATH": str(ROOT)})
    assert found.stdout and found.stdout.readline() == b'{"trusted": [], "other": []}\n', found.communicate()
    return found


def main() -> None:
    """Serve."""
    from jeepney import DBusAddress, HeaderFields, MessageType, new_error, new_method_call, new_method_return
    from jeepney.io.blocking import open_dbus_connection

    os.environ["DBUS_SYSTEM_BUS_ADDRESS"] = f"unix:path={SOCKET}"
    connection = open_dbus_connection("SYSTEM")
    bus = DBusAddress("/org/freedesktop/DBus", "org.freedesktop.DBus", "org.freedesktop.DBus")
    connection.send_and_get_reply(new_method_call(bus, "RequestName", "su", (NAME, 4)))
    zones: dict[str, list[str]] = {"trusted": [], "other": []}
    print(json.dumps(zones), flush=True)
    while True:
        message = connection.receive()
        if message.header.message_type is not MessageType.method_call:
            continue
        fields = message.header.fields
        wanted = (fields.get(HeaderFields.path), fields.get(HeaderFields.interface), fields.get(HeaderFields.signature))
        assert wanted == ("/org/fedoraproject/FirewallD1", f"{NAME}.zone", "ss"), wanted
        signature, value = serve(zones, fields[HeaderFields.member], *message.body)
        if signature:
            connection.send(new_method_return(message, signature, (value,)))
        else:
            connection.send(new_error(message, f"{NAME}.Exception", "s", (value,)))
        print(json.dumps(zones), flush=True)


def serve(zones: dict[str, list[str]], member: str, zone: str, source: str) -> tuple[str, Any]:
    """One call: signature and value of the answer, or no signature and the error's text."""
    elsewhere = next((name for name, sources in zones.items() if source in sources and name != zone), None)
    here = zones.get(zone, [])
    if member == "removeSource" and source not in here:
        return "", f"ZONE_CONFLICT: {source}" if elsewhere is not None else f"UNKNOWN_SOURCE: '{source}' is not in any zone"
    if zone not in zones:
        return "", f"INVALID_ZONE: {zone}"
    if member == "querySource":
        return "b", source in here
    if member == "addSource":
        if source in here:
            return "", f"ZONE_ALREADY_SET: '{source}' already bound to '{zone}'"
        if elsewhere is not None:
            return "", f"ZONE_CONFLICT: '{source}' already bound to a zone"
        here.append(source)
        return "s", zone
    assert member == "removeSource", member
    here.remove(source)
    return "s", zone


if __name__ == "__main__":
    sys.exit(main())
