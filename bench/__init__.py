"""Measurements beside the Go reference's plugins: ``make bench``. docs/performance.md says what is measured and how."""
