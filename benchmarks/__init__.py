"""Measured ratios against the peers; `make bench` runs them all, one after the other."""
