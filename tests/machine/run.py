"""Boot the machine, run one command in it, hand back its output and its exit status.

    python -m tests.machine.run pytest tests/machine/test_vlan_guest.py -q
    python -m tests.machine.run --timeout 60 ip -d link

What lives here: the one process that is the machine, and its limits. What must not: what is inside (`image`,
`kernel`). The machine is emulated in software, whatever the processor offers: so it runs everywhere, and
always the same way. It has no disk and no network, it ends with its command, and at the latest with its time
limit.
"""

from __future__ import annotations

import os
import selectors
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from .image import CHECKOUT, Missing, tree
from .kernel import Kernel, KernelUnavailable, unpacked

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

QEMU = "qemu-system-x86_64"
TIMEOUT_S = 900.0
MEMORY_MB = 1024
PROCESSORS = 2

# quiet: the console is an emulated serial line, and each line of it costs time.
# panic=-1: reboot at once, which with -no-reboot ends the emulator.
# mitigations, audit: of no use here, and slow. tsc, no_timer_check: no time spent on comparing clocks.
# rcu_expedited: removing a link waits for fractions of a millisecond and not for tens of them.
KERNEL_ARGUMENTS = " ".join(
    ("console=ttyS0", "quiet", "panic=-1", "mitigations=off", "audit=0", "tsc=reliable", "no_timer_check",
     "rcupdate.rcu_expedited=1")
)  # fmt: skip


class Outcome(msgspec.Struct, frozen=True):
    """What became of a run: the command's exit status, or None and why there is none; seconds spent."""

    status: int | None
    trouble: str
    built_s: float
    ran_s: float


class Unavailable(Exception):
    """The machine cannot be started here; the message says what is missing."""


def cache_folder() -> Path:
    """Where downloads are kept: $PODWIRE_CACHE, else build/cache of the checkout."""
    return Path(os.environ.get("PODWIRE_CACHE") or CHECKOUT / "build/cache").absolute() / "machine"


def run(
    command: Sequence[str],
    say: Callable[[bytes], object],
    *,
    timeout_s: float = TIMEOUT_S,
    reports: Path | None = None,
    stop: threading.Event | None = None,
) -> Outcome:
    """Run `command` in a new machine; `say` gets its output (stdout and stderr, interleaved) piece by piece.

    "pytest" as first word means the guest environment's own. What the command writes to $PODWIRE_REPORTS
    appears in the file `reports` while it runs. Setting `stop` ends the machine early. Raises Unavailable when
    a package is missing here.
    """
    began = time.monotonic()
    if shutil.which(QEMU) is None:
        raise Unavailable(f"{QEMU} is not installed: install the package qemu-system-x86")
    # The initramfs is in memory: 100 MB that nobody has to delete, however this ends.
    with (
        tempfile.TemporaryDirectory(prefix="podwire-machine-") as folder,
        os.fdopen(os.memfd_create("initramfs"), "wb") as initramfs,
    ):
        try:
            kernel = unpacked(cache_folder())
            tree(kernel, _script(command)).write(initramfs)
        except (Missing, KernelUnavailable) as error:
            raise Unavailable(str(error)) from error
        initramfs.flush()
        built = time.monotonic()
        arguments = _arguments(kernel, initramfs.fileno(), Path(folder), reports or Path(folder, "reports"))
        trouble = _emulate(arguments, initramfs.fileno(), say, timeout_s, stop or threading.Event())
        said = _read(Path(folder, "status")).strip()
        status = int(said) if said.isdigit() else None
        if status is None:
            console = _read(Path(folder, "console"))[-4000:]
            trouble = f"{trouble or 'the machine ended without an exit status'}; its console said:\n{console}"
    return Outcome(status, trouble, built - began, time.monotonic() - built)


def _script(command: Sequence[str]) -> str:
    words = list(command)
    if words[:1] == ["pytest"]:
        # Results of earlier runs cannot be there, and a cache would be lost.
        words = [".venv/bin/python", "-m", "pytest", "-p", "no:cacheprovider", *words[1:]]
    return f"export PODWIRE_MACHINE=1 PODWIRE_REPORTS=/dev/virtio-ports/reports\nexec {shlex.join(words)}\n"


def _arguments(kernel: Kernel, initramfs: int, folder: Path, reports: Path) -> list[str]:
    return [
        # However this process ends, the emulator ends with it.
        "setpriv", "--pdeathsig", "KILL",
        QEMU, "-accel", "tcg,thread=multi", "-machine", "q35", "-cpu", "max",
        "-smp", str(PROCESSORS), "-m", str(MEMORY_MB),
        "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-net", "none",
        "-kernel", str(kernel.image), "-initrd", f"/proc/self/fd/{initramfs}", "-append", KERNEL_ARGUMENTS,
        "-serial", f"file:{folder / 'console'}",
        "-device", "virtio-serial-pci",
        "-chardev", "stdio,id=output,signal=off", "-device", "virtserialport,chardev=output,name=output",
        "-chardev", f"file,id=status,path={folder / 'status'}",
        "-device", "virtserialport,chardev=status,name=status",
        "-chardev", f"file,id=reports,path={reports}",
        "-device", "virtserialport,chardev=reports,name=reports",
    ]  # fmt: skip


def _emulate(
    arguments: list[str],
    initramfs: int,
    say: Callable[[bytes], object],
    timeout_s: float,
    stop: threading.Event,
) -> str:
    """Run the emulator to its end, or to the end of its time. Returns what went wrong, "" for nothing.

    It gets a standard input that stays open and empty: at the end of it, it would stop to pass on the guest's
    output.
    """
    deadline = time.monotonic() + timeout_s
    with (
        tempfile.TemporaryFile() as complaints,
        subprocess.Popen(
            arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=complaints, pass_fds=[initramfs]
        ) as machine,
        selectors.DefaultSelector() as ready,
    ):
        assert machine.stdout is not None
        ready.register(machine.stdout, selectors.EVENT_READ)
        try:
            while (left := deadline - time.monotonic()) > 0:
                if stop.is_set():
                    return "the machine was stopped"
                if ready.select(min(left, 0.5)):
                    if not (piece := os.read(machine.stdout.fileno(), 65536)):
                        break
                    say(piece)
            else:
                return f"the machine was ended after its time limit of {timeout_s:g} s"
            machine.wait(10)
        finally:
            machine.kill()
            machine.wait()
        complaints.seek(0)
        return complaints.read().decode(errors="replace").strip() if machine.returncode else ""


def _read(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""


def main(arguments: Sequence[str]) -> int:
    """The command line; the exit status is the command's own, 125 when there is none."""
    words, timeout_s = list(arguments), TIMEOUT_S
    if words[:1] == ["--timeout"] and len(words) > 1:
        timeout_s, words = float(words[1]), words[2:]
    if not words:
        print("usage: python -m tests.machine.run [--timeout SECONDS] COMMAND [ARGUMENT ...]", file=sys.stderr)
        return 125
    try:
        outcome = run(
            words,
            lambda piece: (sys.stdout.buffer.write(piece), sys.stdout.buffer.flush()),
            timeout_s=timeout_s,
        )
    except Unavailable as error:
        print(f"machine: {error}", file=sys.stderr)
        return 125
    print(f"machine: built in {outcome.built_s:.1f} s, ran for {outcome.ran_s:.1f} s", file=sys.stderr)
    if outcome.status is None:
        print(f"machine: {outcome.trouble}", file=sys.stderr)
        return 125
    return outcome.status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
