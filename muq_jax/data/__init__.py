"""From audio files to batches of numpy arrays. No jax in here: its workers are fresh processes."""
