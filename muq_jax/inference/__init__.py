"""Trained models in use: loading, features of any audio, long audio in windows."""
