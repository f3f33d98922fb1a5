"""Tests of ipam without root, kernel or clock."""
