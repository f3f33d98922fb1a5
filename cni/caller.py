"""Where a call comes from: what its paths mean, and what stays open for the next one.

``Caller`` is the one-shot way's: this process is the caller's own, and all it opens is for one call. The agent derives its own,
for callers in other processes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from subprocess import CompletedProcess

    from cni.net.host import Host


class Caller:
    """A process of the runtime's. ``folder`` is where its relative paths begin; empty for the folder this process is in."""

    folder = ""

    def open_sandbox(self, path: str) -> int:
        """A descriptor of the sandbox that CNI_NETNS names; errors as ``cni.net.netns.open_sandbox`` has them."""
        from cni.net import netns

        return netns.open_sandbox(path)

    def host(self, sandbox_fd: int | None, search_path: str) -> Host:
        """The doors for one call, which closes them. ``search_path`` is the caller's PATH."""
        from cni.net.host import Host

        return Host(sandbox_fd, search_path)

    def run(self, program: str, env: Mapping[str, str], stdin: bytes) -> CompletedProcess[bytes]:
        """Run somebody else's plugin in ``folder`` until it ends. OSError when it cannot be started."""
        import subprocess

        return subprocess.run([program], input=stdin, env=env, cwd=self.folder or None, capture_output=True, check=False)
