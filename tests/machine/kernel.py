"""The machine's kernel: Debian's cloud kernel, downloaded with apt and unpacked into a cache folder.

What lives here: where the kernel comes from and which of its modules the machine has. What must not:
installing anything; the package is only unpacked, so the computer that runs the tests keeps its own kernel.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import msgspec

# The package that always depends on the current cloud kernel, the smallest one Debian has.
METAPACKAGE = "linux-image-cloud-amd64"

# Whole families are asked for by pattern: a test that needs one expression more should not need a new line
# here. What is built into the kernel (sch_fq_codel, ipv6 ...) needs none.
MODULES = (
    # the console that carries output and exit status
    "virtio_pci", "virtio_console",
    # links
    "veth", "bridge", "br_netfilter", "8021q", "dummy", "vrf", "ipvlan", "macvlan", "macvtap", "vxlan",
    "geneve", "bonding", "wireguard", "tun", "tap", "ifb", "ipip", "ip_gre", "ip6_gre", "sit", "ip6_tunnel",
    "nlmon",
    # nftables and iptables
    "nf_tables", "nft_.*", "nf_nat.*", "nf_conntrack", "nf_conntrack_netlink", "nf_conntrack_bridge",
    "nf_log_syslog", "nf_flow_table.*", "nfnetlink", "nfnetlink_log", "nf_defrag_ipv[46]",
    "nf_reject_ipv[46]", "nf_dup_.*", "ip_tables", "ip6_tables", "x_tables", "iptable_.*", "ip6table_.*",
    "ipt_REJECT", "ip6t_REJECT", "xt_.*", "ip_set.*", "ip_vs", "ip_vs_rr",
    # traffic shaping
    "sch_(netem|htb|tbf|prio|ingress|sfq|fq)", "cls_(u32|matchall|flower|bpf|fw)",
    "act_(mirred|gact|police|skbedit)",
    # what the tests look with, and the containers' file system
    "inet_diag", "tcp_diag", "udp_diag", "unix_diag", "netlink_diag", "af_packet_diag", "overlay",
)  # fmt: skip


class Kernel(msgspec.Struct, frozen=True):
    """An unpacked kernel: the file to boot, its release, and the folder that holds its modules."""

    image: Path
    release: str
    modules: Path


class KernelUnavailable(Exception):
    """The kernel could neither be found in the cache nor be downloaded; the message says what to do."""


def unpacked(cache: Path) -> Kernel:
    """The kernel in the cache folder; downloads and unpacks it first when it is not there.

    Raises KernelUnavailable with apt's own words when that fails.
    """
    if (found := _find(cache)) is None:
        _download(cache)
        found = _find(cache)
    if found is None:
        raise KernelUnavailable(f"the package {METAPACKAGE} left no kernel in {cache}: remove that folder and try again")
    return found


def _find(cache: Path) -> Kernel | None:
    for image in sorted(cache.glob("linux/boot/vmlinuz-*"), reverse=True):
        release = image.name.removeprefix("vmlinuz-")
        modules = cache / "linux/lib/modules" / release
        if (modules / "modules.dep").is_file():
            return Kernel(image, release, modules)
    return None


def _download(cache: Path) -> None:
    """Unpack beside the final place and move: an interrupted download must not look like a kernel."""
    cache.mkdir(parents=True, exist_ok=True)
    package = re.search(r"Depends: (linux-image-\S+)", _output("apt-cache", "depends", METAPACKAGE))
    if package is None:
        raise KernelUnavailable(f"apt does not know {METAPACKAGE}: run apt-get update, then try again")
    part = cache / f"linux.{os.getpid()}"
    part.mkdir()
    # apt fetches as its own user by default, who may not write here.
    _output("apt-get", "-o", "APT::Sandbox::User=root", "download", package[1], folder=part)
    [archive] = part.glob("*.deb")
    _output("dpkg-deb", "-x", str(archive), str(part))
    archive.unlink()
    for modules in part.glob("lib/modules/*"):
        # The package leaves this to its installation. Debian's busybox has a depmod, so no further package is
        # needed.
        _output("busybox", "depmod", "-b", str(part.absolute()), modules.name)
    part.rename(cache / "linux")


def _output(*command: str, folder: Path | None = None) -> str:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=300)
    except FileNotFoundError:
        raise KernelUnavailable(f"{command[0]} is not installed") from None
    if done.returncode:
        raise KernelUnavailable(f"{' '.join(command)} failed: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def wanted(kernel: Kernel) -> dict[str, list[str]]:
    """The chosen modules and all they need, as modules.dep has them: path → paths of what it needs."""
    lines = (line.partition(":") for line in (kernel.modules / "modules.dep").read_text().splitlines())
    needs = {path: rest.split() for path, _, rest in lines}
    chosen = re.compile("|".join(MODULES))
    queue = [path for path in needs if chosen.fullmatch(name(path))]
    closure: dict[str, list[str]] = {}
    while queue:
        path = queue.pop()
        if path not in closure:
            closure[path] = needs.get(path, [])
            queue.extend(closure[path])
    return dict(sorted(closure.items()))


def aliases(kernel: Kernel, modules: dict[str, list[str]]) -> str:
    """The lines of modules.alias that lead to one of these modules: with them the kernel loads on demand."""
    names = {name(path).replace("-", "_") for path in modules}
    lines = (kernel.modules / "modules.alias").read_text().splitlines()
    return "".join(f"{line}\n" for line in lines if line.split()[-1].replace("-", "_") in names)


def name(path: str) -> str:
    """ "kernel/net/802/stp.ko" → "stp"."""
    return path.rpartition("/")[2].partition(".")[0]
