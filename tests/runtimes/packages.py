"""The runtimes: Debian's packages, downloaded with apt and unpacked into a cache folder.

What lives here: which packages, and how they get there. What must not: installing anything; the computer that runs the tests
has no runtime before, and none after. `python -m tests.runtimes` fetches them.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

PACKAGES = (
    "containerd", "runc",
    "podman", "conmon", "crun", "golang-github-containers-common", "golang-github-containers-image",
    # the shell and the web server of the image
    "busybox-static",
    # libraries of theirs that a small system has not
    "libassuan0", "libdevmapper1.02.1", "libglib2.0-0", "libgpgme11", "libseccomp2", "libsubid4", "libyajl2",
)  # fmt: skip

# Names of folders that lead below /usr in Debian 12, while packages may still use them.
MERGED = ("bin", "sbin", "lib", "lib64")


class Unavailable(Exception):
    """The packages are neither in the cache nor to be had; the message is apt's own."""


def cache() -> Path:
    """Where downloads stay: PODWIRE_CACHE, else the folder in the checkout that make uses."""
    given = os.environ.get("PODWIRE_CACHE")
    return Path(given) if given else Path(__file__).parents[2] / "build" / "cache"


def unpacked() -> Path:
    """A folder with all their files, as below /; downloads and unpacks them first when it is not there."""
    # A list that has changed is another folder.
    folder = cache().absolute() / f"runtimes-{hashlib.sha256(' '.join(PACKAGES).encode()).hexdigest()[:8]}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{folder.name}.", ignore_cleanup_errors=True) as part:
            _download(Path(part))
            try:  # in place as a whole: an interrupted download must not look like a finished one
                Path(part, "root").rename(folder)
            except OSError:
                if not folder.is_dir():  # nobody else was faster
                    raise
    return folder


def _download(part: Path) -> None:
    try:
        _fetch(part)
    except Unavailable:  # apt knows none of them yet, or what it knows has gone stale
        _run("apt-get", "update", "-q", "-o", "DPkg::Lock::Timeout=300")
        _fetch(part)
    root = part / "root"
    root.mkdir(mode=0o755)
    for package in sorted(part.glob("*.deb")):
        _run("dpkg-deb", "-x", str(package), str(root))
    for name in MERGED:
        if (root / name).is_dir():
            shutil.copytree(root / name, root / "usr" / name, symlinks=True, dirs_exist_ok=True)
            shutil.rmtree(root / name)
    shutil.rmtree(root / "usr/share/doc")
    shutil.rmtree(root / "usr/share/man")


def _fetch(part: Path) -> None:
    # apt fetches as its own user by default, who may not write here.
    _run("apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", *PACKAGES, folder=part)


def _run(*command: str, folder: Path | None = None) -> None:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=300)
    except FileNotFoundError:
        raise Unavailable(f"{command[0]} is not installed") from None
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"{command[0]} did not end within {error.timeout:.0f} s") from None
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines() or ["without a word"]
        raise Unavailable(f"{command[0]} failed: {said[-1]}")
