"""The emulated machine: the network tests on a fuller kernel than the one they are started on.

What lives here: `kernel` (Debian's cloud kernel, unpacked into a cache folder), `archive` (the initramfs
format), `image` (what goes into the initramfs), `init` (the machine's first process), `run` (the way to boot
it) and the guest's own tests. Nothing here is needed by a plugin; nothing here touches the machine it is
started on: no disk, no network, no module loaded.
"""
