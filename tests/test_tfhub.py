"""TF-Hub's SavedModels: real ones, held against what they answer themselves."""

from __future__ import annotations

import io
import json
import shutil
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import LIGHT, Lazy, needs

import keras_agnews
from keras_agnews import bundle, hub, text_files
from keras_agnews.errors import (
    BundleError,
    DownloadError,
    MissingDependencyError,
    NotFoundError,
)
from keras_agnews.importers import tfhub

pytestmark = needs("tensorflow")
tfhub_model = Lazy("tfhub_model")

# How they differ: activation, epsilon, whether heads are as wide as the rest, letter case.
VARIANTS: dict[str, dict[str, Any]] = {
    "tanh": {},
    "erf": {"approximate": False, "epsilon": 1e-3, "key": 4, "lowercase": False, "layers": 3},
}
TEXTS = ["Oil prices soar", "the giants win!", "", "a probe of the moon, talks in the moon's oil"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Any]]:
    root = tmp_path_factory.mktemp("tfhub")
    return {
        name: (root / name, tfhub_model.export(root / name, **options))
        for name, options in VARIANTS.items()
    }


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KERAS_AGNEWS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def never(handle: str) -> Path:
    raise AssertionError(f"{handle} was resolved")


def open_local(directory: Path) -> tfhub.TfHubCheckpoint:
    return tfhub.open_checkpoint(str(directory), never)


def quiet_load(source: Any, **options: Any) -> Any:
    with pytest.warns(UserWarning, match=r"logits/bias, logits/kernel are new and untrained"):
        return keras_agnews.load(source, **options)


def edited(source: Path, target: Path, change: Callable[[Any], None]) -> Path:
    """A copy of a SavedModel whose description was changed."""
    from tensorflow.core.protobuf import saved_model_pb2

    shutil.copytree(source, target)
    content = saved_model_pb2.SavedModel()
    content.ParseFromString((target / "saved_model.pb").read_bytes())
    change(content.meta_graphs[0])
    (target / "saved_model.pb").write_bytes(content.SerializeToString())
    return target


def variable(graph: Any, name: str) -> Any:
    nodes = graph.object_graph_def.nodes
    return next(n.variable for n in nodes if n.variable.name.removesuffix(":0") == name)


# --- what it is ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VARIANTS)
def test_config_comes_from_the_shapes_and_the_graph(models: Any, name: str) -> None:
    directory, encoder = models[name]
    found = open_local(directory).description
    config = found.config
    assert (config.layers, config.heads, config.head_width) == (
        encoder.layers,
        encoder.heads,
        encoder.key,
    )
    assert (config.hidden_size, config.feed_forward_size) == (12, 20)
    assert (config.vocabulary_size, config.max_positions) == (len(tfhub_model.VOCABULARY), 32)
    assert config.activation == {"tanh": "gelu_tanh", "erf": "gelu"}[name]
    assert config.epsilon == encoder.epsilon
    assert found.tokenizer["lowercase"] is (name == "tanh")
    assert found.max_length == 32
    assert found.name == name
    assert found.source is None


@pytest.mark.backend
@pytest.mark.parametrize("name", VARIANTS)
def test_outputs_are_the_saved_models_own(models: Any, name: str) -> None:
    import keras
    import tensorflow as tf

    directory, _ = models[name]
    classifier = quiet_load(f"tfhub:{directory}")
    rng = np.random.default_rng(1)
    lengths = np.array([16, 9, 1])
    mask = (np.arange(16) < lengths[:, None]).astype("int32")
    inputs = {
        "input_word_ids": rng.integers(1, len(tfhub_model.VOCABULARY), (3, 16), "int32") * mask,
        "input_mask": mask,
        "input_type_ids": rng.integers(0, 2, (3, 16), "int32"),
    }
    served = tf.saved_model.load(str(directory)).signatures["serving_default"]
    expected = {
        k: v.numpy() for k, v in served(**{k: tf.constant(inputs[k]) for k in inputs}).items()
    }
    found = classifier.encoder(inputs)
    outputs = {f"layer_{i}": value for i, value in enumerate(found["encoder_outputs"])}
    outputs |= {name: found[name] for name in ("sequence_output", "pooled_output")}
    assert outputs.keys() == expected.keys()
    for key, value in outputs.items():
        value, wanted = keras.ops.convert_to_numpy(value), expected[key]
        if value.ndim == 3:
            value, wanted = value[mask > 0], wanted[mask > 0]
        np.testing.assert_allclose(value, wanted, atol=1e-4, err_msg=key)


def test_names_may_end_in_an_output_number(models: Any, tmp_path: Path) -> None:
    directory, _ = models["tanh"]

    def change(graph: Any) -> None:
        for node in graph.object_graph_def.nodes:
            if node.HasField("variable"):
                node.variable.name += ":0"

    checkpoint = open_local(edited(directory, tmp_path / "tanh", change))
    variables = checkpoint.description.variables()
    again = open_local(directory)
    assert checkpoint.directory != again.directory
    assert same(dict(checkpoint.arrays(variables)), dict(again.arrays(variables)))


def same(some: dict[str, np.ndarray], others: dict[str, np.ndarray]) -> bool:
    return some.keys() == others.keys() and all(np.array_equal(some[k], others[k]) for k in some)


def renamed(old: str, new: str) -> Callable[[Any], None]:
    return lambda graph: setattr(variable(graph, old), "name", new)


def reshaped(name: str, axis: int, size: int) -> Callable[[Any], None]:
    return lambda graph: setattr(variable(graph, name).shape.dim[axis], "size", size)


def without_child(name: str) -> Callable[[Any], None]:
    def change(graph: Any) -> None:
        child = next(c for c in graph.object_graph_def.nodes[0].children if c.local_name == name)
        graph.object_graph_def.nodes[0].children.remove(child)

    return change


def with_asset(name: str) -> Callable[[Any], None]:
    return lambda graph: setattr(graph.asset_file_def[0], "filename", name)


def without_functions(graph: Any) -> None:
    graph.graph_def.library.ClearField("function")


def astray(graph: Any) -> None:
    graph.object_graph_def.nodes[0].children[0].node_id = 10**6


BIAS, KERNEL = "pooler_transform/bias", "transformer/layer_1/self_attention/query/kernel"
FAULTS: dict[str, tuple[Callable[[Any], None], str]] = {
    "unexpected": (renamed(BIAS, "extra/bias"), "extra/bias is not expected; pooler_tr.* missing"),
    "twice": (renamed(BIAS, "pooler_transform/kernel"), "two variables have the name pooler_tr"),
    "another block": (
        renamed("transformer/layer_1/output/bias", "transformer/layer_7/output/bias"),
        "layer_7/output/bias is not expected",
    ),
    "shape": (reshaped(KERNEL, 1, 3), "query/kernel has shape"),
    "rank": (lambda g: variable(g, KERNEL).shape.dim.pop(), "query/kernel has shape"),
    "no vocabulary": (without_child("vocab_file"), "has no vocab_file"),
    "no letter case": (without_child("do_lower_case"), "has no do_lower_case"),
    "vocabulary elsewhere": (with_asset("../../vocab.txt"), "not in its assets"),
    "vocabulary lost": (with_asset("other.txt"), r"other\.txt is missing"),
    "no functions": (without_functions, "shows 0 values of activation"),
    "a node that is none": (astray, "not a whole SavedModel"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_does_not_fit_is_named(models: Any, tmp_path: Path, cache: Path, name: str) -> None:
    change, message = FAULTS[name]
    directory = edited(models["tanh"][0], tmp_path / "model", change)
    with pytest.raises(BundleError, match=message) as caught:
        open_local(directory)
    assert str(directory) in str(caught.value)
    assert not list(cache.rglob("config.json"))


@pytest.mark.parametrize("file", ["saved_model.pb", "variables/variables.index"])
@pytest.mark.parametrize("content", [b"", b"\xff nonsense"])
def test_damaged_files(models: Any, tmp_path: Path, file: str, content: bytes) -> None:
    shutil.copytree(models["tanh"][0], tmp_path / "model")
    (tmp_path / "model" / file).write_bytes(content)
    with pytest.raises(BundleError, match="not a whole SavedModel"):
        open_local(tmp_path / "model")


def test_no_directory() -> None:
    with pytest.raises(NotFoundError, match=r"nowhere has no saved_model\.pb"):
        keras_agnews.load("tfhub:nowhere")


# --- the cache -------------------------------------------------------------------------------

WITHOUT = """
import json, sys
sys.modules.update(dict.fromkeys(["tensorflow", "tensorflow_hub"]))  # None: as if there were none
from keras_agnews.loading import open_checkpoint
found = open_checkpoint(sys.argv[1])
values = dict(found.arrays(found.description.variables()))
print(json.dumps([len(values), sum(float(value.sum()) for value in values.values()),
                  found.tokenizer.encode("Oil prices")]))
"""


def test_the_second_load_needs_no_tensorflow(
    models: Any, fresh: Callable[..., str], tmp_path: Path
) -> None:
    if LIGHT == "tensorflow":
        pytest.skip("no other backend is installed")
    source = f"tfhub:{models['tanh'][0]}"
    first = open_local(models["tanh"][0])
    values = dict(first.arrays(first.description.variables()))
    count, total, ids = json.loads(fresh(WITHOUT, source, KERAS_BACKEND=LIGHT))
    assert count == len(values) == len(first.description.config.encoder_variables())
    assert total == pytest.approx(sum(float(value.sum()) for value in values.values()))
    assert ids == first.tokenizer.encode("Oil prices")


def test_a_changed_model_is_read_anew(models: Any, tmp_path: Path) -> None:
    shutil.copytree(models["tanh"][0], tmp_path / "model")
    assert open_local(tmp_path / "model").tokenizer.vocabulary[8] == "oil"
    vocabulary = tmp_path / "model/assets/vocab.txt"
    vocabulary.write_text(vocabulary.read_text().replace("oil\n", "gas\n"))
    assert open_local(tmp_path / "model").tokenizer.vocabulary[8] == "gas"
    for file in ("variables.index", "variables.data-00000-of-00001"):
        shutil.copy(models["erf"][0] / "variables" / file, tmp_path / "model/variables" / file)
    with pytest.raises(
        BundleError, match="cannot reshape"
    ):  # the description is not that of these variables
        open_local(tmp_path / "model")


def test_a_home_directory_is_found_by_its_sign(
    models: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copytree(models["tanh"][0], tmp_path / "model")
    assert tfhub.open_checkpoint("~/model", never).description.name == "model"


def test_a_cache_that_cannot_be_written(
    models: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KERAS_AGNEWS_CACHE", str(tmp_path / "file"))
    with pytest.raises(BundleError, match="set KERAS_AGNEWS_CACHE"):
        open_local(models["tanh"][0])


def test_what_to_install(models: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "keras-agnews\[tensorflow\]"'):
        open_local(models["tanh"][0])
    monkeypatch.setitem(sys.modules, "tensorflow_hub", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "keras-agnews\[tfhub\]"'):
        hub.resolve_tfhub("https://tfhub.dev/google/bert/1")


# --- over HTTP -------------------------------------------------------------------------------


@pytest.fixture
def server(models: Any) -> Iterator[tuple[str, list[str]]]:
    """The address of a server of one model, as tfhub.dev serves them, and what was asked of it."""
    asked: list[str] = []
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        tar.add(models["tanh"][0], arcname=".")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            known = self.path == "/google/small_bert/2?tf-hub-format=compressed"
            self.send_response(200 if known else 404)
            self.end_headers()
            self.wfile.write(archive.getvalue() if known else b"no such model")

        def log_message(self, *args: Any) -> None:
            pass

    web = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{web.server_port}", asked
    web.shutdown()
    web.server_close()


@needs("tensorflow_hub")
@pytest.mark.filterwarnings("ignore:pkg_resources")
def test_a_handle_is_resolved_once(
    server: tuple[str, list[str]],
    models: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path / "tfhub_modules"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    url, asked = server
    handle = f"{url}/google/small_bert/2"
    found = tfhub.open_checkpoint(handle, hub.resolve_tfhub)
    assert asked == ["/google/small_bert/2?tf-hub-format=compressed"]
    assert found.description.name == "small_bert"
    assert found.description.source == {
        "repository": f"tfhub:{handle}",
        "sha256": tfhub.fingerprint(models["tanh"][0]),
    }
    local = open_local(models["tanh"][0])
    variables = local.description.variables()
    assert same(dict(found.arrays(variables)), dict(local.arrays(variables)))
    again = tfhub.open_checkpoint(handle, never)
    assert same(dict(again.arrays(variables)), dict(local.arrays(variables)))
    with pytest.raises(DownloadError, match="404"):
        tfhub.open_checkpoint(f"{url}/google/other/1", hub.resolve_tfhub)


# --- as the weights of an entry --------------------------------------------------------------


def entry(directory: Path, **changes: Any) -> Path:
    """A bundle without weights, of the shapes of the first variant."""
    from keras_agnews.configs import BertConfig

    config = {"layers": 2, "hidden_size": 12, "heads": 2, "feed_forward_size": 20}
    config |= {"vocabulary_size": len(tfhub_model.VOCABULARY), "max_positions": 32} | changes
    draft = bundle.Bundle(
        name="entry",
        builder="bert",
        config=BertConfig(**config),
        tokenizer={"kind": "wordpiece"},
        max_length=16,
        labels=("good", "bad"),
    )
    directory.mkdir()
    text_files.write_json(directory / "config.json", draft.to_dict())
    (directory / "vocab.txt").write_text("".join(f"{word}\n" for word in tfhub_model.VOCABULARY))
    return directory


@pytest.mark.backend
@pytest.mark.once
def test_an_entry_takes_the_encoder(models: Any, tmp_path: Path) -> None:
    import keras

    source = f"tfhub:{models['tanh'][0]}"
    own = quiet_load(source)
    classifier = quiet_load(entry(tmp_path / "entry"), weights=source)
    assert classifier.labels == ("good", "bad")
    assert classifier.max_length == 16
    assert classifier.description.config.activation == "gelu_tanh"
    for mine, theirs in zip(classifier.encoder.weights, own.encoder.weights, strict=True):
        assert np.array_equal(*map(keras.ops.convert_to_numpy, (mine.value, theirs.value)))
    assert classifier.predict(TEXTS).shape == (4, 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": 3}, r"config\.layers is 2, not 3"),
        ({"feed_forward_size": 21}, "feed_forward/kernel is"),
        ({"heads": 4}, r"config\.heads is 2, not 4"),
    ],
)
def test_shapes_must_agree(models: Any, tmp_path: Path, changes: Any, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        keras_agnews.load(
            entry(tmp_path / "entry", **changes), weights=f"tfhub:{models['tanh'][0]}"
        )


# --- the real ones ---------------------------------------------------------------------------


@pytest.mark.backend
def test_reference_encoder(reference: Path) -> None:
    """An export of TF-Hub's own tool: which activation it has, its golden outputs decide."""
    import keras

    source = f"tfhub:{reference / 'tfhub/bert_en_uncased_L-4_H-128_A-2'}"
    golden = np.load(reference / "golden/tfhub_dev.npz")
    texts = json.loads((reference / "golden/texts.json").read_text(encoding="utf-8"))
    classifier = quiet_load("small-bert-L4", weights=source)
    assert classifier.description.config == quiet_load(source).description.config
    inputs = {name: golden[name] for name in tfhub_model.INPUTS}
    mask = inputs["input_mask"] > 0

    def differences() -> list[float]:
        found = classifier.encoder(inputs)
        pairs = [("pooled_output", found["pooled_output"])]
        pairs += [("sequence_output_first8", found["sequence_output"])]
        pairs += [(f"encoder_output_{i}_first4", v) for i, v in enumerate(found["encoder_outputs"])]
        result = []
        for name, value in pairs:
            wanted = golden[name]
            gap = abs(keras.ops.convert_to_numpy(value)[: len(wanted)] - wanted)
            result.append(float((gap if gap.ndim == 2 else gap[mask[: len(gap)]]).max()))
        return result

    assert len(differences()) == 6
    assert max(differences()) < 1e-4
    for block in classifier.encoder.blocks:
        block._activate = keras.activations.gelu  # noqa: SLF001
    assert min(differences()) > 1e-4
    # Of the 32 texts two are read otherwise there, by a decomposition that is not BERT's.
    ids = classifier.tokenizer(texts, max_length=128, padding=128)["input_ids"]
    wrong = np.flatnonzero((ids != golden["input_word_ids"]).any(axis=1))
    assert set(wrong.tolist()) <= {8, 10}, wrong
