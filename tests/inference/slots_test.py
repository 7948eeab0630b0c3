import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from muq_jax.inference.slots import Slots

files = st.dictionaries(st.text("abc", min_size=1, max_size=3), st.integers(1, 9), min_size=1, max_size=6)


def windows_of(name, count):
    rng = np.random.default_rng([*name.encode()])
    return [rng.standard_normal(int(rng.integers(1, 9))).astype(np.float32) for _ in range(count)]


def gather(counts, run, rows=4):
    """The results of all files, in order of windows; files are interleaved."""
    slots, found = Slots(run, rows, 8), {name: {} for name in counts}
    for number in range(max(counts.values())):
        for name, count in counts.items():
            if number < count:
                ready = slots.add(name, number, windows_of(name, count)[number], (name, number))
                for (n, k), value in ready:
                    found[n][k] = value
                assert slots.pending < 2 * rows
    for (n, k), value in slots.flush():
        found[n][k] = value
    return {name: [values[k] for k in range(counts[name])] for name, values in found.items()}


@given(files)
def test_every_window_comes_back_as_its_own(counts):
    found = gather(counts, lambda waves, lengths: np.stack([waves.sum(1), lengths], axis=1))
    for name, count in counts.items():
        for window, (total, length) in zip(windows_of(name, count), found[name], strict=True):
            np.testing.assert_allclose(total, window.sum(), atol=1e-5)
            assert length == len(window)


@settings(max_examples=30, deadline=None)
@given(files, st.integers(0, 5))
def test_a_file_has_the_same_bits_whatever_it_shares_its_batches_with(counts, left_out):
    kernel = jnp.asarray(np.random.default_rng(0).standard_normal((8, 33)), jnp.float32)

    @jax.jit
    def run(waves, lengths):
        return jnp.tanh(waves @ kernel) @ kernel.T + lengths[:, None]

    whole = gather(counts, run)
    name = sorted(counts)[left_out % len(counts)]
    alone = gather({name: counts[name]}, run)
    np.testing.assert_array_equal(whole[name], alone[name])
