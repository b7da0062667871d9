"""The fine-tuning loop that people write by hand in PyTorch, around transformers' network.

Fused attention, AdamW, clipping, and batches of like length, in which it is as good as ours. The
texts become tokens beforehand, as ours do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from benchmarks.peers import Answer, Model
from benchmarks.peers.transformers import open_network


def load(model: Model) -> Callable[[Sequence[str]], Answer]:
    import torch
    import transformers

    network, tokenizer, max_length = open_network(model)
    network = network.float().train()
    parameters = [value for value in network.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.01)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, 1_000, 10_000)
    reduced = torch.autocast(
        network.device.type, torch.bfloat16, enabled=model.precision == "bfloat16"
    )
    labels = torch.tensor(model.labels, device=network.device)
    rows = tokenizer(list(model.texts), truncation=True, max_length=max_length)
    order = np.argsort([-len(ids) for ids in rows["input_ids"]], kind="stable")
    batches = [order[i : i + model.batch] for i in range(0, len(order), model.batch)]

    def train(_: Sequence[str]) -> Answer:
        positions = 0
        for i in np.random.default_rng(model.seed).permutation(len(batches)):
            chosen = {name: [values[row] for row in batches[i]] for name, values in rows.items()}
            batch = tokenizer.pad(chosen, return_tensors="pt").to(network.device)
            positions += batch["input_ids"].numel()
            with reduced:
                logits = network(**batch).logits
            loss = torch.nn.functional.cross_entropy(logits.float(), labels[batches[i]])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        if model.gpu:
            torch.cuda.synchronize()
        return Answer(None, positions)

    return train
