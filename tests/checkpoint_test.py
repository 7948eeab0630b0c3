import errno
import os
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from muq_jax import checkpoint, parallel
from muq_jax.checkpoint import Checkpoints, load_items, load_meta, newest_step
from muq_jax.errors import UserError


def items_of(step, mesh):
    """Returns a state of a step with an optimizer's, sharded over `mesh`; nothing in it compresses."""
    params = {"a": {"kernel": jax.random.normal(jax.random.key(step), (256, 512))}, "b": jnp.arange(3)}
    items = {
        "params": params,
        "opt": optax.adam(1e-3).init(params),
        "model_state": {"count": jnp.full((), step)},
    }
    return jax.device_put(items, parallel.state_shardings(items, mesh))


def abstract_of(items):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), items)


def assert_equal_trees(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture
def saved(tmp_path):
    """Returns a work directory with whole checkpoints of steps 1 and 2."""
    mesh = parallel.make_mesh(2, 4)
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, items_of(step, mesh), {"step": step})
    return tmp_path


def flip_a_byte(folder):
    """Changes one byte in the middle of the largest file of a checkpoint."""
    path = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return path


def test_nothing_saved_yet(tmp_path):
    assert newest_step(tmp_path) is None
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.newest is None


@pytest.mark.parametrize("shape", [(2, 4), (8, 1), (1, 1)])
def test_restores_onto_any_mesh(saved, shape):
    mesh = parallel.make_mesh(*shape, devices=jax.devices()[: shape[0] * shape[1]])
    expected = items_of(2, mesh)
    with Checkpoints(saved) as checkpoints:
        assert checkpoints.newest == 2
        restored = checkpoints.restore(2, abstract_of(expected))
    assert_equal_trees(restored, expected)
    jax.tree.map(lambda a, b: np.testing.assert_equal(a.sharding, b.sharding), restored, expected)
    assert load_meta(saved, 2) == {"step": 2}


def test_parts_are_read_alone_and_as_numpy(saved):
    read = load_items(saved, 1, ("params", "model_state"))
    expected = items_of(1, parallel.make_mesh())
    assert set(read) == {"params", "model_state"}
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(read))
    assert_equal_trees(read["params"], expected["params"])


def test_an_item_without_arrays_comes_back_empty(tmp_path):
    items = {**items_of(1, parallel.make_mesh()), "model_state": {}}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, items, {})
    assert load_items(tmp_path, 1, ["model_state"]) == {"model_state": {}}
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore(1, abstract_of(items))["model_state"] == {}


def test_older_checkpoints_go(saved):
    with Checkpoints(saved) as checkpoints:
        checkpoints.save(3, items_of(3, parallel.make_mesh()), {})
    assert sorted(p.name for p in (saved / "checkpoints").iterdir()) == ["2", "3"]


@pytest.mark.parametrize(
    "damage",
    [
        flip_a_byte,
        lambda folder: flip_a_byte(folder).unlink(),
        lambda folder: (folder / "extra").write_text("x"),
        lambda folder: (folder / "checksums.json").write_text("{"),
    ],
    ids=["flipped byte", "missing file", "strange file", "broken checksums"],
)
def test_a_damaged_checkpoint_is_never_taken(saved, damage, caplog):
    damage(saved / "checkpoints" / "2")
    assert newest_step(saved) == 1
    assert "is damaged" in caplog.text
    with Checkpoints(saved) as checkpoints:
        assert checkpoints.newest == 1
        assert "damaged-2" in caplog.text
        checkpoints.save(2, items_of(2, parallel.make_mesh()), {"again": True})
    assert newest_step(saved) == 2
    assert load_meta(saved, 2) == {"again": True}


def test_a_save_that_was_cut_off_is_never_taken(saved, caplog):
    (saved / "checkpoints" / "2" / "checksums.json").unlink()
    (saved / "checkpoints" / "3.orbax-checkpoint-tmp").mkdir()
    assert newest_step(saved) == 1
    with Checkpoints(saved) as checkpoints:
        assert checkpoints.newest == 1
        assert "never finished" in caplog.text
        checkpoints.save(2, items_of(2, parallel.make_mesh()), {})
    assert newest_step(saved) == 2


def test_one_checkpoint_is_too_few(tmp_path):
    with pytest.raises(UserError, match="keep_checkpoints=1"):
        Checkpoints(tmp_path, keep=1)


def test_a_full_disk_is_explained_and_leaves_the_older_checkpoint(saved):
    """A limit on the size of files makes the writes themselves fail, as a full disk does."""
    limit = 64 * 1024
    program = f"""
        import resource, signal
        from pathlib import Path
        import jax
        from muq_jax.checkpoint import Checkpoints
        from muq_jax.errors import UserError
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        params = {{"x": jax.random.normal(jax.random.key(0), (10**6,))}}
        items = {{"params": params, "opt": {{}}, "model_state": {{}}}}
        jax.block_until_ready(items)
        checkpoints = Checkpoints(Path({str(saved)!r}))
        resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
        try:
            checkpoints.save(3, items, {{}})
            checkpoints.wait()
        except UserError as error:
            print("explained:", error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert "explained:" in done.stdout, done.stderr[-2000:]
    assert "the checkpoint of step 3 could not be written, the disk is full" in done.stdout
    assert "The checkpoint of step 2 is whole" in done.stdout
    assert newest_step(saved) == 2
    assert sorted(p.name for p in (saved / "checkpoints").iterdir()) == ["1", "2"]


def test_other_errors_are_not_taken_for_a_full_disk():
    assert checkpoint._is_full_disk(OSError(errno.ENOSPC, "x"))
    assert checkpoint._is_full_disk(ValueError("... No space left on device [os_error_code='28']"))
    assert not checkpoint._is_full_disk(OSError(errno.EACCES, os.strerror(errno.EACCES)))
