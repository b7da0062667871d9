"""A BERT encoder in plain TensorFlow, exported as TF-Hub's are: a SavedModel and its oracle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
WORDS = ["the", "a", "of", "in", "oil", "prices", "soar", "giants", "win", "probe", "moon", "talks"]
VOCABULARY = [*SPECIAL, *WORDS, "##s", "##ing", ".", ",", "!", "?", "'", "-"]
INPUTS = ("input_word_ids", "input_mask", "input_type_ids")


class Encoder(tf.Module):
    """BERT with post-norm blocks; its variables have the names and shapes of TF-Hub's."""

    def __init__(
        self,
        vocabulary_file: Path,
        *,
        hidden: int = 12,
        heads: int = 2,
        key: int = 6,
        layers: int = 2,
        feed_forward: int = 20,
        approximate: bool = True,
        epsilon: float = 1e-12,
        lowercase: bool = True,
    ) -> None:
        super().__init__()
        self.heads, self.key, self.layers = heads, key, layers
        self.approximate, self.epsilon = approximate, epsilon
        self.vocab_file = tf.saved_model.Asset(str(vocabulary_file))
        self.do_lower_case = tf.Variable(lowercase, trainable=False)
        shapes: dict[str, tuple[int, ...]] = {
            "word_embeddings/embeddings": (len(VOCABULARY), hidden),
            "position_embedding/embeddings": (32, hidden),
            "type_embeddings/embeddings": (2, hidden),
            "embeddings/layer_norm/gamma": (hidden,),
            "embeddings/layer_norm/beta": (hidden,),
            "pooler_transform/kernel": (hidden, hidden),
            "pooler_transform/bias": (hidden,),
        }
        for i in range(layers):
            block = f"transformer/layer_{i}"
            for name in ("query", "key", "value"):
                shapes[f"{block}/self_attention/{name}/kernel"] = (hidden, heads, key)
                shapes[f"{block}/self_attention/{name}/bias"] = (heads, key)
            shapes[f"{block}/self_attention/attention_output/kernel"] = (heads, key, hidden)
            shapes[f"{block}/self_attention/attention_output/bias"] = (hidden,)
            shapes[f"{block}/intermediate/kernel"] = (hidden, feed_forward)
            shapes[f"{block}/intermediate/bias"] = (feed_forward,)
            shapes[f"{block}/output/kernel"] = (feed_forward, hidden)
            shapes[f"{block}/output/bias"] = (hidden,)
            for norm in ("self_attention_layer_norm", "output_layer_norm"):
                shapes[f"{block}/{norm}/gamma"] = shapes[f"{block}/{norm}/beta"] = (hidden,)
        shapes["cls/predictions/output_bias/bias"] = (len(VOCABULARY),)
        rng = np.random.default_rng(0)
        # Under a key of its own each, so that no key tells the name.
        self.values = [
            tf.Variable(rng.normal(0, 0.7, shape), dtype=tf.float32, name=name)
            for name, shape in sorted(shapes.items())
        ]

    def _norm(self, x: Any, name: str) -> Any:
        mean, variance = tf.nn.moments(x, -1, keepdims=True)
        beta, gamma = self._get(f"{name}/beta"), self._get(f"{name}/gamma")
        return tf.nn.batch_normalization(x, mean, variance, beta, gamma, self.epsilon)

    def _get(self, name: str) -> Any:
        return next(v for v in self.values if v.name.removesuffix(":0") == name)

    @tf.function(input_signature=[{n: tf.TensorSpec([None, None], tf.int32, n) for n in INPUTS}])
    def __call__(self, inputs: Any) -> dict[str, Any]:
        get, ids = self._get, inputs["input_word_ids"]
        x = tf.gather(get("word_embeddings/embeddings"), ids)
        x += get("position_embedding/embeddings")[: tf.shape(ids)[1]]
        x += tf.gather(get("type_embeddings/embeddings"), inputs["input_type_ids"])
        x = self._norm(x, "embeddings/layer_norm")
        hidden = (1.0 - tf.cast(inputs["input_mask"], tf.float32))[:, None, None, :] * -1e9
        outputs = {}
        for i in range(self.layers):
            block = f"transformer/layer_{i}"
            query, key, value = (
                tf.einsum("blh,hnk->blnk", x, get(f"{block}/self_attention/{name}/kernel"))
                + get(f"{block}/self_attention/{name}/bias")
                for name in ("query", "key", "value")
            )
            scores = tf.einsum("bqnk,bmnk->bnqm", query, key) / self.key**0.5
            context = tf.einsum("bnqm,bmnk->bqnk", tf.nn.softmax(scores + hidden), value)
            kernel = get(f"{block}/self_attention/attention_output/kernel")
            context = tf.einsum("bqnk,nkh->bqh", context, kernel)
            context += get(f"{block}/self_attention/attention_output/bias")
            x = self._norm(x + context, f"{block}/self_attention_layer_norm")
            inner = x @ get(f"{block}/intermediate/kernel") + get(f"{block}/intermediate/bias")
            inner = tf.nn.gelu(inner, approximate=self.approximate)
            inner = inner @ get(f"{block}/output/kernel") + get(f"{block}/output/bias")
            x = outputs[f"layer_{i}"] = self._norm(x + inner, f"{block}/output_layer_norm")
        pooled = x[:, 0] @ get("pooler_transform/kernel") + get("pooler_transform/bias")
        return {**outputs, "sequence_output": x, "pooled_output": tf.tanh(pooled)}


def export(directory: Path, **options: Any) -> Encoder:
    """Write a SavedModel of an `Encoder`, and give it too."""
    directory.mkdir(parents=True)
    vocabulary = directory / "vocab.txt"  # copied into assets/ by TensorFlow
    vocabulary.write_text("".join(f"{word}\n" for word in VOCABULARY))
    encoder = Encoder(vocabulary, **options)
    tf.saved_model.save(encoder, str(directory), signatures=encoder.__call__)
    vocabulary.unlink()
    return encoder
