"""`import keras_agnews`: every order, Keras's registry afterwards, and the choice of a backend."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import LIGHT

import keras_agnews

# What a .keras file names, and that it is the class that our own modules use: none ran twice.
REGISTERED = """
import keras, keras_agnews
homes = {"TransformerEncoder": "layers", "TextClassifier": "classifier",
         "WarmupLinearDecay": "schedules"}
for name, home in homes.items():
    found = keras.saving.get_registered_object(f"keras_agnews>{name}")
    assert found is not None, name
    assert found is getattr(getattr(keras_agnews, home), name), name
for name in keras_agnews.__all__:
    assert getattr(keras_agnews, name) is not None
"""
ORDERS = {
    "keras_agnews, keras": "import keras_agnews, keras",
    "keras, keras_agnews": "import keras, keras_agnews",
    "load": "import keras_agnews; keras_agnews.load",
    "a module that others need": "import keras_agnews.inference",
    # As transformers does, to see what is installed.
    "keras looked up": "import keras_agnews, importlib.util; importlib.util.find_spec('keras')",
    "several threads": """
import importlib, threading, keras_agnews
names = ["keras", "keras_agnews.loading", "keras_agnews.training", "keras_agnews.inference"]
failed, start = [], threading.Barrier(len(names))
def take(name):
    try:
        start.wait()
        importlib.import_module(name)
    except BaseException as error:
        failed.append((name, repr(error)))
threads = [threading.Thread(target=take, args=(name,)) for name in names]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert not failed, failed
""",
}


@pytest.mark.parametrize("code", ORDERS.values(), ids=ORDERS)
def test_layers_are_registered_after_any_order(fresh: Callable[..., str], code: str) -> None:
    fresh(code + REGISTERED, KERAS_BACKEND=LIGHT)


MODULES = sorted(path.stem for path in Path(keras_agnews.__file__).parent.glob("[a-z]*.py"))


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="a child a module, of one that is loaded")
def test_any_module_may_come_first(fresh: Callable[..., str]) -> None:
    """Before Keras too; what that itself imports takes most of the time, and is there already."""
    modules = [*MODULES, "importers.huggingface", "importers.tfhub"]
    code = """
import contextlib, importlib, os, sys, traceback
code, *modules = sys.argv[1:]
failed = []
for name in ("torch._dynamo", "jax", "sklearn.base", "h5py", "scipy", "rich.console", "optree"):
    with contextlib.suppress(ImportError):
        importlib.import_module(name)
for module in modules:
    assert not [name for name in sys.modules if name.startswith("keras")]
    if not os.fork():
        try:
            exec(f"import keras_agnews.{module}" + code, {})
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    failed += [module] if os.wait()[1] else []
assert not failed, failed
"""
    fresh(code, REGISTERED, *modules, KERAS_BACKEND=LIGHT)


def test_no_public_name_is_a_modules() -> None:
    assert not set(keras_agnews.__all__) & set(MODULES)


@pytest.mark.backend
def test_the_backend_may_come_first(fresh: Callable[..., str]) -> None:
    backend = os.environ.get("KERAS_BACKEND")
    if not backend:
        pytest.skip("KERAS_BACKEND is not set")
    fresh(f"import {backend}, keras_agnews, keras" + REGISTERED)


def test_a_failed_import_of_keras_may_be_tried_again(
    fresh: Callable[..., str], tmp_path: Path
) -> None:
    broken = tmp_path / "keras"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise ImportError('half installed')")
    code = """
import sys, keras_agnews
sys.path.insert(0, sys.argv[1])
for attempt in ("import keras", "keras_agnews.load"):
    try:
        exec(attempt)
    except ImportError as error:
        assert str(error) == "half installed", error
    else:
        raise AssertionError(attempt)
sys.path.remove(sys.argv[1])
import keras
"""
    fresh(code + REGISTERED, str(tmp_path), KERAS_BACKEND=LIGHT)


# --- the backend

ALL = ("tensorflow", "jax", "torch")


@pytest.fixture
def chosen(fresh: Callable[..., str], tmp_path: Path) -> Callable[..., str]:
    """`KERAS_BACKEND` after `import keras_agnews` where `installed` are the backends there are."""
    for name in ALL:
        (tmp_path / "site" / name).mkdir(parents=True)
        # Whoever imports it fails.
        (tmp_path / "site" / name / "__init__.py").write_text("raise AssertionError(__name__)")

    def run(
        installed: tuple[str, ...] = ALL, before: str = "", config: str = "", **environment: str
    ) -> str:
        (tmp_path / "keras.json").write_text(config)
        code = f"""
import os, sys
sys.path.insert(0, {str(tmp_path / "site")!r})
sys.modules.update(dict.fromkeys({set(ALL) - set(installed)!r}))  # None: as if there were none
{before}
import keras_agnews
print(os.environ.get("KERAS_BACKEND"))
"""
        environment = {"KERAS_BACKEND": "", "KERAS_HOME": str(tmp_path)} | environment
        return fresh(code, **environment).strip()

    return run


@pytest.mark.parametrize(
    ("config", "installed", "expected"),
    [
        ("", ALL, "tensorflow"),
        ("", ("jax", "torch"), "jax"),
        ("", ("torch",), "torch"),
        ("", (), "None"),  # Keras says then what to install
        ('{"backend": "torch"}', ALL, "torch"),
        ('{"backend": "jax"}', ALL, "jax"),
        ('{"backend": "tensorflow"}', ("jax", "torch"), "jax"),
        ('{"backend": "tensorflow"}', (), "None"),
        ('{"backend": "no_such_backend"}', ALL, "tensorflow"),
        ('{"backend": "../jax"}', ALL, "tensorflow"),
        ('{"backend": ["jax"]}', ALL, "tensorflow"),
        ('["jax"]', ALL, "tensorflow"),
        ('{"backend": "jax"', ALL, "tensorflow"),
    ],
)
def test_an_unset_backend_is_chosen_among_those_installed(
    chosen: Callable[..., str], config: str, installed: tuple[str, ...], expected: str
) -> None:
    assert chosen(installed, config=config) == expected


@pytest.mark.parametrize("name", ["torch", "numpy", "no_such_backend"])
def test_a_backend_that_the_user_has_set_is_left_alone(
    chosen: Callable[..., str], name: str
) -> None:
    assert chosen(("jax",), config='{"backend": "jax"}', KERAS_BACKEND=name) == name


def test_keras_json_is_looked_for_where_keras_does(
    chosen: Callable[..., str], tmp_path: Path
) -> None:
    place = tmp_path / "home" / ".keras"
    place.mkdir(parents=True)
    (place / "keras.json").write_text('{"backend": "torch"}')
    home = {"HOME": str(tmp_path / "home"), "USERPROFILE": str(tmp_path / "home")}
    assert chosen(KERAS_HOME="", **home) == "torch"
    assert chosen(KERAS_HOME="~/.keras", **home) == "torch"


@pytest.mark.skipif(os.name != "posix", reason="of POSIX's home directories")
def test_a_user_without_a_home_can_import(chosen: Callable[..., str]) -> None:
    """As in a container that runs under a user id which no one has named."""
    nameless = """
import pwd
def nobody(uid): raise KeyError(uid)
pwd.getpwuid = nobody
"""
    assert chosen(before=nameless, HOME="", KERAS_HOME="") == "tensorflow"


def test_keras_that_is_there_already_keeps_its_backend(
    fresh: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "keras.json").write_text(json.dumps({"backend": LIGHT}))
    code = """
import os, sys, keras
assert keras.config.backend() == sys.argv[1]
import keras_agnews
print(os.environ.get("KERAS_BACKEND"))
"""
    output = fresh(code, LIGHT, KERAS_BACKEND="", KERAS_HOME=str(tmp_path))
    assert output.strip() == "None"
