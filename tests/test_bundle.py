"""A model on disk: what is written is read again, and nothing else is; needs no backend."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import importlib.util
import json
import math
import os
import re
import stat
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_agnews import bundle, card, tensor_files, text_files
from keras_agnews.bundle import Bundle
from keras_agnews.configs import TransformerConfig
from keras_agnews.errors import BundleError, InputError
from keras_agnews.files import digest

WORDS = ("", "[UNK]", "oil", "prices", "élection", "選挙", "cup", "\u2028", "comet")
FILES = {"config.json", "model.safetensors", "vocab.txt"}


def model(
    version: int = 0, words: tuple[str, ...] = WORDS, labels: tuple[str, ...] = ("Welt", "스포츠")
) -> tuple[Bundle, tuple[str, ...], dict[str, np.ndarray]]:
    """A small model of which every part depends on `version`."""
    description = Bundle(
        name=f"model-{version}",
        builder="transformer",
        config=TransformerConfig(
            vocabulary_size=len(words), max_positions=6, hidden_size=4, key_size=2, head_size=3
        ),
        tokenizer={"kind": "words", "normalize": "news"},
        max_length=5,
        labels=labels,
        temperature=1.0 + version / 1024,
        recipe={"epochs": 3, "note": "ß \U0001f600"},
        results=({"data": "ours", "metric": "accuracy", "value": 0.5 + version / 1024},),
        source={"repository": "hf://user/model", "revision": "0" * 40},
    )
    rng = np.random.default_rng(version)
    tensors = {
        name: rng.normal(size=shape).astype("float32")
        for name, shape in description.variables().items()
    }
    return description, (*words[:-1], f"{words[-1]}{version}"), tensors


def contents(directory: Path) -> tuple[Any, ...]:
    """All that `load` would take from a bundle, to compare by `==`."""
    description = bundle.read(directory)
    words = bundle.read_tokenizer(directory, description).vocabulary
    pin = description.weights
    assert pin is not None
    stored = bundle.read_weights(directory / pin.file, description.variables(), pin.sha256)
    tensors = {name: value.tobytes() for name, value in stored}
    return dataclasses.replace(description, weights=None, tokenizer={}), words, tensors


def expected(version: int) -> tuple[Any, ...]:
    description, words, tensors = model(version)
    description = dataclasses.replace(description, tokenizer={})
    return description, words, {name: value.tobytes() for name, value in tensors.items()}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A whole bundle."""
    bundle.write(tmp_path / "model", *model())
    return tmp_path / "model"


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


# --- round trip


def test_what_is_written_is_read(tmp_path: Path) -> None:
    written = bundle.write(tmp_path / "a" / "b", *model(7))
    assert contents(tmp_path / "a" / "b") == expected(7)
    assert bundle.read(tmp_path / "a" / "b") == written
    assert names(tmp_path / "a" / "b") == FILES


def test_config_json_is_as_designed(directory: Path) -> None:
    text = (directory / "config.json").read_text(encoding="utf-8")
    values = json.loads(text)
    assert list(values) == [
        "format",
        "format_version",
        "task",
        "name",
        "builder",
        "config",
        "tokenizer",
        "max_length",
        "labels",
        "weights",
        "temperature",
        "recipe",
        "results",
        "source",
    ]
    assert (values["format"], values["format_version"]) == ("keras-agnews", 1)
    assert values["weights"] == {
        "file": "model.safetensors",
        "sha256": digest(directory / "model.safetensors"),
        "dtype": "float32",
    }
    assert "스포츠" in text  # for people to read


def test_weights_are_plain_safetensors(directory: Path) -> None:
    stored = safetensors.numpy.load_file(directory / "model.safetensors")
    _, _, tensors = model()
    assert stored.keys() == tensors.keys()
    for name, value in tensors.items():
        np.testing.assert_array_equal(stored[name], value)


def test_float16_halves_the_file_and_is_read_as_float32(directory: Path, tmp_path: Path) -> None:
    description, words, tensors = model()
    written = bundle.write(tmp_path / "half", description, words, tensors, "float16")
    assert written.weights is not None
    assert written.weights.dtype == "float16"
    path = tmp_path / "half" / "model.safetensors"
    data = sum(value.nbytes for value in tensors.values())
    assert (directory / "model.safetensors").stat().st_size - path.stat().st_size >= data // 2 - 8
    for name, value in bundle.read_weights(path, description.variables()):
        assert value.dtype == np.float32
        np.testing.assert_array_equal(value, tensors[name].astype("float16"))


def test_bfloat16_is_read(tmp_path: Path) -> None:
    description, _, tensors = model()
    halves = {name: value.astype(ml_dtypes.bfloat16) for name, value in tensors.items()}
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file(halves, path)
    for name, value in bundle.read_weights(path, description.variables()):
        assert value.dtype == np.float32
        np.testing.assert_array_equal(value, halves[name].astype("float32"))


def test_a_bundle_without_weights_is_one(tmp_path: Path) -> None:
    description, _, _ = model()
    text_files.write_json(tmp_path / "config.json", description.to_dict())
    assert bundle.read(tmp_path) == description


def test_a_mapped_tensor_is_what_the_library_reads(tmp_path: Path) -> None:
    tensors = {
        "odd": np.arange(3, dtype=np.uint8),  # so that the next ones are not aligned
        "f32": np.arange(6, dtype=np.float32).reshape(2, 3),
        "f16": np.arange(4, dtype=np.float16),
        "bf16": np.arange(5).astype(ml_dtypes.bfloat16),
        "none": np.zeros((0, 4), np.float32),
        "scalar": np.array(2, np.float32),
    }
    path = tmp_path / "x.safetensors"
    safetensors.numpy.save_file(tensors, path)
    mapped = tensor_files.map_safetensors(path)
    assert mapped.keys() == tensors.keys()
    for name in tensors.keys() - {"odd"}:
        value = mapped[name].read()
        assert (mapped[name].shape, value.dtype) == (tensors[name].shape, np.float32)
        np.testing.assert_array_equal(value, tensors[name].astype(np.float32))
    del mapped, value


# --- replacing


def test_a_bundle_is_replaced_and_other_files_stay(directory: Path) -> None:
    (directory / "README.md").write_text("mine")
    (directory / "notes").mkdir()
    (directory / ".0123456789").write_text("not ours")
    more = model(1, (*WORDS, "more"), ("a", "b", "c"))
    card.write(directory, bundle.write(directory, *more))
    assert contents(directory)[0].labels == ("a", "b", "c")
    assert contents(directory)[1] == more[1]
    assert names(directory) == FILES | {"README.md", "notes", ".0123456789"}
    assert (directory / "README.md").read_text() == "mine"


def test_a_card_is_written_anew_but_for_what_a_person_wrote(directory: Path) -> None:
    path = directory / "README.md"
    first, second = (dataclasses.replace(bundle.read(directory), name=n) for n in ("one", "two"))
    card.write(directory, first)
    assert "# one\n" in path.read_text("utf-8")
    path.write_text(path.read_text("utf-8") + "\nMine ☃\n", "utf-8")
    card.write(directory, second)
    text = path.read_text("utf-8")
    assert "# two\n" in text
    assert "# one\n" not in text
    assert text.endswith("Mine ☃\n")
    broken = text.replace("library_name:", "library_name: [", 1)
    path.write_text(broken, "utf-8")
    card.write(directory, first)  # metadata that nobody can read are not a reason to stop
    assert path.read_text("utf-8") == broken
    other = text.encode() + b"caf\xe9\n"
    path.write_bytes(other)
    card.write(directory, first)  # nor is another encoding
    assert path.read_bytes() == other


def test_a_model_under_other_file_names_is_replaced(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "old.safetensors")
    (directory / "vocab.txt").rename(directory / "old.txt")
    values = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    values["weights"]["file"] = "old.safetensors"
    values["tokenizer"]["vocabulary"] = "old.txt"
    text_files.write_json(directory / "config.json", values)
    assert contents(directory) == expected(0)
    bundle.write(directory, *model(1))
    assert contents(directory) == expected(1)


def test_files_get_the_rights_that_the_user_gives_new_files(directory: Path) -> None:
    (directory / "new").write_text("")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}
    assert modes == dict.fromkeys(modes, modes["new"])


def test_reading_goes_on_in_the_file_that_was_checked(directory: Path) -> None:
    """`load` builds the model between check and reading, while others may write."""
    description = bundle.read(directory)
    assert description.weights is not None
    path, sha256 = directory / "model.safetensors", description.weights.sha256
    stored = bundle.read_weights(path, description.variables(), sha256)
    bundle.write(directory, *model(1))
    assert {name: value.tobytes() for name, value in stored} == expected(0)[2]


Change = Callable[[Bundle, tuple[str, ...], dict[str, np.ndarray]], Any]
SOME = "logits/bias"
UNWRITABLE: dict[str, tuple[Change, str]] = {
    "not finite": (lambda b, w, t: (b, w, t | {SOME: np.full(2, np.nan, "f")}), SOME),
    "too large for float16": (lambda b, w, t: (b, w, t | {SOME: np.full(2, 1e6)}, "float16"), SOME),
    "wrong shape": (lambda b, w, t: (b, w, t | {SOME: np.zeros(3, "f")}), SOME),
    "missing tensor": (lambda b, w, t: (b, w, {k: v for k, v in t.items() if k != SOME}), SOME),
    "extra tensor": (lambda b, w, t: (b, w, t | {"new": np.zeros(3, "f")}), "new"),
    "dtype": (lambda b, w, t: (b, w, t, "int8"), "dtype is 'int8'"),
    "short vocabulary": (lambda b, w, t: (b, w[:-1], t), r"config\.vocabulary_size"),
    "line end in a token": (lambda b, w, t: (b, (*w[:-1], "a\nb"), t), r"vocabulary\[8\]"),
    "duplicate token": (lambda b, w, t: (b, (*w[:-1], "oil"), t), r"vocabulary\[8\]"),
    "bad label": (lambda b, w, t: (dataclasses.replace(b, labels=("a", "\ud800")), w, t), "labels"),
    "temperature": (lambda b, w, t: (dataclasses.replace(b, temperature=math.nan), w, t), "temper"),
    "recipe": (lambda b, w, t: (dataclasses.replace(b, recipe={"a": np.float32(1)}), w, t), "JSON"),
    "results": (
        lambda b, w, t: (dataclasses.replace(b, results=({"value": math.inf},)), w, t),
        r"results\[0\]\.value",
    ),
}


@pytest.mark.parametrize(("change", "message"), UNWRITABLE.values(), ids=UNWRITABLE)
@pytest.mark.filterwarnings("error")
def test_what_could_not_be_read_again_is_not_written(
    directory: Path, tmp_path: Path, change: Change, message: str
) -> None:
    for place in (directory, tmp_path / "new"):
        with pytest.raises(InputError, match=message):
            bundle.write(place, *change(*model(1)))
    assert contents(directory) == expected(0)
    assert names(directory) == FILES
    assert not (tmp_path / "new").exists()


def test_a_file_is_no_output_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="file is a file"):
        bundle.write(tmp_path / "file", *model())
    assert (tmp_path / "file").read_text() == "mine"


# --- bad configs


def put(values: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy of a JSON value with one of its parts replaced."""
    values = copy.deepcopy(values)
    place = values
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return values


def deep(levels: int) -> Any:
    value: Any = 0
    for _ in range(levels):
        value = [value]
    return value


NO_NAMES = ["../vocab.txt", "/etc/passwd", "a/b", "a\\b", "..", ".", "", "C:x", "x\n", "x\0", "é"]
BAD_CONFIGS: list[tuple[str, Any, str]] = [
    ("format", "other", "format"),
    ("format", None, "format"),
    ("format_version", 2, "format_version 2 is newer than 1: update keras-agnews"),
    ("format_version", 0, "format_version"),
    ("format_version", 1.0, "format_version"),
    ("format_version", True, "format_version"),
    ("task", "translation", "task"),
    ("no_such_key", 1, "no_such_key"),
    ("name", "", "name"),
    ("name", 3, "name"),
    ("name", None, "name"),
    ("builder", "no_such_builder", "builder 'no_such_builder' is not registered"),
    ("builder", "os:system", "builder 'os:system' is not registered"),
    ("builder", ["transformer"], "builder"),
    ("config", [], "config must be an object"),
    ("config", None, "config must be an object"),
    ("config.hidden_size", 10**15, r"config\.hidden_size"),
    ("config.hidden_size", "4", r"config\.hidden_size must be int"),
    ("config.epsilon", 10**400, r"config\.epsilon"),
    ("config.no_such_key", 1, r"config\.no_such_key"),
    ("config.pooler", True, r"config\.pooler"),
    ("tokenizer", None, "tokenizer must be an object"),
    ("tokenizer", "words", "tokenizer must be an object"),
    ("max_length", 7, r"max_length is 7.*config\.max_positions"),
    ("max_length", 0, "max_length"),
    ("max_length", 4.0, "max_length"),
    ("max_length", True, "max_length"),
    ("max_length", None, "max_length"),
    ("labels", "ab", "labels must be a list"),
    ("labels", [], "labels"),
    ("labels", ["a", "a"], "labels must differ"),
    ("labels", ["a", 1], r"labels\[1\]"),
    ("labels", ["a", ""], r"labels\[1\]"),
    ("labels", ["\ud800", "a"], r"labels\[0\]"),
    ("labels", {"a": 1}, "labels must be a list"),
    ("labels", [str(i) for i in range(100_001)], "labels must be 1 to 100,000"),
    ("temperature", 0, "temperature"),
    ("temperature", -1.0, "temperature"),
    ("temperature", "1", "temperature"),
    ("temperature", True, "temperature"),
    ("temperature", None, "temperature"),
    ("temperature", 10**400, "temperature"),
    ("temperature", math.nan, "temperature"),
    ("temperature", math.inf, "temperature"),
    ("recipe", [], "recipe"),
    ("recipe", {"a": -math.inf}, r"recipe\.a"),
    ("recipe", {"a": deep(40)}, r"recipe\.a.* is nested too deeply"),
    ("recipe", {"a": deep(400)}, r"recipe\.a.* is nested too deeply"),
    ("results", {}, "results"),
    ("results", [1], "results"),
    ("results", [{"\udfff": 1}], "results"),
    ("source", "hf://user/model", "source"),
    ("weights", "model.safetensors", "weights must be an object"),
    ("weights", [], "weights must be an object"),
    ("weights", {}, r"weights\.file is missing"),
    ("weights.no_such_key", 1, r"weights\.no_such_key"),
    ("weights.file", None, r"weights\.file"),
    ("weights.file", "x" * 300, r"weights\.file"),
    ("weights.sha256", "0" * 63, r"weights\.sha256"),
    ("weights.sha256", "Z" * 64, r"weights\.sha256"),
    ("weights.sha256", None, r"weights\.sha256"),
    ("weights.dtype", "int8", r"weights\.dtype"),
    ("weights.dtype", 32, r"weights\.dtype"),
    ("weights.source", 1, r"weights\.source"),
    ("weights.source", "../other", r"weights\.source"),  # a download must not name local files
    ("weights.source", "/etc", r"weights\.source"),
    ("weights.source", "tfhub:///models/bert", r"weights\.source"),
    ("weights.source", "hf://user/name@main", r"weights\.source"),
    ("weights.source", "hf://../name", r"weights\.source"),
    ("weights.revision", [], r"weights\.revision"),
    ("weights.revision", "/etc/hostname", r"weights\.revision must be a full commit"),
    ("weights.revision", "main", r"weights\.revision must be a full commit"),
    ("tokenizer.vocabulary", 1, r"tokenizer\.vocabulary"),
    *[("weights.file", name, r"weights\.file must be a file name") for name in NO_NAMES],
    *[("tokenizer.vocabulary", name, r"tokenizer\.vocabulary must be a") for name in NO_NAMES],
]


def test_a_bad_config_is_refused_by_file_and_field(directory: Path) -> None:
    path = directory / "config.json"
    good = json.loads(path.read_text(encoding="utf-8"))
    for field, value, message in BAD_CONFIGS:
        path.write_text(json.dumps(put(good, tuple(field.split(".")), value)))
        with pytest.raises(BundleError, match=message) as caught:
            bundle.read(directory)
        assert str(caught.value).startswith(f"{path}: "), (field, caught.value)
        assert str(caught.value).count(str(path)) == 1


@pytest.mark.parametrize(
    "field", ["format", "format_version", "name", "builder", "config", "tokenizer", "max_length"]
)
def test_a_missing_field_is_named(directory: Path, field: str) -> None:
    path = directory / "config.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    del values[field]
    path.write_text(json.dumps(values))
    with pytest.raises(BundleError, match=rf"config\.json: {field}\b"):
        bundle.read(directory)


NO_TOKENIZERS: list[tuple[str, Any, str]] = [
    ("kind", "no_such_kind", "tokenizer: .*no_such_kind"),
    ("kind", None, "tokenizer: .*kind"),
    ("kind", ["words"], "tokenizer: .*kind"),
    ("kind", "wordpiece", "tokenizer: .*normalize"),
    ("normalize", "no_such_name", "tokenizer: .*no_such_name"),
    ("normalize", 1, "tokenizer: .*normalize"),
    ("lowercase", True, "tokenizer: .*lowercase"),
]


@pytest.mark.parametrize(("option", "value", "message"), NO_TOKENIZERS)
def test_a_bad_tokenizer_is_refused(directory: Path, option: str, value: Any, message: str) -> None:
    path = directory / "config.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(put(values, ("tokenizer", option), value)))
    with pytest.raises(BundleError, match=message) as caught:
        bundle.read_tokenizer(directory, bundle.read(directory))
    assert str(path) in str(caught.value)


BAD_JSON = {
    "empty": b"",
    "truncated": b'{"format": "keras-agnews"',
    "an array": b"[]",
    "null": b"null",
    "not UTF-8": b'{"format": "\xff"}',
    "UTF-16": '{"format": 1}'.encode("utf-16"),
    **{f"{n:,} arrays": b'{"a": ' + b"[" * n + b"]" * n + b"}" for n in (40, 900, 100_000)},
    **{f"{n:,} objects": b'{"a":' * n + b"1" + b"}" * n for n in (40, 900, 100_000)},
}


@pytest.mark.parametrize("content", BAD_JSON.values(), ids=BAD_JSON)
def test_bad_json_is_refused_by_file(directory: Path, content: bytes) -> None:
    path = directory / "config.json"
    path.write_bytes(content)
    with pytest.raises(BundleError, match=re.escape(str(path))) as caught:
        bundle.read(directory)
    assert len(str(caught.value)) < 10_000


SPOILED = {
    "a key twice": ('"name": "', '"name": "b", "name": "', "the key 'name' stands twice"),
    "a key twice, inside": ('"layers": 1', '"layers": 1, "layers": 1', "'layers' stands twice"),
    "NaN": ('"temperature": 1.0', '"temperature": NaN', "temperature"),
    "an infinite number": ('"epochs": 3', '"epochs": 1e999', r"recipe\.epochs is inf"),
    "a number without end": ('"epochs": 3', f'"epochs": {"9" * 10_000}', "digits"),
    "something after it": ("\n}\n", "\n}\0", "Extra data"),
    "half a surrogate pair": ("ß", r"\udc00", r"recipe\.note"),
}


@pytest.mark.parametrize(("good", "bad", "message"), SPOILED.values(), ids=SPOILED)
def test_what_json_leaves_open_is_refused(
    directory: Path, good: str, bad: str, message: str
) -> None:
    path = directory / "config.json"
    text = path.read_text(encoding="utf-8")
    assert text.count(good) == 1
    path.write_text(text.replace(good, bad), encoding="utf-8")
    with pytest.raises(BundleError, match=rf"config\.json: .*{message}"):
        bundle.read(directory)


def test_an_enormous_config_is_not_read(directory: Path) -> None:
    path = directory / "config.json"
    with open(path, "r+b") as file:
        file.truncate(100 * 2**20)
    tracemalloc.start()
    try:
        with pytest.raises(BundleError, match=r"config\.json: 104,857,600 bytes"):
            bundle.read(directory)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_a_missing_config_is_named(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(BundleError, match=re.escape(str(place / "config.json"))):
            bundle.read(place)
    (tmp_path / "config.json").mkdir()
    with pytest.raises(BundleError, match="cannot be read"):
        bundle.read(tmp_path)


# --- bad vocabularies

BAD_WORDS: dict[str, tuple[bytes, str]] = {
    "short": ("\n".join(WORDS[:-1]).encode(), r"config\.vocabulary_size is 9"),
    "long": ("\n".join([*WORDS, "a", "b"]).encode(), r"config\.vocabulary_size is 9"),
    "duplicate": ("\n".join([*WORDS[:-1], "oil"]).encode(), r"vocab\.txt, line 9: 'oil'"),
    "not UTF-8": (b"\n[UNK]\n\xff", r"vocab\.txt, line 3"),
    "empty": (b"", r"vocab\.txt is empty"),
    "no unknown token": ("\n".join(map(str, range(9))).encode(), "tokenizer: "),
}


@pytest.mark.parametrize(("content", "message"), BAD_WORDS.values(), ids=BAD_WORDS)
def test_a_bad_vocabulary_is_refused(directory: Path, content: bytes, message: str) -> None:
    (directory / "vocab.txt").write_bytes(content)
    with pytest.raises(BundleError, match=message) as caught:
        bundle.read_tokenizer(directory, bundle.read(directory))
    assert str(directory) in str(caught.value)


def test_a_missing_vocabulary_is_named(directory: Path) -> None:
    (directory / "vocab.txt").unlink()
    with pytest.raises(BundleError, match=re.escape(str(directory / "vocab.txt"))):
        bundle.read_tokenizer(directory, bundle.read(directory))


# --- bad weights


def read_weights(directory: Path, trust: bool = False) -> dict[str, np.ndarray]:
    description = bundle.read(directory)
    assert description.weights is not None
    sha256 = "" if trust else description.weights.sha256
    path = directory / description.weights.file
    return dict(bundle.read_weights(path, description.variables(), sha256))


def resave(path: Path, **changes: Any) -> None:
    """Save the tensors anew, some of them changed or, where `None`, left out."""
    tensors = safetensors.numpy.load_file(path) | changes
    safetensors.numpy.save_file({k: v for k, v in tensors.items() if v is not None}, path)


def reheader(path: Path, **changes: Any) -> None:
    """Change what the header says of `SOME`."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header[SOME] |= changes
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])


HUGE = 10**13
BAD_WEIGHTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (lambda p: p.unlink(), "no such file"),
    "a directory": (lambda p: (p.unlink(), p.mkdir()), "no such file"),
    "empty": (lambda p: p.write_bytes(b""), "not a whole safetensors file"),
    "header cut": (lambda p: p.write_bytes(p.read_bytes()[:100]), "not a whole safetensors"),
    "data cut": (lambda p: p.write_bytes(p.read_bytes()[:-1]), "not a whole safetensors"),
    "data longer": (lambda p: p.write_bytes(p.read_bytes() + b"\0"), "not a whole safetensors"),
    "another format": (lambda p: p.write_bytes(b"PK\3\4" * 50), "not a whole safetensors"),
    "header length": (
        lambda p: p.write_bytes(HUGE.to_bytes(8, "little") + p.read_bytes()[8:]),
        "not a whole safetensors",
    ),
    "int": (lambda p: resave(p, **{SOME: np.zeros(2, "int64")}), f"{SOME} is I64"),
    "bool": (lambda p: resave(p, **{SOME: np.zeros(2, "bool")}), f"{SOME} is BOOL"),
    "float64": (lambda p: resave(p, **{SOME: np.zeros(2)}), f"{SOME} is F64"),
    "extra tensor": (lambda p: resave(p, extra=np.zeros(2, "f")), "unexpected tensors extra"),
    "missing tensor": (lambda p: resave(p, **{SOME: None}), f"missing tensors {SOME}"),
    "wrong shape": (
        lambda p: resave(p, **{SOME: np.zeros(3, "f")}),
        rf"{SOME} has shape \(3,\), config.json says \(2,\)",
    ),
    "wrong rank": (lambda p: resave(p, **{SOME: np.zeros((2, 1), "f")}), f"{SOME} has shape"),
    "huge shape": (lambda p: reheader(p, shape=[HUGE]), "not a whole safetensors"),
    "overflowing shape": (lambda p: reheader(p, shape=[2**40, 2**40]), "not a whole safetensors"),
    "negative shape": (lambda p: reheader(p, shape=[-2]), "not a whole safetensors"),
    "offsets beyond the end": (lambda p: reheader(p, data_offsets=[0, HUGE]), "not a whole"),
    "offsets of another tensor": (lambda p: reheader(p, data_offsets=[0, 8]), "not a whole"),
    "unknown dtype": (lambda p: reheader(p, dtype="F7"), "not a whole safetensors"),
    "another dtype": (lambda p: reheader(p, dtype="I32"), f"{SOME} is I32"),
}


@pytest.mark.parametrize(("spoil", "message"), BAD_WEIGHTS.values(), ids=BAD_WEIGHTS)
def test_bad_weights_are_refused_before_memory_is_taken(
    directory: Path, spoil: Callable[[Path], Any], message: str
) -> None:
    path = directory / "model.safetensors"
    spoil(path)
    tracemalloc.start()
    try:
        with pytest.raises(BundleError, match=message) as caught:
            read_weights(directory, trust=True)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
    assert str(caught.value).startswith(f"{path}: ")


def test_swapped_weights_are_refused(directory: Path, tmp_path: Path) -> None:
    """Same names, shapes and size; all that tells is the sum."""
    bundle.write(tmp_path / "other", *model(1))
    os.replace(tmp_path / "other" / "model.safetensors", directory / "model.safetensors")
    assert read_weights(directory, trust=True)[SOME].tobytes() == expected(1)[2][SOME]
    with pytest.raises(BundleError, match=r"model\.safetensors: SHA-256 .*weights\.sha256"):
        read_weights(directory)


# --- whatever comes


ANY_TEXT = st.text(st.characters(), max_size=6)  # half surrogate pairs included
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(10**400), 10**400)
    | st.floats()
    | ANY_TEXT
    | st.sampled_from(["words", "bert", "float16", "hf://a/b", "gelu", "first", "0" * 64]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=9,
)


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        yield (*path, key)
        if isinstance(item, dict | list):
            yield from paths(item, (*path, key))


@st.composite
def mutated_configs(draw: st.DrawFn) -> bytes:
    values = json.loads(json.dumps(GOOD))
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(list(paths(values))))
        place = values
        for key in path[:-1]:
            place = place[key]
        what = draw(st.sampled_from(["replace", "replace", "delete", "add"]))
        new = ANY_TEXT | st.sampled_from(["vocabulary", "source"])
        if what == "delete":
            del place[path[-1]]
        elif what == "add" and isinstance(place, dict):
            place[draw(new)] = draw(JSON)
        else:
            place[path[-1]] = draw(JSON)
    return json.dumps(values).encode()


@st.composite
def mutated_bytes(draw: st.DrawFn, good: bytes) -> bytes:
    data = bytearray(good)
    for _ in range(draw(st.integers(1, 4))):
        # The first bytes matter most: the header of a weight file.
        at = draw(st.integers(0, min(300, len(data))) | st.integers(0, len(data)))
        end = at + draw(st.integers(0, 9) | st.just(len(data)))
        data[at:end] = draw(
            st.binary(max_size=9) | st.sampled_from([b"9", b"[", b'"', b"1e9", b"}"])
        )
    return bytes(data)


GOOD = model()[0].to_dict() | {"weights": {"file": "model.safetensors", "sha256": "0" * 64}}
GOOD_WEIGHTS = safetensors.numpy.save(model()[2])


@settings(max_examples=400, deadline=None)
@given(mutated_configs() | mutated_bytes(json.dumps(GOOD).encode()))
def test_any_config_is_valid_or_a_bundle_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    directory = tmp_path_factory.getbasetemp() / "any"
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_bytes(content)
    (directory / "vocab.txt").write_text("".join(f"{word}\n" for word in WORDS), encoding="utf-8")
    try:
        description = bundle.read(directory)
    except BundleError:
        return
    assert description.parameters <= 4_000_100_000
    assert Bundle.from_dict(json.loads(json.dumps(description.to_dict()))) == description
    text_files.write_json(directory / "config.json", description.to_dict())
    assert bundle.read(directory) == description
    try:
        tokenizer = bundle.read_tokenizer(directory, description)
    except BundleError:
        return
    assert tokenizer.batch(["Oil prices"]).lengths[0] <= description.max_length


@settings(max_examples=400, deadline=None)
@given(mutated_bytes(GOOD_WEIGHTS))
def test_any_weight_file_is_valid_or_a_bundle_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    path.write_bytes(content)
    shapes = model()[0].variables()
    try:
        stored = dict(bundle.read_weights(path, shapes))
    except BundleError:
        return
    assert {name: value.shape for name, value in stored.items()} == shapes
    mapped = tensor_files.map_safetensors(path)
    for name, value in stored.items():
        np.testing.assert_array_equal(mapped[name].read(), value)


# --- killed

# Writes version after version, each process killed, or failed, at the next operation on files.
STOPPED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from keras_agnews import bundle, card
from test_bundle import FILES, contents, expected, model, names

directory, how = Path(sys.argv[1]), sys.argv[3]
OPERATIONS = {"open", "os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "os.chmod"}
left = 0

def stop(event, arguments):
    global left
    if left and event in OPERATIONS and str(directory) in str(arguments[0]):
        left -= 1
        if not left:
            if how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError(28, "No space left on device")

sys.addaudithook(stop)
now, version = None, 0
for start in ("nothing", "a model"):
    outcomes = set()
    for step in range(1, 1_000):
        version += 1
        child = os.fork()
        if not child:
            left = step
            try:
                card.write(directory, bundle.write(directory, *model(version)))
            except OSError:
                pass
            unreached = left > 0
            left = 0
            os._exit(3 if unreached else 0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status in (0, 3, -signal.SIGKILL), status
        try:
            found = contents(directory)
        except bundle.BundleError as error:
            assert now is None and "config.json: no such file" in str(error), error
            found = None
        assert found in (now, expected(version)), (start, step)
        outcomes.add(found == now)
        now = found
        if status == 3:
            break
    assert step > 15, step
    assert outcomes == {False, True}, outcomes
bundle.write(directory, *model(version + 1))
assert contents(directory) == expected(version + 1)
assert names(directory) == FILES | {"README.md"}, names(directory)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="stops processes that it has forked")
@pytest.mark.parametrize("how", ["kill", "fail"])
def test_a_write_stopped_at_any_step_leaves_the_old_model_or_the_new(
    fresh: Callable[..., str], tmp_path: Path, how: str
) -> None:
    fresh(STOPPED, str(tmp_path / "model"), str(Path(__file__).parent), how)


needs_locks = pytest.mark.skipif(
    importlib.util.find_spec("fcntl") is None, reason="no directory can be locked on this system"
)


@needs_locks
def test_a_second_writer_waits_for_the_first(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, others = tensor_files.save_tensors, list[Future[Any]]()
    with ThreadPoolExecutor() as pool:

        def saved(*arguments: Any) -> None:
            save(*arguments)
            if not others:
                others.append(pool.submit(bundle.write, directory, *model(2)))
                wait(others, timeout=0.5)

        monkeypatch.setattr(bundle, "save_tensors", saved)
        bundle.write(directory, *model(1))
    others[0].result()
    assert contents(directory) == expected(2)
    assert names(directory) == FILES


@needs_locks
def test_many_writers_leave_a_whole_model(directory: Path) -> None:
    def write(version: int) -> None:
        card.write(directory, bundle.write(directory, *model(version)))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(1, 41)))  # none of which fails
    assert contents(directory) in [expected(version) for version in range(1, 41)]
    assert names(directory) == FILES | {"README.md"}


WRITER = """
import itertools, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from keras_agnews import bundle
from test_bundle import model
for version in itertools.count(int(sys.argv[3])):
    bundle.write(Path(sys.argv[1]), *model(version))
"""


@pytest.mark.slow
def test_a_reader_beside_a_writer_that_is_killed_sees_whole_models(directory: Path) -> None:
    """Reading at any moment gives one version, or says that the files changed meanwhile."""
    last, versions, rng = 0, set(), np.random.default_rng(0)
    for _ in range(6):
        code = [sys.executable, "-c", WRITER, str(directory), str(Path(__file__).parent)]
        writer = subprocess.Popen([*code, str(last + 1)])
        begun, latest = last, time.monotonic() + 60
        while last == begun and time.monotonic() < latest:  # until it has imported what it needs
            with contextlib.suppress(BundleError):
                last = checked_version(directory, last)
        end = time.monotonic() + rng.uniform(0.2, 0.7)
        while time.monotonic() < end:
            with contextlib.suppress(BundleError):
                last = checked_version(directory, last)
                versions.add(last)
        writer.kill()
        writer.wait()
        last = checked_version(directory, last)
    assert len(versions) > 15
    bundle.write(directory, *model(last + 1))
    assert names(directory) == FILES


def checked_version(directory: Path, least: int) -> int:
    found = contents(directory)
    version = int(found[0].name.removeprefix("model-"))
    assert found == expected(version)
    assert version >= least
    return version


def test_a_writer_that_cannot_lock_leaves_others_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle.write(tmp_path, *model())
    others = tmp_path / ".0123abcdmodel.safetensors"
    others.write_text("another writer's")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "fcntl", None)
        bundle.write(tmp_path, *model(1))
    assert others.exists()
    bundle.write(tmp_path, *model(2))
    assert not others.exists()


def test_a_config_that_would_be_too_large_to_read_is_not_written(tmp_path: Path) -> None:
    for count, written in ((70_000, True), (90_000, False)):
        description, words, tensors = model(labels=tuple(map(str, range(count))))
        if written:
            bundle.write(tmp_path / "m", description, words, tensors)
            assert len(bundle.read(tmp_path / "m").labels) == count
        else:
            with pytest.raises(InputError, match=r"config\.json would have [0-9,]+ bytes"):
                bundle.write(tmp_path / "n", description, words, tensors)
