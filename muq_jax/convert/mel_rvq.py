"""The rule table of a Mel-RVQ: upstream's `ResidualVectorQuantize`, on its own or inside a MuQ."""

from collections.abc import Mapping

import jax
import numpy as np

from muq_jax.convert import rules
from muq_jax.convert.rules import Rule, Table, Tensors, Tree
from muq_jax.models import mel_rvq
from muq_jax.models.config import MelRVQConfig
from muq_jax.quantize.rvq import RVQConfig

IN_MUQ = "model.rvq."
"""What a MuQ's state dict puts before the names of its Mel-RVQ."""


def mel_rvq_table(config: RVQConfig, torch_root: str = "", root: str = "") -> Table:
    """The table of a quantiser whose names begin with `torch_root` there and `root` here."""
    book = f"{torch_root}quantizers.{{n}}."
    found = [
        Rule(f"{book}codebook.weight", f"{root}params/codebook"),
        Rule(f"{book}stale_counter", f"{root}codebook_state/stale_counter"),
    ]
    for side in ("in_proj", "out_proj"):
        for i, layer in enumerate(_projection_names(side, config.num_projection_layers)):
            path = f"{root}params/{side}_{i}"
            found += [
                Rule(f"{book}{layer}.weight_g", f"{path}/g", "o11->o"),
                Rule(f"{book}{layer}.weight_v", f"{path}/v", rules.POINTWISE),
                Rule(f"{book}{layer}.bias", f"{path}/bias"),
            ]
    return Table(tuple(Rule(r.torch, r.path, r.layout, config.num_books) for r in found))


def to_torch_names(variables: Tree, config: MelRVQConfig) -> Tensors:
    """The tensors of a Mel-RVQ under upstream's names, as its own folder holds them."""
    return rules.to_torch(variables, mel_rvq_table(config.rvq))


def from_torch_names(
    tensors: Mapping[str, np.ndarray], config: MelRVQConfig, source: str = "the weights"
) -> Tree:
    """Variables of a Mel-RVQ from its own state dict or from the one of a MuQ that carries it.

    Raises:
        UserError: names every tensor that is missing, unknown or of another shape.
    """
    carried = {name.removeprefix(IN_MUQ): t for name, t in tensors.items() if name.startswith(IN_MUQ)}
    return rules.from_torch(carried or tensors, mel_rvq_table(config.rvq), template(config), source)


def looks_untrained(variables: Tree) -> bool:
    """Whether a Mel-RVQ is still as the original draws it.

    The released MuQ of the iterative stage was trained on labels that had been computed beforehand, and need
    not hold the quantiser that made them. Drawn weights lie evenly up to 1 / sqrt(inputs); after any training
    some lie beyond.
    """
    first = variables["params"]["in_proj_0"]
    direction, norm = np.asarray(first["v"]), np.asarray(first["g"])  # [Q, D, C] and [Q, C]
    weight = direction * (norm / np.linalg.norm(direction, axis=-2))[:, None]
    largest = np.abs(weight).max(axis=(-2, -1)) * weight.shape[-2] ** 0.5
    return bool(((largest > 0.95) & (largest < 1.004)).all())  # bfloat16 rounds by 0.4 %


def template(config: MelRVQConfig) -> Tree:
    """Names and shapes of a Mel-RVQ's variables; computes nothing."""
    return jax.eval_shape(lambda key: mel_rvq.init(key, config), jax.random.key(0))


def _projection_names(side: str, num_layers: int) -> list[str]:
    """Where upstream's nested Sequential puts the convolutions of a projection with ReLUs in between.

    One layer is the convolution itself. Of more, the first and last lie in the outer Sequential; each one in
    between shares a Sequential of its own with a ReLU, which stands before it in `in_proj` and after it in
    `out_proj`.
    """
    if num_layers == 1:
        return [side]
    inner = range(1, num_layers - 1)
    between = [f"{side}.{i}.1" for i in inner] if side == "in_proj" else [f"{side}.{i + 1}.0" for i in inner]
    return [f"{side}.0", *between, f"{side}.{num_layers}"]
