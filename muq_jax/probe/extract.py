"""The features of a dataset's clips: cut into windows, heard once, kept in the cache."""

import dataclasses
import hashlib
import math
import weakref
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import librosa
import numpy as np
from tqdm import tqdm

from muq_jax.audio.decode import SAMPLE_RATE_HZ, load_audio
from muq_jax.audio.framing import MIN_SAMPLES
from muq_jax.errors import UserError
from muq_jax.inference.embed_to_store import fingerprint
from muq_jax.probe.cache import FeatureCache, MemoryStore, Pooled, Space, StoredPooled
from muq_jax.probe.encoders import Encoder, mean_over_time
from muq_jax.probe.ready import ReadyFeatures
from muq_jax.probe.task import Item

_BLOCK_CLIPS = 64  # written at a time: what a kill costs
_WORKERS = 2  # threads that decode
_SILENCE_DB = 40.0  # below a clip's loudest frame
_REMAINDER_SECONDS = 1.0  # a last window shorter than this says nothing that the others do not


# What a function returns is heard again by every task and encoder; to know it, once is enough.
_SOUNDS: MutableMapping[Callable[[], np.ndarray], str] = weakref.WeakKeyDictionary()


@dataclasses.dataclass(frozen=True)
class Cut:
    """How clips become windows.

    Attributes:
        window_seconds: of a window; the last one may be shorter.
        drop_short: a last window that is not whole is left out, unless the clip has no other.
        trim_silence: silence at both ends is cut off, and every window has mean 0 and deviation 1.
        crop_seconds: of each clip, how much is heard, from its start; None is all.
    """

    window_seconds: float
    drop_short: bool = False
    trim_silence: bool = False
    crop_seconds: float | None = None


@dataclasses.dataclass(frozen=True)
class Features:
    """The features of some clips; those that could not be heard are in `failures` instead.

    Attributes:
        items: in the order given.
        pooled: of each; those of a cache are read when they are asked for.
        frame_keys: of each, for `frames`.
        failures: why a clip was not heard, by its id.
        frame_rate_hz: of the frames; None where there are none.
    """

    items: list[Item]
    pooled: Sequence[Pooled | StoredPooled]
    frame_keys: list[str]
    failures: dict[str, str]
    frame_rate_hz: float | None
    source: FeatureCache | MemoryStore | ReadyFeatures

    def frames(self, index: int) -> np.ndarray:
        """Returns [L, T, D] of the clip of this index."""
        return self.source.frames(self.frame_keys[index])


def features_of(
    items: Sequence[Item],
    encoder: Encoder | ReadyFeatures,
    cut: Cut,
    cache: Path | None,
    *,
    frames: bool = False,
) -> Features:
    """Returns the features of clips; what the cache lacks is made, and stays there.

    Args:
        items: of a dataset.
        encoder: what hears them, or its ready features.
        cut: how they become windows.
        cache: the folder of all caches; None keeps nothing.
        frames: every frame's vector is wanted, too.

    Raises:
        UserError: the encoder has no frames, the cache is of something else, or no clip can be heard.
    """
    rate = encoder.frame_rate_hz
    if frames and rate is None:
        raise UserError(f"{encoder.name} gives one vector a clip; this task needs one a frame")
    if isinstance(encoder, ReadyFeatures):
        vectors = [encoder.pooled(item.id)[None] for item in items]
        ready = [Pooled(v, np.array([cut.window_seconds])) for v in vectors]
        _check_alike(items, ready, encoder.name)
        ids = [item.id for item in items]
        return Features(list(items), ready, ids, {}, encoder.frame_rate_hz, encoder)
    if frames and rate and abs(cut.window_seconds * rate - round(cut.window_seconds * rate)) > 1e-6:
        raise UserError(
            f"windows of {cut.window_seconds:g} s are no whole number of {encoder.name}'s frames ({rate:g} a "
            "second), so that times would drift from window to window; give whole seconds"
        )
    space = Space(encoder.name, encoder.digest, *dataclasses.astuple(cut))
    store = MemoryStore() if cache is None else FeatureCache(cache / space.folder_name, space)
    failures: dict[str, str] = {}
    keys = [sound_key(item, failures) for item in items]
    todo: dict[str, Item] = {}
    for key, item in zip(keys, items, strict=True):
        if key is not None and not store.has(key, frames=frames):
            todo.setdefault(key, item)
    unheard = _hear(todo, encoder, cut, store, frames)
    kept, heard_keys = [], []
    for item, key in zip(items, keys, strict=True):
        if key is not None and key in unheard:
            failures[item.id] = unheard[key]
        elif key is not None:
            kept.append(item)
            heard_keys.append(key)
    if not kept:
        first = next(iter(failures.values()), "there is none")
        raise UserError(f"no clip could be heard; the first: {first}")
    pooled = [store.pooled(key) for key in heard_keys]
    return Features(kept, pooled, heard_keys, failures, encoder.frame_rate_hz, store)


def load_wave(item: Item) -> np.ndarray:
    """Returns the item's stretch of its recording, float32 [S] at 24 kHz.

    Raises:
        UserError: it cannot be decoded, or holds too little to hear.
    """
    if not 0 <= item.start_seconds < math.inf:
        raise UserError(f"{item.id}: starts at {item.start_seconds} s; expected 0 or later. Mend its times")
    wave = item.audio() if callable(item.audio) else load_audio(item.audio)
    start = round(item.start_seconds * SAMPLE_RATE_HZ)
    stop = None if item.end_seconds is None else round(item.end_seconds * SAMPLE_RATE_HZ)
    part = np.asarray(wave, np.float32)[start : None if stop is None else max(stop, 0)]
    if len(part) < MIN_SAMPLES:
        raise UserError(
            f"{item.id}: {len(part) / SAMPLE_RATE_HZ:.3f} s of sound from {item.start_seconds:g} s on; a "
            f"window needs {MIN_SAMPLES / SAMPLE_RATE_HZ:.3f} s at least. Leave the clip out, or mend its "
            "times"
        )
    return part


def windows(wave: np.ndarray, cut: Cut) -> list[np.ndarray]:
    """Returns the windows [S] of a wave [S] at 24 kHz, at least one."""
    if cut.trim_silence:
        trimmed = librosa.effects.trim(wave, top_db=_SILENCE_DB)[0]
        wave = trimmed if len(trimmed) >= MIN_SAMPLES else wave
    if cut.crop_seconds is not None:
        wave = wave[: round(cut.crop_seconds * SAMPLE_RATE_HZ)]
    size = round(cut.window_seconds * SAMPLE_RATE_HZ)
    found = [wave[start : start + size] for start in range(0, len(wave), size)]
    if len(found) > 1 and len(found[-1]) < (size if cut.drop_short else MIN_SAMPLES):
        found.pop()
    if cut.trim_silence:
        found = [(w - w.mean()) / max(float(w.std()), 1e-5) for w in found]
    return found


def long_enough(seconds: np.ndarray) -> np.ndarray:
    """Returns which windows of a clip a pooled task uses, bool [W]: a remainder only where it is all."""
    keep = seconds >= _REMAINDER_SECONDS
    return keep if keep.any() else np.ones(len(seconds), bool)


def sound_key(item: Item, failures: dict[str, str]) -> str | None:
    """Returns a name of an item's sound, whatever its dataset calls it.

    None, and the reason in `failures` by the item's id, where there is none.
    """
    if callable(item.audio):
        if item.audio not in _SOUNDS:
            try:
                wave = np.ascontiguousarray(item.audio(), np.float32)
            except (UserError, OSError) as error:
                failures[item.id] = str(error)
                return None
            _SOUNDS[item.audio] = hashlib.sha256(wave.tobytes()).hexdigest()
        sound = _SOUNDS[item.audio]
    elif not item.audio.is_file():
        failures[item.id] = f"{item.audio}: no such file"
        return None
    else:
        # The fingerprint sees parts of a file, so its name and folder help to tell silent ones apart.
        sound = f"{fingerprint(item.audio)} {'/'.join(item.audio.parts[-2:])}"
    content = f"{sound} {item.start_seconds!r} {item.end_seconds!r}"
    # Names of files need not be in UTF-8.
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:24]


def _hear(
    todo: dict[str, Item], encoder: Encoder, cut: Cut, store: FeatureCache | MemoryStore, frames: bool
) -> dict[str, str]:
    """Fills the store with what it lacks, a block of clips at a time; returns why clips were not heard."""
    entries, unheard = list(todo.items()), dict[str, str]()
    if not entries:
        return unheard
    with tqdm(total=len(entries), desc=f"features {encoder.name}", unit="clip", disable=None) as progress:
        for at in range(0, len(entries), _BLOCK_CLIPS):
            block = entries[at : at + _BLOCK_CLIPS]
            cuts = dict(_decoded(block, cut, unheard))
            unheard |= _hear_block(cuts, encoder, cut, store, frames)
            progress.update(len(block))
    return unheard


def _decoded(
    block: Sequence[tuple[str, Item]], cut: Cut, unheard: dict[str, str]
) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Yields the windows of the clips that can be decoded; says why others cannot."""

    def decode(item: Item) -> list[np.ndarray] | str:
        try:
            return windows(load_wave(item), cut)
        except (UserError, OSError) as error:
            return str(error)

    with ThreadPoolExecutor(_WORKERS) as pool:
        found = pool.map(lambda entry: decode(entry[1]), block)
        for (key, _), waves in zip(block, found, strict=True):
            if isinstance(waves, str):
                unheard[key] = waves
            else:
                yield key, waves


def _hear_block(
    cuts: dict[str, list[np.ndarray]],
    encoder: Encoder,
    cut: Cut,
    store: FeatureCache | MemoryStore,
    frames: bool,
) -> dict[str, str]:
    """Hears the windows of some clips in batches of one shape; returns whose features are no numbers."""
    flat = [(key, wave) for key, waves in cuts.items() for wave in waves]
    size, rows = round(cut.window_seconds * SAMPLE_RATE_HZ), encoder.batch_size
    vectors: dict[str, list[np.ndarray]] = {}
    pieces: dict[str, list[np.ndarray]] = {}
    bad: set[str] = set()
    for at in range(0, len(flat), rows):
        group = flat[at : at + rows]
        batch = np.zeros((rows, max(size, MIN_SAMPLES)), np.float32)
        lengths = np.full(rows, MIN_SAMPLES, np.int32)
        for row, (_, wave) in enumerate(group):
            batch[row, : len(wave)], lengths[row] = wave, max(len(wave), MIN_SAMPLES)
        if frames:
            states, num_valid = encoder.frames(batch, lengths)
            for row, (key, wave) in enumerate(group):
                part = states[row, :, : num_valid[row]]
                if not np.isfinite(part).all():
                    bad.add(key)
                pieces.setdefault(key, []).append(_whole(part, cut, encoder) if len(wave) == size else part)
        pooled_here = frames and encoder.pools_frames
        pooled = mean_over_time(states, num_valid) if pooled_here else encoder.pooled(batch, lengths)
        for row, (key, _) in enumerate(group):
            vectors.setdefault(key, []).append(pooled[row])
        for key in [key for key in pieces if len(pieces[key]) == len(cuts[key])]:
            store.add_frames(key, np.concatenate(pieces.pop(key), axis=1))
    bad |= {key for key, found in vectors.items() if not all(np.isfinite(v).all() for v in found)}
    good = {key: np.stack(found) for key, found in vectors.items() if key not in bad}
    if good:
        seconds = {key: np.array([len(w) / SAMPLE_RATE_HZ for w in cuts[key]]) for key in good}
        store.add(list(good), [Pooled(v, seconds[key]) for key, v in good.items()])
    return dict.fromkeys(bad, f"{encoder.name}: its features hold NaN or infinite values")


def _whole(frames: np.ndarray, cut: Cut, encoder: Encoder) -> np.ndarray:
    """The frames [L, T, D] of a whole window, as many as its length has, so that times do not drift."""
    assert encoder.frame_rate_hz is not None
    wanted = round(cut.window_seconds * encoder.frame_rate_hz)
    short = wanted - frames.shape[1]
    return np.pad(frames, ((0, 0), (0, short), (0, 0)), mode="edge") if short > 0 else frames[:, :wanted]


def _check_alike(items: Sequence[Item], ready: Sequence[Pooled], name: str) -> None:
    shapes = {clip.vectors.shape[1:]: item.id for item, clip in zip(items, ready, strict=True)}
    if len(shapes) > 1:
        (a, one), (b, other) = list(shapes.items())[:2]
        raise UserError(f"{name}: the features of {one!r} have the shape {a}, those of {other!r} {b}")
