"""Plugins as a runtime sees them: executables; environment and stdin in, bytes and exit status out.

Nothing here imports the code under test, so any folder of CNI plugins can be put in place of ours.
"""

from __future__ import annotations

import json
import re
import subprocess
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from .node import PATH, Node

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

CONTAINER_ID = "c0ffee"
IFNAME = "eth0"
NETNS = "/run/netns/none"


class Outcome:
    """How one plugin call ended: exit status, the bytes of stdout and stderr, stdout as JSON."""

    def __init__(self, what: str, status: int, stdout: bytes, stderr: bytes, *, ours: bool = True) -> None:
        self.what, self.status, self.stdout, self.stderr, self.ours = what, status, stdout, stderr, ours

    def __repr__(self) -> str:
        return f"{self.what}: exit {self.status}\nstdout: {_text(self.stdout)}\nstderr: {_text(self.stderr)}"

    @property
    def json(self) -> Any:
        """The one JSON document of stdout; anything else is a failed test."""
        try:
            return json.loads(self.stdout)
        except ValueError as error:
            raise AssertionError(f"stdout is not one JSON document ({error})\n{self!r}") from None

    def succeeded(self) -> Outcome:
        """Assert exit status 0; the outcome itself, for chaining."""
        assert self.status == 0, f"expected success\n{self!r}"
        return self

    def result(self) -> dict[str, Any]:
        """Assert success with a result object on stdout; that object."""
        document = self.succeeded().json
        assert isinstance(document, dict), f"expected a JSON object\n{self!r}"
        return document

    def refused(self, code: int, says: str = "") -> dict[str, Any]:
        """Assert exit status 1 and one CNI error object; that object.

        code: the code that podwire chose. Executables of others may also answer a plugin-specific code, 100
        or above, which the specification leaves to them. says: a regular expression that the message or
        details of podwire must match, case ignored; the texts of others are their own business.
        """
        assert self.status == 1, f"expected an error, exit status 1\n{self!r}"
        error = self.json
        assert isinstance(error, dict) and type(error.get("code")) is int, f"expected an error object\n{self!r}"
        assert isinstance(error.get("msg"), str) and error["msg"], f"the error has no msg\n{self!r}"
        assert isinstance(error.get("details", ""), str), f"details is not a text\n{self!r}"
        if self.ours:
            assert error["code"] == code, f"expected code {code}\n{self!r}"
            told = f"{error['msg']}\n{error.get('details', '')}"
            assert re.search(says, told, re.IGNORECASE | re.DOTALL), f"the message does not say {says!r}\n{self!r}"
        else:
            assert error["code"] == code or error["code"] >= 100, f"expected code {code} or >= 100\n{self!r}"
        return error


class Executables:
    """A folder of plugin executables, which is also the CNI_PATH they are given."""

    def __init__(self, folder: Path, *, whose: str) -> None:
        self.folder = folder
        self.whose = whose

    @property
    def ours(self) -> bool:
        return self.whose == "podwire"

    def call(
        self,
        verb: str | None,
        plugin: str,
        config: Mapping[str, Any] | None = None,
        *,
        container_id: str | None = CONTAINER_ID,
        netns: str | None = NETNS,
        ifname: str | None = IFNAME,
        args: str | None = None,
        path: str | None = None,
        env: Mapping[str, str | None] | None = None,
        stdin: bytes | None = None,
        node: Node | None = None,
        timeout: float = 60,
    ) -> Outcome:
        """Call a plugin. None leaves a CNI variable out; env changes (None: removes) variables at the end."""
        given = {
            "PATH": PATH,
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": container_id,
            "CNI_NETNS": netns,
            "CNI_IFNAME": ifname,
            "CNI_ARGS": args,
            "CNI_PATH": path if path is not None else str(self.folder),
            **(env or {}),
        }
        stdin = stdin if stdin is not None else json.dumps(config or {}).encode()
        return self.execute(plugin, {k: v for k, v in given.items() if v is not None}, stdin, node=node, timeout=timeout)

    def execute(
        self,
        plugin: str,
        env: Mapping[str, str],
        stdin: bytes,
        *,
        node: Node | None = None,
        timeout: float = 60,
    ) -> Outcome:
        """Start the executable with exactly this environment and stdin."""
        argv = [str(self.folder / plugin)]
        done = subprocess.run(
            node.argv(argv) if node else argv,
            input=stdin,
            capture_output=True,
            check=False,
            env=dict(env),
            timeout=timeout,
        )
        what = f"{plugin} {env.get('CNI_COMMAND', '')} ({self.folder})"
        return Outcome(what, done.returncode, done.stdout, done.stderr, ours=self.ours)

    def add(self, plugin: str, config: Mapping[str, Any], **call: Any) -> dict[str, Any]:
        """ADD that must succeed; its result."""
        return self.call("ADD", plugin, config, **call).result()


@lru_cache
def whose_plugins(folder: Path) -> str:
    """`podwire`, `reference` (the official Go plugins) or `other`, by what loopback says of itself."""
    done = subprocess.run(
        [str(folder / "loopback")],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        env={"PATH": PATH},
    )
    told = done.stderr.decode(errors="replace")
    if "podwire" in told:
        return "podwire"
    return "reference" if re.match(r"CNI loopback plugin (v\d|version unknown)", told) else "other"


def _text(raw: bytes) -> str:
    return raw.decode(errors="backslashreplace")
