"""Where a process computes: its device, threads, memory, versions and peak."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from keras_agnews.device import cpu_name, gpu_name


def device(gpu: bool) -> str:
    """The device at hand, by the name that the backends give it."""
    return (gpu and gpu_name()) or cpu_name()


def installed(module: str) -> bool:
    """Whether there is such a module; imports none."""
    return importlib.util.find_spec(module) is not None


def commit() -> str:
    """The git commit of this checkout, "+" behind it where files differ; "" outside of one."""
    root = Path(__file__).resolve().parents[1]

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    try:
        # Of what is measured; the results themselves may lie there unsaved.
        changed = git("status", "--porcelain", "--", "keras_agnews", "benchmarks/*.py", "zoo")
        return git("rev-parse", "--short=12", "HEAD") + "+" * bool(changed)
    except (OSError, subprocess.CalledProcessError):
        return ""


def peak_bytes(children: bool = False) -> int | None:
    """The most memory that this process has held, in bytes; `None` on Windows.

    With `children`, what the largest of the processes has held that it started and that ended.
    """
    with contextlib.suppress(OSError, StopIteration):
        if not children:  # of this program alone; `getrusage` counts what the parent held, too
            lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
            return next(int(line.split()[1]) * 1_024 for line in lines if line.startswith("VmHWM"))
    try:
        import resource
    except ImportError:
        return None
    who = resource.RUSAGE_CHILDREN if children else resource.RUSAGE_SELF
    return resource.getrusage(who).ru_maxrss * (1 if sys.platform == "darwin" else 1_024)


def version(package: str) -> str:
    """A package's name and version, by the name that is installed or imported."""
    names = importlib.metadata.packages_distributions().get(package, [package])
    try:
        return f"{package} {importlib.metadata.version(names[0])}"
    except importlib.metadata.PackageNotFoundError:
        return f"{package} of unknown version"


def versions(*packages: str) -> str:
    """Of Python and of what computes."""
    wanted = dict.fromkeys(name for name in packages if name)
    return ", ".join([f"python {platform.python_version()}", *map(version, wanted)])


def facts(backend: str) -> dict[str, Any]:
    """What a backend, imported already, computes on and with.

    Returns: `device`, `threads` (0 where the backend decides) and `gpu_mb`, the most memory of a
    GPU that was held, `None` on a processor.
    """
    device, threads, peak = _PLACES.get(backend, lambda: (None, 0, None))()
    return {
        "device": device or cpu_name(),
        "threads": threads,
        "gpu_mb": peak and round(peak / 1e6),
    }


def _jax_place() -> tuple[str | None, int, int | None]:
    import jax

    device = jax.devices()[0]
    kind = device.platform.upper()
    if kind == "CPU":
        return None, 0, None
    peak = (device.memory_stats() or {}).get("peak_bytes_in_use")
    return f"{kind}, {device.device_kind}", 0, peak


def _tensorflow_place() -> tuple[str | None, int, int | None]:
    import tensorflow as tf

    threads = tf.config.threading.get_intra_op_parallelism_threads()
    devices = tf.config.list_physical_devices("GPU")
    if not devices:
        return None, threads, None
    name = tf.config.experimental.get_device_details(devices[0]).get("device_name", "GPU")
    return f"GPU, {name}", threads, tf.config.experimental.get_memory_info("GPU:0")["peak"]


def _torch_place() -> tuple[str | None, int, int | None]:
    import torch

    threads = torch.get_num_threads()
    if not torch.cuda.is_available():
        return None, threads, None
    return f"GPU, {torch.cuda.get_device_name()}", threads, torch.cuda.max_memory_allocated()


# The device (`None` for the processor), the number of threads, and the peak of a GPU's memory.
_PLACES: dict[str, Callable[[], tuple[str | None, int, int | None]]] = {
    "jax": _jax_place,
    "tensorflow": _tensorflow_place,
    "torch": _torch_place,
}


def matrix_peak(precision: str, seconds: float = 2.0) -> float:
    """Floating-point operations a second of large square matrix products on Keras's backend.

    The best of a dozen chains of products by the zoo's dense layer, in bfloat16 for that and in
    float32 for any other precision; it is what a network of nothing but products could reach with
    the same libraries. Of few, a turn of a busy processor would be taken for its best.
    """
    import keras
    from keras import ops

    from keras_agnews.layers import Dense

    dtype = "bfloat16" if precision == "bfloat16" else "float32"
    size, chain = (8_192, 8) if "GPU" in facts(keras.backend.backend())["device"] else (2_048, 1)
    # Small, so that a chain of products stays finite.
    values = np.random.default_rng(0).standard_normal((size, size)).astype(np.float32) / size**0.5
    left = ops.cast(ops.convert_to_tensor(values), dtype)
    multiply = Dense(size, use_bias=False, dtype=dtype)
    multiply.build(left.shape)
    multiply.kernel.assign(left)
    predicting = contextlib.nullcontext
    if keras.backend.backend() == "torch":
        import torch

        predicting = torch.inference_mode

    def products() -> None:
        product = left
        with predicting():
            for _ in range(chain):
                product = multiply(product)
        ops.convert_to_numpy(product[:1, :1])

    products()
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end or best == float("inf"):
        start = time.perf_counter()
        products()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 * chain / best
