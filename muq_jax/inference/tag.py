"""Zero-shot tags: how well labels fit audio, by the text tower of a MuQ-MuLan.

Similarities of audio and text are small and lie differently for every track. A label's score therefore says
how far its similarity is from those of a fixed set of background prompts with the same track, in their
standard deviations: 0 is as good as any prompt, 2 is clearly better. The similarity itself is kept.
"""

import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from muq_jax.errors import UserError
from muq_jax.inference.embed import Failed, Heard, check_counts, embed_files
from muq_jax.inference.load import Name, load_model, make_hearer, named_files, space_of
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
        scores: float32 [labels], the similarities in standard deviations from the background prompts' mean.
        similarities: float32 [labels], as `MuQMuLan.calc_similarity` gives them: dot products with a vector
            that is at most 1 long.
    """

    name: str
    labels: tuple[str, ...]
    scores: np.ndarray
    similarities: np.ndarray


class Tagger:
    """Labels as vectors of a MuQ-MuLan.

    Attributes:
        labels: what tracks are compared with.
    """

    def __init__(
        self,
        mulan: MuQMuLan,
        labels: Sequence[str] | Mapping[str, Sequence[str]] = MAGNATAGATUNE,
        templates: Sequence[str] = TEMPLATES,
        background: Sequence[str] = BACKGROUND,
    ) -> None:
        """Reads the labels; each is the mean direction of its prompts.

        Args:
            mulan: with a tokenizer.
            labels: words or sentences; or names, each with its own prompts, which no template changes.
            templates: sentences with `{}` where the label goes.
            background: at least two prompts for the scale of the scores.

        Raises:
            UserError: no labels, one without prompts, no tokenizer, or a template without `{}`.
        """
        if not labels:
            raise UserError("there are no labels; expected at least one.")
        self.labels = tuple(labels)
        own = (
            labels if isinstance(labels, Mapping) else {label: prompts(label, templates) for label in labels}
        )
        texts = [own[label] for label in labels]
        if silent := [label for label in labels if not own[label]]:
            raise UserError(f"the label {silent[0]!r} has no prompt; expected at least one.")
        read = mulan.extract_text_latents([text for found in texts for text in found])
        parts = np.split(read, np.cumsum([len(found) for found in texts])[:-1])
        mean = np.stack([part.mean(axis=0) for part in parts])
        self._vectors = mean / np.linalg.norm(mean, axis=1, keepdims=True)
        self._background = mulan.extract_text_latents(background)
        if np.ptp(self._background, axis=0).max() < _ONE_VECTOR:
            raise UserError("the model gives every text the same vector: its text tower is dead.")

    def __call__(self, audio_latents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns scores and similarities, float32 [B, labels], of audio vectors [B, E]."""
        # A product's last bits hang on its place in the matrix: those of equal vectors are made equal.
        heard, of_track = np.unique(audio_latents, axis=0, return_inverse=True)
        read, of_label = np.unique(self._vectors, axis=0, return_inverse=True)
        similarities = (heard @ read.T)[of_track.reshape(-1)][:, of_label.reshape(-1)]
        usual = (heard @ self._background.T)[of_track.reshape(-1)]
        spread = usual.std(axis=1, keepdims=True)
        return (similarities - usual.mean(axis=1, keepdims=True)) / spread, similarities


def tag(
    model: Name | MuQMuLan,
    audio: Sequence[str | os.PathLike[str]],
    *,
    labels: Sequence[str] = MAGNATAGATUNE,
    templates: Sequence[str] = TEMPLATES,
    tokenizer: str | os.PathLike[str] | None = None,
    batch_size: int | None = None,
    workers: int = 2,
) -> Iterator[Tagged | Failed]:
    """Yields every file's tags in order of the names, or why there are none.

    Args:
        model: a MuQ-MuLan: a model folder, an id on the hub, or one that is loaded.
        audio: files and folders; or stores that this model has made, and then nothing is embedded again.
        labels, templates: of `Tagger`.
        tokenizer: of a MuQ-MuLan that has none beside it.
        batch_size, workers: of `embed_files`.

    Raises:
        UserError: another kind of model, no audio, or what `Tagger` refuses.
    """
    check_counts(batch_size, workers)
    loaded = load_model(model, tokenizer)
    if not isinstance(loaded, MuQMuLan):
        raise UserError(f"the model is a {loaded.model_type}, which knows no text; tags need a MuQ-MuLan.")
    tagger = Tagger(loaded, labels, templates)
    space = space_of(loaded)

    def tagged(name: str, vector: np.ndarray) -> Tagged:
        scores, similarities = tagger(vector[None])
        return Tagged(name, tagger.labels, scores[0], similarities[0])

    folders = [Path(given) for given in audio]
    if all((folder / HEADER).is_file() for folder in folders):
        stored = load_vectors(*folders)
        check_same_weights(stored.space, space)
        return map(tagged, stored.ids, stored.matrix)
    files = named_files(audio)
    heard = embed_files(make_hearer(loaded, space), files, batch_size=batch_size, workers=workers)
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
