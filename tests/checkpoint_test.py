import errno
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from concurrent import futures

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


def test_parts_are_read_where_jax_has_no_cpu(saved, monkeypatch):
    """As under JAX_PLATFORMS=cuda."""

    def only_others(*_, **__):
        raise RuntimeError("Unknown backend cpu")

    with monkeypatch.context() as patched:
        patched.setattr(jax, "local_devices", only_others)
        read = load_items(saved, 2, checkpoint.ARRAY_ITEMS)
    expected = items_of(2, parallel.make_mesh())
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(read))
    assert_equal_trees(jax.tree.leaves(read), jax.tree.leaves(expected))


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


@pytest.mark.parametrize(
    "damage",
    [flip_a_byte, lambda folder: (folder / "checksums.json").unlink()],
    ids=["damaged", "unfinished"],
)
def test_what_is_left_of_an_older_checkpoint_goes_quietly(saved, damage, caplog):
    """Orbax clears older steps away file by file; a run that is killed then leaves a part of one."""
    damage(saved / "checkpoints" / "1")
    with Checkpoints(saved) as checkpoints:
        assert checkpoints.newest == 2
    assert [p.name for p in (saved / "checkpoints").iterdir()] == ["2"]
    assert not caplog.records


def test_of_several_damaged_checkpoints_those_newer_than_a_whole_one_are_kept(saved, caplog):
    folder = saved / "checkpoints"
    for step in ("0", "3", "10"):
        shutil.copytree(folder / "1", folder / step)
    for step in ("0", "3", "10"):
        flip_a_byte(folder / step)
    with Checkpoints(saved) as checkpoints:
        assert checkpoints.newest == 2
    assert sorted(p.name for p in folder.iterdir()) == ["1", "2", "damaged-10", "damaged-3"]
    assert len(caplog.records) == 2


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


def test_a_failed_save_is_told_as_soon_as_it_is_known(saved, monkeypatch):
    checksums = checkpoint._checksums

    def no_room_for_step_3(folder):
        if folder.name == "3":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return checksums(folder)

    monkeypatch.setattr(checkpoint, "_checksums", no_room_for_step_3)
    with Checkpoints(saved) as checkpoints:
        checkpoints.raise_if_failed()
        checkpoints.save(3, items_of(3, parallel.make_mesh()), {})
        futures.wait([checkpoints._finishing])
        with pytest.raises(UserError, match="step 3 could not be written, the disk is full"):
            checkpoints.raise_if_failed()
        checkpoints.raise_if_failed()


def test_one_run_at_a_time_in_a_work_directory(saved):
    with Checkpoints(saved):
        with pytest.raises(UserError, match=f"Another process is training in {saved}"):
            Checkpoints(saved)
        assert newest_step(saved) == 2
        assert load_items(saved, 2)["model_state"]["count"] == 2
    with Checkpoints(saved) as checkpoints:
        assert checkpoints.newest == 2


def test_a_killed_run_locks_nobody_out(saved):
    program = f"""
        import os, signal
        from pathlib import Path
        from muq_jax.checkpoint import Checkpoints
        checkpoints = Checkpoints(Path({str(saved)!r}))
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], timeout=300, check=False)
    assert done.returncode == -signal.SIGKILL
    with Checkpoints(saved) as checkpoints:
        assert checkpoints.newest == 2


def test_a_run_that_could_not_open_its_checkpoints_locks_nobody_out(saved, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "_Manager", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError) as caught:
            Checkpoints(saved)
    with Checkpoints(saved) as checkpoints:
        assert checkpoints.newest == 2
    assert caught.traceback  # which keeps what the first one had opened from being collected


def test_a_file_system_without_locks_is_trained_on(saved, monkeypatch):
    def unsupported(*_):
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(checkpoint.fcntl, "flock", unsupported)
    with Checkpoints(saved) as checkpoints:
        assert checkpoints.newest == 2
