"""One file an experiment; `get_config(variant)` gives the whole of it."""
