"""What becomes of bundles and checkpoints that somebody has tampered with.

A model that passes its checks, or our error; in bounded time and memory, with nothing executed and
nothing written.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import random
import re
import resource
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference_bert as oracle
import safetensors.numpy
from test_bundle import model

from keras_agnews import bundle, card, text_files
from keras_agnews.errors import BundleError, InputError, KerasAgnewsError
from keras_agnews.importers import huggingface

MUTATIONS = 10_000
SECONDS, MEGABYTES = 2.0, 300.0  # at most, for one, and for all of them together
NUMBERS = (0, -1, 1, 2, 7, 0.5, -0.0, 1e-300, 2**31, 2**31 - 1, 2**63, 2**64, 10**40, 10**400)
PATHS = (
    "../../etc/passwd",
    "/etc/passwd",
    "..",
    ".",
    "",
    "a/b.safetensors",
    "..\\..\\x.safetensors",
    "C:\\x",
    "~/.ssh/id_rsa",
    "vocab.txt\x00.png",
    "file:///etc/passwd",
    "hf://../..",
    "con",
    "model.safetensors/../../x",
)
WORDS = ("relu", "F32", "I64", "BOOL", "bert", "transformer", "os.system", "__class__", "\ud800")
NESTED = "[" * 5_000 + "]" * 5_000
VALUES: tuple[Any, ...] = (
    *NUMBERS,
    *PATHS,
    *WORDS,
    *(None, True, False, [], {}, [[]], {"": {}}, float("nan"), float("inf"), -float("inf")),
    *("x" * 100_000, list(range(10_000)), [2**62] * 4, [-1], {"a": {"b": {"c": None}}}),
    {"class_name": "Lambda", "config": {"function": "__import__('os').system('x')"}},
    "NESTED",
)


# --- mutations


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of everything in a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        yield (*path, key)
        if isinstance(item, (dict, list)):
            yield from places(item, (*path, key))


def mutated_json(rng: random.Random, content: bytes) -> bytes:
    """One to three values of a JSON file replaced, removed, renamed, or there twice."""
    values = json.loads(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        known = list(places(values))
        if not known:
            break
        *path, last = rng.choice(known)
        parent = values
        for key in path:
            parent = parent[key]
        match rng.randrange(8):
            case 0:
                del parent[last]
            case 1 if isinstance(parent, dict):
                parent[rng.choice((*PATHS, "format", "weights", "class_name"))] = parent.pop(last)
            case 2 if isinstance(parent, dict):
                parent[f"\0twice{last}"] = copy.deepcopy(rng.choice(VALUES))
            case 3:
                *other, end = rng.choice(known)
                found = values
                with contextlib.suppress(LookupError, TypeError):
                    for key in other:
                        found = found[key]
                    parent[last] = copy.deepcopy(found[end])
            case _:
                parent[last] = copy.deepcopy(rng.choice(VALUES))
    return json.dumps(values).replace('"\\u0000twice', '"').replace('"NESTED"', NESTED).encode()


def mutated_bytes(rng: random.Random, content: bytes) -> bytes:
    """Bits flipped, a part cut out, doubled, or replaced by noise, or the end missing."""
    new = bytearray(content)
    start = rng.randrange(len(new) + 1)
    end = min(len(new), start + rng.choice((1, 2, 8, 100, 10_000)))
    match rng.randrange(6):
        case 0:
            for _ in range(rng.randint(1, 8)):
                new[rng.randrange(len(new))] ^= 1 << rng.randrange(8)
        case 1:
            del new[start:]
        case 2:
            del new[start:end]
        case 3:
            new[start:start] = new[start:end]
        case 4:
            new[start:end] = rng.randbytes(end - start)
        case _:
            new[start:start] = rng.choice((b"\0", b"\xff\xfe", b'"', b"{", b"\r\n", b"1e9", b"NaN"))
    return bytes(new)


def mutated_safetensors(rng: random.Random, content: bytes) -> bytes:
    """The header's JSON, its length, or bytes of the whole."""
    size = int.from_bytes(content[:8], "little")
    header, data = content[8 : 8 + size], content[8 + size :]
    match rng.randrange(5):
        case 0:
            return mutated_bytes(rng, content[: 8 + size]) + data
        case 1:
            return (
                rng.choice((0, 1, size - 1, size + 1, 2**31, 2**63, 2**64 - 1)).to_bytes(
                    8, "little"
                )
                + content[8:]
            )
        case _:
            header = mutated_json(rng, header)
            return len(header).to_bytes(8, "little") + header + data


Mutate = Callable[[random.Random, bytes], bytes]


def either(rng: random.Random, content: bytes) -> bytes:
    return rng.choice((mutated_json, mutated_json, mutated_bytes))(rng, content)


def mutations(directory: Path, count: int, seed: int = 0) -> Iterator[str]:
    """Write one mutation after another into the directory; yields what was done."""
    kinds: dict[str, Mutate] = {".json": either, ".safetensors": mutated_safetensors}
    whole = {path: path.read_bytes() for path in sorted(directory.iterdir())}
    for i in range(seed, seed + count):
        rng = random.Random(i)
        path = rng.choice(list(whole))
        _replace(path, kinds.get(path.suffix, mutated_bytes)(rng, whole[path]))
        try:
            yield f"mutation {i} of {path.name}"
        finally:
            _replace(path, whole[path])


def _replace(path: Path, content: bytes) -> None:
    path.unlink()  # much faster on some file systems than to write over it
    path.write_bytes(content)


# --- what may not happen

FORBIDDEN = {
    *("exec", "compile", "import", "os.system", "os.exec", "os.posix_spawn", "os.fork"),
    *("subprocess.Popen", "socket.connect", "pickle.find_class", "marshal.loads", "ctypes.dlopen"),
    *("os.remove", "os.rename", "os.link", "os.symlink", "os.mkdir", "shutil.rmtree"),
}
_watched: list[str] | None = None
# What may be read meanwhile, besides code: set by `watched`.
_allowed: tuple[str, ...] = ()


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _watched is None:
        return
    if event == "open" and isinstance(arguments[0], str) and not arguments[0].endswith(".py"):
        path = os.path.realpath(arguments[0])
        if not path.startswith(_allowed):
            _watched.append(f"{event} {path}")
    writes = event == "open" and (
        (isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"))
        or (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR))
    )
    if event in FORBIDDEN or writes:
        _watched.append(f"{event} {arguments}"[:300])


@contextlib.contextmanager
def watched(directory: Path) -> Iterator[list[str]]:
    """What is executed, imported, written, connected to or read outside of it meanwhile."""
    global _watched, _allowed
    _watched, _allowed = [], (os.path.realpath(directory), sys.prefix, sys.base_prefix)
    try:
        yield _watched
    finally:
        _watched = None


sys.addaudithook(_watch)


def reset_peak() -> None:
    """So that what earlier tests have taken hides nothing; Linux alone can do that."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_megabytes() -> float:
    """Memory of this process at its most."""
    status = Path("/proc/self/status")
    if status.exists():
        found = re.search(r"VmHWM:\s+(\d+)", status.read_text())
        assert found is not None
        return int(found[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run(read: Callable[[], Any], directory: Path, count: int, *, seed: int = 0) -> Counter[str]:
    """How many mutations ended how."""
    read()  # which imports what it needs
    for _ in mutations(directory, 20):
        with contextlib.suppress(KerasAgnewsError):
            read()
    ends: Counter[str] = Counter()
    reset_peak()
    memory = peak_megabytes()
    for what in mutations(directory, count, seed):
        start = time.process_time()
        with watched(directory) as events:
            try:
                read()
                end, message = "read", str(directory)
            except (BundleError, InputError) as error:
                end, message = type(error).__name__, str(error)
            except BaseException as error:
                raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
        assert str(directory) in message or message.startswith("README.md"), (what, message)
        assert len(message) < 5_000, what
        assert not events, (what, events)
        assert time.process_time() - start < SECONDS, what
        ends[end] += 1
    assert peak_megabytes() - memory < MEGABYTES
    assert ends.total() == count
    return ends


# --- targets


CARD = card.render(model()[0])


def write_bundle(directory: Path) -> Path:
    """A small bundle, without a sum that would catch every change of its weights at once."""
    description, words, tensors = model()
    written = bundle.write(directory, description, words, tensors)
    (directory / "README.md").write_text(CARD, encoding="utf-8")
    values = written.to_dict()
    del values["weights"]["sha256"]
    text_files.write_json(directory / "config.json", values)
    return directory


def write_checkpoint(directory: Path) -> Path:
    """A small Hugging Face checkpoint in two shards."""
    config = oracle.bert_config()
    oracle.checkpoint(directory, config)
    tensors = oracle.random_tensors(config, 1)
    places_ = {}
    for i in range(2):
        name = f"model-0000{i + 1}-of-00002.safetensors"
        part = {key: tensors[key] for key in sorted(tensors)[i::2]}
        safetensors.numpy.save_file(part, directory / name)
        places_ |= dict.fromkeys(part, name)
    index = {"metadata": {"total_size": 1}, "weight_map": places_}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return directory


def read_bundle(directory: Path) -> None:
    description = bundle.read(directory)
    bundle.check(directory, description)
    if description.weights is not None and description.weights.source is None:
        shapes = description.variables()
        stored = dict(bundle.read_weights(directory / description.weights.file, shapes))
        assert {name: value.shape for name, value in stored.items()} == shapes
    existing = (directory / "README.md").read_text(encoding="utf-8", errors="replace")
    if existing != CARD:
        card.render(description, "hf://user/x", existing)


def read_checkpoint(directory: Path) -> None:
    opened = huggingface.open_checkpoint(directory)
    shapes = opened.description.variables()
    stored = {name: np.shape(value) for name, value in opened.arrays(shapes)}
    assert stored.items() <= shapes.items()


def test_ten_thousand(tmp_path: Path) -> None:
    directory = write_bundle(tmp_path / "bundle")
    ends = run(lambda: read_bundle(directory), directory, MUTATIONS * 6 // 10)
    assert ends["read"] > 100  # some do no harm
    assert ends["BundleError"] > 1_000
    directory = write_checkpoint(tmp_path / "checkpoint")
    ends = run(lambda: read_checkpoint(directory), directory, MUTATIONS * 4 // 10)
    assert ends["read"] > 100
    assert ends["BundleError"] > 1_000


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.slow
def test_twenty_thousand_more(tmp_path: Path) -> None:
    for write, read in ((write_bundle, read_bundle), (write_checkpoint, read_checkpoint)):
        directory = write(tmp_path / read.__name__)
        run(lambda d=directory, r=read: r(d), directory, MUTATIONS, seed=MUTATIONS)


@pytest.mark.backend
@pytest.mark.slow
@pytest.mark.parametrize("write", [write_bundle, write_checkpoint])
def test_load_two_hundred(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    import keras_agnews

    directory = write(tmp_path / "model")
    ends: Counter[str] = Counter()
    before = {path.name for path in tmp_path.iterdir()}
    for what in mutations(directory, 100):
        start = time.monotonic()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                clf = keras_agnews.load(directory)
            assert clf.predict(["oil prices", ""]).shape == (2, len(clf.labels)), what
            ends["loaded"] += 1
        except KerasAgnewsError as error:
            ends[type(error).__name__] += 1
        assert time.monotonic() - start < 30, what
    assert {path.name for path in tmp_path.iterdir()} == before
    assert ends["loaded"] > 0
    assert ends["BundleError"] > 10
