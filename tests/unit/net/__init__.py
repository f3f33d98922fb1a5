"""Planning and describing kernel work, without a kernel."""
