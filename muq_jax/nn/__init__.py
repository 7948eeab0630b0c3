"""The network's parts: pure functions, and thin modules that hold their parameters."""
