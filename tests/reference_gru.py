"""The GRU with additive attention in float64 NumPy, word by word: an oracle for tests.

Written from Cho et al. 2014 (with the reset gate after the product, as CuDNN has it) and from
Bahdanau et al. 2015 on variables named as in a bundle. It shares no code with the package.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _read(inputs: np.ndarray, w: Mapping[str, np.ndarray], cell: str) -> np.ndarray:
    """The states after each row of `inputs`, from zeros."""
    units = w[f"{cell}/recurrent_kernel"].shape[0]
    state, states = np.zeros(units), []
    for x in inputs:
        x_update, x_reset, x_new = np.split(x @ w[f"{cell}/kernel"] + w[f"{cell}/bias"][0], 3)
        h_update, h_reset, h_new = np.split(
            state @ w[f"{cell}/recurrent_kernel"] + w[f"{cell}/bias"][1], 3
        )
        update = _sigmoid(x_update + h_update)
        new = np.tanh(x_new + _sigmoid(x_reset + h_reset) * h_new)
        state = update * state + (1 - update) * new
        states.append(state)
    return np.stack(states)


def embeddings(config: Any, weights: Mapping[str, np.ndarray], ids: list[int]) -> np.ndarray:
    """Embeddings of one text, `(length, hidden)`."""
    return np.asarray(weights["encoder/embedding/embeddings"], np.float64)[ids]


def forward(
    config: Any, weights: Mapping[str, np.ndarray], hidden: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Logits `(classes,)` and attention weights `(1, 1, 1, length)` of embeddings.

    Of one text, unpadded: there is nothing to mask.
    """
    w = {name: np.asarray(value, np.float64) for name, value in weights.items()}
    for i in range(config.layers):
        layer = f"encoder/gru_{i}"
        forward = _read(hidden, w, f"{layer}/forward_gru/gru_cell")
        backward = _read(hidden[::-1], w, f"{layer}/backward_gru/gru_cell")[::-1]
        hidden = np.concatenate([forward, backward], axis=1)
    attention = "encoder/attention"
    energies = np.tanh(hidden @ w[f"{attention}/states/kernel"] + w[f"{attention}/states/bias"])
    scores = np.exp(energies @ w[f"{attention}/score"])
    shares = scores / scores.sum()
    return shares @ hidden @ w["logits/kernel"] + w["logits/bias"], shares[None, None, None]
