"""Between PyTorch's state dicts and our variables: file readers, one rule language, one table a model."""
