"""What the machine consists of: its programs, its Python, the checkout, and what it is asked to run.

What lives here: the list of files, gathered anew for each run (a second of work, and never stale). What must
not: their format (`archive`), the kernel (`kernel`), booting (`run`).

The programs are the very ones of the computer it is built on, with the libraries that `ldd` names; nothing is
downloaded. The guest's checkout is /podwire; its /podwire/.venv is made of the packages of the environment
this module runs in.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

from .archive import Tree
from .kernel import Kernel, aliases, wanted

CHECKOUT = Path(__file__).parents[2]
GUEST = "/podwire"

# Programs without which no test can run: name → the Debian package to install.
NEEDED = {
    "busybox": "busybox-static", "ip": "iproute2", "bridge": "iproute2", "tc": "iproute2", "ss": "iproute2",
    "nft": "nftables", "iptables": "iptables", "ip6tables": "iptables", "ping": "iputils-ping",
    "unshare": "util-linux", "nsenter": "util-linux", "mount": "mount", "umount": "mount", "sh": "dash",
    "sleep": "coreutils", "env": "coreutils",
}  # fmt: skip

# Programs that some test may use: taken along where they are installed. Busybox stands in for all others.
WELCOME = (
    "bash", "iptables-save", "iptables-restore", "ip6tables-save", "ip6tables-restore", "iptables-legacy",
    "ip6tables-legacy", "iptables-legacy-save", "ip6tables-legacy-save", "iptables-nft",
    "conntrack", "ethtool", "tcpdump", "arping", "flock", "timeout", "cat", "ls", "stat", "cp", "mv", "rm",
    "mkdir", "setsid",
)  # fmt: skip
SEARCH = "/usr/sbin:/usr/bin:/sbin:/bin"

# What programs load at run time, so that ldd does not show it, and what they read.
FOLDERS = ("/usr/lib/x86_64-linux-gnu/xtables", "/etc/iproute2", "/usr/share/iproute2", "/usr/lib/cni")
FILES = ("/etc/protocols", "/etc/services", "/etc/ethertypes")

# Module parameters: how many devices to make at once.
NO_DEVICES = ("dummy numdummies", "ifb numifbs", "bonding max_bonds")

# The parts of the standard library that no test needs, by name of file or folder: most of its size.
UNUSED = frozenset(
    {"test", "tests", "idlelib", "lib2to3", "tkinter", "turtledemo", "ensurepip", "pydoc_data",
     "dist-packages", "site-packages", "distutils", "curses", "msilib", "dbm"}
)  # fmt: skip

# What the guest's Python can import besides the standard library: what plugins and tests need, with what that
# needs.
DISTRIBUTIONS = ("msgspec", "pyroute2", "netaddr", "oxl-libnftables", "pytest", "pytest-xdist", "hypothesis")

# Of the checkout. Compiled Python comes along with its times, so the guest does not compile it again.
SOURCES = ("cni", "ipam", "agent", "tests", "conf", "setup.cfg", "pyproject.toml", "README.md", "Makefile")
CNITOOL = "build/tools/cnitool"
NOT_SOURCES = frozenset({".mypy_cache", ".pytest_cache", ".ruff_cache", ".hypothesis"})


class Missing(Exception):
    """A program that the machine needs is not installed here; the message names it and its package."""


def tree(kernel: Kernel, command: str) -> Tree:
    """Everything that the initramfs holds, with `command` (shell text) as what it runs once it is up.

    Raises Missing when a needed program is not installed.
    """
    files = Tree()
    _skeleton(files)
    _modules(files, kernel)
    _programs(files)
    _python(files)
    _packages(files)
    if (cnitool := CHECKOUT / CNITOOL).exists():
        files.file(f"{GUEST}/{CNITOOL}", cnitool)
    _libraries(files)
    for name in SOURCES:
        if (source := CHECKOUT / name).is_dir():
            files.copy(f"{GUEST}/{name}", source, skip=NOT_SOURCES)
        elif source.is_file():
            files.file(f"{GUEST}/{name}", source)
    files.text("machine/command", command)
    files.file("init", Path(__file__).with_name("init"))
    return files


def _skeleton(files: Tree) -> None:
    for name in ("bin", "sbin", "lib", "lib64"):
        files.folder(f"usr/{name}")
        files.link(name, f"usr/{name}")
    for name in ("proc", "sys", "dev", "run", "root", "mnt", "var/lib", "var/log", "etc"):
        files.folder(name)
    files.folder("tmp", 0o1777)
    files.link("var/run", "/run")
    files.link("etc/mtab", "/proc/self/mounts")
    files.device("dev/console", 5, 1)
    files.device("dev/null", 1, 3)
    files.text("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")
    files.text("etc/group", "root:x:0:\nnogroup:x:65534:\n")
    files.text("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n")
    files.text("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n")
    files.text("etc/hostname", "machine\n")


def _modules(files: Tree, kernel: Kernel) -> None:
    """The chosen modules with the indexes that busybox's modprobe reads."""
    folder = f"usr/lib/modules/{kernel.release}"
    modules = wanted(kernel)
    for path in modules:
        files.file(f"{folder}/{path}", kernel.modules / path)
    dependencies = "".join(f"{path}: {' '.join(needs)}\n" for path, needs in modules.items())
    files.text(f"{folder}/modules.dep", dependencies)
    files.text(f"{folder}/modules.alias", aliases(kernel, modules))
    files.text(f"{folder}/modules.symbols", "")
    # By themselves these make a device or two when they are loaded, with names that a test may want.
    files.text("etc/modprobe.d/none.conf", "".join(f"options {option}=0\n" for option in NO_DEVICES))


def _programs(files: Tree) -> None:
    """Programs and what they load or read; the applets of busybox under every name that is still free."""
    for name, package in NEEDED.items():
        if (found := shutil.which(name, path=SEARCH)) is None:
            raise Missing(f"the machine needs the program {name}: install the package {package}")
        _file(files, Path(found))
    for name in WELCOME:
        if found := shutil.which(name, path=SEARCH):
            _file(files, Path(found))
    for folder in FOLDERS:
        files.copy(folder, Path(folder))
    for path in FILES:
        if Path(path).exists():
            _file(files, Path(path))
    # The kernel itself starts /sbin/modprobe. Busybox's fails when two of them load one module at the same time.
    files.text("usr/sbin/modprobe", '#!/bin/sh\nexec flock /machine/modprobe busybox modprobe "$@"\n', 0o755)
    applets = subprocess.run(["busybox", "--list"], capture_output=True, text=True, check=True, timeout=60)
    for applet in applets.stdout.split():
        if not any(f"usr/{folder}/{applet}" in files for folder in ("bin", "sbin")):
            files.link(f"usr/bin/{applet}", "/usr/bin/busybox")


def _python(files: Tree) -> None:
    """The interpreter and the standard library, with their compiled files."""
    interpreter, standard = _interpreter(), Path(sysconfig.get_path("stdlib"))
    files.copy(str(standard), standard, skip=UNUSED)
    _file(files, interpreter)
    files.link("usr/bin/python3", str(interpreter))


def _packages(files: Tree) -> None:
    """A virtual environment with the wanted packages; its own programs are left out."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    settings = (
        f"home = {_interpreter().parent}",
        "include-system-site-packages = false",
        f"version = {version}",
    )
    files.text(f"{GUEST}/.venv/pyvenv.cfg", "".join(f"{line}\n" for line in settings))
    for name in ("python", "python3"):
        files.link(f"{GUEST}/.venv/bin/{name}", str(_interpreter()))
    for distribution in _distributions():
        for file in distribution.files or ():
            source = Path(str(distribution.locate_file(file)))
            if ".." not in file.parts and source.is_file():
                files.file(f"{GUEST}/.venv/lib/python{version}/site-packages/{file}", source)


def _interpreter() -> Path:
    return Path(os.path.realpath(sys.executable))


def _distributions() -> list[metadata.Distribution]:
    """The wanted packages and what they require, as far as they are installed here; no extras."""
    queue, found = list(DISTRIBUTIONS), dict[str, metadata.Distribution]()
    while queue:
        name = re.split(r"[^\w.-]", queue.pop(), maxsplit=1)[0]
        key = re.sub(r"[-_.]+", "-", name).lower()
        if key in found:
            continue
        try:
            found[key] = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        queue += [need for need in found[key].requires or () if "extra ==" not in need]
    return list(found.values())


def _libraries(files: Tree) -> None:
    """The shared libraries that the programs and extension modules so far need, and the loader."""
    asking = [
        str(entry.content)
        for path, entry in files.entries.items()
        if isinstance(entry.content, Path) and re.match(r"usr/s?bin/|.*\.so$|.*/cnitool$", path)
    ]
    # The answers about all of them come together. ldd exits with 1 when one of them needs no libraries.
    told = subprocess.run(["ldd", *asking], capture_output=True, text=True, check=False, timeout=60)
    for library in sorted(set(re.findall(r"(/\S+\.so\S*)(?= \(0x)", told.stdout))):
        _file(files, Path(library))


def _file(files: Tree, path: Path) -> None:
    """A file under its own path, and the links on the way to it; /bin, /sbin, /lib* are links already."""
    inside = re.sub(r"^/(s?bin|lib\w*)/", r"/usr/\1/", str(path))
    if inside in files:
        return
    if path.is_symlink():
        target = os.readlink(path)
        files.link(inside, target)
        _file(files, Path(os.path.normpath(path.parent / target)))
    else:
        files.file(inside, path)
