"""The hardware address of a pod's interface: the keys that may give it, and which of them counts. Pure.

Three places are known (CNI conventions): ``runtimeConfig.mac`` (the capability ``mac``), ``args.cni.mac``, and ``MAC`` in
CNI_ARGS; the first that is set wins, as with the reference's bridge. Without any the address follows from the attachment, so
that it is the same at each ADD.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, ClassVar

import msgspec
from msgspec import Meta

from cni.spec.addresses import Mac, parse_mac
from cni.spec.errors import EnvError

if TYPE_CHECKING:
    from cni.spec.call import Call
    from cni.spec.result import Result


class CniArgs(msgspec.Struct, frozen=True):
    """``args.cni`` as far as the hardware address goes."""

    OPEN: ClassVar[bool] = True
    mac: Mac | None = None


class Args(msgspec.Struct, frozen=True):
    """``args``: what an orchestrator passes along (CNI conventions)."""

    OPEN: ClassVar[bool] = True
    cni: Annotated[CniArgs, Meta(description="What the CNI conventions define; other plugins find their own keys here.")] = (
        CniArgs()
    )


class RuntimeConfig(msgspec.Struct, frozen=True):
    """``runtimeConfig`` as far as the hardware address goes; the capability is ``mac``."""

    OPEN: ClassVar[bool] = True
    mac: Mac | None = None


def given(args: Args, runtime: RuntimeConfig, call: Call) -> str:
    """The address that somebody asks for, empty when nobody does; EnvError for one in CNI_ARGS that is none."""
    told = runtime.mac or args.cni.mac
    if told:
        return str(told)
    if call.args.get("MAC"):
        try:
            return str(parse_mac(call.args["MAC"]))
        except ValueError as error:
            raise EnvError(f"invalid MAC in CNI_ARGS: {error}") from error
    return ""


def chosen(args: Args, runtime: RuntimeConfig, call: Call) -> str:
    """The address of the pod's interface; EnvError for one in CNI_ARGS that is none."""
    return given(args, runtime, call) or call.owner.mac("container")


def possible(args: Args, runtime: RuntimeConfig, call: Call, seen: str, known: Result | None) -> tuple[str, ...]:
    """Every address that the pod may have been given; none when nobody knows what ADD chose.

    ``seen`` is what its interface has, empty when that is gone. prevResult (``known``) is only a hint here: what is no address
    in it is left out.
    """
    told = [entry.mac for entry in (known.interfaces if known is not None else ()) if entry.sandbox]
    told += [seen] if seen else []
    if not told:
        return ()
    told += [str(runtime.mac or ""), str(args.cni.mac or ""), call.args.get("MAC", "")]
    macs = [call.owner.mac("container")]
    for text in told:
        with suppress(ValueError):
            macs.append(str(parse_mac(text)))
    return tuple(dict.fromkeys(macs))
