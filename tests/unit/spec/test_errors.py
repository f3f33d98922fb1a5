"""The error tree: codes as the specification gives them, and words for people."""

from __future__ import annotations

import errno

import pytest

from cni.spec import errors

# Spec section 5, "Error"; 8 is the reference's.
CODES = {
    "CNIError": 999,
    "VersionError": 1,
    "UnsupportedField": 2,
    "UnknownSandbox": 3,
    "EnvError": 4,
    "InputError": 5,
    "DecodeError": 6,
    "ConfigError": 7,
    "HostSandbox": 8,
    "TryAgain": 11,
    "NotAvailable": 50,
    "LimitedConnectivity": 51,
    "CheckFailed": 999,
    "Unusable": 999,
}


def subclasses(kind: type[errors.CNIError]) -> set[type[errors.CNIError]]:
    return {kind} | {deeper for child in kind.__subclasses__() for deeper in subclasses(child)}


def test_every_class_has_the_code_of_the_specification() -> None:
    here = {kind for kind in subclasses(errors.CNIError) if kind.__module__ == errors.__name__}
    found = {kind.__name__: kind.code for kind in here}
    assert found == {**CODES, "KernelError": 999}


@pytest.mark.parametrize("name", CODES)
def test_message_and_details(name: str) -> None:
    kind = getattr(errors, name)
    assert str(kind("it failed")) == "it failed"
    error = kind("it failed", "because of that")
    assert (str(error), error.msg, error.details) == ("it failed: because of that", "it failed", "because of that")
    assert (kind("x", code=42).code, kind("x").code) == (42, CODES[name])


def test_a_kernel_error_keeps_the_number() -> None:
    error = errors.KernelError("cannot do it", OSError(errno.EEXIST, "File exists"))
    assert (error.errno, error.msg, error.code) == (errno.EEXIST, "cannot do it: File exists", 999)
    assert errors.KernelError("cannot do it", OSError("odd")).msg == "cannot do it: odd"
