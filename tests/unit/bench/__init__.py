"""The benchmark's pure parts, and one small run of it."""
