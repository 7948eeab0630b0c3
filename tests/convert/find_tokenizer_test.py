from pathlib import Path

import huggingface_hub
import pytest

from muq_jax import MuQMuLan
from muq_jax.convert.find_tokenizer import XLM_ROBERTA, find_tokenizer
from muq_jax.convert.port import port
from muq_jax.errors import UserError


@pytest.fixture
def asked(monkeypatch, tokenizer_json):
    """Returns what the hub, a stand-in, was asked for."""
    calls = []

    def hf_hub_download(repo_id, name, **options):
        calls.append((repo_id, name, options))
        return str(tokenizer_json)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hf_hub_download)
    return calls


def test_what_is_given_goes_first_then_the_folder_then_the_hub(asked, tokenizer_json, tmp_path):
    assert find_tokenizer(tmp_path) is None
    assert find_tokenizer(tmp_path, from_hub=True, cache_dir="/c", local_files_only=True) == tokenizer_json
    assert asked == [(XLM_ROBERTA, "tokenizer.json", {"cache_dir": "/c", "local_files_only": True})]
    (tmp_path / "tokenizer.json").touch()
    assert find_tokenizer(tmp_path, from_hub=True) == tmp_path / "tokenizer.json"
    assert find_tokenizer(tmp_path, "other.json", from_hub=True) == Path("other.json")
    assert find_tokenizer(tmp_path, "typo/tokenizer.json") == Path("typo/tokenizer.json"), "no id on the hub"
    assert find_tokenizer(tmp_path, tmp_path) == tmp_path / "tokenizer.json"
    assert len(asked) == 1
    assert find_tokenizer(tmp_path, "me/tokenizer") == tokenizer_json
    assert asked[1][0] == "me/tokenizer"


def test_a_model_in_a_folder_reads_texts_with_the_tokenizer_of_the_hub(asked, mulan_folder, tmp_path):
    bare = tmp_path / "mulan"
    bare.mkdir()
    for path in mulan_folder.iterdir():
        if path.name != "tokenizer.json":
            (bare / path.name).write_bytes(path.read_bytes())
    with pytest.raises(UserError, match=rf"tokenizer='{XLM_ROBERTA}'"):
        MuQMuLan.from_pretrained(bare)(texts=["a"])
    assert not asked, "a folder never touches the network by itself"
    assert MuQMuLan.from_pretrained(bare, tokenizer=XLM_ROBERTA)(texts=["a"]).shape[0] == 1
    port(bare, tmp_path / "whole", tokenizer=XLM_ROBERTA)
    assert MuQMuLan.from_pretrained(tmp_path / "whole")(texts=["a"]).shape[0] == 1
    assert len(asked) == 2
