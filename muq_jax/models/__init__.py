"""The models and their configurations."""
