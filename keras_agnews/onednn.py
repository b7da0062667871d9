"""Matrix products of PyTorch tensors by oneDNN, on a CPU.

The operation is the one that PyTorch's own compiler emits. It is no documented function: where a
PyTorch does not have it, `product` is always `None`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

Product = Callable[[Any, Any, Any], Any]


def product(inputs: Any, training: bool) -> Product | None:
    """What computes `inputs @ kernel + bias` faster than PyTorch's `matmul`; `None` where nothing.

    Args:
        inputs: a tensor `(..., n)`.
        training: whether the gradient is wanted, which an exported program would not know.

    Returns:
        A function of `inputs`, `kernel` `(n, m)` and `bias` `(m,)` or `None`, float32 all of them;
        where nothing is to be learned, bfloat16 too.
    """
    import torch

    if inputs.device.type != "cpu" or torch.compiler.is_compiling():
        return None
    if torch.is_inference_mode_enabled():
        known = inputs.dtype == torch.float32 or (inputs.dtype == torch.bfloat16 and _bfloat16())
        return _forward() if known else None
    learns = training and torch.is_grad_enabled() and inputs.dtype == torch.float32
    if learns and inputs.numel():  # of no rows it has no gradient
        return _with_gradient()
    return None


@functools.cache
def _bfloat16() -> bool:
    """Whether the processor has what oneDNN wants for bfloat16: AVX-512 at least, on x86."""
    import torch

    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return supported is not None and bool(supported())


@functools.cache
def _forward() -> Product | None:
    import torch

    if not torch.backends.mkldnn.is_available():
        return None
    try:
        # Called from Python it could not be traced, for its list of no numbers.
        unit: Any = torch.jit.CompilationUnit("""
            def dense(inputs: Tensor, kernel: Tensor, bias: Optional[Tensor]) -> Tensor:
                scalars: List[Optional[number]] = []
                return torch.ops.mkldnn._linear_pointwise(
                    inputs, kernel.t(), bias, "none", scalars, ""
                )
        """)
    except RuntimeError:  # there is no such operation, or it is called in another way
        return None
    dense: Product = unit.dense
    return dense


def _plain(inputs: Any, kernel: Any, _: None) -> Any:
    return inputs @ kernel


@functools.cache
def _with_gradient() -> Product | None:
    import torch

    found = _forward()
    if found is None:
        return None
    multiply: Product = found

    class Dense(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, inputs: Any, kernel: Any, bias: Any) -> Any:
            ctx.save_for_backward(inputs, kernel)
            return multiply(inputs, kernel, bias)

        @staticmethod
        def backward(ctx: Any, *gradients: Any) -> Any:
            (gradient,) = gradients
            inputs, kernel = ctx.saved_tensors
            rows = gradient.flatten(0, -2)
            of_inputs, of_kernel, of_bias = ctx.needs_input_grad
            # Where the gradient's own is wanted: oneDNN's operation has none.
            times = _plain if torch.is_grad_enabled() else multiply
            return (
                times(gradient, kernel.t(), None) if of_inputs else None,
                times(inputs.flatten(0, -2).t(), rows, None) if of_kernel else None,
                rows.sum(0) if of_bias else None,
            )

    apply: Product = Dense.apply
    return apply
