"""The CNI contract as data, without a kernel."""
