"""Whole programs side by side."""
