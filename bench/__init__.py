"""Measurements beside the reference plugins: ``make bench``. Medians and ratios of one run; nothing here is a test."""
