"""Major and minor by key profiles."""

import json

import numpy as np
import pytest
import soundfile

from experiments import key_profiles

RATE_HZ = 24_000
SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}


def scale_and_chord(mode, tonic):
    """A scale, up and down, then its tonic chord: tones of four partials."""
    times = np.arange(RATE_HZ // 4) / RATE_HZ

    def tone(degree):
        hz = 440 * 2 ** ((60 + tonic + degree - 69) / 12)
        return sum(np.sin(2 * np.pi * n * hz * times) / n for n in range(1, 5)) * np.hanning(len(times))

    scale = SCALES[mode]
    chord = sum(tone(scale[degree]) for degree in (0, 2, 4))
    melody = [tone(degree) for degree in (*scale, 12, *reversed(scale))]
    return 0.1 * np.concatenate([*melody, chord, chord, chord]).astype(np.float32)


@pytest.mark.parametrize("mode", SCALES)
@pytest.mark.parametrize("tonic", [0, 1, 6, 11])
def test_scales_with_their_chord_are_told_apart_in_any_key(mode, tonic):
    assert key_profiles.mode_of(scale_and_chord(mode, tonic)) == mode


def test_command_counts_what_has_no_label_and_scores_beside_the_most_frequent(tmp_path, capsys):
    rows = []
    for tonic, mode in enumerate(["major", "minor", "major", None]):
        soundfile.write(tmp_path / f"{tonic}.wav", scale_and_chord(mode or "major", tonic), RATE_HZ)
        rows.append({"path": f"{tonic}.wav", "split": "test", "mode": mode, "key": "C"})
    manifest = tmp_path / "music.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert key_profiles.main([str(manifest)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "3 tracks, 1 more without 'mode'",
        "always major: accuracy 0.667, balanced 0.500",
        "key profiles: accuracy 1.000, balanced 1.000",
    ]
    assert key_profiles.main([str(manifest), "--label", "key"]) == 1
    assert "'key' is not a column of 'major' and 'minor'; found ['C']" in capsys.readouterr().err
    assert key_profiles.main([str(manifest), "--label", "none"]) == 1
    assert "found no value" in capsys.readouterr().err
    soundfile.write(tmp_path / "1.wav", np.zeros(RATE_HZ), RATE_HZ)
    assert key_profiles.main([str(manifest)]) == 1
    assert "1.wav: silence has no mode" in capsys.readouterr().err
