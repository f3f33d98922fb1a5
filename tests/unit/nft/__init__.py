"""Rendering, reading and deciding of packet rules, without a kernel."""
