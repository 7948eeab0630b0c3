"""The kinds of model that there are, and how configuration and tensors of each are read and written."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from muq_jax.convert import mel_rvq, mulan, muq, musicfm
from muq_jax.convert.rules import Table, Tree
from muq_jax.models import config_json, mulan_json


@dataclass(frozen=True)
class Kind:
    """A `model_type`.

    Attributes:
        name: the `model_type`.
        read_config: the configuration from a `config.json`.
        write_config: a `config.json` from the configuration.
        table: every tensor of the model's PyTorch state dict.
        template: names and shapes of our variables.
    """

    name: str
    read_config: Callable[[dict[str, Any]], Any]
    write_config: Callable[[Any], dict[str, Any]]
    table: Callable[[Any], Table]
    template: Callable[[Any], Tree]


KINDS = {
    kind.name: kind
    for kind in (
        Kind(
            "muq", config_json.from_upstream_json, config_json.to_upstream_json, muq.muq_table, muq.template
        ),
        Kind(
            "musicfm",
            config_json.musicfm_from_json,
            config_json.musicfm_to_json,
            musicfm.musicfm_table,
            musicfm.template,
        ),
        Kind(
            "mulan",
            mulan_json.mulan_from_json,
            mulan_json.mulan_to_json,
            mulan.mulan_table,
            mulan.template,
        ),
        Kind(
            "mel_rvq",
            config_json.mel_rvq_from_json,
            config_json.mel_rvq_to_json,
            lambda config: mel_rvq.mel_rvq_table(config.rvq),
            mel_rvq.template,
        ),
    )
}
