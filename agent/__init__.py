"""The resident node process: plugin calls over a socket, served by a warm interpreter."""
