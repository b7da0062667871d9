"""A model on disk: read, validate, write.

A bundle is a directory of `config.json`, `model.safetensors`, a vocabulary and a model card. It is
data: everything is checked before memory is taken, and nothing that a file names is imported.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from keras_agnews import records, registry
from keras_agnews.errors import BundleError, InputError, listed, located
from keras_agnews.files import digest, flush, locked, make_directory
from keras_agnews.tensor_files import DTYPES, open_safetensors, save_tensors, tensor_shapes
from keras_agnews.text_files import MAX_BYTES, check_plain, json_text, read_json, write_json
from keras_agnews.tokenizers import Tokenizer, read_vocabulary, tokenizer_from_config

FORMAT, FORMAT_VERSION, TASK = "keras-agnews", 1, "text-classification"
CONFIG_FILE, WEIGHTS_FILE, VOCABULARY_FILE, CARD_FILE = (
    "config.json",
    "model.safetensors",
    "vocab.txt",
    "README.md",
)
DELTA_FILE = "delta.safetensors"
# By a key of config.json: whose model it is, and what can be done with that.
_FOREIGN = {
    "model_type": "of a Hugging Face checkpoint: load() it, and save_bundle() makes it a model for "
    "this command",
    "registered_name": 'of a KerasHub preset: load("keras_hub:DIRECTORY") reads it',
}
_MAX_LABELS = 100_000
SHA256, COMMIT = re.compile("[0-9a-f]{64}"), re.compile("[0-9a-f]{40}")
REPOSITORY = r"[\w.\-]+/[\w.\-]+"
# What a write makes and takes away again, or leaves where it is killed.
_PASSING = re.compile(
    r"\.[0-9a-f]{8}"
    r"(config\.json|(model|delta)\.safetensors|vocab\.txt|README\.md|scratch)(\.link)?"
)


@dataclass(frozen=True)
class Weights:
    """Where a bundle's weights are: a file beside its config, or one on a hub.

    Attributes:
        file: the file's name.
        sha256: of the file; empty where it is not known.
        dtype: how the numbers are stored; they are read into float32.
        source: the hub's repository, e.g. `"hf://google-bert/bert-base-uncased"`; `None` for a
            file beside the config.
        revision: the full commit on the hub.
        delta: a file beside the config that says what training has changed of the hub's weights,
            as `keras_agnews.delta` writes it.
        delta_sha256: of that file.
    """

    file: str
    sha256: str = ""
    dtype: str | None = None
    source: str | None = None
    revision: str | None = None
    delta: str | None = None
    delta_sha256: str | None = None

    @property
    def beside(self) -> str | None:
        """The file beside the config, where there is one: the weights, or the delta."""
        return self.file if self.source is None else self.delta

    def put_beside(self, name: str) -> Weights:
        """The same with another name for the file beside the config."""
        return dataclasses.replace(self, **{"file" if self.source is None else "delta": name})

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if not isinstance(value, str) and (value is not None or name in ("file", "sha256")):
                raise BundleError(f"weights.{name} must be a string, not {type(value).__name__}")
        _check_file_name(self.file, "weights.file")
        for name, value in (("sha256", self.sha256), ("delta_sha256", self.delta_sha256)):
            if value and not SHA256.fullmatch(value):
                raise BundleError(f"weights.{name} is not 64 hexadecimal digits: {value!r}")
        if self.delta is not None:
            _check_file_name(self.delta, "weights.delta")
            if self.source is None or not self.delta_sha256 or not self.sha256:
                raise BundleError("weights.delta needs weights.source, sha256 and delta_sha256")
        if self.dtype is not None and self.dtype not in DTYPES.values():
            raise BundleError(f"weights.dtype is {self.dtype!r}, not in {list(DTYPES.values())}")
        # Both become parts of paths in the client's cache.
        if self.source is not None and (
            not re.fullmatch(f"hf://{REPOSITORY}", self.source, re.ASCII) or ".." in self.source
        ):
            raise BundleError(
                f"weights.source must be a hub's address, hf://user/name, not {self.source!r}"
            )
        if self.revision and not COMMIT.fullmatch(self.revision):
            raise BundleError(
                f"weights.revision must be a full commit, 40 hexadecimal digits, "
                f"not {self.revision!r}"
            )


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """What `config.json` says, validated.

    Attributes:
        name: the entry's name.
        builder: name of the registered builder.
        config: the builder's frozen config.
        tokenizer: its `kind` and options, and the `vocabulary` file where it is not `vocab.txt`.
        max_length: the longest text, in tokens; longer ones are cut.
        labels: the names of the classes, in the order of the logits.
        weights: where they are; `None` for a model that has none yet.
        base: the pretrained model on a hub that weights beside the config were trained from, or
            could be, where they are whole; a delta's is among its `weights`.
        temperature: logits are divided by it before the softmax.
        recipe: how the weights were trained.
        results: list of what was measured: data, metric, value, on what.
        source: where it was loaded from.
    """

    name: str
    builder: str
    config: Any
    tokenizer: dict[str, Any]
    max_length: int
    labels: tuple[str, ...]
    weights: Weights | None = None
    base: Weights | None = None
    temperature: float = 1.0
    recipe: dict[str, Any] = field(default_factory=dict)
    results: tuple[dict[str, Any], ...] = ()
    source: dict[str, Any] | None = None

    @property
    def parameters(self) -> int:
        """Parameters of the model."""
        return sum(math.prod(shape) for shape in self.variables().values())

    @property
    def pretrained(self) -> Weights | None:
        """Where the pretrained base is; `None` where there is none."""
        own = self.weights
        if own is None or own.source is None:
            return self.base
        return dataclasses.replace(own, delta=None, delta_sha256=None)

    def untrained(self) -> Bundle:
        """The same without what it says of the run that made its weights, for others."""
        recipe = records.for_other_rows(self.recipe)
        return dataclasses.replace(self, temperature=1.0, results=(), recipe=recipe)

    @property
    def vocabulary_file(self) -> str:
        name: str = self.tokenizer.get("vocabulary", VOCABULARY_FILE)
        return name

    def variables(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every variable of the model."""
        variables = self.config.variables(len(self.labels))
        return {name: tuple(shape) for name, shape in variables.items()}

    def build(self) -> Any:
        """A `keras.Model` on token ids; `BundleError` where it is not what the config says."""
        model = registry.builder(self.builder)(self.config, len(self.labels))
        expected = self.variables()
        built = {variable.path: tuple(variable.shape) for variable in model.weights}
        if wrong := sorted(built.items() ^ expected.items()):
            name = wrong[0][0]
            raise BundleError(
                f"builder {self.builder!r} gives {name} the shape {built.get(name)}, "
                f"its config's variables() says {expected.get(name)}"
            )
        return model

    def make_tokenizer(self, vocabulary: tuple[str, ...]) -> Tokenizer:
        """The tokenizer; its vocabulary must be as long as the embedding."""
        expected = getattr(self.config, "vocabulary_size", len(vocabulary))
        if len(vocabulary) != expected:
            raise BundleError(
                f"{self.vocabulary_file} has {len(vocabulary):,} tokens, "
                f"but config.vocabulary_size is {expected:,}"
            )
        options = {k: v for k, v in self.tokenizer.items() if k != "vocabulary"}
        try:
            return tokenizer_from_config(options, vocabulary, self.max_length)
        except InputError as error:
            raise BundleError(f"tokenizer: {error}") from None

    def to_dict(self) -> dict[str, Any]:
        """The JSON object of `config.json`."""
        values: dict[str, Any] = {"format": FORMAT, "format_version": FORMAT_VERSION, "task": TASK}
        for item in dataclasses.fields(self):
            values[item.name] = getattr(self, item.name)
        values["config"] = self.config.to_dict()
        values["labels"] = list(self.labels)
        values["results"] = list(self.results)
        for name in ("weights", "base"):
            if values[name] is not None:
                known = dataclasses.asdict(values[name])
                values[name] = {k: v for k, v in known.items() if v is not None}
        if self.base is None:
            del values["base"]  # few have one
        return values

    @classmethod
    def from_dict(cls, values: Any) -> Bundle:
        """Validate the JSON object of a `config.json`; `BundleError` names the field."""
        _check(isinstance(values, dict), f"must be an object, not {type(values).__name__}")
        check_plain(values)
        values = dict(values)
        _check(values.pop("format", None) == FORMAT, f'format must be "{FORMAT}"')
        version = values.pop("format_version", None)
        _check(type(version) is int and version >= 1, "format_version must be a positive integer")
        if version > FORMAT_VERSION:
            raise BundleError(
                f"format_version {version} is newer than {FORMAT_VERSION}: update keras-agnews"
            )
        task = values.pop("task", TASK)
        _check(task == TASK, f'task is {task!r}, this version knows "{TASK}"')
        fields = {item.name: item for item in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - set(fields)):
            raise BundleError(f"{unknown[0]!r} is not a field of format_version {FORMAT_VERSION}")
        needed = ("name", "builder", "config", "tokenizer", "max_length", "labels")
        if missing := [name for name in needed if name not in values]:
            raise BundleError(f"{missing[0]} is missing")
        for name in ("name", "builder"):
            _check(isinstance(values[name], str) and values[name] != "", f"{name} must be a string")
        config = registry.builder(values["builder"]).config
        try:
            values["config"] = config.from_dict(values["config"])
        except BundleError:
            raise
        except (TypeError, ValueError) as error:  # of a third party
            raise BundleError(f"config: {error}") from error
        values["labels"] = _labels(values["labels"])
        length = values["max_length"]
        limit = getattr(values["config"], "max_positions", 1 << 20)
        _check(
            type(length) is int and 1 <= length <= limit,
            f"max_length is {length!r}, not an integer in 1 to {limit} (config.max_positions)",
        )
        for name in ("tokenizer", "recipe"):
            kind = type(values.get(name, {}))
            _check(kind is dict, f"{name} must be an object, not {kind.__name__}")
        records.check(values.get("recipe", {}))
        _check_file_name(
            values["tokenizer"].get("vocabulary", VOCABULARY_FILE), "tokenizer.vocabulary"
        )
        temperature = values.get("temperature", 1.0)
        _check(
            type(temperature) in (int, float) and 0.01 <= temperature <= 100,
            f"temperature is {temperature!r}, not a number in 0.01 to 100",
        )
        values["temperature"] = float(temperature)
        results = values.get("results", ())
        _check(
            isinstance(results, (list, tuple)) and all(isinstance(r, dict) for r in results),
            "results must be a list of objects",
        )
        values["results"] = tuple(results)
        source = values.get("source")
        _check(source is None or isinstance(source, dict), "source must be an object")
        for name in ("weights", "base"):
            values[name] = _weights(values.get(name), name)
        base = values["base"]
        _check(
            base is None or (base.source is not None and base.delta is None),
            "base must have a source, and no delta",
        )
        return cls(**values)


def _weights(values: Any, name: str) -> Weights | None:
    if values is None:
        return None
    _check(isinstance(values, dict), f"{name} must be an object")
    known = {item.name for item in dataclasses.fields(Weights)}
    if unknown := sorted(set(values) - known):
        raise BundleError(f"{name}.{unknown[0]} is not a field")
    _check("file" in values, f"{name}.file is missing")
    return Weights(**values)


def read(directory: Path) -> Bundle:
    """Read and validate `config.json`; needs no backend and takes no memory to speak of."""
    path = directory / CONFIG_FILE
    try:
        values = read_json(path)
        if isinstance(values, dict) and values.get("format") != FORMAT:
            for key, remedy in _FOREIGN.items():
                if key in values:
                    raise BundleError(f"{path} is {remedy}")
        return Bundle.from_dict(values)
    except (BundleError, InputError) as error:
        raise BundleError(located(error, path)) from None


def read_tokenizer(directory: Path, bundle: Bundle) -> Tokenizer:
    """The bundle's tokenizer; its vocabulary must be as long as the embedding."""
    vocabulary = read_vocabulary(directory / bundle.vocabulary_file)
    try:
        return bundle.make_tokenizer(vocabulary)
    except BundleError as error:
        raise BundleError(f"{directory / CONFIG_FILE}: {error}") from None


def read_weights(
    path: Path, expected: Mapping[str, tuple[int, ...]], sha256: str = ""
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield each variable's name and float32 value, after all names, shapes and the sum agree.

    The file is mapped, not read: one tensor at a time takes memory.
    """
    # Opened before the sum is taken: what is summed then is what is read, whoever replaces it.
    file = open_safetensors(path)
    check_weights_file(path, expected, sha256)
    return _tensors(file, expected)


def check_weights_file(
    path: Path, expected: Mapping[str, tuple[int, ...]], sha256: str = ""
) -> None:
    """`BundleError` unless the file holds the expected tensors and, if given, has that sum."""
    shapes = tensor_shapes(path)
    if unknown := sorted(set(shapes) - set(expected)):
        raise BundleError(f"{path}: unexpected tensors {listed(unknown, ', ', 5)}")
    if missing := sorted(set(expected) - set(shapes)):
        raise BundleError(f"{path}: missing tensors {listed(missing, ', ', 5)}")
    for name, shape in expected.items():
        if shapes[name] != shape:
            raise BundleError(f"{path}: {name} has shape {shapes[name]}, config.json says {shape}")
    if sha256:
        check_sha256(path, sha256, f"weights.sha256 in {CONFIG_FILE}")


def check_sha256(path: Path, sha256: str, what: str) -> None:
    """`BundleError` unless the file has that sum; `what` tells in the message who says so."""
    try:
        found = digest(path)
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror}") from None
    if found != sha256:
        raise BundleError(
            f"{path}: SHA-256 is {found}, {what} says {sha256}: "
            "the file was swapped or damaged, take it anew; or it is being written, then try again"
        )


def _tensors(file: Any, names: Iterable[str]) -> Iterator[tuple[str, np.ndarray]]:
    with file:
        for name in names:
            yield name, np.asarray(file.get_tensor(name), dtype=np.float32)


def write(
    directory: Path,
    bundle: Bundle,
    vocabulary: tuple[str, ...],
    tensors: Mapping[str, np.ndarray],
    dtype: str | None = None,
    delta: Mapping[str, np.ndarray] | None = None,
) -> Bundle:
    """Write a bundle, so that a crash at any moment leaves the old model or the new one.

    Args:
        directory: made where it is missing; a bundle in it is replaced, other files stay.
        bundle: what `config.json` will say, but for its weights.
        vocabulary: tokens in the order of their ids.
        tensors: name to float32 value, as `bundle.variables()`.
        dtype: `"float32"` or `"float16"`, how the weights are stored; `None`: in float16 where that
            loses nothing, as of weights that were read from such a file, else in float32.
        delta: written in place of the tensors, which it gives with the bundle's own base.

    Returns: the bundle as written.
    """
    if dtype is None:
        dtype = "float16" if all(map(_is_half, tensors.values())) else "float32"
    check_dtype(dtype)
    stored = _storable(bundle, vocabulary, tensors, dtype)

    def stage(weights: Path, words: Path, scratch: Path) -> Bundle:
        words.write_bytes("".join(f"{word}\n" for word in vocabulary).encode("utf-8"))
        save_tensors(stored if delta is None else dict(delta), weights, scratch)
        shutil.copymode(words, weights)  # the library lets nobody else read its files
        base, sha256 = bundle.pretrained, digest(weights)
        if delta is None:
            pin = Weights(file=WEIGHTS_FILE, sha256=sha256, dtype=dtype)
            return canonical(dataclasses.replace(bundle, weights=pin, base=base))
        assert base is not None
        pin = dataclasses.replace(base, delta=DELTA_FILE, delta_sha256=sha256, dtype=None)
        return canonical(dataclasses.replace(bundle, weights=pin, base=None))

    return _install(directory, stage)


def check_dtype(dtype: str) -> None:
    """`InputError` unless weights can be stored so."""
    if dtype not in ("float32", "float16"):
        raise InputError(f"dtype is {dtype!r}, not 'float32' or 'float16'")


def copy(source: Path, directory: Path, origin: dict[str, Any]) -> Bundle:
    """Copy a whole bundle, as `write` writes one: a crash leaves the old model or the new one.

    Args:
        source: the bundle's directory.
        directory: made where it is missing; a bundle in it is replaced, other files stay.
        origin: the copy's `source`.

    Returns: the bundle as written.
    """
    bundle = read(source)
    check(source, bundle)

    def stage(weights: Path, words: Path, scratch: Path) -> Bundle:
        shutil.copyfile(source / bundle.vocabulary_file, words)
        if bundle.weights is not None and bundle.weights.beside:
            shutil.copyfile(source / bundle.weights.beside, weights)
        return canonical(dataclasses.replace(bundle, source=origin))

    return _install(directory, stage)


def canonical(bundle: Bundle) -> Bundle:
    """The bundle with its files under their usual names."""
    pin = bundle.weights
    if pin is not None and pin.beside:
        pin = pin.put_beside(DELTA_FILE if pin.delta else WEIGHTS_FILE)
    tokenizer = {key: value for key, value in bundle.tokenizer.items() if key != "vocabulary"}
    return dataclasses.replace(bundle, weights=pin, tokenizer=tokenizer)


def check(directory: Path, bundle: Bundle) -> None:
    """`BundleError` unless vocabulary and weights are what `config.json` says; needs no backend."""
    read_tokenizer(directory, bundle)
    pin = bundle.weights
    if pin is not None and pin.source is None:
        check_weights_file(directory / pin.file, bundle.variables(), pin.sha256)
    elif pin is not None and pin.delta:
        path = directory / pin.delta
        check_sha256(path, pin.delta_sha256 or "", f"weights.delta_sha256 in {CONFIG_FILE}")


def _install(directory: Path, stage: Callable[[Path, Path, Path], Bundle]) -> Bundle:
    """Put new files in the place of old ones, in an order that a crash may break off anywhere.

    `stage` writes the weights, if it has any, and the vocabulary to the paths that it is given,
    by way of a third, and returns what config.json will say.
    """
    make_directory(directory)
    with locked(directory) as alone:
        return _replace(directory, stage, alone)


def _replace(directory: Path, stage: Callable[[Path, Path, Path], Bundle], alone: bool) -> Bundle:
    before, token = _named_files(directory), f".{uuid.uuid4().hex[:8]}"
    weights, words = directory / (token + WEIGHTS_FILE), directory / (token + VOCABULARY_FILE)
    try:
        final = stage(weights, words, directory / f"{token}scratch")
        staged = [(words, VOCABULARY_FILE)]
        passing = dataclasses.replace(final, tokenizer=final.tokenizer | {"vocabulary": words.name})
        if weights.exists():
            assert final.weights is not None
            staged.insert(0, (weights, final.weights.beside or ""))
            pin = final.weights.put_beside(weights.name)
            passing = dataclasses.replace(passing, weights=pin)
        for path, _ in staged:
            flush(path)
        if (directory / CONFIG_FILE).exists():
            # The rename of config.json commits: until then it names the old files, from then on
            # the new ones under their passing names, which become the usual ones after it.
            write_json(directory / CONFIG_FILE, passing.to_dict())
        for path, name in staged:
            _replace_by_copy(path, directory / name)
        write_json(directory / CONFIG_FILE, final.to_dict())
        # Such as whole weights, where the model is a difference now.
        kept = final.weights and final.weights.beside
        for name in before & {WEIGHTS_FILE, DELTA_FILE} - {kept}:
            (directory / name).unlink(missing_ok=True)
    finally:
        # Ours, and what an earlier write that was killed may have left; not another writer's.
        named = _named_files(directory)
        for path in directory.glob(".*" if alone else f"{token}*"):
            if not _PASSING.fullmatch(path.name) or path.name in named:
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
    return final


def check_storable(bundle: Bundle) -> None:
    """Raise `InputError` unless the bundle's config.json could be read again."""
    try:
        Bundle.from_dict(json.loads(json.dumps(bundle.to_dict())))
        size = len(json_text(bundle.to_dict()).encode())
    except (TypeError, ValueError) as error:
        raise InputError(f"{bundle.name} cannot be written: {error}") from error
    # What is still to come is the pin, and names of files that are passing.
    if size > MAX_BYTES - 4096:
        raise InputError(
            f"config.json would have {size:,} bytes: give fewer or shorter labels or records"
        )


def _is_half(value: np.ndarray) -> bool:
    """Whether float16 has every one of these float32 numbers."""
    with np.errstate(over="ignore"):
        return np.array_equal(value, np.asarray(value, np.float16))


def _storable(
    bundle: Bundle, vocabulary: tuple[str, ...], tensors: Mapping[str, np.ndarray], dtype: str
) -> dict[str, np.ndarray]:
    """The tensors as they are stored; `InputError` unless what is written could be read again."""
    check_storable(bundle)
    try:
        bundle.make_tokenizer(vocabulary)
    except (TypeError, ValueError) as error:
        raise InputError(f"{bundle.name} cannot be written: {error}") from error
    expected = bundle.variables()
    if wrong := sorted(expected.keys() ^ tensors.keys()):
        raise InputError(f"{listed(wrong, ', ', 5)}: either not of the model or not given")
    stored = {}
    for name, shape in expected.items():
        if np.shape(tensors[name]) != shape:
            raise InputError(f"{name} has shape {np.shape(tensors[name])}, the config says {shape}")
        with np.errstate(over="ignore"):
            stored[name] = np.ascontiguousarray(tensors[name], dtype).reshape(shape)
        if not np.isfinite(stored[name]).all():
            raise InputError(f"{name} has values that are not finite in {dtype}: nothing written")
    return stored


def _named_files(directory: Path) -> set[str]:
    """What the config in a directory names of the files beside it."""
    try:
        bundle = read(directory)
    except BundleError:
        return set()
    return {bundle.vocabulary_file, (bundle.weights and bundle.weights.beside) or ""}


def _replace_by_copy(path: Path, target: Path) -> None:
    """`target` becomes the content of `path`, which stays, in one step."""
    link = path.with_name(path.name + ".link")
    try:
        os.link(path, link)
    except OSError:  # a file system without hard links
        shutil.copyfile(path, link)
    os.replace(link, target)


def _labels(values: Any) -> tuple[str, ...]:
    _check(isinstance(values, (list, tuple)), "labels must be a list")
    _check(1 <= len(values) <= _MAX_LABELS, f"labels must be 1 to {_MAX_LABELS:,} names")
    for i, label in enumerate(values):
        _check(isinstance(label, str) and label != "", f"labels[{i}] must be a non-empty string")
    _check(len(set(values)) == len(values), "labels must differ from each other")
    return tuple(values)


def _check_file_name(name: Any, what: str) -> None:
    plain = isinstance(name, str) and re.fullmatch(r"[\w.][\w.\-]{0,199}", name, re.ASCII)
    if not plain or set(name) <= {"."}:
        raise BundleError(f"{what} must be a file name beside config.json, not {name!r}")


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise BundleError(message)
