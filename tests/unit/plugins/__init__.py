"""Plugins as pure functions, and their plans run over the fake host."""
