"""The hub is a stand-in: no test touches the network."""

from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import errors

from experiments.original import random_tensors, upstream_config
from muq_jax import MuQ
from muq_jax.convert import hub
from muq_jax.convert import muq as muq_names
from muq_jax.convert.find import find
from muq_jax.errors import UserError
from muq_jax.models.config_json import from_upstream_json

NAME = "OpenMuQ/MuQ-large-msd-iter"


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """Returns a folder in place of the hub's cache, and the calls that were made for it."""
    calls = []

    def snapshot_download(repo_id, *, allow_patterns, **options):
        calls.append((repo_id, allow_patterns, options))
        return str(tmp_path / "snapshot")

    (tmp_path / "snapshot").mkdir()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return tmp_path / "snapshot", calls


def test_a_model_is_asked_for_as_told(repository, tmp_path):
    folder, calls = repository
    (folder / "model.safetensors").touch()
    found = find(NAME, cache_dir=tmp_path, revision="v1", local_files_only=True)
    assert found == folder
    [(repo_id, patterns, options)] = calls
    assert repo_id == NAME and not any(pattern.endswith(".bin") for pattern in patterns)
    assert options == {"cache_dir": tmp_path, "revision": "v1", "local_files_only": True}


def test_pickles_are_fetched_where_there_is_nothing_else(repository):
    folder, calls = repository
    (folder / "pytorch_model.bin").touch()
    assert hub.fetch(NAME) == folder
    assert ["*.bin" in patterns for _, patterns, _ in calls] == [False, True]


def test_a_folder_never_asks_the_hub(repository, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(NAME).mkdir(parents=True)
    assert find(NAME) == Path(NAME)
    assert not repository[1]


def test_a_repository_without_weights_is_named(repository):
    (repository[0] / "README.md").touch()
    with pytest.raises(
        UserError, match=r"revision main: there are no weights in the hub's answer, only README\.md"
    ):
        find(NAME)


@pytest.mark.parametrize(
    "error", [errors.LocalEntryNotFoundError("not cached"), ConnectionError("no route"), OSError(28, "full")]
)
def test_what_cannot_be_had_says_what_was_looked_for_and_where(monkeypatch, error):
    def fails(*_, **__):
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fails)
    looked = f"looked for {NAME}, revision v2 in the cache /c and on the hub; {type(error).__name__}"
    with pytest.raises(UserError, match=looked):
        find(NAME, revision="v2", cache_dir="/c")
    with pytest.raises(UserError, match=rf"in the hub's cache \(HF_HOME\); .*hf download {NAME} --local-dir"):
        find(NAME, local_files_only=True)


def test_without_the_extra_it_is_named(without):
    without("huggingface_hub")
    with pytest.raises(UserError, match=r'pip install "muq-jax\[hub\]"'):
        hub.fetch(NAME)


def test_an_empty_cache_is_said_without_a_network(tmp_path):
    """The library itself, told to ask nobody."""
    with pytest.raises(UserError, match=rf"looked for {NAME}, revision main in the cache {tmp_path};"):
        MuQ.from_pretrained(NAME, cache_dir=tmp_path, local_files_only=True)


def test_push_uploads_what_save_pretrained_writes(monkeypatch):
    config = from_upstream_json(upstream_config())
    shapes = muq_names.rules.state_dict_shapes(muq_names.muq_table(config), muq_names.template(config))
    muq = MuQ(config, muq_names.from_torch_names(random_tensors(shapes), config))
    seen = {}

    class Api:
        endpoint = "https://hub"

        def create_repo(self, repo_id, private, exist_ok):
            seen["repo"] = repo_id, private, exist_ok

        def upload_folder(self, repo_id, folder_path, revision):
            seen["again"] = MuQ.from_pretrained(folder_path)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    assert muq.push_to_hub("me/muq") == "https://hub/me/muq"
    assert seen["repo"] == ("me/muq", True, True)
    np.testing.assert_array_equal(seen["again"].params["head"]["kernel"], muq.params["head"]["kernel"])
    monkeypatch.setattr(Api, "upload_folder", lambda *_, **__: 1 / 0)
    with pytest.raises(UserError, match=r"me/muq could not be written.*ZeroDivisionError: division by zero"):
        muq.push_to_hub("me/muq")
