"""`python -m muq_jax` as a process: what it keeps between commands."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHOW = "from muq_jax import __main__ as m; import os; m._keep_what_is_compiled(); "
SHOW += "print(os.environ.get({!r}))"
FOLDER, LEAST_SECONDS = "JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"


def kept_in(variable=FOLDER, **environment):
    clean = {name: value for name, value in os.environ.items() if name not in (FOLDER, LEAST_SECONDS)}
    command = [sys.executable, "-c", SHOW.format(variable)]
    done = subprocess.run(
        command, cwd=ROOT, env=clean | environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_compiled_programs_are_kept_in_the_users_cache(tmp_path):
    folder = kept_in(XDG_CACHE_HOME=str(tmp_path))
    assert Path(folder).parent == tmp_path / "muq_jax" and Path(folder).is_dir()
    assert kept_in(XDG_CACHE_HOME=str(tmp_path)) == folder


def test_small_programs_are_kept_too(tmp_path):
    assert kept_in(LEAST_SECONDS, XDG_CACHE_HOME=str(tmp_path)) == "0"
    assert kept_in(LEAST_SECONDS, **{LEAST_SECONDS: "2"}, XDG_CACHE_HOME=str(tmp_path)) == "2"


@pytest.mark.parametrize("said", ["", "/somewhere"])
def test_what_the_user_says_holds(tmp_path, said):
    assert kept_in(JAX_COMPILATION_CACHE_DIR=said, XDG_CACHE_HOME=str(tmp_path)) == said
    assert not list(tmp_path.iterdir())


def test_a_cache_that_cannot_be_made_is_done_without(tmp_path):
    (tmp_path / "file").touch()
    assert kept_in(XDG_CACHE_HOME=str(tmp_path / "file")) == "None"


def test_a_user_without_a_home_is_done_without(tmp_path, monkeypatch):
    from muq_jax import __main__ as main

    def no_home():
        raise RuntimeError("Could not determine home directory.")

    for name in (FOLDER, "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    main._keep_what_is_compiled()
    assert FOLDER not in os.environ
