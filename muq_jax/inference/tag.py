"""Zero-shot tags: how well labels fit audio, by the text tower of a MuQ-MuLan.

Cosines between audio and text are small and lie differently for every track. A label's score therefore says
how far its cosine is from those of a fixed set of background prompts with the same track, in their standard
deviations: 0 is as well as any prompt, 2 is clearly better. The cosine itself is kept.
"""

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from muq_jax.errors import UserError
from muq_jax.inference.embed import Failed, Heard, embed_files
from muq_jax.inference.load import Name, load_model, make_hearer, named_files
from muq_jax.inference.mulan import MuQMuLan
from muq_jax.inference.store import HEADER, check_same_weights, load_vectors
from muq_jax.text.templates import BACKGROUND, MAGNATAGATUNE, TEMPLATES, prompts

_ONE_VECTOR = 1e-5
"""Unit vectors whose coordinates differ by less are rounding apart."""


@dataclass(frozen=True)
class Tagged:
    """A file and how well each label fits it.

    Attributes:
        name: the file's.
        labels: in the order in which they were given.
        scores: float32 [labels], the cosines in standard deviations from the background prompts' mean.
        cosines: float32 [labels], with the track's vector, whose length is at most 1.
    """

    name: str
    labels: tuple[str, ...]
    scores: np.ndarray
    cosines: np.ndarray


class Tagger:
    """Labels as vectors of a MuQ-MuLan.

    Attributes:
        labels: what tracks are compared with.
    """

    def __init__(
        self,
        mulan: MuQMuLan,
        labels: Sequence[str] = MAGNATAGATUNE,
        templates: Sequence[str] = TEMPLATES,
        background: Sequence[str] = BACKGROUND,
    ) -> None:
        """Reads the labels; each is the mean direction of its prompts.

        Args:
            mulan: with a tokenizer.
            labels: words or sentences.
            templates: sentences with `{}` where the label goes.
            background: at least two prompts for the scale of the scores.

        Raises:
            UserError: no labels, no tokenizer, or a template without `{}`.
        """
        if not labels:
            raise UserError("there are no labels; expected at least one.")
        self.labels = tuple(labels)
        read = mulan.extract_text_latents([text for label in labels for text in prompts(label, templates)])
        mean = read.reshape(len(labels), len(templates), -1).mean(axis=1)
        self._vectors = mean / np.linalg.norm(mean, axis=1, keepdims=True)
        self._background = mulan.extract_text_latents(background)
        if np.ptp(self._background, axis=0).max() < _ONE_VECTOR:
            raise UserError("the model gives every text the same vector: its text tower is dead.")

    def __call__(self, audio_latents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns scores and cosines, float32 [B, labels], of audio vectors [B, E]."""
        cosines = audio_latents @ self._vectors.T
        usual = audio_latents @ self._background.T
        spread = usual.std(axis=1, keepdims=True)
        return (cosines - usual.mean(axis=1, keepdims=True)) / spread, cosines


def tag(
    model: Name | MuQMuLan,
    audio: Sequence[str | os.PathLike[str]],
    *,
    labels: Sequence[str] = MAGNATAGATUNE,
    templates: Sequence[str] = TEMPLATES,
    tokenizer: str | os.PathLike[str] | None = None,
    batch_size: int = 4,
    workers: int = 2,
) -> Iterator[Tagged | Failed]:
    """Yields every file's tags in order of the names, or why there are none.

    Args:
        model: a MuQ-MuLan: a model folder, an id on the hub, or one that is loaded.
        audio: files and folders; or a store that this model has made, and then nothing is heard again.
        labels, templates: of `Tagger`.
        tokenizer: of a MuQ-MuLan that has none beside it.
        batch_size, workers: of `embed_files`.

    Raises:
        UserError: another kind of model, no audio, or what `Tagger` refuses.
    """
    loaded = load_model(model, tokenizer)
    if not isinstance(loaded, MuQMuLan):
        raise UserError(f"the model is a {loaded.model_type}, which knows no text; tags need a MuQ-MuLan.")
    tagger = Tagger(loaded, labels, templates)
    hearer, space = make_hearer(loaded)

    def tagged(name: str, vector: np.ndarray) -> Tagged:
        scores, cosines = tagger(vector[None])
        return Tagged(name, tagger.labels, scores[0], cosines[0])

    if len(audio) == 1 and (Path(audio[0]) / HEADER).is_file():
        stored = load_vectors(Path(audio[0]))
        check_same_weights(stored.space, space)
        return map(tagged, stored.ids, stored.matrix)
    files = named_files(audio)
    heard = embed_files(hearer, files, batch_size=batch_size, workers=workers)
    shown = tqdm(heard, "tag", len(files), unit="file", disable=None)
    return (
        found if isinstance(found, Failed) else tagged(found.name, found.vectors[0])
        for found in _in_order(shown, [name for name, _ in files])
    )


def _in_order(results: Iterable[Heard | Failed], names: Sequence[str]) -> Iterator[Heard | Failed]:
    """Results by the order of their names, each as soon as those before it are there."""
    waiting: dict[str, Heard | Failed] = {}
    todo = deque(names)
    for result in results:
        waiting[result.name] = result
        while todo and todo[0] in waiting:
            yield waiting.pop(todo.popleft())
