"""The command line: exit statuses, one-line errors, and `prepare` itself."""

import concurrent.futures
import contextlib
import multiprocessing.util
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile

from muq_jax.cli import COMMANDS, DONE, FAILED, INTERRUPTED, SOME_FILES_FAILED, WRONG_USAGE, main


@pytest.fixture
def music(tmp_path):
    folder = tmp_path / "music"
    folder.mkdir()
    for i in range(3):
        soundfile.write(folder / f"{i}.wav", 0.1 * np.random.default_rng(i).standard_normal(12000), 24000)
    return folder


def test_prepare_and_again(tmp_path, music, capsys):
    command = ["prepare", str(music), str(tmp_path / "out"), "--processes", "1"]
    assert main(command) == DONE
    assert "3 clips" in capsys.readouterr().out
    assert main(command) == DONE
    assert capsys.readouterr().out.startswith("already prepared")


def test_parts_and_the_check_of_all(tmp_path, music, capsys):
    command = ["prepare", str(music), str(tmp_path / "out"), "--processes", "1", "--shard"]
    assert main([*command, "1/2"]) == DONE
    printed = capsys.readouterr().out
    assert "slice-00001-of-00002: 1 clips" in printed and "still to come: --shard 0/2; the last" in printed
    assert main(["prepare", "--check", str(tmp_path / "out")]) == FAILED
    assert "not finished" in capsys.readouterr().out
    assert main([*command, "0/2"]) == DONE
    assert "out: 3 clips" in capsys.readouterr().out
    assert main(["prepare", "--check", str(tmp_path / "out")]) == DONE
    assert "is whole: 3 records in 2 shards" in capsys.readouterr().out
    shard = tmp_path / "out/slice-00001-of-00002/shard-00000.array_record"
    shard.write_bytes(shard.read_bytes()[:-100])
    assert main(["prepare", "--check", str(tmp_path / "out")]) == FAILED
    assert "  slice-00001-of-00002/shard-00000.array_record: its SHA-256" in capsys.readouterr().out


def test_rejects_are_listed_and_change_the_status(tmp_path, music, capsys):
    soundfile.write(music / "silent.wav", np.zeros(24000), 24000)
    assert main(["prepare", str(music), str(tmp_path / "out"), "--processes", "1"]) == SOME_FILES_FAILED
    assert "silent.wav: silent" in capsys.readouterr().out


def test_a_name_that_is_not_utf8_is_printed(tmp_path, music, capsys):
    soundfile.write(music / "a.wav", np.zeros(24000), 24000)
    (music / "a.wav").rename(music / "caf\udce9.wav")
    assert main(["prepare", str(music), str(tmp_path / "out"), "--processes", "1"]) == SOME_FILES_FAILED
    assert r"caf\udce9.wav: silent" in capsys.readouterr().out


def test_a_users_mistake_is_one_line(tmp_path, capsys):
    assert main(["prepare", str(tmp_path / "none"), str(tmp_path / "out")]) == FAILED
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["a"],
        ["a", "b", "--chanel", "1"],
        ["a", "b", "--channel", "left"],
        ["a", "b", "--shard", "3/3"],
        ["a", "b", "--shard", "0"],
        ["a", "--check", "b"],
        ["--check"],
    ],
)
def test_wrong_usage_of_a_command(arguments, capsys):
    with pytest.raises(SystemExit) as status:
        main(["prepare", *arguments])
    assert status.value.code == WRONG_USAGE
    assert "usage" in capsys.readouterr().err


def test_wrong_or_no_command(capsys):
    assert main(["prepar"]) == WRONG_USAGE
    assert "did you mean prepare?" in capsys.readouterr().err
    assert main(["xyzzy"]) == WRONG_USAGE
    assert "expected one of" in capsys.readouterr().err
    assert main([]) == WRONG_USAGE
    assert "usage" in capsys.readouterr().err


def test_help(capsys):
    assert main(["--help"]) == DONE
    overview = capsys.readouterr().out
    for name in COMMANDS:
        assert f"\n  {name}" in overview
        with pytest.raises(SystemExit) as status:
            main([name, "--help"])
        assert status.value.code == DONE
        assert f"example:\n  python -m muq_jax {name} " in capsys.readouterr().out


def test_ctrl_c(tmp_path, music, monkeypatch, capsys):
    import muq_jax.data.workers as room

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(room, "convert", interrupted)
    assert main(["prepare", str(music), str(tmp_path / "out"), "--processes", "1"]) == INTERRUPTED
    assert "run the same command again" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["music"]


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_a_process_starts(tmp_path, music, monkeypatch, capfd, sent):
    start = multiprocessing.util.spawnv_passfds
    started = []

    def signalled(path, args, files):
        number = start(path, args, files)
        if "--multiprocessing-fork" in args:  # a worker, not the tracker of resources
            started.append(number)
            assert sent in signal.pthread_sigmask(signal.SIG_BLOCK, [])  # which it inherits
            os.kill(os.getpid(), sent)  # before it was told what to do
        return number

    monkeypatch.setattr(multiprocessing.util, "spawnv_passfds", signalled)
    with concurrent.futures.ThreadPoolExecutor(1) as other:  # a thread that holds nothing back
        over = threading.Event()
        other.submit(over.wait)
        status = main(["prepare", str(music), str(tmp_path / "out"), "--processes", "2"])
        over.set()
    assert status == INTERRUPTED and started
    for number in started:
        with contextlib.suppress(ChildProcessError):  # one that was waited for
            os.waitpid(number, 0)
    assert capfd.readouterr().err == "interrupted; run the same command again\n"
    assert os.listdir(tmp_path) == ["music"]


@pytest.mark.parametrize("dying", [0, 1])
def test_a_process_that_dies(tmp_path, music, monkeypatch, capfd, dying):
    start, submit = multiprocessing.util.spawnv_passfds, concurrent.futures.ProcessPoolExecutor.submit
    started, submitted = [], []

    def noted(path, args, files):
        number = start(path, args, files)
        if "--multiprocessing-fork" in args:
            started.append(number)
        return number

    def killed_after_the_last(*args):
        submitted.append(submit(*args))
        if len(submitted) == 3:
            os.kill(started[dying], signal.SIGKILL)
        return submitted[-1]

    monkeypatch.setattr(multiprocessing.util, "spawnv_passfds", noted)
    monkeypatch.setattr(concurrent.futures.ProcessPoolExecutor, "submit", killed_after_the_last)
    assert main(["prepare", str(music), str(tmp_path / "out"), "--processes", "2"]) == FAILED
    assert "a decoding process died, probably for want of memory" in capfd.readouterr().err
    assert len(started) == 2 and os.listdir(tmp_path) == ["music"]


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("once_there", ["out.partial", "out.partial/*.array_record"])
def test_a_signal_stops_all_processes_and_leaves_nothing(tmp_path, music, sent, once_there, wait_for):
    for i in range(3, 60):
        soundfile.write(music / f"{i}.wav", 0.1 * np.random.default_rng(i).standard_normal(24000 * 20), 24000)
    command = [
        sys.executable,
        "-m",
        "muq_jax",
        "prepare",
        str(music),
        str(tmp_path / "out"),
        "--processes",
        "2",
    ]
    root = Path(__file__).parents[2]
    process = subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_for(process, lambda: list(tmp_path.glob(once_there)))
    # To the whole group, as a terminal does.
    os.killpg(process.pid, sent)
    _, err = process.communicate(timeout=60)
    assert process.returncode == INTERRUPTED, err
    assert err == "interrupted; run the same command again\n"
    assert os.listdir(tmp_path) == ["music"]
