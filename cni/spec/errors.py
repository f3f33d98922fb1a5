"""The error tree of a plugin call; each class carries the CNI code that the runtime sees.

Code anywhere raises one of these; ``dispatch`` alone turns them into the JSON error object (spec section 5, "Error").
A message says what was attempted, on which object, why it failed and what to do, in lower case. Foreign exceptions are
translated at the door where they arise, with their cause kept by ``raise ... from``.
"""

from __future__ import annotations


class CNIError(Exception):
    """A failure of the call. ``msg`` is one line for people, ``details`` may be longer; ``code`` is the CNI code."""

    code = 999

    def __init__(self, msg: str, details: str = "", code: int | None = None) -> None:
        super().__init__(msg)
        self.msg = msg
        self.details = details
        if code is not None:
            self.code = code

    def __str__(self) -> str:
        return f"{self.msg}: {self.details}" if self.details else self.msg


class VersionError(CNIError):
    """The configuration's ``cniVersion`` cannot be served (spec code 1)."""

    code = 1


class UnsupportedField(CNIError):
    """A key or value is understood but cannot work here, for example VLANs on a kernel without them (spec code 2)."""

    code = 2


class UnknownSandbox(CNIError):
    """The sandbox does not exist, so the runtime has nothing to clean up (spec code 3)."""

    code = 3


class EnvError(CNIError):
    """An environment variable is missing or invalid; the message names it (spec code 4)."""

    code = 4


class InputError(CNIError):
    """Reading standard input or writing the answer failed (spec code 5)."""

    code = 5


class DecodeError(CNIError):
    """The configuration is not JSON of the expected shape (spec code 6)."""

    code = 6


class ConfigError(CNIError):
    """The configuration decodes, and makes no sense (spec code 7)."""

    code = 7


class HostSandbox(CNIError):
    """``CNI_NETNS`` is the plugin's own namespace. Code 8 is not in the specification; the reference uses it so."""

    code = 8


class TryAgain(CNIError):
    """A transient condition: the runtime should repeat the call later (spec code 11)."""

    code = 11


class NotAvailable(CNIError):
    """STATUS: the plugin cannot serve ADD now (spec code 50)."""

    code = 50


class LimitedConnectivity(CNIError):
    """STATUS: ADD would work, but attachments may have limited connectivity (spec code 51)."""

    code = 51


class Unusable(CNIError):
    """A facility of this host is missing altogether: a library, a part of the kernel."""


class CheckFailed(CNIError):
    """CHECK found the attachment changed; the message lists every problem."""


class KernelError(CNIError):
    """The kernel refused an operation. ``errno`` is its number, for code that must decide by it."""

    def __init__(self, attempted: str, cause: OSError) -> None:
        self.errno = cause.errno or 0
        super().__init__(f"{attempted}: {cause.strerror or cause}")
