"""What several contracts observe."""

from __future__ import annotations

import pytest

from ipam.watch import Watch


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The folders, by their descriptors, that were read as a whole into an index: each reading begins with a watch."""
    begun: list[int] = []
    begin = Watch.__init__

    def noted(watch: Watch, folder: int) -> None:
        begin(watch, folder)
        begun.append(folder)

    monkeypatch.setattr(Watch, "__init__", noted)
    return begun
