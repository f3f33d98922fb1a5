"""The keys of bridge: the record that they are read into, what is refused, and what follows from them. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from cni.net import vlans
from cni.net.vlans import Trunk
from cni.spec.conf import Ipam, check_ifname, check_new_ifname, read, read_to_remove
from cni.spec.errors import ConfigError
from cni.spec.keys import VethConf

if TYPE_CHECKING:
    from cni.spec.call import Call


class Conf(VethConf, frozen=True, kw_only=True, rename="camel"):
    """The keys of bridge."""

    bridge: Annotated[str, Meta(description="Name of the bridge; created when it is not there.")] = "cni0"
    is_gateway: Annotated[
        bool, Meta(description="Give the bridge the gateway address of the pods' subnet and switch forwarding on.")
    ] = False
    is_default_gateway: Annotated[bool, Meta(description="As isGateway, and make it the pods' default route.")] = False
    force_address: Annotated[
        bool, Meta(description="Replace an address of the bridge that is in the gateway's way, instead of failing.")
    ] = False
    mtu: Annotated[int, Meta(description="MTU of the veth and of a bridge created for it; 0 is the kernel's default.")] = 0
    hairpin_mode: Annotated[
        bool, Meta(description="Let a pod reach itself through the bridge, for example by a service's address.")
    ] = False
    promisc_mode: Annotated[bool, Meta(description="Put the bridge into promiscuous mode; excludes hairpinMode.")] = False
    vlan: Annotated[int, Meta(description="VLAN of the pod, untagged on its port; the bridge then filters VLANs.")] = 0
    vlan_trunk: Annotated[tuple[Trunk, ...] | None, Meta(description="VLANs that reach the pod tagged.")] = None
    preserve_default_vlan: Annotated[bool, Meta(description="Keep the port's default VLAN beside vlan and vlanTrunk.")] = False
    macspoofchk: Annotated[bool, Meta(description="Drop frames of the pod that carry another source address than its own.")] = (
        False
    )
    enabledad: Annotated[
        bool, Meta(description="Have IPv6 addresses tested for duplicates; costs one to two seconds a pod.")
    ] = False
    disable_container_interface: Annotated[bool, Meta(description="Leave the pod's interface down; not with IPAM.")] = False
    port_isolation: Annotated[bool, Meta(description="Keep pods of this bridge from reaching each other directly.")] = False
    ipam: Annotated[Ipam, Meta(description="Who gives addresses; without it the network is layer 2 only.")] = Ipam()

    @property
    def gateway(self) -> bool:
        """Whether the bridge is the pods' gateway: being the default gateway implies it."""
        return self.is_gateway or self.is_default_gateway

    @property
    def filters_vlans(self) -> bool:
        """Whether the bridge has to filter VLANs."""
        return bool(self.vlan) or self.vlan_trunk is not None

    @property
    def vlan_keys(self) -> str:
        """The keys that need VLAN filtering, with their values, in words."""
        trunk = ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in self.tagged)
        keys = {"vlan": str(self.vlan) if self.vlan else "", "vlanTrunk": f"[{trunk}]" if self.vlan_trunk is not None else ""}
        return " and ".join(f"'{key}' {value}" for key, value in keys.items() if value)

    @property
    def gateway_link(self) -> str:
        """The host's interface that has the gateway addresses: in a VLAN one of its own, named as the reference names it."""
        return f"{self.bridge}.{self.vlan}" if self.vlan else self.bridge

    @property
    def tagged(self) -> tuple[tuple[int, int], ...]:
        """The port's tagged VLANs as ranges."""
        return vlans.ranges(self.vlan_trunk or ())

    @property
    def port_pvid(self) -> int:
        """The port's untagged VLAN: the configured one; 1 beside a trunk; 0 leaves the kernel's default."""
        return self.vlan or (1 if self.tagged else 0)


def parse(call: Call) -> Conf:
    """The configuration as a Conf, with the container's MAC address from wherever it was given.

    DEL and GC take a configuration whose values ADD would refuse: what was made before it was changed must go away all the
    same.
    """
    if call.verb in ("DEL", "GC"):
        return read_to_remove(call, Conf)
    conf = read(call, Conf)
    _validate(conf, call)
    return conf


def _validate(conf: Conf, call: Call) -> None:
    check_new_ifname(conf.bridge, "key 'bridge'", ConfigError)
    conf.validate(call)
    if conf.hairpin_mode and conf.promisc_mode:
        raise ConfigError("cannot set hairpin mode and promiscuous mode at the same time")
    if conf.ipam.type and conf.disable_container_interface:
        raise ConfigError("cannot use IPAM when disableContainerInterface flag is set")
    vlans.validate(conf.vlan, conf.vlan_trunk or ())
    if conf.vlan and conf.gateway:
        check_ifname(conf.gateway_link, "the VLAN gateway's interface name, made of 'bridge' and 'vlan',", ConfigError)
