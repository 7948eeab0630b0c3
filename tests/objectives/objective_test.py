import jax
import numpy as np
from jax.sharding import PartitionSpec as P

from muq_jax import parallel
from muq_jax.objectives.objective import split_rows


def test_split_rows_gives_every_row_once():
    rows = jax.numpy.arange(12)
    parts = split_rows({"row": rows, "wave": rows[:, None] * 10}, 3)
    np.testing.assert_array_equal(parts["row"], [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]])
    np.testing.assert_array_equal(parts["wave"][..., 0], parts["row"] * 10)


def test_split_rows_moves_nothing_between_devices():
    mesh = parallel.make_mesh(2, 4)
    batch = {"wave": jax.ShapeDtypeStruct((32, 5), np.float32, sharding=parallel.batch_sharding(mesh))}
    out = jax.sharding.NamedSharding(mesh, P(None, ("data", "fsdp")))
    split = jax.jit(lambda b: split_rows(b, 4), out_shardings=out)
    text = split.lower(batch).compile().as_text()
    assert not any(word in text for word in ("all-gather", "all-to-all", "collective-permute"))
