"""Readers of published datasets, each in its own layout, as it is after unpacking its archives."""
