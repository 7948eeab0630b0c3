import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
COLABS = sorted((ROOT / "colabs").glob("*.ipynb"))

# What each run of a notebook says, one after the other in one work directory, and how many plots it shows.
RUNS = {
    "1_features": ([("RANDOM WEIGHTS", "frames of the song: 400", "0.12 ... 15.96 s", "features.npz")], 6),
    "2_music_text_search": (
        [
            (
                "12 tracks",
                "12 files were new",
                "text: a slow ballad",
                "like: ",
                "says nothing about the music",
            ),
            ("12 tracks", "0 failed; 0 files were new", "text: a slow ballad"),
        ],
        3,
    ),
    "3_convert": (
        [
            (
                "original: not compared with the original",
                "largest difference: 0.0",
                "a tensor that was never filled: REFUSED",
                "a tensor of another name: REFUSED",
                "another size: REFUSED",
                "a value that is no number: REFUSED",
                ": accepted",
                "queries and keys of the second layer swapped: REFUSED",
                "names and values equal those of the first file",
            )
        ],
        1,
    ),
    # It is stopped and goes on; then it is left alone.
    "4_pretrain": ([("interrupted at step", "done at step 30"), ("was done at step 30",)], 10),
    "5_probe": (
        [
            (
                "train:  36 clips",
                "UNTRAINED",
                "custom, logmel: accuracy",
                "custom, untrained MuQ: accuracy",
                "without hearing: ",
                "key, cqt: weighted_key_score",
                "untrained MuQ minus logmel: ",
                "--shots 4",
                "beside the commands' own",
                "toprule",
                "gtzan_genre",
            ),
            ("already done: ",),
        ],
        7,
    ),
}


def code_of(path: Path) -> list[str]:
    return [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def test_every_colab_is_run():
    assert [path.stem for path in COLABS] == list(RUNS)


def test_all_colabs_install_and_say_where_they_run_by_the_same_cells():
    assert len({tuple(code_of(path)[:2]) for path in COLABS}) == 1


@pytest.mark.parametrize("path", COLABS, ids=lambda path: path.stem)
def test_a_colab_that_names_released_weights_says_their_licence(path):
    text = path.read_text()
    assert "OpenMuQ/" not in text or "CC-BY-NC 4.0" in text


@pytest.mark.parametrize("path", COLABS, ids=lambda path: path.stem)
def test_the_install_cell_names_the_address_of_pyproject(path):
    address = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
    assert f'REPOSITORY = "{address}"' in code_of(path)[0]
    text = path.read_text()
    assert text.count(address) == 1, "the address stands in one place of the notebook"


@pytest.mark.parametrize("path", COLABS, ids=lambda path: path.stem)
def test_a_colab_is_valid_stripped_and_short(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None
            assert len(cell.source.splitlines()) <= 35, cell.source
    assert any(cell.cell_type == "markdown" for cell in notebook.cells)


@pytest.mark.slow
@pytest.mark.parametrize("path", COLABS, ids=lambda path: path.stem)
def test_a_colab_runs_from_top_to_bottom(path, tmp_path):
    """In its small setting, from a copy, so that no output gets into the repository's file."""
    copy = tmp_path / "colabs" / path.name
    copy.parent.mkdir()
    copy.write_bytes(path.read_bytes())
    for name in ("muq_jax", "experiments"):
        (tmp_path / name).symlink_to(ROOT / name)
    environment = os.environ | {"MUQ_JAX_SMOKE": "1", "MUQ_JAX_WORKDIR": str(tmp_path / "run")}
    environment.pop("XLA_FLAGS", None)  # one device, as a reader has: its batches do not divide over eight
    options = ["--nbmake", "--overwrite", "--nbmake-timeout=1800", "-o", "addopts=", "-p", "no:cacheprovider"]
    runs, num_plots = RUNS[path.stem]
    for expected in runs:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *options, "--rootdir", str(tmp_path), str(copy)],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout[-4000:]
        cells = json.loads(copy.read_text())["cells"]
        outputs = [output for cell in cells for output in cell.get("outputs", [])]
        text = "".join("".join(output.get("text", [])) for output in outputs)
        assert [words for words in expected if words not in text] == []
        assert sum("image/png" in output.get("data", {}) for output in outputs) >= num_plots
