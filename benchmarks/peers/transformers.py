"""Hugging Face transformers on PyTorch, as it is documented: batches padded to their longest.

Texts run in the order in which they come or by length, `model.batch` at a time, with PyTorch's
fused attention.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.peers import Answer, Model
from keras_agnews import bundle


def load(
    model: Model, compiled: bool = False, by_length: bool = False
) -> Callable[[Sequence[str]], Answer]:
    """With `compiled`, through `torch.compile` for any shape."""
    import torch

    network, tokenizer, max_length = open_network(model)
    run = torch.compile(network, dynamic=True) if compiled else network

    @torch.inference_mode()
    def predict(texts: Sequence[str]) -> Answer:
        rows = tokenizer(list(texts), truncation=True, max_length=max_length)
        order = np.arange(len(texts))
        if by_length:
            order = np.argsort([-len(ids) for ids in rows["input_ids"]], kind="stable")
        scores = np.empty((len(texts), network.config.num_labels), np.float32)
        positions = 0
        for start in range(0, len(texts), model.batch):
            chosen = order[start : start + model.batch]
            batch = {name: [values[i] for i in chosen] for name, values in rows.items()}
            padded = tokenizer.pad(batch, return_tensors="pt").to(network.device)
            positions += padded["input_ids"].numel()
            scores[chosen] = run(**padded).logits.float().softmax(-1).cpu().numpy()
        return Answer(scores, positions)

    return predict


def open_network(model: Model) -> tuple[Any, Any, int]:
    """The network in evaluation mode, its tokenizer and the longest text in tokens."""
    import torch
    import transformers

    class MeanPooled(transformers.BertForSequenceClassification):  # type: ignore[misc]
        """As sentence-transformers pools, which no class of theirs does before a head."""

        def forward(
            self,
            input_ids: Any = None,
            attention_mask: Any = None,
            token_type_ids: Any = None,
            **_: Any,
        ) -> Any:
            hidden = self.bert(
                input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
            ).last_hidden_state
            mask = attention_mask[:, :, None].to(hidden.dtype)
            pooled = (hidden * mask).sum(1) / mask.sum(1)
            logits = self.classifier(self.dropout(pooled))
            return transformers.modeling_outputs.SequenceClassifierOutput(logits=logits)

    description = bundle.read(model.directory / "bundle")
    directory = model.directory / "hugging_face"
    mean = description.config.pooling == "mean"
    kind = MeanPooled if mean else transformers.AutoModelForSequenceClassification
    network = kind.from_pretrained(directory, attn_implementation="sdpa")
    if mean:
        network.bert.pooler = None
    network = network.to("cuda" if model.gpu else "cpu", getattr(torch, model.precision)).eval()
    return network, transformers.AutoTokenizer.from_pretrained(directory), description.max_length
