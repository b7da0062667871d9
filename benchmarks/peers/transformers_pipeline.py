"""Hugging Face's `pipeline`, as its users write it, and as it advises on a processor: unbatched."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from benchmarks.peers import Answer, Model
from benchmarks.peers.transformers import open_network


def load(model: Model, batch: int | None = None) -> Callable[[Sequence[str]], Answer]:
    import transformers

    network, tokenizer, max_length = open_network(model)
    classify = transformers.pipeline(
        "text-classification", model=network, tokenizer=tokenizer, device=network.device
    )
    positions = 0

    def count(_: object, __: object, arguments: dict[str, object]) -> None:
        nonlocal positions
        positions += arguments["input_ids"].numel()  # type: ignore[attr-defined]

    network.register_forward_pre_hook(count, with_kwargs=True)
    column = network.config.label2id

    def predict(texts: Sequence[str]) -> Answer:
        nonlocal positions
        positions = 0
        answers = classify(
            list(texts),
            batch_size=batch or model.batch,
            top_k=None,
            function_to_apply="softmax",
            truncation=True,
            max_length=max_length,
        )
        scores = np.empty((len(texts), len(column)), np.float32)
        for row, answer in zip(scores, answers, strict=True):
            for item in answer:
                row[column[item["label"]]] = item["score"]
        return Answer(scores, positions)

    return predict
