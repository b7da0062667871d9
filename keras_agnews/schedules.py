"""Learning rate schedules, usable in a user's own `compile` too."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_agnews.errors import InputError


@keras.saving.register_keras_serializable(package="keras_agnews")
class WarmupLinearDecay(keras.optimizers.schedules.LearningRateSchedule):
    """Learning rate that rises linearly from 0 to its peak, then falls linearly to 0.

    At step t it is `peak * t / warmup` for `t < warmup`, then
    `peak * (total - t) / (total - warmup)`, and 0 from `total` on, as in BERT.

    Args:
        peak: the highest learning rate.
        total_steps: steps at which it is 0 again.
        warmup: steps of the rise, an int; or their share of `total_steps`, a float below 1.

    Example:

    ```python
    schedule = keras_agnews.WarmupLinearDecay(3e-5, total_steps=3 * 1500)
    clf.compile(keras.optimizers.AdamW(schedule, weight_decay=0.01),
                keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    ```
    """

    def __init__(self, peak: float, total_steps: int, warmup: int | float = 0.1) -> None:
        super().__init__()
        if isinstance(warmup, np.generic):
            warmup = warmup.item()
        if not peak > 0 or not math.isfinite(peak):
            raise InputError(f"peak learning rate must be positive, not {peak!r}")
        if not total_steps >= 1:
            raise InputError(f"total_steps must be at least 1, not {total_steps!r}")
        if not warmup >= 0 or (isinstance(warmup, float) and warmup >= 1) or warmup > total_steps:
            raise InputError(
                f"warmup {warmup!r} is neither a share below 1 nor 0 to {total_steps} steps"
            )
        self.peak, self.total_steps, self.warmup = float(peak), int(total_steps), warmup
        share = isinstance(warmup, float)
        self.warmup_steps = round(warmup * total_steps) if share else int(warmup)

    def __call__(self, step: Any) -> Any:
        step = ops.cast(step, "float32")
        rise = step / max(1, self.warmup_steps)
        fall = (self.total_steps - step) / max(1, self.total_steps - self.warmup_steps)
        return self.peak * ops.where(step < self.warmup_steps, rise, ops.maximum(fall, 0.0))

    def get_config(self) -> dict[str, Any]:
        return {"peak": self.peak, "total_steps": self.total_steps, "warmup": self.warmup}
