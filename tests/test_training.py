"""Recipes, schedule and optimizer against published formulas, and runs that are killed."""

from __future__ import annotations

import csv
import functools
import itertools
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import SENTENCES

import keras_agnews
from keras_agnews import InputError, TrainingError, batching, bundle

pytestmark = pytest.mark.backend

TEXTS = [text for text, _ in SENTENCES] * 4
LABELS = [label for _, label in SENTENCES] * 4
OPTIONS: dict[str, Any] = {"epochs": 3, "batch_size": 8, "learning_rate": 3e-3}


def numpy(value: Any) -> np.ndarray:
    import keras

    return keras.ops.convert_to_numpy(value)


def fresh_model() -> Any:
    import keras

    keras.utils.set_random_seed(4)
    return keras_agnews.load("tiny-transformer", weights=None)


def weights(classifier: Any) -> list[np.ndarray]:
    return [numpy(w.value).copy() for w in classifier.model.weights]


def accuracy(classifier: Any) -> float:
    return float(
        np.mean([p.label == y for p, y in zip(classifier.classify(TEXTS), LABELS, strict=True)])
    )


@pytest.mark.parametrize(("total", "warmup"), [(100, 0.1), (100, 7), (10, 0), (3, 0.5), (1, 0.1)])
def test_schedule_is_the_published_one(total: int, warmup: float) -> None:
    rise = round(warmup * total) if isinstance(warmup, float) else warmup
    schedule = keras_agnews.WarmupLinearDecay(3e-5, total, warmup)
    for step in range(total + 3):
        if step < rise:
            expected = np.float64(3e-5) * step / rise
        else:
            expected = np.float64(3e-5) * max(0, total - step) / max(1, total - rise)
        np.testing.assert_allclose(float(numpy(schedule(step))), expected, rtol=1e-5, atol=1e-12)


def test_schedule_serializes_and_refuses_nonsense() -> None:
    import keras

    schedule = keras_agnews.WarmupLinearDecay(1e-4, 50, 5)
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(schedule)))
    again = keras.saving.deserialize_keras_object(config)
    assert again.get_config() == schedule.get_config()
    optimizer = keras.optimizers.AdamW(schedule)
    assert type(optimizer).from_config(optimizer.get_config()).get_config()
    share = keras_agnews.WarmupLinearDecay(1e-4, 50, np.float32(0.1))
    assert share.warmup_steps == 5
    assert json.dumps(share.get_config())
    nan = float("nan")
    for arguments in (
        *((0.0, 10), (nan, 10), (1e-3, 0), (1e-3, nan)),
        *((1e-3, 10, 1.5), (1e-3, 10, 11), (1e-3, 10, nan)),
    ):
        with pytest.raises(InputError):
            keras_agnews.WarmupLinearDecay(*arguments)


def test_optimizer_is_adamw_with_clipping_and_decay_on_kernels_only() -> None:
    import keras

    from keras_agnews.recipes import Recipe, make_optimizer

    recipe = Recipe(learning_rate=0.1, weight_decay=0.3, clip_norm=1.0, warmup=0.25)
    layer = keras.layers.Dense(3, name="some_dense")
    layer.build((None, 2))
    optimizer = make_optimizer(recipe, total_steps=8)
    rng = np.random.default_rng(0)
    optimizer.build(layer.trainable_variables)
    kernel, bias = (numpy(v.value).astype(np.float64) for v in layer.trainable_variables)
    moments = [[np.zeros_like(x), np.zeros_like(x)] for x in (kernel, bias)]
    values = [kernel, bias]
    for step in range(6):
        gradients = [rng.normal(0, 5, x.shape).astype("float32") for x in values]
        optimizer.apply([keras.ops.convert_to_tensor(g) for g in gradients])
        norm = np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in gradients))
        rate = 0.1 * (step / 2 if step < 2 else (8 - step) / 6)
        for i, gradient in enumerate(gradients):
            g = gradient.astype(np.float64) / max(1.0, norm)
            m, v = moments[i]
            m[:] = 0.9 * m + 0.1 * g
            v[:] = 0.999 * v + 0.001 * g**2
            if i == 0:  # the kernel decays, the bias does not
                values[i] = values[i] - rate * 0.3 * values[i]
            mean, variance = m / (1 - 0.9 ** (step + 1)), v / (1 - 0.999 ** (step + 1))
            values[i] = values[i] - rate * mean / (np.sqrt(variance) + 1e-8)
    for variable, expected in zip(layer.trainable_variables, values, strict=True):
        np.testing.assert_allclose(numpy(variable.value), expected, atol=1e-4)


def test_full_recipe_learns_and_keeps_its_best_epoch(tmp_path: Path) -> None:
    clf = fresh_model()
    result = keras_agnews.finetune(
        clf, (TEXTS, LABELS), (TEXTS, LABELS), output=tmp_path / "m", **{**OPTIONS, "epochs": 20}
    )
    history = result["history"]
    assert accuracy(clf) == max(row["validation_accuracy"] for row in history) > 0.8
    with open(tmp_path / "m" / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == list(range(1, 21))
    assert float(rows[-1]["learning_rate"]) == pytest.approx(0, abs=1e-9)
    again = keras_agnews.load(tmp_path / "m")
    np.testing.assert_allclose(again.predict(TEXTS), clf.predict(TEXTS), atol=1e-6)
    assert again.description.recipe["learning_rate"] == OPTIONS["learning_rate"]
    assert again.description.recipe["rows"] == len(TEXTS)


@pytest.mark.once
def test_the_best_epoch_is_not_always_the_last(tmp_path: Path) -> None:
    """The weights and the figures are both its own; of equal accuracies the smaller loss wins."""
    names = sorted(set(LABELS))
    wrong = [names[names.index(label) - 1] for label in LABELS]  # which it knows less and less
    clf = fresh_model()
    result = keras_agnews.finetune(
        clf, (TEXTS, LABELS), (TEXTS, wrong), output=tmp_path, **{**OPTIONS, "epochs": 6}
    )
    history = result["history"]
    best = max(history, key=lambda row: (row["validation_accuracy"], -row["validation_loss"]))
    assert result["best_epoch"] == best["epoch"] < 6
    figures = {row["metric"]: row["value"] for row in clf.description.results}
    assert figures["loss"] == pytest.approx(best["validation_loss"], rel=1e-6)
    assert clf.temperature == best["temperature"]
    answers = np.array([prediction.label for prediction in clf.classify(TEXTS)])
    assert np.mean(answers == np.array(wrong)) == pytest.approx(best["validation_accuracy"])

    options = {**OPTIONS, "epochs": 12}
    result = keras_agnews.finetune(
        fresh_model(), (TEXTS, LABELS), (TEXTS[:1], LABELS[:1]), **options
    )
    right = [row for row in result["history"] if row["validation_accuracy"] == 1]
    least = min(right, key=lambda row: row["validation_loss"])
    assert result["best_epoch"] == least["epoch"] > right[0]["epoch"]


def kill_after(monkeypatch: pytest.MonkeyPatch, checkpoints: int) -> None:
    """Interrupt the training as soon as it has written so many checkpoints."""
    from keras_agnews.resumable import ResumableFit

    write, count = ResumableFit.checkpoint, itertools.count(1)

    def killed(self: Any, epoch: int, batch: int) -> None:
        write(self, epoch, batch)
        if next(count) == checkpoints:
            raise KeyboardInterrupt

    monkeypatch.setattr("keras_agnews.resumable.ResumableFit.checkpoint", killed)


RESUMED: dict[str, dict[str, Any]] = {
    "full": {**OPTIONS, "recipe": "full", "word_dropout": 0.2},
    "head": {**OPTIONS, "recipe": "head"},
    "averaged": {**OPTIONS, "ema_momentum": 0.7},
}


@pytest.fixture(scope="module")
def unbroken(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], tuple[list[np.ndarray], list[dict[str, Any]]]]:
    """The weights and the history of a run of a recipe that nothing interrupts."""

    @functools.cache
    def run(recipe: str) -> tuple[list[np.ndarray], list[dict[str, Any]]]:
        classifier, data = fresh_model(), (TEXTS, LABELS)
        output = tmp_path_factory.mktemp(recipe) / "m"
        result = keras_agnews.finetune(classifier, data, data, output=output, **RESUMED[recipe])
        return weights(classifier), result["history"]

    return run


# With four batches an epoch: after the second batch, after an epoch's last one and before what the
# epoch's end does, and in the midst of the second epoch.
@pytest.mark.parametrize(
    ("recipe", "checkpoints"),
    [
        *(("full", 7), ("head", 7)),
        *(
            pytest.param(*run, marks=pytest.mark.once)
            for run in (("full", 2), ("head", 2), ("averaged", 4), ("averaged", 7))
        ),
    ],
)
def test_a_resumed_run_is_bit_equal_to_an_unbroken_one(
    recipe: str, checkpoints: int, unbroken: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from keras_agnews import resumable

    expected_weights, expected_history = unbroken(recipe)
    data, options = (TEXTS, LABELS), RESUMED[recipe]
    monkeypatch.setattr(resumable, "CHECKPOINT_SECONDS", 0.0)  # after every batch
    with monkeypatch.context() as patch:
        kill_after(patch, checkpoints)
        with pytest.raises(KeyboardInterrupt):
            keras_agnews.finetune(fresh_model(), data, data, output=tmp_path / "b", **options)
    resumed = fresh_model()
    result = keras_agnews.finetune(
        resumed, data, data, output=tmp_path / "b", resume=True, **options
    )
    for one, other in zip(expected_weights, weights(resumed), strict=True):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(expected_history, result["history"], strict=True):
        assert one["validation_loss"] == other["validation_loss"]
    again = keras_agnews.finetune(
        fresh_model(), data, data, output=tmp_path / "b", resume=True, **options
    )
    assert again["history"] == result["history"], "a finished run has nothing left to do"


@pytest.mark.once
def test_a_resumed_run_goes_on_with_the_generators_of_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    import keras

    from keras_agnews import resumable

    if keras.backend.backend() != "torch":
        pytest.skip("the other backends' generators are variables of the model")
    states, restored = [torch.full((16,), i, dtype=torch.uint8) for i in (3, 5)], []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: states)
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", restored.append)
    apples = torch.full((16,), 7, dtype=torch.uint8)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: apples)
    monkeypatch.setattr(torch.mps, "set_rng_state", lambda state: restored.append([state]))
    monkeypatch.setattr(resumable, "CHECKPOINT_SECONDS", 0.0)
    data, options = (TEXTS, LABELS), {**OPTIONS, "epochs": 1, "output": tmp_path}
    with monkeypatch.context() as patch:
        kill_after(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            keras_agnews.finetune(fresh_model(), data, **options)
    assert not restored
    keras_agnews.finetune(fresh_model(), data, resume=True, **options)
    assert [[int(state[0]) for state in each] for each in restored] == [[3, 5], [7]]


def test_an_epoch_ends_with_the_moving_average_of_its_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from keras_agnews import resumable

    options, data, steps = {**OPTIONS, "epochs": 1}, (TEXTS, LABELS), []
    plain = fresh_model()

    def end(watcher: Any, batch: int, logs: Any = None) -> None:
        _ = watcher.model  # on JAX, this brings the model's variables up to date
        steps.append([w.astype(np.float64) for w in weights(plain)])

    with monkeypatch.context() as patch:
        patch.setattr(resumable._Watcher, "on_train_batch_end", end)  # noqa: SLF001
        keras_agnews.finetune(plain, data, **options)
    average = steps[0]
    for step in steps[1:]:
        average = [0.7 * one + 0.3 * other for one, other in zip(average, step, strict=True)]
    averaged = fresh_model()
    keras_agnews.finetune(averaged, data, ema_momentum=0.7, **options)
    trained = len(averaged.model.trainable_weights)
    assert len(steps) == 4
    assert trained
    moved = 0.0
    for one, expected, last in zip(weights(averaged), average, steps[-1], strict=True):
        np.testing.assert_allclose(one, expected, atol=1e-5)
        moved = max(moved, float(abs(one - last).max()))
    assert moved > 1e-3


@pytest.mark.once
def test_a_run_records_what_it_cost_and_a_killed_one_both_its_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from keras_agnews import resumable

    clock = itertools.count(0, 60)  # a minute from one look to the next
    monkeypatch.setattr(resumable.time, "monotonic", lambda: float(next(clock)))
    monkeypatch.setattr(resumable, "CHECKPOINT_SECONDS", 0.0)
    data, options = (TEXTS, LABELS), {**OPTIONS, "epochs": 2, "output": tmp_path / "m"}
    with monkeypatch.context() as patch:
        kill_after(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            keras_agnews.finetune(fresh_model(), data, **options)
    before = float(next(clock))
    result = keras_agnews.finetune(fresh_model(), data, resume=True, **options)
    seconds = [row["seconds"] for row in result["history"]]
    recipe = keras_agnews.load(tmp_path / "m").description.recipe
    assert recipe["minutes"] == sum(seconds) / 60
    assert seconds[0] > before / 2 > 60, "the part before the kill counts"
    assert recipe["device"].startswith(("CPU, ", "GPU, "))


@pytest.mark.once
def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    data = (TEXTS, LABELS)
    keras_agnews.finetune(fresh_model(), data, output=tmp_path, **OPTIONS)
    for changed, message in (
        ({"learning_rate": 1e-4}, "learning_rate"),
        ({"seed": 3}, "seed"),
    ):
        with pytest.raises(TrainingError, match=message):
            keras_agnews.finetune(
                fresh_model(), data, output=tmp_path, resume=True, **{**OPTIONS, **changed}
            )
    other = (TEXTS, LABELS[1:] + LABELS[:1])
    same_lengths = ([f"x{text[1:]}" for text in TEXTS], LABELS)
    for rows in (other, same_lengths):
        with pytest.raises(TrainingError, match="data"):
            keras_agnews.finetune(fresh_model(), rows, output=tmp_path, resume=True, **OPTIONS)
    with pytest.raises(TrainingError, match="data"):
        keras_agnews.finetune(fresh_model(), data, data, output=tmp_path, resume=True, **OPTIONS)


@pytest.mark.once
def test_a_head_is_not_gone_on_with_on_another_encoder(tmp_path: Path) -> None:
    options = {**OPTIONS, "recipe": "head", "output": tmp_path}
    keras_agnews.finetune(fresh_model(), (TEXTS, LABELS), **options)
    other = fresh_model()
    for variable in other.encoder.weights:
        variable.assign(variable.value * 0.9)
    with pytest.raises(TrainingError, match="data"):
        keras_agnews.finetune(other, (TEXTS, LABELS), resume=True, **options)


@pytest.mark.parametrize("recipe", ["full", "head", "lora"])
def test_a_classifier_can_be_trained_and_measured_after_a_run(recipe: str) -> None:
    clf = fresh_model()
    clf.encoder.embedding.trainable = False
    frozen = [variable.trainable for variable in clf.model.weights]
    assert not all(frozen)
    options = {**OPTIONS, "recipe": recipe, "teacher": "tiny-transformer", "epochs": 1}
    if recipe == "lora":
        options["delta_rank"] = 2
    keras_agnews.finetune(clf, (TEXTS, LABELS), **options)
    assert [variable.trainable for variable in clf.model.weights] == frozen
    assert len(clf.evaluate(TEXTS, LABELS, verbose=0)) == 2
    before = weights(clf)
    clf.fit(TEXTS, LABELS, batch_size=8, verbose=0)
    moved = [(new != old).any() for new, old in zip(weights(clf), before, strict=True)]
    assert moved == frozen


def test_head_recipe_leaves_the_encoder_and_runs_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from keras_agnews.classifier import TextClassifier

    clf = fresh_model()
    seen: list[int] = []
    features = TextClassifier.features

    def counted(self: Any, texts: Any, *args: Any) -> Any:
        seen.append(len(texts))
        return features(self, texts, *args)

    monkeypatch.setattr(TextClassifier, "features", counted)
    before = weights(clf)
    result = keras_agnews.finetune(
        clf, (TEXTS, LABELS), (TEXTS[:8], LABELS[:8]), recipe="head", epochs=30, batch_size=8
    )
    assert sum(seen) == len(TEXTS) + 8
    names = [w.path for w in clf.model.weights]
    for name, old, new in zip(names, before, weights(clf), strict=True):
        assert np.array_equal(old, new) == name.startswith("encoder/"), name
    assert result["history"][-1]["loss"] < result["history"][0]["loss"]
    assert clf.encoder.trainable


@pytest.mark.once
def test_steps_limit_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    from keras_agnews.classifier import TextClassifier

    seen: list[int] = []
    features = TextClassifier.features

    def counted(self: Any, texts: Any, *args: Any) -> Any:
        seen.append(len(texts))
        return features(self, texts, *args)

    monkeypatch.setattr(TextClassifier, "features", counted)
    data = (TEXTS, LABELS)
    keras_agnews.finetune(
        fresh_model(),
        data,
        data,
        recipe="head",
        epochs=1,
        batch_size=4,
        steps_per_epoch=2,
        validation_steps=1,
    )
    assert seen == [8, 4]


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_weights(tmp_path: Path) -> None:
    clf = fresh_model()
    bias = next(w for w in clf.model.weights if w.path == "logits/bias")
    bias.assign([np.nan, 0, 0, 0])
    with pytest.raises(TrainingError, match=r"not finite in epoch 1, batch 1: .* learning_rate"):
        keras_agnews.finetune(clf, (TEXTS, LABELS), output=tmp_path / "x", **OPTIONS)
    assert not (tmp_path / "x" / "config.json").exists()


def test_a_run_that_fails_in_its_first_epoch_gives_the_weights_back() -> None:
    clf = fresh_model()
    before = weights(clf)
    options = {**OPTIONS, "learning_rate": 10.0, "warmup": 0.0, "clip_norm": 0.0, "epochs": 200}
    options["weight_decay"] = 10.0
    with pytest.raises(TrainingError, match=r"not finite .* the weights are those before the run"):
        keras_agnews.finetune(clf, (TEXTS * 40, LABELS * 40), **options)
    for new, old in zip(weights(clf), before, strict=True):
        np.testing.assert_array_equal(new, old)


def break_off(monkeypatch: pytest.MonkeyPatch, stage: str, epoch: int, interrupt: bool) -> None:
    """In the second batch of an epoch of a stage, interrupt the run, or let its loss be NaN."""
    from keras_agnews import resumable

    end = resumable._Watcher.on_train_batch_end  # noqa: SLF001

    def broken(watcher: Any, batch: int, logs: Any = None) -> None:
        if (watcher._run.stage, watcher._epoch, batch) == (stage, epoch - 1, 1):  # noqa: SLF001
            if interrupt:
                raise KeyboardInterrupt
            logs = {"loss": float("nan")}
        end(watcher, batch, logs)

    monkeypatch.setattr(resumable._Watcher, "on_train_batch_end", broken)  # noqa: SLF001


@pytest.mark.parametrize("epoch", [1, 2])
def test_an_interrupted_run_leaves_no_figures_of_other_weights(
    epoch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clf, data = keras_agnews.load("tiny-transformer"), (TEXTS, LABELS)
    assert clf.description.results
    break_off(monkeypatch, "epoch", epoch, interrupt=True)
    with pytest.raises(KeyboardInterrupt):
        keras_agnews.finetune(clf, data, data, output=tmp_path, **OPTIONS)
    assert clf.description == clf.description.untrained()
    saved = bundle.read(clf.save_bundle(tmp_path / "saved"))
    assert (saved.results, saved.temperature) == ((), 1.0)
    # What the directory has is the best epoch, with its own figures.
    assert (tmp_path / "config.json").exists() == (epoch == 2)
    if epoch == 2:
        assert keras_agnews.load(tmp_path).description.recipe["rows"] == len(TEXTS)


@pytest.mark.once
@pytest.mark.parametrize("stage", ["epoch", "pretraining epoch"])
def test_a_failure_before_any_epoch_is_done_gives_all_back(
    stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clf = keras_agnews.load("tiny-transformer")
    before, described = weights(clf), clf.description
    break_off(monkeypatch, stage, 1, interrupt=False)
    with pytest.raises(TrainingError, match=f"not finite in {stage} 1, batch 2.*learning_rate"):
        keras_agnews.finetune(clf, (TEXTS, LABELS), pretrain_epochs=1, **OPTIONS)
    for new, old in zip(weights(clf), before, strict=True):
        np.testing.assert_array_equal(new, old)
    assert clf.description == described


@pytest.mark.parametrize("output", [False, pytest.param(True, marks=pytest.mark.once)])
def test_a_failure_in_a_later_epoch_leaves_the_best_one_with_its_figures(
    output: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clf, data = keras_agnews.load("tiny-transformer"), (TEXTS, LABELS)
    break_off(monkeypatch, "epoch", 2, interrupt=False)
    with pytest.raises(TrainingError, match="the weights of epoch 1 are kept"):
        keras_agnews.finetune(clf, data, data, output=tmp_path if output else None, **OPTIONS)
    assert clf.description.recipe["rows"] == len(TEXTS)
    figures = {row["metric"]: row["value"] for row in clf.description.results}
    assert figures["accuracy"] == accuracy(clf)
    answers = clf.predict(TEXTS)[np.arange(len(TEXTS)), clf.label_ids(LABELS, len(TEXTS))]
    np.testing.assert_allclose(figures["loss"], -np.log(answers).mean(), rtol=1e-4)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's /proc")
def test_a_file_is_taken_away_when_nothing_maps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows refuses another order."""
    removed: list[str] = []
    unlink = Path.unlink

    def checked(path: Path, missing_ok: bool = False) -> None:
        if path.exists() and path.suffix == ".npy":
            removed.append(path.name)
            assert str(path) not in Path("/proc/self/maps").read_text()
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", checked)
    options = {**OPTIONS, "recipe": "head", "teacher": "tiny-transformer", "output": tmp_path}
    keras_agnews.finetune(fresh_model(), (TEXTS, LABELS), (TEXTS, LABELS), **options)
    assert sorted(removed) == ["features.npy", "teacher.npy"]


@pytest.mark.once
def test_the_command_prints_the_accuracy_of_the_model_that_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from click.testing import CliRunner

    from keras_agnews import runs
    from keras_agnews.cli import commands

    def run(name: str, rows: Any, output: Path, *_: Any, **__: Any) -> dict[str, Any]:
        """As one with `delta_rank` does, where the difference answers other than its epoch."""
        clf = keras_agnews.load(name)
        clf.describe(results=({"data": "validation", "metric": "accuracy", "value": 0.5},))
        clf.save_bundle(output)
        return {"best_epoch": 1, "history": [{"validation_accuracy": 0.75}]}

    monkeypatch.setattr(runs, "run", run)
    path, output = tmp_path / "rows.csv", tmp_path / "m"
    path.write_text("text,label\n" + "".join(f"{x},{y}\n" for x, y in SENTENCES))
    arguments = ["train", "tiny-transformer", "--data", str(path), "--output", str(output)]
    result = CliRunner().invoke(commands, arguments, catch_exceptions=False)
    assert "50.00%" in result.output
    assert "75.00%" not in result.output


@pytest.mark.once
def test_the_curves_are_drawn_beside_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"recipe": "head", "epochs": 2, "batch_size": 8}
    data = (TEXTS, LABELS)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.warns(UserWarning, match=r"curves\.png .* needs matplotlib: pip install"):
        keras_agnews.finetune(fresh_model(), data, data, output=tmp_path / "without", **options)
    assert not (tmp_path / "without" / "curves.png").exists()
    monkeypatch.undo()
    pytest.importorskip("matplotlib")
    keras_agnews.finetune(fresh_model(), data, data, output=tmp_path / "with", **options)
    picture = (tmp_path / "with" / "curves.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 5_000


@pytest.mark.once
def test_what_cannot_be_trained_on_is_said_at_the_start() -> None:
    clf = fresh_model()
    with pytest.raises(TrainingError, match="1 class"):
        keras_agnews.finetune(clf, (TEXTS[:2], ["World", "World"]), **OPTIONS)
    with pytest.raises(InputError, match=r"training: labels\[1\] is 'Weather'"):
        keras_agnews.finetune(clf, (TEXTS[:2], ["World", "Weather"]), **OPTIONS)
    with pytest.raises(InputError, match=r"validation: texts\[0\] is int"):
        keras_agnews.finetune(clf, (TEXTS, LABELS), ([1], ["World"]), **OPTIONS)
    with pytest.raises(InputError, match="'speed' is not an option"):
        keras_agnews.finetune(clf, (TEXTS, LABELS), speed=3)
    with pytest.raises(InputError, match="validation: there is no row"):
        keras_agnews.finetune(clf, (TEXTS, LABELS), ([], []), **OPTIONS)
    with pytest.raises(InputError, match="dtype is 'bfloat16'"):
        keras_agnews.finetune(clf, (TEXTS, LABELS), dtype="bfloat16", **OPTIONS)
    for seed in (-1, 1.5, 2**33, True):
        with pytest.raises(InputError, match="seed must be an integer in 0 to 4294967295"):
            keras_agnews.finetune(clf, (TEXTS, LABELS), seed=seed)
    with pytest.raises(InputError, match="mixed_precision must be True or False"):
        keras_agnews.finetune(clf, (TEXTS, LABELS), mixed_precision="no")
    with pytest.raises(InputError, match=r"is a file: give another output directory"):
        keras_agnews.finetune(clf, (TEXTS, LABELS), output=__file__, **OPTIONS)
    for recipe in ("best", ["full"], {"full": 1}):
        with pytest.raises(InputError, match=f"recipe is {re.escape(repr(recipe))}, not"):
            keras_agnews.finetune(clf, (TEXTS, LABELS), recipe=recipe)
    frozen = fresh_model()
    frozen.model.trainable = False
    with pytest.raises(InputError, match="every layer is frozen, so nothing would be trained"):
        keras_agnews.finetune(frozen, (TEXTS, LABELS), **OPTIONS)
    with pytest.raises(InputError, match="epochs must be a positive integer"):
        keras_agnews.finetune(clf, (TEXTS, LABELS), epochs=0)
    for name, value in (("learning_rate", 0), ("pretrain_learning_rate", 0.0), ("warmup", 1.0)):
        with pytest.raises(InputError, match=f"{name} must be"):
            keras_agnews.finetune(clf, (TEXTS, LABELS), **{**OPTIONS, name: value})
    quantized = fresh_model()
    quantized.model.quantize("int8")
    with pytest.raises(InputError, match=r"is quantized \(int8\)"):
        keras_agnews.finetune(quantized, (TEXTS, LABELS), **OPTIONS)
    low_rank = keras_agnews.load("tiny-transformer")
    low_rank.encoder.blocks[0].feed_forward.enable_lora(2)
    with pytest.raises(InputError, match=r"enable_lora has been called.*save_bundle merges"):
        keras_agnews.finetune(low_rank, (TEXTS, LABELS), **OPTIONS)
    with pytest.raises(InputError, match="needs output="):
        keras_agnews.finetune(clf, (TEXTS, LABELS), resume=True)
    with (
        pytest.warns(UserWarning, match="no training row has the label 'Sci/Tech'"),
        pytest.warns(UserWarning, match="fewer than batch_size 8"),
    ):
        keras_agnews.finetune(clf, (TEXTS[:6], LABELS[:6]), **{**OPTIONS, "epochs": 1})


@pytest.mark.once
def test_numbers_may_be_numpys() -> None:
    from keras_agnews.recipes import make_recipe

    options = {"learning_rate": np.float32(0.25), "epochs": np.int64(2), "seed": np.uint8(3)}
    recipe = make_recipe(fresh_model(), "full", mixed_precision=np.bool_(True), **options)
    assert json.loads(json.dumps(recipe.record())) == recipe.record()
    assert (recipe.learning_rate, recipe.epochs, recipe.seed) == (0.25, 2, 3)
    with pytest.raises(InputError, match="epochs must be"):
        make_recipe(fresh_model(), "full", epochs=np.float64(2.5))


@pytest.mark.parametrize("recipe", ["full", "lora"])
def test_mixed_precision_trains_and_leaves_float32_behind(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from keras_agnews import inference, resumable

    clf, seen = fresh_model(), set()

    def looked_at(self: Any, epoch: int, batch: int) -> None:
        layers = inference.nested_layers(self.model)
        seen.update(layer.compute_dtype for layer in layers if layer.name == "feed_forward")

    monkeypatch.setattr(resumable, "CHECKPOINT_SECONDS", 0.0)  # so that each batch is looked at
    monkeypatch.setattr(resumable.ResumableFit, "checkpoint", looked_at)
    options = {**OPTIONS, "recipe": recipe, "mixed_precision": True}
    if recipe == "full":
        options["output"] = tmp_path
    result = keras_agnews.finetune(clf, (TEXTS, LABELS), **options)
    assert seen == {"bfloat16"}
    assert result["history"][-1]["loss"] < result["history"][0]["loss"]
    assert {str(w.dtype) for w in clf.model.weights} == {"float32"}
    assert clf.encoder.compute_dtype == "float32"


@pytest.mark.once
def test_a_model_that_computes_in_bfloat16_is_trained_so_unless_told() -> None:
    from keras_agnews.inference import computes_in_bfloat16

    options = {**OPTIONS, "epochs": 1}
    found = {}
    for wanted in (None, False, True):
        clf = keras_agnews.load("tiny-transformer", mixed_precision=wanted is not True)
        keras_agnews.finetune(clf, (TEXTS, LABELS), mixed_precision=wanted, **options)
        found[wanted] = weights(clf)
        assert clf.description.recipe["mixed_precision"] == (wanted is not False)
        assert computes_in_bfloat16(clf.model) == (wanted is not True), "as it was"
    plain = keras_agnews.load("tiny-transformer")
    keras_agnews.finetune(plain, (TEXTS, LABELS), **options)
    assert all(map(np.array_equal, found[False], weights(plain)))
    assert all(map(np.array_equal, found[None], found[True]))
    assert not all(map(np.array_equal, found[None], found[False]))


@pytest.mark.once
def test_what_could_not_be_recorded_is_told_before_anything_is_trained(tmp_path: Path) -> None:
    import keras

    clf = fresh_model()
    clf.compile(keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(True))
    optimizer, before = clf.optimizer, weights(clf)
    for record, message in (
        ({"data": tmp_path}, "cannot be written: .*PosixPath"),
        ({"start": {"path": "x"}}, "recipe.start has no name"),
        ({"data": "x" * 2_000_000}, "config.json would have 2,0"),
    ):
        with pytest.raises(InputError, match=message):
            keras_agnews.finetune(
                clf, (TEXTS, LABELS), output=tmp_path / "m", record=record, **OPTIONS
            )
    assert not (tmp_path / "m").exists()
    assert all(map(np.array_equal, before, weights(clf)))
    assert clf.optimizer is optimizer, "nothing has begun"


@pytest.mark.once
def test_a_finished_run_is_not_said_to_be_stored_as_it_is_not(tmp_path: Path) -> None:
    options = {**OPTIONS, "epochs": 1, "output": tmp_path, "resume": True}
    keras_agnews.finetune(fresh_model(), (TEXTS, LABELS), **options)
    with pytest.raises(TrainingError, match=r"stored it in float32: .* save_bundle it in float16"):
        keras_agnews.finetune(fresh_model(), (TEXTS, LABELS), dtype="float16", **options)
    with pytest.raises(InputError, match="word_dropout is nothing to recipe 'head'"):
        keras_agnews.finetune(fresh_model(), (TEXTS, LABELS), recipe="head", word_dropout=0.1)


@pytest.mark.parametrize("recipe", ["full", pytest.param("head", marks=pytest.mark.once)])
def test_a_gru_is_trained_by_the_same_recipes(recipe: str, tmp_path: Path) -> None:
    import keras

    keras.utils.set_random_seed(4)
    model = keras_agnews.load("gru-attention", weights=None, max_length=16)
    before = weights(model)
    options = OPTIONS | {"learning_rate": 3e-2, "mixed_precision": recipe == "full"}
    result = keras_agnews.finetune(
        model, (TEXTS, LABELS), (TEXTS, LABELS), recipe=recipe, output=tmp_path, **options
    )
    losses = [row["loss"] for row in result["history"]]
    assert losses[-1] < 0.95 * losses[0]
    moved = [bool((a != b).any()) for a, b in zip(before, weights(model), strict=True)]
    head = [variable.path.startswith("logits/") for variable in model.model.weights]
    assert moved == (head if recipe == "head" else [True] * len(moved))
    # What was trained elsewhere is taken by the entry, head and all.
    again = keras_agnews.load("gru-attention", weights=tmp_path)
    np.testing.assert_allclose(again.predict(TEXTS[:8]), model.predict(TEXTS[:8]), atol=1e-6)
    assert model.features(TEXTS[:3]).shape == (3, model.description.config.hidden_size)


def test_a_users_own_fit_with_our_schedule() -> None:
    import keras

    clf = fresh_model()
    clf.compile(
        keras.optimizers.AdamW(keras_agnews.WarmupLinearDecay(3e-3, 40), weight_decay=0.01),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    losses = clf.fit(TEXTS, LABELS, batch_size=8, epochs=10, verbose=0, seed=0).history["loss"]
    assert losses[-1] < losses[0]


@pytest.mark.slow
def test_the_lessons_small_bert_frozen_then_unfrozen() -> None:
    import keras

    keras.utils.set_random_seed(0)
    clf = keras_agnews.load("small-bert-L4", weights=None)
    data = (TEXTS, LABELS)
    encoder = [numpy(w.value).copy() for w in clf.encoder.weights]
    frozen = keras_agnews.finetune(clf, data, data, recipe="head", epochs=3, batch_size=8)
    for before, weight in zip(encoder, clf.encoder.weights, strict=True):
        np.testing.assert_array_equal(numpy(weight.value), before)
    unfrozen = keras_agnews.finetune(
        clf, data, data, recipe="full", epochs=3, learning_rate=3e-5, warmup=0.1, batch_size=8
    )
    assert any(
        (numpy(weight.value) != before).any()
        for before, weight in zip(encoder, clf.encoder.weights, strict=True)
    )
    losses = [row["validation_loss"] for row in frozen["history"] + unfrozen["history"]]
    assert losses[-1] < losses[0]


@pytest.mark.slow
def test_the_lessons_bert_base_with_the_encoder_frozen() -> None:
    import keras

    clf = keras_agnews.load("bert-base", weights=None)
    assert clf.model.count_params() == 109_485_316
    clf.encoder.trainable = False
    assert sum(np.prod(w.shape) for w in clf.trainable_weights) == 3_076
    clf.compile(
        keras.optimizers.AdamW(1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    history = clf.fit(
        TEXTS,
        LABELS,
        batch_size=8,
        epochs=1,
        steps_per_epoch=3,
        validation_data=(TEXTS, LABELS),
        validation_steps=2,
        verbose=0,
        seed=0,
    ).history
    assert np.isfinite([history["loss"][0], history["val_loss"][0]]).all()
    result = keras_agnews.finetune(
        clf,
        (TEXTS, LABELS),
        (TEXTS, LABELS),
        recipe="head",
        epochs=1,
        batch_size=8,
        steps_per_epoch=3,
        validation_steps=2,
    )
    assert np.isfinite(result["history"][0]["validation_loss"])


@pytest.mark.once
def test_few_steps_are_told_with_the_epochs_that_would_do(recwarn: pytest.WarningsRecorder) -> None:
    options = {**OPTIONS, "epochs": 1, "batch_size": len(TEXTS) // 2}
    keras_agnews.finetune(fresh_model(), (TEXTS, LABELS), **options)
    told = [str(warning.message) for warning in recwarn if "steps in all" in str(warning.message)]
    assert told == ["2 steps in all teach a model little: give more epochs, 150 for 300 steps"]
    recwarn.clear()
    keras_agnews.finetune(fresh_model(), (TEXTS, LABELS), openings=24, **options)
    assert not [warning for warning in recwarn if "steps in all" in str(warning.message)]


@pytest.mark.once
def test_few_validation_rows_are_told(recwarn: pytest.WarningsRecorder) -> None:
    held = (TEXTS[:8], LABELS[:8])
    keras_agnews.finetune(fresh_model(), (TEXTS, LABELS), held, **{**OPTIONS, "epochs": 1})
    assert not [w for w in recwarn if "validation rows" in str(w.message)], "nothing to choose"
    with pytest.warns(UserWarning, match=r"^8 validation rows .* 12\.5% .* hold out 50 or more"):
        keras_agnews.finetune(fresh_model(), (TEXTS, LABELS), held, **{**OPTIONS, "epochs": 2})


@pytest.mark.once
def test_a_dataset_may_have_its_labels_in_another_order(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    lines = [f"{'lovely' if i % 2 else 'awful'} {i},{'good' if i % 2 else 'bad'}" for i in range(8)]
    path.write_text("\n".join(["text,label", *lines]))
    rows = keras_agnews.data.read_rows(path)
    assert rows.label_names == ("bad", "good")
    clf = keras_agnews.load("tiny-transformer", weights=None, labels=["good", "bad"])
    options = {**OPTIONS, "epochs": 30}
    result = keras_agnews.finetune(clf, rows, rows, **options)
    assert result["history"][result["best_epoch"] - 1]["validation_accuracy"] == 1.0
    assert clf.classify("lovely 3").label == "good"
    for wrong in (str(path), rows.texts, rows.texts[:2], {"text": rows.texts}):
        with pytest.raises(InputError, match=r"training rows must be \(texts, labels\)"):
            keras_agnews.finetune(clf, wrong, **options)


@pytest.mark.once
def test_a_finished_run_keeps_no_state_of_training(tmp_path: Path) -> None:
    rows = (TEXTS, LABELS)
    keras_agnews.finetune(fresh_model(), rows, rows, output=tmp_path, **OPTIONS)
    assert (tmp_path / "checkpoint.safetensors").stat().st_size < 10_000
    clf = fresh_model()
    again = keras_agnews.finetune(clf, rows, rows, output=tmp_path, resume=True, **OPTIONS)
    assert len(again["history"]) == OPTIONS["epochs"]
    loaded = keras_agnews.load(tmp_path)
    np.testing.assert_array_equal(loaded.predict(TEXTS), clf.predict(TEXTS))


@pytest.mark.once
def test_what_became_of_a_finished_run_is_left_as_it_is(tmp_path: Path) -> None:
    rows = (TEXTS, LABELS)
    keras_agnews.finetune(fresh_model(), rows, rows, output=tmp_path, **OPTIONS)
    mine = keras_agnews.load(tmp_path)
    mine.layer("logits").bias.assign([9.0, 0.0, 0.0, 0.0])
    mine.describe(results=({"data": "mine", "metric": "accuracy", "value": 0.25, "rows": 4},))
    mine.save_bundle(tmp_path)
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    clf = fresh_model()
    keras_agnews.finetune(clf, rows, rows, output=tmp_path, resume=True, **OPTIONS)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files
    np.testing.assert_array_equal(clf.predict(TEXTS), mine.predict(TEXTS))
    assert clf.description.results == mine.description.results


def test_a_log_has_a_line_a_minute(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from keras_agnews import console

    now = itertools.count(0.0, 40.0)
    monkeypatch.setattr(console.time, "monotonic", lambda: next(now))
    with console.progress_bar(True, 1_000) as advance:
        for done in (100, 110, 120, 130, 140):  # a resumed run
            advance(done, "epoch 1")
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["110 of 1,000, 119 min left, epoch 1", "130 of 1,000, 77 min left, epoch 1"]
    with console.progress_bar(False, 10) as advance:
        advance(5, "quiet")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(console.sys, "stderr", None)  # a service, or one that was closed
    with console.progress_bar(True, 10) as advance:
        for done in range(10):
            advance(done, "nowhere")


@pytest.mark.once
def test_an_output_that_cannot_be_written_to_is_told_before_the_hours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from keras_agnews import files

    monkeypatch.setattr(files.os, "access", lambda path, mode: False)
    with pytest.raises(InputError, match="cannot be written to: give another"):
        keras_agnews.finetune(fresh_model(), (TEXTS, LABELS), output=tmp_path / "out", **OPTIONS)
    assert not any((tmp_path / "out").iterdir())


@pytest.mark.once
def test_neither_biases_nor_norms_decay() -> None:
    import keras

    from keras_agnews.recipes import Recipe, make_optimizer

    dense, norm = keras.layers.Dense(4), keras.layers.LayerNormalization()
    for layer in (dense, norm):
        layer.build((None, 4))
    variables = [*dense.trainable_variables, *norm.trainable_variables]
    for variable in variables:
        variable.assign(np.ones(variable.shape))
    optimizer = make_optimizer(Recipe(learning_rate=0.1, weight_decay=0.3, warmup=0.0), 8)
    optimizer.build(variables)
    optimizer.apply([keras.ops.zeros(variable.shape) for variable in variables])
    least = [float(numpy(variable.value).min()) for variable in variables]
    assert least == pytest.approx([0.97, 1, 1, 1])


@pytest.mark.once
def test_the_temperature_suits_the_validation_rows_and_is_stored(tmp_path: Path) -> None:
    from keras_agnews.metrics import fit_temperature

    clf = fresh_model()
    rows = (TEXTS, LABELS)
    result = keras_agnews.finetune(clf, rows, rows, output=tmp_path, **OPTIONS)
    wanted = fit_temperature(clf.logits(TEXTS), clf.label_ids(LABELS, len(TEXTS)))
    assert abs(wanted - 1) > 0.05
    assert clf.temperature == pytest.approx(wanted, rel=1e-3)
    assert keras_agnews.load(tmp_path).temperature == clf.temperature
    history = result["history"]
    best = max(history, key=lambda row: (row["validation_accuracy"], -row["validation_loss"]))
    assert result["best_epoch"] == best["epoch"]


@pytest.mark.once
def test_the_finished_model_is_stored_as_asked(tmp_path: Path) -> None:
    options = OPTIONS | {"epochs": 1}
    keras_agnews.finetune(
        fresh_model(), (TEXTS, LABELS), output=tmp_path, dtype="float16", **options
    )
    pin = bundle.read(tmp_path).weights
    assert pin is not None
    assert pin.dtype == "float16"


@pytest.mark.once
def test_a_run_drops_the_words_that_its_recipe_says(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[np.ndarray] = []
    get = batching.Batches.__getitem__

    def item(self: Any, i: int) -> Any:
        seen.append(get(self, i)[0]["input_word_ids"])
        return get(self, i)

    monkeypatch.setattr(batching.Batches, "__getitem__", item)
    options = OPTIONS | {"epochs": 1}
    keras_agnews.finetune(fresh_model(), (TEXTS, LABELS), word_dropout=1.0, **options)
    assert seen
    assert all(np.isin(ids, [0, 1]).all() for ids in seen), "padding and the unknown word"


@pytest.mark.once
def test_each_kind_of_recipe_has_its_own_defaults() -> None:
    from keras_agnews.recipes import make_recipe

    clf = fresh_model()
    head, lora = make_recipe(clf, "head"), make_recipe(clf, "lora")
    assert (head.epochs, head.learning_rate) == (20, 3e-3)
    assert (lora.learning_rate, lora.delta_rank) == (5e-4, 16)
