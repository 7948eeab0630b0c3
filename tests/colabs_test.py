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


def code_of(path: Path) -> list[str]:
    return [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def test_there_is_a_colab():
    assert ROOT / "colabs" / "4_pretrain.ipynb" in COLABS


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
    for expected in (("interrupted at step", "done at step 30"), ("was done at step 30",)):
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
        assert all(words in text for words in expected), "it is stopped and goes on; then it is left alone"
        assert sum("image/png" in output.get("data", {}) for output in outputs) >= 10
