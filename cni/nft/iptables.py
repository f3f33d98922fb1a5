"""The other door: the programs of iptables, for configurations that ask for them and for what they left.

Nothing else in the project starts them. They work in the network namespace of the calling thread. One ``restore`` is
one transaction of a family; each call costs a process (3 to 16 ms), so callers start none where libnftables can tell or
do the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cni.spec.errors import CNIError, TryAgain

if TYPE_CHECKING:
    from collections.abc import Callable
    from subprocess import CompletedProcess

# Where Debian and others put the programs. Runtimes start plugins with all kinds of PATH, sometimes none.
FOLDERS = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")

# How long a program waits for another to release the lock of the legacy tables, and we for the program.
LOCK_WAIT_S = 20
TIMEOUT_S = 60

# Tables of the legacy interface that are in use in this namespace. thread-self: a thread may have entered another one.
_LEGACY_TABLES = {
    False: "/proc/thread-self/net/ip_tables_names",
    True: "/proc/thread-self/net/ip6_tables_names",
}

_NAMES = {False: "iptables", True: "ip6tables"}

# xtables' exit status when the lock stayed taken (RESOURCE_PROBLEM), with this text.
_LOCKED = 4


class IptablesError(CNIError):
    """A program of iptables failed; ``details`` is its own text."""


class NoProgram(IptablesError):
    """The program is not installed."""


class ChainExists(IptablesError):
    """A chain that was to be made is there already."""


class Iptables:
    """The iptables rules of a network namespace. ``path`` is searched before the usual folders.

    ``on_start`` is called in each started process. It should tie the process to ours: a program that outlived a killed call,
    waiting for its lock, would write its rules after the DEL that followed.
    """

    def __init__(self, path: str = "", on_start: Callable[[], None] | None = None) -> None:
        self._on_start = on_start
        self._folders = (*(folder for folder in path.split(":") if folder.startswith("/")), *FOLDERS)

    def restore(self, v6: bool, text: str, what: str = "change iptables rules", legacy: bool = False) -> None:
        """Run a text of ``iptables-restore --noflush``: all of it or nothing."""
        program = self._find(v6, "restore", legacy, what)
        done = self._run([program, "--noflush", "--wait", str(LOCK_WAIT_S)], text, f"cannot {what}")
        if done.returncode:
            raise _failed(f"cannot {what}", done)

    def save(self, v6: bool, legacy: bool = False, table: str = "nat") -> str:
        """A table as ``iptables-save`` prints it; empty where no such program is installed."""
        try:
            program = self._find(v6, "save", legacy, "read iptables rules")
        except NoProgram:
            return ""
        done = self._run([program, "-t", table], "", "cannot read iptables rules")
        if done.returncode:
            raise _failed("cannot read iptables rules", done)
        return done.stdout

    def legacy(self, v6: bool, table: str = "nat") -> bool:
        """Whether a table of the old kernel interface is in use: its rules are invisible to nftables."""
        try:
            with open(_LEGACY_TABLES[v6]) as names:
                return f"{table}\n" in names
        except OSError:
            return False  # the kernel has no such interface, or it was never loaded

    def available(self, table: str = "nat", families: tuple[bool, ...] = (False, True)) -> str:
        """Why iptables cannot be used here for these families; empty when it can."""
        try:
            for v6 in families:
                self._find(v6, "restore", False, "use iptables")
            self.restore(families[0], f"*{table}\nCOMMIT\n", "use iptables")
        except CNIError as error:
            return str(error)
        return ""

    def _find(self, v6: bool, tool: str, legacy: bool, what: str) -> str:
        import os

        # Where there is only one variant, it carries the plain name; what is nft's does not see legacy tables.
        names = [f"{_NAMES[v6]}-legacy-{tool}"] if legacy else []
        names.append(f"{_NAMES[v6]}-{tool}")
        for name in names:
            for path in (f"{folder}/{name}" for folder in self._folders):
                if os.access(path, os.X_OK) and not (legacy and "nft" in os.path.basename(os.path.realpath(path))):
                    return path
        raise NoProgram(
            f"cannot {what}: no program {names[-1]}",
            "install the package iptables, or leave the key out that asks for it: nftables, the default, needs no program",
        )

    def _run(self, argv: list[str], text: str, attempted: str) -> CompletedProcess[str]:
        import subprocess

        try:
            return subprocess.run(
                argv,
                input=text,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=TIMEOUT_S,
                env={"PATH": ":".join(FOLDERS), "LC_ALL": "C"},
                preexec_fn=self._on_start,
                check=False,
            )
        except OSError as error:
            raise IptablesError(f"{attempted}: cannot start {argv[0]}", str(error)) from error
        except subprocess.TimeoutExpired as error:
            raise TryAgain(f"{attempted}: {argv[0]} did not end within {TIMEOUT_S} s") from error


def _failed(attempted: str, done: CompletedProcess[str]) -> CNIError:
    told = done.stderr.strip()
    if done.returncode == _LOCKED and "lock" in told:
        return TryAgain(f"{attempted}: another program kept the iptables lock for {LOCK_WAIT_S} s", told)
    kind = ChainExists if "Chain already exists" in told else IptablesError
    return kind(attempted, f"{done.args[0]} ended with status {done.returncode}: {told}")
