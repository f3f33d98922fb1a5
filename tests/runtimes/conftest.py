"""A host with podwire installed from the bundle, as `make install` does it: with its agent, and without."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.harness.node import OUTSIDE
from tests.harness.wrappers import BUNDLE, ROOT

from . import books, image
from .host import Host, unfit
from .packages import Unavailable, unpacked
from .runtimes import IMAGE, Containerd, Podman, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

INSTALL = str(ROOT / "packaging" / "install.sh")
BIN_DIR = "/opt/cni/bin"
AGENT_LOG = "/var/log/podwire-agent.log"

# Plugins that every call of the runtime comes to: of the tests' lists for containerd, and of podman's own.
CHAINS = {"containerd": {"bridge"}, "podman": {"bridge", "portmap", "firewall", "tuning"}}


@pytest.fixture(scope="session")
def packages() -> Path:
    if not (BUNDLE / "podwire").exists():
        pytest.skip("the bundle is not built (make bundle)")
    if reason := unfit():
        pytest.skip(reason)
    try:
        return unpacked()
    except Unavailable as error:
        pytest.skip(f"the runtimes are neither in the cache nor to be had: {error}")


@pytest.fixture(params=["one-shot", "agent"])
def host(packages: Path, request: pytest.FixtureRequest) -> Iterator[Host]:
    """A host with an outside behind its uplink; nothing runs in it but, in every second case, the agent."""
    with Host(packages) as made:
        made.run(INSTALL, "install", str(BUNDLE))
        image.write(made.path(IMAGE), packages / "usr/bin/busybox")
        made.outside()
        if request.param == "one-shot":
            yield made
            assert not made.path("/run/podwire/cni.sock").exists()
            return
        made.spawn("sh", "-c", f"exec /opt/podwire/bin/podwire agent --log-format json >{AGENT_LOG} 2>&1")
        until(made.path("/run/podwire/cni.sock").exists, "the agent does not listen")
        yield made
        told = made.path(AGENT_LOG).read_text()
        lines = [json.loads(line) for line in told.splitlines()]
        served = {(line.get("plugin"), line.get("verb")) for line in lines}
        for runtime in CHAINS.keys() & set(request.fixturenames):
            wanted = {(plugin, verb) for plugin in CHAINS[runtime] for verb in ("ADD", "DEL")}
            assert wanted <= served, f"not served by the agent: {wanted - served}\n{told}"
        assert not [line for line in lines if line.get("level") == "error"], told


@pytest.fixture
def podman(host: Host) -> Iterator[Podman]:
    """podman; whatever containers a test has left are removed at the end, and with them all that stood for them."""
    made = Podman(host)
    yield made
    made.remove_all()
    books.are_closed(host)


@pytest.fixture
def containerd(host: Host) -> Iterator[Containerd]:
    """containerd; whatever containers a test has left are stopped at the end, and nothing of them stays."""
    made = Containerd(host)
    yield made
    made.stop_all()
    books.are_closed(host)


@pytest.fixture
def outside() -> str:
    """The name of the namespace behind the host's uplink."""
    return OUTSIDE
