"""A model as the difference to its pinned base: numbers first, then through `load`."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference_bert as oracle
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

import keras_agnews
from keras_agnews import BundleError, InputError, TrainingError, bundle, delta, text_files
from keras_agnews.files import digest

TEXTS = ["good news for all", "the match was lost", ""]


def written(tensors: dict[str, np.ndarray], directory: Path) -> Path:
    path = directory / "delta.safetensors"
    save_file(tensors, path)
    return path


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 4), st.floats(1e-6, 10))
def test_a_low_rank_change_comes_back(
    tmp_path_factory: pytest.TempPathFactory, rows: int, columns: int, rank: int, size: float
) -> None:
    rng = np.random.default_rng(rows * columns)
    base = rng.normal(size=(rows, columns)).astype(np.float32)
    change = size * rng.normal(size=(rows, rank)) @ rng.normal(size=(rank, columns))
    tuned = {"kernel": (base + change).astype(np.float32), "head": np.ones(3, np.float32)}
    tensors = delta.difference(tuned, [("kernel", base)], ["kernel"], rank)
    path = written(tensors, tmp_path_factory.mktemp("delta"))
    delta.check_file(path, {"kernel": base.shape, "head": (3,)}, ["head"])
    found = dict(delta.apply(path, [("kernel", base)], tuned))
    largest = np.abs(change).max()
    np.testing.assert_allclose(found["kernel"], tuned["kernel"], atol=4e-3 * largest + 1e-6)
    np.testing.assert_array_equal(found["head"], tuned["head"])
    assert sum(t.size for t in tensors.values()) <= base.size + 3


def test_factors_are_the_nearest_of_their_rank() -> None:
    change = np.random.default_rng(0).normal(size=(300, 40)).astype(np.float32)
    for matrix in (change, change.T):
        tensors = delta.difference({"k": matrix}, [("k", np.zeros_like(matrix))], ["k"], 5)
        u, s, v = np.linalg.svd(matrix.astype(np.float64), full_matrices=False)
        nearest = (u[:, :5] * s[:5]) @ v[:5]
        product = tensors["k/a"].astype(np.float64) @ tensors["k/b"].astype(np.float64)
        np.testing.assert_allclose(product, nearest, atol=5e-3)


def test_the_kernel_that_moved_more_gets_more_directions() -> None:
    rng = np.random.default_rng(1)
    shape, scales = (60, 40), {"still": 0.01, "moved": 1.0, "narrow": 5.0}
    tuned = {n: (s * rng.normal(size=shape)).astype(np.float32) for n, s in scales.items()}
    tuned["narrow"][:, 1:] = 0  # of rank 1
    base = [(name, np.zeros(shape, np.float32)) for name in tuned]
    tensors = delta.difference(tuned, base, tuned, 4)
    ranks = {n: tensors[f"{n}/a"].shape[1] for n in tuned if f"{n}/a" in tensors}
    assert ranks == {"moved": 11, "narrow": 1}
    assert sum(t.size for t in tensors.values()) == 3 * 4 * sum(shape)
    # What is left out is the least that as many directions can leave out.
    squares = np.sort(
        np.concatenate([np.linalg.svd(t.astype(np.float64))[1] ** 2 for t in tuned.values()])
    )
    left = sum(
        np.square(t - (tensors[f"{n}/a"].astype(float) @ tensors[f"{n}/b"] if n in ranks else 0))
        for n, t in tuned.items()
    )
    assert left.sum() == pytest.approx(squares[:-12].sum(), rel=1e-3)


def test_directions_are_worth_what_they_bring_for_their_size() -> None:
    """Of two kernels the smaller one's weaker direction may be the better bargain."""
    rng = np.random.default_rng(2)
    shapes, strength = {"small": (20, 10), "large": (200, 100)}, {"small": 1.0, "large": 1.5}
    tuned = {}
    for name, (m, n) in shapes.items():
        u, v = (np.linalg.qr(rng.normal(size=(k, 6)))[0] for k in (m, n))
        tuned[name] = (strength[name] * u @ v.T).astype(np.float32)
    base = [(name, np.zeros_like(value)) for name, value in tuned.items()]
    tensors = delta.difference(tuned, base, tuned, 2)
    # Of 660 numbers: six directions of 30 are worth 1/30 each, those of 300 only 2.25/300.
    assert {n: tensors[f"{n}/a"].shape[1] for n in shapes} == {"small": 6, "large": 1}


@pytest.mark.parametrize(
    ("name", "shape", "fault"),
    [
        ("other", (4, 6), "unexpected tensor other"),
        ("kernel/c", (4, 2), "unexpected tensor kernel/c"),
        ("kernel/a", (4, 2), "unexpected tensor kernel/a"),
        ("kernel", (4, 5), r"kernel has shape \(4, 5\)"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(
    tmp_path: Path, name: str, shape: tuple[int, ...], fault: str
) -> None:
    path = written({name: np.zeros(shape, np.float16), "head": np.zeros(2, np.float16)}, tmp_path)
    with pytest.raises(BundleError, match=fault):
        delta.check_file(path, {"kernel": (4, 6), "head": (2,)}, ["head"])


@pytest.mark.parametrize(
    ("a", "b"), [((4, 2), (3, 6)), ((4, 9), (9, 6)), ((5, 2), (2, 6)), ((4,), (6,))]
)
def test_factors_that_do_not_fit_are_refused(
    tmp_path: Path, a: tuple[int, ...], b: tuple[int, ...]
) -> None:
    tensors = {"kernel/a": np.zeros(a, np.float16), "kernel/b": np.zeros(b, np.float16)}
    with pytest.raises(BundleError, match=r"kernel/[ab] has shape"):
        delta.check_file(written(tensors, tmp_path), {"kernel": (4, 6)}, [])


def test_a_head_that_nobody_has_and_values_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = written({"kernel": np.zeros((4, 6), np.float16)}, tmp_path)
    with pytest.raises(BundleError, match="head is missing"):
        delta.check_file(path, {"kernel": (4, 6), "head": (2,)}, ["head"])
    with pytest.raises(InputError, match="head is not finite in float16"):
        delta.difference({"head": np.array([1e9], np.float32)}, [], [], 4)


@pytest.fixture
def model(tmp_path: Path) -> tuple[Any, Path, Path]:
    """A classifier trained away from a pinned base, that base, and the bundle written of it."""
    import keras

    from keras_agnews.loading import open_base

    config = oracle.bert_config()
    base = oracle.checkpoint(tmp_path / "base", config, oracle.random_tensors(config, 1))
    classifier = keras_agnews.load(base)
    pin = bundle.Weights(
        file="model.safetensors",
        sha256=digest(base / "model.safetensors"),
        source="hf://somebody/base",
        revision="a" * 40,
    )
    figures = ({"metric": "accuracy", "value": 0.9},)
    classifier.describe(weights=pin, temperature=1.5, results=figures)
    rng = np.random.default_rng(0)
    for variable in classifier.model.weights:
        value = keras.ops.convert_to_numpy(variable.value)
        if value.ndim == 2:
            change = rng.normal(size=(value.shape[0], 2)) @ rng.normal(size=(2, value.shape[1]))
            variable.assign((value + 0.1 * change).astype("float32"))
        else:
            variable.assign(value + 0.1)
    checkpoint = open_base(classifier.description, base)
    encoder = classifier.description.config.encoder_variables()
    target = tmp_path / "model"
    classifier.save_bundle(target, base=checkpoint.arrays(encoder), rank=2)
    return classifier, base, target


@pytest.mark.backend
@pytest.mark.once
def test_load_applies_the_difference_to_the_base(model: tuple[Any, Path, Path]) -> None:
    classifier, base, target = model
    loaded = keras_agnews.load(target, base=base)
    np.testing.assert_allclose(loaded.predict(TEXTS), classifier.predict(TEXTS), atol=3e-3)
    assert np.abs(keras_agnews.load(base).predict(TEXTS) - loaded.predict(TEXTS)).max() > 0.05
    assert loaded.temperature == 1.5
    assert loaded.description.results == classifier.description.results
    assert not (target / "model.safetensors").exists()
    # Written over, the bundle is of the new weights; what it had before is gone.
    loaded.save_bundle(target)
    np.testing.assert_allclose(keras_agnews.load(target).predict(TEXTS), loaded.predict(TEXTS))


@pytest.mark.backend
@pytest.mark.once
def test_the_base_alone_has_none_of_the_change(model: tuple[Any, Path, Path]) -> None:
    _, base, target = model
    loaded = keras_agnews.load(target, weights="pretrained", base=base)
    np.testing.assert_array_equal(loaded.predict(TEXTS), keras_agnews.load(base).predict(TEXTS))
    assert loaded.temperature == 1
    assert loaded.description.results == ()
    with pytest.warns(UserWarning, match="new and untrained"):
        loaded = keras_agnews.load(target, base=base, labels=["a", "b"])
    assert loaded.temperature == 1
    assert loaded.description.results == ()


@pytest.mark.backend
@pytest.mark.once
def test_another_base_or_a_damaged_difference_is_refused(model: tuple[Any, Path, Path]) -> None:
    _, base, target = model
    weights = bundle.read(target).weights
    assert weights is not None
    tensors = load_file(base / "model.safetensors")
    name = next(iter(tensors))
    save_file(tensors | {name: tensors[name] + 1}, base / "model.safetensors")
    with pytest.raises(BundleError, match=r"the base of .* says"):
        keras_agnews.load(target, base=base)
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    keras_agnews.load(target, base=base)
    path = target / str(weights.delta)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError, match=r"weights\.delta_sha256"):
        keras_agnews.load(target, base=base)
    path.unlink()
    with pytest.raises(BundleError, match="no such file"):
        keras_agnews.load(target, base=base)


@pytest.mark.backend
@pytest.mark.once
def test_weights_may_be_a_difference_or_a_pinned_base(
    model: tuple[Any, Path, Path], tmp_path: Path
) -> None:
    _, base, target = model
    keras_agnews.load(base).save_bundle(tmp_path / "whole")
    loaded = keras_agnews.load(tmp_path / "whole", weights=target, base=base)
    expected = keras_agnews.load(target, base=base)
    np.testing.assert_array_equal(loaded.predict(TEXTS), expected.predict(TEXTS))
    assert loaded.temperature == 1.5
    # And where all of them are on the Hub.
    description = bundle.read(target)
    pinned = dataclasses.replace(description, weights=description.pretrained, temperature=1.0)
    text_files.write_json(target / "config.json", pinned.to_dict())
    loaded = keras_agnews.load(tmp_path / "whole", weights=target, base=base)
    np.testing.assert_array_equal(loaded.predict(TEXTS), keras_agnews.load(base).predict(TEXTS))


@pytest.mark.backend
@pytest.mark.once
def test_applying_goes_on_in_the_file_that_was_checked(model: tuple[Any, Path, Path]) -> None:
    """`load` builds the model between check and reading, while others may write."""
    from keras_agnews.loading import open_checkpoint, open_weights

    _, base, target = model
    checkpoint = open_weights(open_checkpoint(target), "best", base)
    assert checkpoint is not None
    wanted = checkpoint.description.variables()
    expected = dict(checkpoint.arrays(wanted))
    started = checkpoint.arrays(wanted)
    stored = load_file(target / "delta.safetensors")
    save_file({name: value * 0 for name, value in stored.items()}, target / "other")
    (target / "other").replace(target / "delta.safetensors")
    for name, value in started:
        np.testing.assert_array_equal(value, expected[name])


def test_a_pin_without_its_sums_is_refused() -> None:
    pin = {"file": "x", "source": "hf://a/b", "sha256": "0" * 64}
    with pytest.raises(BundleError, match="delta needs"):
        bundle.Weights(**pin, delta="d.safetensors")
    with pytest.raises(BundleError, match="file name"):
        bundle.Weights(**pin, delta="../d", delta_sha256="0" * 64)
    pinned = bundle.Weights(**pin, delta="d.safetensors", delta_sha256="0" * 64)
    assert dataclasses.replace(pinned, delta=None, delta_sha256=None).source == "hf://a/b"


@pytest.mark.backend
@pytest.mark.once
def test_a_difference_to_what_is_no_base_is_refused(
    model: tuple[Any, Path, Path], tmp_path: Path
) -> None:
    classifier, base, _ = model
    names = [("encoder/nothing", np.zeros(1, np.float32))]
    bias = "encoder/block_0/feed_forward/bias"
    short = [(bias, np.zeros(1, np.float32))]  # which NumPy would spread over all
    part = [(bias, classifier.arrays()[bias])]
    for values, rank, message in (
        (names, 2, "the base has 'encoder/nothing', which the model has not"),
        (short, 2, rf"{bias} has shape \(1,\) in the base and \(\d+,\) in the model"),
        (part, 2, r"the base lacks encoder/.*, and \d+ more"),
        (names, 0, "rank must be a positive integer, not 0"),
        (base, 2, "base must be names and values"),
    ):
        with pytest.raises(keras_agnews.InputError, match=message):
            classifier.save_bundle(tmp_path / "new", base=values, rank=rank)
    with pytest.raises(keras_agnews.InputError, match="tiny-transformer pins no base"):
        keras_agnews.load("tiny-transformer").save_bundle(tmp_path / "new", base=names)
    assert not (tmp_path / "new").exists()


@pytest.mark.backend
@pytest.mark.once
def test_a_head_of_the_base_is_not_taken_off(model: tuple[Any, Path, Path], tmp_path: Path) -> None:
    from keras_agnews.loading import open_base

    classifier, base, _ = model
    whole = open_base(classifier.description, base)
    values = dict(whole.arrays(classifier.description.config.encoder_variables()))
    head = {n: v - 1 for n, v in classifier.arrays().items() if n not in values}
    assert head
    classifier.save_bundle(tmp_path / "new", base=(values | head).items(), rank=64)
    loaded = keras_agnews.load(tmp_path / "new", base=base)
    np.testing.assert_allclose(loaded.predict(TEXTS), classifier.predict(TEXTS), atol=1e-3)


@pytest.mark.backend
@pytest.mark.once
def test_a_base_that_is_pinned_without_a_sum_gets_that_of_the_run(
    model: tuple[Any, Path, Path], tmp_path: Path
) -> None:
    """As an entry's is whose sum nobody knew when it was written."""
    _, base, target = model
    classifier = keras_agnews.load(target, weights="pretrained", base=base)
    pin = classifier.description.pretrained
    for name in ("weights", "base"):
        blank = {"weights": None, "base": None, name: dataclasses.replace(pin, sha256="")}
        classifier.describe(**blank)
        rows, options = (TEXTS * 6, [0, 1, 2] * 6), {"epochs": 1, "batch_size": 6, "base": base}
        output = tmp_path / f"run-{name}"
        keras_agnews.finetune(classifier, rows, rows, delta_rank=2, output=output, **options)
        assert bundle.read(output).weights.sha256 == digest(base / "model.safetensors")
        again = keras_agnews.load(output, base=base)
        np.testing.assert_allclose(again.predict(TEXTS), classifier.predict(TEXTS), atol=1e-5)


@pytest.mark.backend
@pytest.mark.once
def test_a_run_ends_with_the_model_that_it_stored(
    model: tuple[Any, Path, Path], tmp_path: Path
) -> None:
    _, base, target = model
    classifier = keras_agnews.load(target, weights="pretrained", base=base)
    rows = (TEXTS * 6, [0, 1, 2] * 6)
    options: dict[str, Any] = {"epochs": 2, "batch_size": 6, "learning_rate": 1e-3}
    options |= {"output": tmp_path / "run", "base": base}
    options["base"] = target
    with pytest.raises(BundleError, match="No such file"):
        keras_agnews.finetune(classifier, rows, rows, delta_rank=3, **options)
    options["base"] = base
    before = classifier.predict(TEXTS)
    keras_agnews.finetune(classifier, rows, rows, delta_rank=3, **options)
    after = classifier.predict(TEXTS)
    assert np.abs(after - before).max() > 1e-3
    loaded = keras_agnews.load(tmp_path / "run", base=base)
    np.testing.assert_array_equal(loaded.predict(TEXTS), after)
    assert loaded.description.recipe["delta_rank"] == 3
    figures = {row["metric"]: row["value"] for row in loaded.description.results}
    np.testing.assert_allclose(
        figures["loss"], -np.log(after[np.arange(3), np.arange(3)]).mean(), rtol=1e-4
    )
    assert not (tmp_path / "run" / "model.safetensors").exists()
    # Resumed as it was, the finished run is left as it is.
    stored = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    again = keras_agnews.load(target, weights="pretrained", base=base)
    result = keras_agnews.finetune(again, rows, rows, delta_rank=3, resume=True, **options)
    assert len(result["history"]) == 2
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == stored
    np.testing.assert_array_equal(again.predict(TEXTS), after)
    assert again.description.results == loaded.description.results
    assert f"{figures['loss']:.6g}" in stored["README.md"].decode()
    # Resumed with another rank, the finished run is only stored anew.
    keras_agnews.finetune(classifier, rows, rows, delta_rank=2, resume=True, **options)
    np.testing.assert_allclose(classifier.predict(TEXTS), after, atol=0.05)


@pytest.mark.backend
@pytest.mark.once
def test_a_difference_gives_no_model_that_has_more_of_the_change(
    model: tuple[Any, Path, Path], tmp_path: Path
) -> None:
    _, base, target = model
    rows = (TEXTS * 6, [0, 1, 2] * 6)
    options: dict[str, Any] = {"epochs": 1, "batch_size": 6, "output": tmp_path / "run"}
    options |= {"base": base}
    classifier = keras_agnews.load(target, weights="pretrained", base=base)
    keras_agnews.finetune(classifier, rows, rows, delta_rank=2, **options)
    stored = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    for rank in (None, 3):
        again = keras_agnews.load(target, weights="pretrained", base=base)
        before, described = again.predict(TEXTS), again.description
        with pytest.raises(TrainingError, match=r"rank 2, .*: start anew without resume"):
            keras_agnews.finetune(again, rows, rows, delta_rank=rank, resume=True, **options)
        assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == stored
        np.testing.assert_array_equal(again.predict(TEXTS), before)
        assert again.description == described


@pytest.mark.backend
@pytest.mark.once
@pytest.mark.parametrize(
    ("place", "from_full"), [("figures", False), ("figures", True), ("log", False)]
)
def test_a_run_that_is_killed_as_it_stores_the_difference_goes_on(
    place: str,
    from_full: bool,
    model: tuple[Any, Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from keras_agnews import training

    _, base, target = model
    rows = (TEXTS * 6, [0, 1, 2] * 6)
    options: dict[str, Any] = {"epochs": 1, "batch_size": 6, "learning_rate": 1e-2, "base": base}

    def run(name: str, rank: int | None = 1, resume: bool = False) -> np.ndarray:
        classifier = keras_agnews.load(target, weights="pretrained", base=base)
        keras_agnews.finetune(
            classifier,
            *(rows, rows),
            output=tmp_path / name,
            resume=resume,
            delta_rank=rank,
            dtype="float16",
            **options,
        )
        return classifier.predict(TEXTS)

    if from_full:  # which is stored in float16
        for name in "ab":
            run(name, None)
    unbroken = run("a", resume=from_full)

    def killed(*_: Any) -> Any:
        raise KeyboardInterrupt

    validated, count = training._Run._validated, itertools.count()  # noqa: SLF001

    def second(self: Any, validate: Any) -> Any:
        if self.fit.finished or next(count):
            raise KeyboardInterrupt
        return validated(self, validate)

    with monkeypatch.context() as patch:
        if place == "figures":
            patch.setattr(training._Run, "_validated", second)  # noqa: SLF001
        else:
            patch.setattr(training, "_draw", killed)
        with pytest.raises(KeyboardInterrupt):
            run("b", resume=from_full)
    np.testing.assert_array_equal(run("b", resume=True), unbroken)
    one, other = (bundle.read(tmp_path / name) for name in "ab")
    assert (one.weights, one.results) == (other.weights, other.results)
    names = [{path.name for path in (tmp_path / run).iterdir()} for run in "ab"]
    assert names[0] == names[1]


@pytest.mark.backend
def test_low_rank_updates_are_all_that_training_changes(
    model: tuple[Any, Path, Path], tmp_path: Path
) -> None:
    import keras

    _, base, target = model
    rows = (TEXTS * 6, [0, 1, 2] * 6)
    options: dict[str, Any] = {"epochs": 2, "batch_size": 6, "learning_rate": 1e-2, "seed": 5}
    options |= {"recipe": "lora", "delta_rank": 2, "base": base}
    classifier = keras_agnews.load(target, weights="pretrained", base=base)

    def values() -> dict[str, np.ndarray]:
        return {
            v.path: keras.ops.convert_to_numpy(v.value).copy() for v in classifier.model.weights
        }

    before = values()
    result = keras_agnews.finetune(classifier, rows, rows, output=tmp_path / "run", **options)
    assert result["history"][-1]["loss"] < result["history"][0]["loss"]
    after = values()
    assert after.keys() == classifier.description.variables().keys(), "a plain model again"
    assert all(variable.trainable for variable in classifier.model.weights)
    for name, old in before.items():
        change = after[name] - old
        dense = name.endswith("/kernel") and name.startswith("encoder/")
        if old.ndim == 2 and name.startswith("encoder/"):
            assert change.any() == dense, name
            assert np.linalg.matrix_rank(change, tol=1e-5 * np.abs(old).max() * len(old)) <= 2
    moved = {name for name in before if (after[name] != before[name]).any()}
    assert {"logits/kernel", "logits/bias"} <= moved
    assert any(name.endswith("gamma") for name in moved)
    # What is stored gives the same answers, and nothing of what has not moved.
    loaded = keras_agnews.load(tmp_path / "run", base=base)
    np.testing.assert_array_equal(loaded.predict(TEXTS), classifier.predict(TEXTS))
    stored = load_file(tmp_path / "run" / "delta.safetensors")
    assert not any("embeddings" in name or "positions" in name for name in stored)
    assert {a.shape[1] for name, a in stored.items() if name.endswith("/a")} == {2}


@pytest.mark.backend
# In a notebook the classifier is still there, changed by what was trained; as on any backend.
@pytest.mark.parametrize("notebook", [False, pytest.param(True, marks=pytest.mark.once)])
def test_a_killed_low_rank_run_goes_on(
    notebook: bool,
    model: tuple[Any, Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from keras_agnews import resumable

    _, base, target = model
    rows = (TEXTS * 6, [0, 1, 2] * 6)
    options: dict[str, Any] = {"epochs": 2, "batch_size": 6, "learning_rate": 1e-2}
    options |= {"recipe": "lora", "delta_rank": 2, "base": base}

    def fresh_one() -> Any:
        return keras_agnews.load(target, weights="pretrained", base=base)

    def run(classifier: Any, name: str, resume: bool = False) -> np.ndarray:
        keras_agnews.finetune(
            classifier, rows, rows, output=tmp_path / name, resume=resume, **options
        )
        return classifier.predict(TEXTS)

    unbroken = run(fresh_one(), "a")
    monkeypatch.setattr(resumable, "CHECKPOINT_SECONDS", 0.0)
    write = resumable.ResumableFit.checkpoint

    def killed(self: Any, epoch: int, batch: int) -> None:
        write(self, epoch, batch)
        if (epoch, batch) == (1, 1):
            raise KeyboardInterrupt

    classifier = fresh_one()
    with monkeypatch.context() as patch:
        patch.setattr(resumable.ResumableFit, "checkpoint", killed)
        with pytest.raises(KeyboardInterrupt):
            run(classifier, "b")
    resumed = run(classifier if notebook else fresh_one(), "b", resume=True)
    np.testing.assert_array_equal(resumed, unbroken)


@pytest.mark.backend
def test_low_rank_updates_leave_what_is_frozen() -> None:
    import keras

    classifier = keras_agnews.load("tiny-transformer", weights=None)
    block = classifier.encoder.blocks[0]
    block.attention.trainable = False

    def values() -> dict[str, np.ndarray]:
        weights = classifier.model.weights
        return {w.path: keras.ops.convert_to_numpy(w.value).copy() for w in weights}

    before = values()
    options: dict[str, Any] = {"recipe": "lora", "epochs": 2, "batch_size": 4}
    keras_agnews.finetune(classifier, (TEXTS * 4, [0, 1, 2] * 4), **options)
    moved = {name for name, value in values().items() if (value != before[name]).any()}
    frozen = {weight.path for weight in block.attention.weights}
    assert moved
    assert not moved & frozen
    assert {"encoder/block_0/feed_forward/kernel", "logits/kernel"} <= moved
    recurrent = keras_agnews.load("gru-attention", weights=None)
    with pytest.raises(keras_agnews.InputError, match="gru-attention is no transformer"):
        keras_agnews.finetune(recurrent, (TEXTS, [0, 1, 2]), **options)


@pytest.mark.backend
def test_low_rank_updates_without_a_base_stay_in_memory(tmp_path: Path) -> None:
    classifier = keras_agnews.load("tiny-transformer", weights=None)
    rows = (TEXTS * 4, [0, 1, 2] * 4)
    options: dict[str, Any] = {"recipe": "lora", "epochs": 1, "batch_size": 4}
    before = classifier.predict(TEXTS)
    keras_agnews.finetune(classifier, rows, **options)
    assert (classifier.predict(TEXTS) != before).any()
    with pytest.raises(keras_agnews.InputError, match="has no pretrained base"):
        keras_agnews.finetune(classifier, rows, output=tmp_path, **options)
