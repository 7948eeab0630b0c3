import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from experiments.original import as_wave, random_tensors
from muq_jax.audio.mel import MelConfig
from muq_jax.models.mel_rvq import stacked_mel
from muq_jax.quantize.random_projection import (
    RandomProjectionConfig,
    init_random_projection,
    random_projection_codes,
)


def test_codes_against_the_original():
    golden = np.load(Path(__file__).parents[1] / "golden" / "rvq.npz")
    tensors = random_tensors(json.loads(str(golden["projection_shapes"])))
    x, _ = stacked_mel(as_wave(golden["pcm"]), mel=MelConfig(), frames_per_token=4)
    constants = {"projection": tensors["random_projection"][None], "codebook": tensors["codebook"][None]}
    codes = random_projection_codes(constants, x)
    np.testing.assert_array_equal(codes[..., 0], golden["projection_codes"])


def test_every_book_has_its_own_projection():
    config = RandomProjectionConfig(num_books=3, num_codes=50, code_dim=4, input_dim=9)
    constants = init_random_projection(jax.random.key(0), config)
    x = jax.random.normal(jax.random.key(1), (2, 5, 9))
    codes = random_projection_codes(constants, x)
    assert codes.shape == (2, 5, 3) and codes.dtype == jnp.int32
    for q in range(3):
        latents = np.asarray(x, np.float64) @ np.asarray(constants["projection"][q], np.float64)
        book = np.asarray(constants["codebook"][q], np.float64)
        distance = np.linalg.norm(
            latents[..., None, :] / np.linalg.norm(latents, axis=-1)[..., None, None]
            - book / np.linalg.norm(book, axis=-1, keepdims=True),
            axis=-1,
        )
        np.testing.assert_array_equal(codes[..., q], distance.argmin(-1))


def test_initial_values():
    config = RandomProjectionConfig()
    constants = init_random_projection(jax.random.key(0), config)
    assert constants["projection"].shape == (1, 512, 16) and constants["codebook"].shape == (1, 4096, 16)
    np.testing.assert_allclose(constants["projection"].std(), (2 / 528) ** 0.5, rtol=0.05)
    np.testing.assert_allclose(constants["codebook"].std(), 1, rtol=0.05)
