"""Who may import whom: the house stays a line, data flows one way."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

GROUPS = [
    {"errors"},
    {"audio", "text", "nn", "quantize"},
    {"models"},
    {"objectives", "convert"},
    {"parallel", "checkpoint"},
    {"data", "train", "inference"},
    {"probe"},
    {"report"},
    {"cli"},
    {"__main__"},
]
RANK = {room: rank for rank, group in enumerate(GROUPS) for room in group}
ALSO = {("convert", "checkpoint")}
ONLY_FROM_DATA = {
    "muq_jax.audio.decode",
    "muq_jax.audio.files",
    "muq_jax.audio.filters",
    "muq_jax.audio.mel_numpy",
    "muq_jax.text",
    "muq_jax.errors",
}
# Third-party packages that one place alone may import.
CONFINED = {
    "orbax": ("muq_jax/checkpoint.py",),
    "grain": ("muq_jax/data/",),
    "array_record": ("muq_jax/data/",),
    "tensorflow_datasets": ("muq_jax/data/",),
    "apache_beam": ("muq_jax/data/prepare_beam.py",),
    "torch": ("muq_jax/convert/legacy.py",),
    "ml_collections": (),
    "tensorflow": (),
    "transformers": (),
    "torchaudio": (),
}
SOURCES = sorted((ROOT / "muq_jax").rglob("*.py"))


def imported_names(path: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def room_of(path: Path) -> str:
    first = path.relative_to(ROOT / "muq_jax").parts[0]
    return first.removesuffix(".py")


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_leftward_only(path):
    room = room_of(path)
    for name in imported_names(path):
        if not name.startswith("muq_jax.") or room == "__init__":
            continue
        other = name.split(".")[1]
        if other == room or other == "__version__":
            continue
        assert other in RANK, f"{path}: {name} is in no room"
        assert RANK[other] < RANK[room] or (room, other) in ALSO, f"{room} imports {name}"
        if room == "data":
            assert any(name == allowed or name.startswith(allowed + ".") for allowed in ONLY_FROM_DATA), name


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_confined_packages_stay_where_they_belong(path):
    here = str(path.relative_to(ROOT))
    for name in imported_names(path):
        package = name.split(".")[0]
        if package in CONFINED:
            assert any(here.startswith(place) for place in CONFINED[package]), f"{here} imports {name}"
        if here.startswith("muq_jax/data/"):
            assert package not in ("jax", "flax"), f"{here} imports {name}"
        assert name not in ("absl.flags", "absl.app") or here == "muq_jax/data/pipeline.py", f"{here}: {name}"


def test_importing_the_package_imports_nothing_heavy():
    code = (
        "import sys, muq_jax; print([m for m in sys.modules if m.split('.')[0] in ('jax', 'numpy', 'flax')])"
    )
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_no_file_outgrows_one_idea():
    places = [*SOURCES, *(ROOT / "experiments").rglob("*.py")]
    long = {str(p.relative_to(ROOT)): n for p in places if (n := len(p.read_text().splitlines())) > 600}
    assert not long


def test_no_file_has_a_name_that_says_nothing():
    for path in [*SOURCES, *(ROOT / "experiments").rglob("*.py")]:
        assert path.stem not in ("utils", "util", "misc", "helpers", "common"), path
