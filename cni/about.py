"""What the program says to people: the plugins it has, and how one is called. No plugin call needs it."""

from __future__ import annotations

from importlib import import_module

from cni import __version__
from cni.registry import PLUGINS
from cni.spec import versions
from ipam.registry import PROVIDERS

# What a person who runs a plugin needs to know.
CALLING = (
    "A container runtime calls this program with CNI_COMMAND, CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME and CNI_PATH in its\n"
    "environment and a network configuration on stdin. To try it by hand:\n\n"
)


def names() -> tuple[str, ...]:
    """Every plugin's name, IPAM plugins among them."""
    return tuple(sorted((*PLUGINS, *PROVIDERS)))


def purpose(name: str) -> str:
    """What a plugin is for, in the words of its module; empty for a name that is none."""
    module = PLUGINS.get(name) or PROVIDERS.get(name)
    return "" if module is None else (import_module(module).__doc__ or "").partition("\n")[0].partition(": ")[2]


def plugins() -> list[tuple[str, str]]:
    """Every plugin's name and purpose."""
    return [(name, purpose(name)) for name in names()]


def plugin(name: str) -> str:
    """What a plugin says of itself when nobody gave it a command; the first two lines are the reference's form."""
    return (
        f"CNI {name} plugin podwire {__version__}\n"
        f"CNI protocol versions supported: {', '.join(versions.SUPPORTED)}\n"
        f"\n{name}: {purpose(name)}\n"
        f"\n{CALLING}  CNI_COMMAND=VERSION /opt/cni/bin/{name} </dev/null\n"
        f"\nThe project's docs/plugins/{name}.md has its keys, with examples.\n"
    )


def usage(program: str, wrong: str) -> str:
    """Help for people who ran ``program`` without a plugin, or with the name of none, ``wrong``."""
    return (
        (f"there is no plugin {wrong!r}\n\n" if wrong else "")
        + f"usage: {program} PLUGIN\n\nCNI plugins, version {__version__}:\n\n"
        + "".join(f"  {name:<11} {what}\n" for name, what in plugins())
        + f"\n{CALLING}  CNI_COMMAND=VERSION {program} bridge </dev/null\n"
        + "\nAn installation has a link with each plugin's name. The project's docs/plugins has a page for each.\n"
    )
