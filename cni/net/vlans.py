"""VLANs of a bridge port: the trunk list of a configuration, and what a port must have. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec

from cni.spec.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cni.net.facts import Vlan

# 0 and 4095 are reserved (IEEE 802.1Q).
VID_MAX = 4094


class Trunk(msgspec.Struct, frozen=True):
    """An entry of ``vlanTrunk``: a range of VLAN ids, or a single one, or both."""

    min_id: Annotated[int | None, msgspec.Meta(description="First VLAN of a range; goes with maxID.")] = msgspec.field(
        name="minID", default=None
    )
    max_id: Annotated[int | None, msgspec.Meta(description="Last VLAN of a range; goes with minID.")] = msgspec.field(
        name="maxID", default=None
    )
    id: Annotated[int | None, msgspec.Meta(description="One VLAN.")] = None


def validate(vlan: int, trunk: Iterable[Trunk]) -> None:
    """Raise ConfigError for an id outside 1 to 4094 (0 as ``vlan`` means none) or a range that is none."""
    if not 0 <= vlan <= VID_MAX:
        raise ConfigError(f"invalid VLAN ID {vlan} (must be between 0 and {VID_MAX})")
    for index, entry in enumerate(trunk):
        where = f"vlanTrunk[{index}]"
        for key, vid in (("minID", entry.min_id), ("maxID", entry.max_id), ("id", entry.id)):
            if vid is not None and not 1 <= vid <= VID_MAX:
                raise ConfigError(f"{where}: {key} {vid} is not between 1 and {VID_MAX}")
        if (entry.min_id is None) != (entry.max_id is None):
            raise ConfigError(f"{where}: minID and maxID should be configured simultaneously")
        if entry.min_id is not None and entry.max_id is not None and entry.min_id > entry.max_id:
            raise ConfigError(f"{where}: minID {entry.min_id} is greater than maxID {entry.max_id}")


def ranges(trunk: Iterable[Trunk]) -> tuple[tuple[int, int], ...]:
    """The ids of a trunk as ascending ranges that do not touch, so that each is one entry of a message."""
    spans = [(entry.min_id, entry.max_id) for entry in trunk] + [(entry.id, entry.id) for entry in trunk]
    ids = {vid for low, high in spans if low is not None and high is not None for vid in range(low, high + 1)}
    merged: list[tuple[int, int]] = []
    for vid in sorted(ids):
        if merged and merged[-1][1] == vid - 1:
            merged[-1] = (merged[-1][0], vid)
        else:
            merged.append((vid, vid))
    return tuple(merged)


def check(port: str, pvid: int, tagged: Iterable[tuple[int, int]], seen: Iterable[Vlan]) -> list[str]:
    """Problems of a port that should carry ``pvid`` untagged and the ranges ``tagged``; more VLANs than that are fine."""
    present = {vlan.vid: vlan for vlan in seen}
    wanted = [vid for low, high in tagged for vid in range(low, high + 1) if vid != pvid]
    missing = [vid for vid in wanted if vid not in present]
    bare = [vid for vid in wanted if vid in present and present[vid].untagged]
    problems = [f"tagged VLANs {missing} are gone from {port}"] if missing else []
    problems += [f"VLANs {bare} leave {port} untagged, not tagged"] if bare else []
    untagged = present.get(pvid)
    if untagged is None or not (untagged.pvid and untagged.untagged):
        problems.append(f"VLAN {pvid} is not the untagged VLAN of {port} any more")
    return problems
