"""The zoo by name, and what third parties add to it.

What is registered stays so for the life of a process, so each test that registers has its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from test_bundle import model

import keras_agnews
from keras_agnews import bundle, registry
from keras_agnews.errors import BundleError, InputError, NotFoundError

SHIPPED = {path.parent.name for path in registry.zoo_directory().glob("*/config.json")}


def test_models_are_listed_sorted_and_by_pattern() -> None:
    assert keras_agnews.list_models() == sorted(SHIPPED)
    assert keras_agnews.list_models("*bert*") == sorted(n for n in SHIPPED if "bert" in n)
    assert keras_agnews.list_models("bert-base") == ["bert-base"]
    assert keras_agnews.list_models("[bd]*-base") == ["bert-base", "distilbert-base"]
    assert keras_agnews.list_models("bert") == []


def test_a_name_is_found_or_not() -> None:
    assert registry.find("bert-base") == registry.zoo_directory() / "bert-base"
    for name in ("bert", "", "..", "bert-base/", "../zoo/bert-base"):
        assert registry.find(name) is None


def test_a_path_is_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotFoundError, match="neither a model of the zoo nor a directory"):
        registry.locate(Path("bert-base"))
    (tmp_path / "bert-base").mkdir()
    entry = registry.zoo_directory() / "bert-base"
    assert registry.locate("bert-base") == entry
    assert registry.locate(Path("bert-base")) == registry.locate("./bert-base") == Path("bert-base")
    for home in ("~/bert-base", Path("~/bert-base")):
        assert registry.locate(home) == tmp_path / "bert-base"


def test_whatever_wants_a_model_says_the_same_of_a_name_that_is_none() -> None:
    calls = (keras_agnews.load, keras_agnews.verify, lambda name: keras_agnews.push(name, "a/b"))
    for call in calls:
        with pytest.raises(NotFoundError, match=r"did you mean 'tiny-transformer'\?"):
            call("tiny-transfomer")
    for call in calls[:2]:
        with pytest.raises(InputError, match="a name, a path or an address, not 5"):
            call(5)


@pytest.mark.backend
@pytest.mark.once
def test_a_drive_is_no_scheme() -> None:
    with pytest.raises(NotFoundError, match="neither a model of the zoo nor a directory"):
        keras_agnews.load(r"c:\models\mine")
    with pytest.raises(NotFoundError, match="this version loads names, paths"):
        keras_agnews.load("gs://models/mine")


def test_an_unknown_builder_names_those_there_are() -> None:
    with pytest.raises(BundleError, match=r"'rnn' is not registered \(known: bert, gru, trans"):
        registry.builder("rnn")


# --- directories


@pytest.fixture
def bundles(tmp_path: Path) -> Path:
    """A directory of two bundles and of things that are none."""
    for version, name in enumerate(("first", "second")):
        bundle.write(tmp_path / "models" / name, *model(version))
    (tmp_path / "models" / "empty").mkdir()
    (tmp_path / "models" / "notes.txt").write_text("")
    return tmp_path / "models"


@pytest.mark.parametrize("form", ["{}", "{}/", "{}/empty/..", "{}/../models", "~/models"])
def test_a_directory_of_bundles_joins_the_zoo(
    fresh: Callable[..., str], bundles: Path, form: str
) -> None:
    code = """
import sys, keras_agnews
from pathlib import Path
from keras_agnews import bundle, registry
before = keras_agnews.list_models()
for kind in (str, Path, str):  # once more is no clash
    keras_agnews.register(kind(sys.argv[1]))
assert keras_agnews.list_models() == sorted([*before, "first", "second"])
assert keras_agnews.list_models("*ir*") == ["first"]
assert registry.find("second") == Path(sys.argv[2], "second")
assert bundle.read(registry.find("second")).name == "model-1"
"""
    fresh(code, form.format(bundles), str(bundles), HOME=str(bundles.parent))


@pytest.mark.parametrize("form", ["{}/first", "{}/first/", "{}/second/../first"])
def test_a_single_bundle_joins_the_zoo(fresh: Callable[..., str], bundles: Path, form: str) -> None:
    code = """
import sys, keras_agnews
before = keras_agnews.list_models()
keras_agnews.register(sys.argv[1])
assert keras_agnews.list_models() == sorted([*before, "first"])
"""
    fresh(code, form.format(bundles))


def test_names_that_clash_are_refused_and_nothing_is_registered(
    fresh: Callable[..., str], bundles: Path
) -> None:
    (bundles.parent / "others").mkdir()
    for name in ("first", "third"):
        os.rename(bundles / "first", bundles.parent / "others" / name)
        bundle.write(bundles / "first", *model())
    os.rename(bundles / "second", bundles / "bert-base")
    code = """
import sys, keras_agnews
before = keras_agnews.list_models()
def refused(source, name):
    try:
        keras_agnews.register(source)
    except keras_agnews.InputError as error:
        assert f"{name!r} is registered already: rename {source}" in str(error), error
    else:
        raise AssertionError(source)
    return keras_agnews.list_models()
models, others = sys.argv[1:]
assert refused(models, "bert-base") == before
keras_agnews.register(models + "/first")
assert refused(others, "first") == sorted([*before, "first"])
"""
    fresh(code.replace("rename {source}", "rename "), str(bundles), str(bundles.parent / "others"))


def test_a_directory_without_bundles_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path, tmp_path / "nowhere", tmp_path / "file"):
        with pytest.raises(NotFoundError, match=f"no bundle in {place}"):
            keras_agnews.register(place)


# --- builders


def test_half_a_builder_is_refused() -> None:
    class NoConfig:
        def to_dict(self) -> None: ...

    with pytest.raises(InputError, match="go together"):
        keras_agnews.register("rnn", builder="module:build")
    with pytest.raises(InputError, match="go together"):
        keras_agnews.register("rnn", config=NoConfig)
    with pytest.raises(InputError, match=r"NoConfig lacks from_dict, variables"):
        keras_agnews.register("rnn", builder="module:build", config=NoConfig)
    with pytest.raises(InputError, match="'bert' is registered already"):
        keras_agnews.register("bert", builder="module:build", config=registry.BertConfig)


# A third party's architecture: the mean of word vectors, and a dense layer. Its config trusts
# what it is given; the shapes are lists.
TOY = """
import dataclasses, sys
import keras_agnews

@dataclasses.dataclass(frozen=True)
class BagConfig:
    vocabulary_size: int
    width: int = 3

    @classmethod
    def from_dict(cls, values):
        return cls(**values)

    def to_dict(self):
        return dataclasses.asdict(self)

    def variables(self, classes):
        return {
            "tokens/embeddings": [self.vocabulary_size, self.width],
            "logits/kernel": [self.width, classes],
            "logits/bias": [classes],
        }

def build(config, classes):
    import keras
    ids = keras.Input((None,), dtype="int32", name="input_word_ids")
    hidden = keras.layers.Embedding(config.vocabulary_size, config.width, name="tokens")(ids)
    pooling = keras_agnews.layers.MaskedMeanPooling()
    hidden = pooling(hidden, keras.ops.not_equal(ids, 0))
    hidden = keras.layers.Dropout(0.1, name="head_dropout")(hidden)
    logits = keras.layers.Dense(classes, name="logits")(hidden)
    return keras.Model({"input_word_ids": ids}, logits)

def other_build(config, classes):
    return build(dataclasses.replace(config, width=config.width + 1), classes)

keras_agnews.register("bag", builder="toy:build", config=BagConfig)
keras_agnews.register("wrong-bag", builder=other_build, config=BagConfig)
assert "keras" not in sys.modules  # what only lists models need not wait
"""
WORDS = ("", "[UNK]", "oil", "prices", "cup")
TEXTS = ["oil", "oil prices", "cup oil oil unknown", ""]


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    (tmp_path / "toy.py").write_text(TOY)
    return tmp_path


@pytest.mark.backend
@pytest.mark.once
def test_a_third_partys_model_goes_all_the_way(fresh: Callable[..., str], toy: Path) -> None:
    rng = np.random.default_rng(0)
    tensors = {
        "tokens/embeddings": rng.normal(size=(5, 3)).astype("float32"),
        "logits/kernel": rng.normal(size=(3, 2)).astype("float32"),
        "logits/bias": rng.normal(size=2).astype("float32"),
    }
    words = [[2], [2, 3], [4, 2, 2, 1], []]
    means = [tensors["tokens/embeddings"][ids].mean(0) if ids else np.zeros(3) for ids in words]
    logits = np.stack(means) @ tensors["logits/kernel"] + tensors["logits/bias"]
    odds = np.exp(logits / 2.0)
    np.savez(toy / "toy.npz", **tensors)
    np.save(toy / "expected.npy", odds / odds.sum(axis=1, keepdims=True))
    code = f"""
import sys
sys.path.insert(0, sys.argv[1])
import toy, keras_agnews, numpy as np
from keras_agnews import bundle
TEXTS = {TEXTS!r}
description = bundle.Bundle(
    name="bag-of-words", builder="bag", config=toy.BagConfig(5), labels=("good", "bad"),
    tokenizer={{"kind": "words"}}, max_length=9, temperature=2.0)
root = sys.argv[1] + "/bag-of-words"
bundle.write(bundle.Path(root), description, {WORDS!r}, dict(np.load(sys.argv[1] + "/toy.npz")))
keras_agnews.register(root)
clf = keras_agnews.load("bag-of-words")
expected = np.load(sys.argv[1] + "/expected.npy")
np.testing.assert_allclose(clf.predict(TEXTS), expected, atol=1e-5)
clf.save_bundle(sys.argv[1] + "/copy")
copy = keras_agnews.load(sys.argv[1] + "/copy")
np.testing.assert_allclose(copy.predict(TEXTS), expected, atol=1e-5)
copy.fit(TEXTS[:2], ["bad", "good"], epochs=1, verbose=0)
assert abs(copy.predict(TEXTS) - expected).max() > 1e-4
other = keras_agnews.load(sys.argv[1] + "/copy", weights="bag-of-words")
np.testing.assert_allclose(other.predict(TEXTS), expected, atol=1e-5)
for recipe, layer in (("head", "encoder"), ("lora", "encoder")):
    try:
        keras_agnews.finetune(clf, (TEXTS[:2], ["bad", "good"]), recipe=recipe)
    except keras_agnews.InputError as error:
        assert "built by 'bag'" in str(error) and repr(layer) in str(error), error
    else:
        raise AssertionError(recipe)
clf.save(sys.argv[1] + "/bag.keras")
"""
    fresh(code, str(toy))
    code = f"""
import sys
sys.path.insert(0, sys.argv[1])
import toy, keras, keras_agnews, numpy as np
clf = keras.saving.load_model(sys.argv[1] + "/bag.keras")
expected = np.load(sys.argv[1] + "/expected.npy")
np.testing.assert_allclose(clf.predict({TEXTS!r}), expected, atol=1e-5)
"""
    fresh(code, str(toy))
    with pytest.raises(BundleError, match=r"builder 'bag' is not registered .* package that"):
        bundle.read(toy / "copy")


@pytest.mark.backend
@pytest.mark.once
def test_a_third_partys_model_takes_other_labels(fresh: Callable[..., str], toy: Path) -> None:
    code = f"""
import sys, warnings
sys.path.insert(0, sys.argv[1])
import toy, keras_agnews
from keras_agnews import bundle
description = bundle.Bundle(
    name="bag", builder="bag", config=toy.BagConfig(5), labels=("good", "bad"),
    tokenizer={{"kind": "words"}}, max_length=9)
shapes = description.variables()
tensors = {{name: bundle.np.ones(shape, "float32") for name, shape in shapes.items()}}
bundle.write(bundle.Path(sys.argv[1]), description, {WORDS!r}, tensors)
with warnings.catch_warnings(record=True) as caught:
    clf = keras_agnews.load(sys.argv[1], labels=["yes", "no"])
assert "logits/bias, logits/kernel are new and untrained" in str(caught[0].message)
weights = {{variable.path: variable.numpy() for variable in clf.model.weights}}
assert (weights["tokens/embeddings"] == 1).all()
assert (weights["logits/kernel"] != 1).all()
"""
    fresh(code, str(toy))


@pytest.mark.backend
@pytest.mark.once
def test_a_builder_that_breaks_its_word_is_told(fresh: Callable[..., str], toy: Path) -> None:
    code = """
import sys
sys.path.insert(0, sys.argv[1])
import toy, keras_agnews
from keras_agnews.bundle import Bundle
values = {"format": "keras-agnews", "format_version": 1, "name": "bag", "builder": "wrong-bag",
          "config": {"vocabulary_size": 5}, "tokenizer": {"kind": "words"}, "max_length": 9,
          "labels": ["a", "b"]}
def refused(make, message):
    try:
        make()
    except keras_agnews.BundleError as error:
        assert message in str(error), error
    else:
        raise AssertionError(message)
refused(Bundle.from_dict(values).build, "builder 'wrong-bag' gives logits/kernel the shape (4, 2)")
refused(lambda: Bundle.from_dict(values | {"config": {"depth": 1}}), "config: ")
refused(lambda: Bundle.from_dict(values | {"config": []}), "config: ")

from keras_agnews.configs import GruConfig
for name, builder in (("none", "no_such_package.build:fn"), ("no-function", "toy:nothing")):
    keras_agnews.register(name, builder=builder, config=GruConfig)
    try:
        Bundle.from_dict(values | {"builder": name, "config": {"vocabulary_size": 5}}).build()
    except keras_agnews.KerasAgnewsError as error:
        assert builder in str(error), error
    else:
        raise AssertionError(name)
try:
    keras_agnews.register("no-colon", builder="toy", config=GruConfig)
except keras_agnews.InputError as error:
    assert "no 'module:function'" in str(error)
else:
    raise AssertionError("no colon")
"""
    fresh(code, str(toy))


# --- entry points


def install(site: Path, name: str, value: str, code: str | None) -> None:
    """What pip leaves of a package with one entry point."""
    information = site / f"{name}-1.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(f"[keras_agnews.models]\n{name} = {value}\n")
    if code is not None:
        (site / f"{name}.py").write_text(code)


def test_an_installed_package_brings_models_and_a_broken_one_only_warns(
    fresh: Callable[..., str], bundles: Path, tmp_path: Path
) -> None:
    site = tmp_path / "site"
    # It asks for the zoo itself while it adds to it, and takes its time.
    good = f"""
import time
import keras_agnews
calls = []
def add():
    calls.append(1)
    assert len(calls) == 1
    time.sleep(0.3)
    assert "bert-base" in keras_agnews.list_models()
    keras_agnews.register({str(bundles)!r})
"""
    install(site, "good", "good:add", good)
    install(site, "absent", "absent:add", None)
    install(site, "without", "without:add", "")
    install(site, "failing", "failing:add", "def add(): raise RuntimeError('no disk')")
    install(site, "constant", "constant:add", "add = 3")
    code = """
import sys, threading, warnings
sys.path.insert(0, sys.argv[1])
import keras_agnews
from keras_agnews import registry
assert "good" not in sys.modules  # importing the package runs nobody's code
found = []
def ask():
    found.append(keras_agnews.list_models("[fs]*"))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    ask()
names = ["first", "second", *keras_agnews.list_models("small*")]
assert found == [names] * 5, found
assert registry.find("first") is not None
assert sys.modules["good"].calls == [1]
told = sorted(str(warning.message) for warning in caught)
expected = {"absent": "ModuleNotFoundError", "constant": "TypeError", "failing": "no disk",
            "without": "AttributeError"}
assert len(told) == len(expected), told
for message, (name, error) in zip(told, expected.items()):
    assert f"entry point {name!r} ({name}:add)" in message and error in message, message
"""
    fresh(code, str(site))
