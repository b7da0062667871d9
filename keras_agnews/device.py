"""What Keras computes on, by name, for records of a measurement or of a training run."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path


def device_name() -> str:
    """The device of Keras's backend: `"GPU, NVIDIA H100"`, `"CPU, 2 x AMD EPYC"`, or `"MPS"`."""
    kind = _kind()
    if kind == "cpu":
        return cpu_name()
    return gpu_name() or "GPU" if kind in ("cuda", "gpu") else kind.upper()


def on_cpu() -> bool:
    """Whether Keras's backend computes on processors alone."""
    return _kind() == "cpu"


def _kind() -> str:
    """Where Keras's backend computes, as it names it: `"cpu"`, `"gpu"`, `"cuda"`, `"mps"`, ..."""
    import keras

    if keras.backend.backend() == "torch":  # of which Keras lists no devices
        kind: str = keras.ops.convert_to_tensor(0.0).device.type
        return kind
    kinds = (device.partition(":")[0].lower() for device in keras.distribution.list_devices())
    return next((kind for kind in kinds if kind != "cpu"), "cpu")


def gpu_name() -> str | None:
    """The first NVIDIA GPU of this machine, `None` where there is none; imports no backend."""
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    names = done.stdout.splitlines()
    return f"GPU, {names[0].strip()}" if names else None


def cpu_name() -> str:
    """The processor, with the number of its cores that this process may use."""
    return f"CPU, {cpus()} x {processor()}"


def cpus() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor() -> str:
    """The name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
