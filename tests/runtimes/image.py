"""The image that containers are made of, as a tar file in the layout of `docker save`: Debian's static busybox, nothing else.

No registry is asked. A container of it serves, on port 80, what its command line says.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

NAME = "localhost/podwire-test:1"

# Serves a page, and tells on stderr who asked. PID 1 has no default for SIGTERM: the shell says what it does.
SERVE = "mkdir -p /www; echo {page} >/www/index.html; trap 'exit 0' TERM; busybox httpd -f -v -p {port} -h /www & wait"


def serve(page: str, port: int = 80) -> tuple[str, ...]:
    """The command line of a container that serves this page."""
    return ("/bin/sh", "-c", SERVE.format(page=page, port=port))


def write(image: Path, busybox: Path) -> None:
    """Make the tar file."""
    layer = _layer(busybox)
    digest = hashlib.sha256(layer).hexdigest()
    config = json.dumps(
        {
            "architecture": _architecture(busybox),
            "os": "linux",
            "config": {"Env": ["PATH=/bin"], "Cmd": list(serve("nobody"))},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        }
    ).encode()
    name = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = json.dumps([{"Config": name, "RepoTags": [NAME], "Layers": [f"{digest}/layer.tar"]}]).encode()
    with tarfile.open(image, "w") as tar:
        for path, content in ((f"{digest}/layer.tar", layer), (name, config), ("manifest.json", manifest)):
            _add(tar, path, content)


def _layer(busybox: Path) -> bytes:
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        for folder in ("bin", "etc", "proc", "sys", "dev", "tmp"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        _add(tar, "bin/busybox", busybox.read_bytes(), 0o755)
        for applet in ("sh", "mkdir", "wget", "cat", "ip"):
            entry = tarfile.TarInfo(f"bin/{applet}")
            entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(entry)
    return layer.getvalue()


def _add(tar: tarfile.TarFile, path: str, content: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(path)
    entry.size, entry.mode = len(content), mode
    tar.addfile(entry, io.BytesIO(content))


# By the machine type in a program's ELF header, as images name architectures.
ARCHITECTURES = {62: "amd64", 183: "arm64", 40: "arm", 243: "riscv64", 22: "s390x", 21: "ppc64le"}


def _architecture(program: Path) -> str:
    header = program.read_bytes()[:20]
    return ARCHITECTURES[int.from_bytes(header[18:20], "little" if header[5] == 1 else "big")]
