"""What Keras computes on, where the machine has a device that Keras does not use, or another."""

from __future__ import annotations

import types
from typing import Any

import pytest

from keras_agnews import device

pytestmark = pytest.mark.backend


@pytest.mark.parametrize(
    ("kind", "name"),
    [("cpu", "CPU, 2 x Some CPU"), ("cuda", "GPU, Some GPU"), ("mps", "MPS"), ("xpu", "XPU")],
)
def test_it_is_where_keras_puts_a_tensor(
    kind: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import keras

    if keras.backend.backend() == "torch":
        import torch

        # The other way round from what Keras does.
        monkeypatch.setattr(torch.cuda, "is_available", lambda: kind != "cuda")
        tensor: Any = types.SimpleNamespace(device=types.SimpleNamespace(type=kind))
        monkeypatch.setattr(keras.ops, "convert_to_tensor", lambda _: tensor)
    else:
        listed = {"cuda": "GPU:0"}.get(kind, f"{kind}:0")
        monkeypatch.setattr(keras.distribution, "list_devices", lambda: ["cpu:0", listed])
    monkeypatch.setattr(device, "cpu_name", lambda: "CPU, 2 x Some CPU")
    monkeypatch.setattr(device, "gpu_name", lambda: "GPU, Some GPU")
    assert device.on_cpu() == (kind == "cpu")
    assert device.device_name() == name
