"""The contract of the rtnetlink door on a kernel that has VLANs: there the fake's are compared, too."""

from __future__ import annotations

from tests.contract.test_kernel import *  # noqa: F403 - its cases and fixtures, to be run in the machine
