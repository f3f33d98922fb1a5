"""Real container runtimes: containerd and podman, with podwire's plugins as an installation puts them.

What lives here: `packages` (the runtimes, unpacked into a cache folder), `host` (a host to run them in), `image` (what
containers are made of), `runtimes` (containerd and podman as a test handles them). What must not: anything about the inside
of a plugin; what is judged is the traffic of containers, and the host as foreign tools show it.
"""
