"""The states of a GRU on PyTorch, by PyTorch's own operation.

Keras walks through the positions in Python there, a millisecond and more for each; PyTorch's
operation, cuDNN's on a GPU, knows no mask.
"""

from __future__ import annotations

from typing import Any


def states(
    inputs: Any, initial: Any, mask: Any | None, kernel: Any, recurrent_kernel: Any, bias: Any
) -> tuple[Any, Any]:
    """What `keras.layers.GRU` computes with `reset_after`, its activations and all outputs.

    Args:
        inputs: a tensor `(batch, length, n)`.
        initial: the state before the first position, `(batch, units)`.
        mask: bool `(batch, length)`; where it is false, a position changes nothing. `None` is
            all true.
        kernel: `(n, 3 * units)`, of the update gate, the reset gate and the new state.
        recurrent_kernel: `(units, 3 * units)`.
        bias: `(2, 3 * units)`, of the inputs and of the states.

    Returns: the state after each position `(batch, length, units)`, where the mask is false that of
    the last one before it where it is true, or zeros; and the state after all, `(batch, units)`.
    """
    import torch

    def gates(columns: Any) -> Any:
        """As PyTorch has them: reset, update, new."""
        update, reset, new = columns.chunk(3, dim=-1)
        return torch.cat((reset, update, new), dim=-1).t().contiguous()

    weights = [gates(kernel), gates(recurrent_kernel), gates(bias[0]), gates(bias[1])]
    if mask is None:
        seen = inputs
    else:
        # What is masked goes to the end, where nothing comes after it.
        order = torch.argsort(~mask, dim=1, stable=True)
        seen = inputs.gather(1, order.unsqueeze(-1).expand_as(inputs))
    # Nothing but the gradient depends on the mode: cuDNN has it in that of training alone.
    training = torch.is_grad_enabled()
    found, last = torch.gru(
        seen, initial.unsqueeze(0).contiguous(), weights, True, 1, 0.0, training, False, True
    )
    if mask is None:
        return found, last[0]
    count = mask.cumsum(1).unsqueeze(-1)
    found = found.gather(1, (count - 1).clamp(min=0).expand_as(found))
    return found * (count > 0), torch.where(count[:, -1] > 0, found[:, -1], initial)
