"""Black-box cases that need no kernel: environment and stdin in, bytes and exit status out."""
