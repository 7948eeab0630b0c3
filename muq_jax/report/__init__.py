"""A page that shows what was learned, to be opened without a network."""
