"""One clip as a model hears it: its mel and what the tokens keep of it, its tokens, its self-similarity."""

import numpy as np

from muq_jax.audio.filters import hz_to_mel, mel_to_hz
from muq_jax.audio.mel_numpy import log_mel_numpy
from muq_jax.inference.mel_rvq import MelRVQ
from muq_jax.inference.pretrained import MuQ
from muq_jax.report import sound
from muq_jax.report.page import Block
from muq_jax.report.sound import Spans


def token_blocks(rvq: MelRVQ, wave: np.ndarray, spans: Spans = (), spans_name: str = "") -> list[Block]:
    """A clip's mel beside its reconstruction, and its tokens over time.

    Args:
        wave: float32 [S] at 24 kHz; some ten seconds are readable.
        spans: parts of the clip, such as chords.
    """
    mel_config = rvq.config.mel
    codes = rvq.encode(wave[None], sampling_rate=mel_config.sample_rate_hz)
    decoded = rvq.decode(codes)[0]
    mel = log_mel_numpy(
        wave,
        sample_rate_hz=mel_config.sample_rate_hz,
        n_fft=mel_config.n_fft,
        hop_length=mel_config.hop_length,
        num_mels=mel_config.num_mels,
    )
    return [
        sound.mel_pair(
            mel[: len(decoded)],
            decoded,
            frame_rate_hz=mel_config.sample_rate_hz / mel_config.hop_length,
            band_hz=_band_centres(mel_config.sample_rate_hz, mel_config.num_mels),
            num_books=codes.shape[-1],
        ),
        sound.token_map(
            codes[0],
            np.asarray(rvq.variables["params"]["codebook"]),
            label_rate=rvq.frame_rate_hz,
            spans=spans,
            spans_name=spans_name,
        ),
    ]


def similarity_block(
    muq: MuQ, wave: np.ndarray, layer: int, spans: Spans = (), spans_name: str = ""
) -> Block:
    """The self-similarity of one track's features."""
    out = muq(wave[None], sampling_rate=muq.sample_rate_hz, layers=layer)
    features = out.hidden_states[layer]
    assert features is not None
    return sound.self_similarity(
        features[0], frame_rate_hz=muq.frame_rate_hz, layer=layer, spans=spans, spans_name=spans_name
    )


def _band_centres(sample_rate_hz: int, num_mels: int) -> np.ndarray:
    """Centres [F] of the mel bands in Hz."""
    return mel_to_hz(np.linspace(0.0, float(hz_to_mel(sample_rate_hz / 2)), num_mels + 2))[1:-1]
