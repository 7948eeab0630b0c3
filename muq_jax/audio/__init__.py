"""Audio in, log-mel out: `decode`, `filters` and `mel_numpy` are numpy only; `framing` and `mel` are JAX."""
