"""What the iterative stage builds on, and what is said before anything is written where it cannot."""

import json
import shutil

import jax
import numpy as np
import pytest

from experiments import build, stages, train
from experiments.configs import hidden_rvq, muq, muq_iter
from muq_jax import MuQ
from muq_jax.checkpoint import Checkpoints
from muq_jax.errors import UserError
from muq_jax.inference.load import params_sha256
from muq_jax.models.config import muq_config
from muq_jax.models.hidden_rvq import HiddenRVQ
from muq_jax.models.muq import MuQModel
from muq_jax.objectives.targets import HiddenRVQTargets, StoredTargets
from muq_jax.train.flops import muq_forward_flops


def fresh_muq(**overrides):
    config = muq_config("smoke", rvq=None, conformer={"width": 16, "num_layers": 4}, **overrides)
    wave = np.zeros((1, 2_000), np.float32)
    return MuQ(config, jax.jit(MuQModel(config).init)(jax.random.key(0), wave))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A model folder."""
    folder = tmp_path_factory.mktemp("teacher") / "muq"
    fresh_muq().save_pretrained(folder)
    return folder


def save_run(workdir, config, trainee, step):
    """Writes the work directory of a run that has come to `step`, without training."""
    params, state = jax.jit(trainee.objective.init)(jax.random.key(0))
    train._write_config(config, workdir)
    with Checkpoints(workdir) as checkpoints:
        items = {"params": params, "opt": {}, "model_state": {**state, **trainee.given}}
        checkpoints.save(step, items, {"model": trainee.model_config})


@pytest.fixture(scope="module")
def fitted(teacher, tmp_path_factory):
    """The work directory of a Hidden-RVQ whose run has come to its end, step 20."""
    config = hidden_rvq.get_config("smoke")
    config.targets.teacher = str(teacher)
    workdir = tmp_path_factory.mktemp("fitted")
    save_run(workdir, config, build.make_trainee(config, stages.before(config).maker), 20)
    return workdir


def iter_config(**targets):
    config = muq_iter.get_config("smoke")
    config.targets.update(targets)
    return config


def test_a_given_teacher_is_followed_by_a_hidden_rvq_of_its_layer(teacher):
    config = iter_config(teacher=str(teacher))
    config.data.crop_seconds, config.seed, config.model.dtype = 3.0, 7, "bfloat16"
    found = stages.before(config)
    assert found.folder == "hidden_rvq" and config.targets.layer == found.config.targets.layer == 3
    assert (found.config.seed, found.config.data.crop_seconds, found.config.data.source) == (
        7,
        3.0,
        "toy_music:40",
    )
    assert found.config.targets.sha256 == params_sha256(MuQ.from_pretrained(teacher))
    sizes = found.maker.config
    assert (sizes.layer, sizes.rvq.num_books, sizes.rvq.num_codes, sizes.rvq.input_dim) == (3, 8, 1024, 16)
    assert sizes.teacher.rvq is None and sizes.dtype == "bfloat16"
    mel = MuQ.from_pretrained(teacher).config.mel
    assert config.model.stat == (mel.mean, mel.std)


@pytest.mark.parametrize("layer", [0, 2, 4])
def test_another_layer_may_be_chosen(teacher, layer):
    assert stages.before(iter_config(teacher=str(teacher), layer=layer)).maker.config.layer == layer


@pytest.mark.parametrize("variant", ["base", "large"])
def test_the_papers_sizes_learn_from_layer_nine_of_twelve(variant, monkeypatch):
    monkeypatch.setattr(stages, "_trained_muq", lambda name, field: MuQ(muq_config(variant), {}))
    monkeypatch.setattr(stages, "params_sha256", lambda teacher: "0")
    config = muq_iter.get_config(variant)
    config.targets.teacher = "runs/muq"
    found = stages.before(config)
    assert config.targets.layer == found.maker.config.layer == 9
    assert found.maker.config.rvq.input_dim == muq_config(variant).conformer.width


def test_smoke_trains_its_own_teacher_first():
    config = iter_config()
    found = stages.before(config)
    below = stages.before(found.config)
    assert (found.folder, below.folder, stages.before(below.config).folder) == (
        "hidden_rvq",
        "teacher",
        "mel_rvq",
    )
    assert found.config.targets.sha256 is None and found.maker.config.layer == 1
    assert below.config.objective.name == "masked_prediction"
    assert (
        found.maker.config.teacher.mel == build.make_trainee(config, found.maker).objective.model.config.mel
    )


def test_a_fitted_hidden_rvq_brings_its_teacher(fitted):
    config = iter_config(rvq=str(fitted))
    found = stages.before(config)
    assert found.config is None and isinstance(found.maker, HiddenRVQ)
    trainee = build.make_trainee(config, found.maker)
    assert isinstance(trainee.objective.targets, HiddenRVQTargets)
    assert trainee.given == {"hidden_rvq": found.maker.variables} and trainee.stored is None
    model = trainee.objective.model.config
    assert model.rvq is None and not trainee.model_config["use_rvq_target"]
    config.targets.labels = "stored"
    stored = build.make_trainee(config, found.maker)
    heard = muq_forward_flops(found.maker.config.teacher, 48_000)
    assert trainee.flops_per_clip == stored.flops_per_clip + heard > heard


def hidden_config(fitted):
    config = hidden_rvq.get_config("smoke")
    config.targets.teacher = json.loads((fitted / "config.json").read_text())["targets"]["teacher"]
    return config


def test_stored_labels_leave_the_teacher_out_of_the_state(fitted):
    config = iter_config(rvq=str(fitted), labels="stored")
    trainee = build.make_trainee(config, stages.before(config).maker)
    assert isinstance(trainee.objective.targets, StoredTargets)
    assert trainee.given == {} and trainee.token_samples == 960
    state = jax.eval_shape(trainee.objective.init, jax.random.key(0))[1]
    assert state.keys() == {"batch_stats", "code_counts"}


def other_rate(folder):
    fresh_muq(label_rate=50).save_pretrained(folder)


def other_sample_rate(folder):
    fresh_muq(mel={"sample_rate_hz": 16_000, "hop_length": 160}).save_pretrained(folder)


def no_muq(folder):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "mel_rvq"}))


def unfinished(folder):
    config = muq.get_config("smoke")
    config.targets.name, config.model.stat = "random_projection", (6.0, 18.0)
    save_run(folder, config, build.make_trainee(config, None), 10)


@pytest.mark.parametrize(
    "make, said",
    [
        (no_muq, r"targets\.teacher=.*: .*config\.json holds a model of type 'mel_rvq'; expected muq"),
        (lambda folder: None, r"targets\.teacher=.*: There is no folder .*Give a model folder"),
        (other_rate, r"makes 50 tokens a second, model\.label_rate=25: set --config\.model\.label_rate=50"),
        (other_sample_rate, r"hears 16000 Hz, the data is read at 24000 Hz\. Take another one"),
        (unfinished, r"trained to step 10 of 30 only\. Run its command again.*or export it.*`convert`"),
    ],
    ids=["no MuQ", "nothing", "label rate", "sample rate", "unfinished"],
)
def test_a_teacher_that_cannot_serve_is_refused(tmp_path, monkeypatch, make, said):
    make(tmp_path / "teacher")
    monkeypatch.setattr(train.loop, "run", lambda *args, **kwargs: pytest.fail("it trains"))
    with pytest.raises(UserError, match=said):
        train.run(iter_config(teacher=str(tmp_path / "teacher")), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"targets.layer": 5}, r"targets\.layer=5: the teacher's layers are numbered 0 to 4"),
        ({"targets.fit": None}, r"targets\.rvq is not set.*--config\.targets\.fit=tiny"),
        ({"targets.fit": "tiny", "targets.teacher": None}, r"targets\.teacher is not set.*muq\.py:tiny"),
        ({"targets.rvq": "runs/rvq"}, r"targets\.rvq brings its own teacher and layer"),
        ({"targets.labels": "later"}, r"targets\.labels='later': expected one of computed, stored"),
        (
            {"targets.labels": "stored", "data.gain_db": (-6.0, 6.0)},
            r"use --config\.targets\.labels=computed",
        ),
        ({"model.mel.n_fft": 4096}, r"do not hear the same: mel\.n_fft 4096 and 2048"),
        ({"model.num_books": 9}, "the model predicts 9 books of 1024 codes, the targets have 8"),
        ({"model.dtype": "float16"}, r"model\.dtype='float16'"),
        ({"data.batch_size": 12}, "multiple of 8"),
        ({"data.source": "nowhere"}, "source 'nowhere'"),
    ],
)
def test_mistakes_are_named_before_anything_is_written(teacher, tmp_path, monkeypatch, changes, said):
    config = iter_config(teacher=str(teacher))
    config.data.batch_size = 8
    config.update_from_flattened_dict(changes)
    monkeypatch.setattr(train.loop, "run", lambda *args, **kwargs: pytest.fail("it trains"))
    with pytest.raises(UserError, match=f"(?s){said}"):
        train.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_is_no_hidden_rvq_is_refused(teacher):
    with pytest.raises(
        UserError, match="expected the work directory of a run of experiments/configs/hidden_rvq"
    ):
        stages.before(iter_config(rvq=str(teacher)))


def test_a_half_fitted_hidden_rvq_is_refused(fitted, tmp_path):
    shutil.copytree(fitted, tmp_path / "half")
    settings = json.loads((tmp_path / "half" / "config.json").read_text())
    settings["train"]["num_steps"] = 8100
    (tmp_path / "half" / "config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match="half: this Hidden-RVQ is fitted to step 20 of 8100 only"):
        stages.before(iter_config(rvq=str(tmp_path / "half")))


def test_a_run_does_not_go_on_with_another_teacher(fitted, teacher, tmp_path):
    config = hidden_config(fitted)
    other = fresh_muq()
    other.variables["params"]["head"]["bias"] += 1
    other.save_pretrained(tmp_path / "other")
    config.targets.teacher = str(tmp_path / "other")
    with pytest.raises(UserError, match=r"targets\.sha256: '.*' there, '.*' now"):
        train.run(config, fitted)
