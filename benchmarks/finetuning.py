"""Documents a second of a full fine-tuning step, beside a plain PyTorch loop on the same rows.

    python -m benchmarks.finetuning --weights PATH --data DIR

The peer is what people write by hand: Hugging Face transformers' encoder (its fused attention),
mean pooling, a linear layer, AdamW, batches of like length. Every competitor is a process of its
own; they take turns, a pass over the same rows each, so that a changing load meets them all.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

PEER = "transformers"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--entry", default="minilm-L6")
    parser.add_argument("--weights", required=True, help="a Hugging Face directory")
    parser.add_argument("--data", help="AG News; else KERAS_AGNEWS_DATA")
    parser.add_argument("--rows", type=int, default=1_600, help="rows of one pass")
    parser.add_argument("--rounds", type=int, default=3, help="passes that are timed")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--backends", default="tensorflow,jax,torch")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        _work(options)
        return
    wanted = [name for name in options.backends.split(",") if importlib.util.find_spec(name)]
    wanted += [PEER] if importlib.util.find_spec(PEER) else []
    rates = _compete(wanted, options)
    base = statistics.median(rates[PEER]) if PEER in rates else None
    print(f"\n{options.entry}, batches of {options.batch_size}, {options.rows} rows a pass")
    for name, values in rates.items():
        middle = statistics.median(values)
        ratio = "" if base is None else f"   {middle / base:5.2f} times plain PyTorch"
        spread = f"{min(values):.1f} to {max(values):.1f}"
        print(f"{name:12} {middle:7.1f} documents/s ({spread}){ratio}")
    print(json.dumps({"rows": options.rows, "documents_per_second": rates}))


def _compete(names: list[str], options: argparse.Namespace) -> dict[str, list[float]]:
    """Each worker takes one pass to warm up, and then its turn in every round."""
    rates: dict[str, list[float]] = {name: [] for name in names}
    workers = {}
    for name in names:
        command = [sys.executable, "-m", "benchmarks.finetuning", *sys.argv[1:], "--worker", name]
        environment = os.environ | {"KERAS_BACKEND": name if name != PEER else "torch"}
        environment |= {"TF_CPP_MIN_LOG_LEVEL": "3"}
        workers[name] = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
    try:
        for turn in range(options.rounds + 1):
            for name, worker in workers.items():
                assert worker.stdin is not None
                assert worker.stdout is not None
                worker.stdin.write("go\n")
                worker.stdin.flush()
                answer = worker.stdout.readline()
                if not answer:
                    raise SystemExit(f"{name} ended with exit code {worker.wait()}")
                rate = options.rows / float(answer)
                print(f"{turn or 'warm-up'} {name}: {rate:.1f}", file=sys.stderr)
                if turn:
                    rates[name].append(rate)
    finally:
        for worker in workers.values():
            worker.terminate()
    return rates


def _work(options: argparse.Namespace) -> None:
    # What libraries print must not pass for an answer.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.stdin.readline()
    turn = (_peer if options.worker == PEER else _ours)(options)
    while True:
        start = time.perf_counter()
        turn()
        print(time.perf_counter() - start, file=answers, flush=True)
        if not sys.stdin.readline():
            return


def _rows(options: argparse.Namespace) -> tuple[list[str], Any, list[str]]:
    from keras_agnews import data

    rows = data.load_agnews("train", options.data)
    return list(rows.texts[: options.rows]), rows.labels[: options.rows], list(rows.label_names)


def _ours(options: argparse.Namespace) -> Callable[[], None]:
    import keras

    import keras_agnews
    from keras_agnews.recipes import make_optimizer, make_recipe

    texts, labels, _ = _rows(options)
    classifier = keras_agnews.load(options.entry, weights=options.weights)
    dataset = classifier.dataset(texts, labels, options.batch_size, shuffle=True, seed=0)
    dataset.start_epoch(0)
    classifier.model.compile(
        optimizer=make_optimizer(make_recipe(classifier, "full"), 10_000),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return lambda: keras.Model.fit(classifier.model, dataset, shuffle=False, verbose=0) and None


def _peer(options: argparse.Namespace) -> Callable[[], None]:
    import numpy as np
    import torch
    import transformers

    texts, labels, names = _rows(options)
    tokenizer = transformers.AutoTokenizer.from_pretrained(options.weights)
    encoder = transformers.AutoModel.from_pretrained(options.weights)
    encoder.pooler = None
    head = torch.nn.Sequential(
        torch.nn.Dropout(0.1), torch.nn.Linear(encoder.config.hidden_size, len(names))
    )
    parameters = [*encoder.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.01)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, 1_000, 10_000)
    lengths = np.array([len(ids) for ids in tokenizer(texts)["input_ids"]])
    order = np.argsort(-lengths, kind="stable")
    batches = [order[i : i + options.batch_size] for i in range(0, len(order), options.batch_size)]
    encoder.train()
    head.train()

    def turn() -> None:
        for i in np.random.default_rng(0).permutation(len(batches)):
            batch = tokenizer(
                [texts[row] for row in batches[i]],
                padding=True,
                truncation=True,
                max_length=128,
                return_tensors="pt",
            )
            hidden = encoder(**batch).last_hidden_state
            mask = batch["attention_mask"][:, :, None]
            pooled = (hidden * mask).sum(1) / mask.sum(1)
            target = torch.from_numpy(labels[batches[i]]).long()
            loss = torch.nn.functional.cross_entropy(head(pooled), target)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()

    return turn


if __name__ == "__main__":
    main()
