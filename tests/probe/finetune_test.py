import dataclasses
from functools import partial

import numpy as np
import pytest

from muq_jax import MuQ
from muq_jax.errors import UserError
from muq_jax.models.config import muq_config
from muq_jax.probe.encoders import MuQEncoder, log_mel, untrained
from muq_jax.probe.finetune import FineTuning
from muq_jax.probe.run import finetune_task
from muq_jax.probe.sweep import Protocol
from muq_jax.probe.task import V1, Dataset, Item, Task

RATE_HZ = 24_000


def tone(pitches, seconds, seed):
    """Tones of equal length one after the other, in a little noise."""
    t = np.arange(round(seconds * RATE_HZ / len(pitches))) / RATE_HZ
    wave = np.concatenate([np.sin(2 * np.pi * 440 * 2 ** (p / 12) * t) for p in pitches])
    return (0.3 * wave + 0.01 * np.random.default_rng(seed).standard_normal(len(wave))).astype(np.float32)


@pytest.fixture(scope="module")
def encoder():
    small = {"width": 16, "num_layers": 2, "num_heads": 2, "ffn_width": 32}
    config = muq_config("smoke", conformer=small, conv_channels=8, rvq=None)
    return MuQEncoder(untrained(MuQ(config, {}), seed=0), "small")


def task_of(kind, metrics):
    return Task("tones", "tones", kind, metrics, lambda data: None, v1=V1(window_seconds=1.0))


def splits(count):
    return [("train", "train", "train", "val", "test")[i % 5] for i in range(count)]


def test_a_clip_s_label_is_learned_and_the_encoder_s_own_weights_stay(encoder):
    import jax

    items = [
        Item(
            str(i),
            split,
            "low" if i % 2 else "high",
            partial(tone, [0 if i % 2 else 24], 0.6 + 0.9 * (i % 3), i),
        )
        for i, split in enumerate(splits(40))
    ]
    before = jax.tree.map(np.asarray, encoder.muq.params)
    settings = FineTuning(encoder_lr=1e-3, batch_size=4, epochs=4)
    result = finetune_task(
        task_of("classification", ("accuracy",)),
        Dataset(items, ("high", "low")),
        encoder,
        Protocol("v1", seeds=(0, 1)),
        settings,
    ).content
    assert result["mode"] == "finetune" and result["layer"] == "all" and result["learning_rate"] == 1e-3
    assert result["num_train"] == 24 and len(result["test_per_seed"]["accuracy"]) == 2
    assert result["test"]["accuracy"] == 1.0 and result["baseline"]["accuracy"] == 0.5
    after = jax.tree.map(np.asarray, encoder.muq.params)
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, before, after)))


def test_frames_are_learned_in_whichever_window_they_are(encoder):
    items = []
    for i, split in enumerate(splits(20)):
        order = [0, 24, 0, 24] if i % 2 else [24, 0, 24, 0]
        spans = tuple((0.6 * k, 0.6 * (k + 1), "low" if p == 0 else "high") for k, p in enumerate(order))
        items.append(Item(str(i), split, spans, partial(tone, order, 2.4, i)))
    result = finetune_task(
        task_of("frames", ("frame_accuracy",)),
        Dataset(items, ("high", "low")),
        encoder,
        Protocol("v1", seeds=(0,)),
        FineTuning(encoder_lr=1e-3, batch_size=4, epochs=6),
    ).content
    assert result["test"]["frame_accuracy"] > 0.85
    assert np.array(result["confusion"]).sum() == 4 * 60, "four clips of 2.4 s"


@pytest.mark.parametrize(
    ("changes", "says"),
    [({"shots": 2}, "no shots"), ({"layers": (1,)}, "no layers"), ({"name": "ridge"}, "no other protocol")],
)
def test_what_fine_tuning_cannot_do(encoder, changes, says):
    items = [Item(str(i), s, "ab"[i % 2], partial(tone, [0], 0.5, i)) for i, s in enumerate(splits(20))]
    protocol = dataclasses.replace(Protocol("v1", seeds=(0,)), **changes)
    with pytest.raises(UserError, match=says):
        finetune_task(
            task_of("classification", ("accuracy",)),
            Dataset(items, ("a", "b")),
            encoder,
            protocol,
            FineTuning(),
        )


def test_a_floor_cannot_be_trained():
    with pytest.raises(UserError, match="logmel: only a MuQ or a MusicFM can be trained further"):
        finetune_task(
            task_of("classification", ("accuracy",)), Dataset([], ()), log_mel(), Protocol(), FineTuning()
        )
