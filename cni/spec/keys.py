"""The keys that plugins have in common: one place for what they mean and what is refused. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from cni.spec import mac
from cni.spec.conf import Ipam, NetConf
from cni.spec.errors import ConfigError
from cni.spec.mac import Args, RuntimeConfig

if TYPE_CHECKING:
    from cni.spec.call import Call


MTU_RANGE = range(68, 65536)

# How to masquerade, the default first.
BACKENDS = ("nftables", "iptables")


class MacConf(NetConf, frozen=True, kw_only=True, rename="camel"):
    """Where a hardware address may be asked for. A plugin's record extends it."""

    args: Annotated[
        Args, Meta(description="What an orchestrator passes along; args.cni.mac is the pod's hardware address.")
    ] = Args()
    runtime_config: Annotated[RuntimeConfig, Meta(description="Set by the runtime for declared capabilities; here mac.")] = (
        RuntimeConfig()
    )


class VethConf(MacConf, frozen=True, kw_only=True, rename="camel"):
    """A plugin's record extends it."""

    ip_masq: Annotated[bool, Meta(description="Masquerade what pods send to destinations outside their subnet.")] = False
    ip_masq_backend: Annotated[str, Meta(description="How to masquerade: nftables (the default) or iptables.")] = ""
    mtu: Annotated[int, Meta(description="MTU of the veth; 0 is the kernel's default.")] = 0
    ipam: Annotated[Ipam, Meta(description="Who gives addresses; without it the veth has none.")] = Ipam()

    @property
    def backend(self) -> str:
        """The masquerade backend. The reference defaults to iptables; nftables costs no process and no rule per pod."""
        return self.ip_masq_backend or BACKENDS[0]

    def mac(self, call: Call) -> str:
        """The hardware address of the pod's interface."""
        return mac.chosen(self.args, self.runtime_config, call)

    def validate(self, call: Call) -> None:
        """ConfigError, or EnvError for what is in CNI_ARGS, where a value of these keys cannot be."""
        check_mtu(self.mtu)
        if self.ip_masq_backend not in ("", *BACKENDS):
            raise ConfigError(f"invalid ipMasqBackend {self.ip_masq_backend!r}: expected {' or '.join(BACKENDS)}")
        self.mac(call)


def check_mtu(mtu: int) -> None:
    """ConfigError for an MTU that no interface can have; 0 stands for a default."""
    if mtu and mtu not in MTU_RANGE:
        raise ConfigError(f"invalid mtu {mtu}: expected {MTU_RANGE.start} to {MTU_RANGE.stop - 1}")
