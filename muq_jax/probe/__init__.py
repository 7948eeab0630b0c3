"""What a representation knows: simple heads on frozen features, with intervals and baselines."""
