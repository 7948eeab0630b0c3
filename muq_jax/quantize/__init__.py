"""Vectors to discrete codes and back."""
