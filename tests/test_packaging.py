"""What an installed copy holds, what it declares, and what importing it costs."""

from __future__ import annotations

import ast
import email.parser
import graphlib
import itertools
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import keras_agnews
from keras_agnews import registry

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "keras_agnews"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
HEAVY = ["keras", "tensorflow", "jax", "torch", "transformers", "pandas"]


def files_below(directory: Path) -> set[str]:
    """Paths of what a checkout ships, relative to its root."""
    return {
        path.relative_to(ROOT).as_posix()
        for path in directory.rglob("*")
        if path.is_file() and path.parent.name != "__pycache__"
    }


def build(source: Path, target: Path, *options: str) -> None:
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", target, *options]
    done = subprocess.run([*command, source], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("sdist")
    build(ROOT, target, "--sdist")
    return next(target.glob("*.tar.gz"))


@pytest.fixture(scope="module", params=["checkout", "sdist"])
def wheel(
    request: pytest.FixtureRequest, sdist: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A wheel built from the checkout, and one built from the sdist."""
    target = tmp_path_factory.mktemp("wheel")
    source = ROOT
    if request.param == "sdist":
        shutil.unpack_archive(sdist, target / "unpacked")
        source = next((target / "unpacked").iterdir())
    build(source, target, "--wheel")
    return next(target.glob("*.whl"))


def test_sdist_has_the_zoo_and_the_tests(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for directory in ("keras_agnews", "zoo", "tests", "examples"):
        assert files_below(ROOT / directory) <= names
    assert {"pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", "NOTICE"} <= names


def test_wheel_is_the_package_and_its_zoo(wheel: Path) -> None:
    information = f"keras_agnews-{keras_agnews.__version__}.dist-info"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = email.parser.Parser().parsestr(
            archive.read(f"{information}/METADATA").decode("utf-8")
        )
        scripts = archive.read(f"{information}/entry_points.txt").decode("utf-8")
    assert {name.partition("/")[0] for name in names} == {"keras_agnews", information}
    zoo = {f"keras_agnews/{name}" for name in files_below(ROOT / "zoo")}
    assert any(name.endswith("/config.json") for name in zoo)
    assert {name for name in names if name.startswith("keras_agnews/")} == (
        files_below(PACKAGE) | zoo
    )
    assert "keras_agnews/py.typed" in names
    assert {f"{information}/licenses/LICENSE", f"{information}/licenses/NOTICE"} <= names
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    assert "keras-agnews = keras_agnews.cli:main" in scripts


def test_zoo_is_found_in_the_checkout() -> None:
    assert registry.zoo_directory() == ROOT / "zoo"


def test_zoo_is_found_in_an_installed_wheel(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh: Callable[..., str]
) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    code = (
        "import json\nfrom keras_agnews import list_models, registry\n"
        "print(json.dumps([str(registry.zoo_directory()), list_models()]))"
    )
    monkeypatch.chdir(tmp_path)  # out of the checkout
    directory, names = json.loads(fresh(code, PYTHONPATH=str(tmp_path / "site")))
    assert Path(directory) == tmp_path / "site" / "keras_agnews" / "zoo"
    assert names == sorted(path.parent.name for path in (ROOT / "zoo").glob("*/config.json"))


# --- what is declared


def distribution(requirement_or_module: str) -> str:
    """`keras-hub` of `keras-hub>=0.20`, of `keras_hub` and of `keras_hub.models`."""
    name = requirement_or_module.partition(";")[0].partition(".")[0]
    for mark in "<>=!~[ ":
        name = name.partition(mark)[0]
    name = {"google": "protobuf"}.get(name, name)
    return name.replace("_", "-").lower()


def extra(name: str) -> set[str]:
    """Distributions that an extra installs."""
    return {distribution(line) for line in PROJECT["optional-dependencies"][name]}


BASE = {distribution(line) for line in PROJECT["dependencies"]}
USERS_EXTRAS = ("tensorflow", "jax", "torch", "tfhub", "keras-nlp", "onnx", "data")


def trees() -> Iterator[tuple[str, ast.Module]]:
    """Dotted name and syntax tree of every module of the package."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts).removesuffix(".__init__")
        yield name, ast.parse(path.read_text(encoding="utf-8"))


def imported(tree: ast.AST) -> Iterator[str]:
    """Dotted names that the import statements below a node may import."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def third_party(tree: ast.AST) -> set[str]:
    roots = {name.partition(".")[0] for name in imported(tree)}
    return {distribution(root) for root in roots - sys.stdlib_module_names - {"keras_agnews"}}


def test_every_third_party_import_is_declared() -> None:
    declared = BASE.union(*map(extra, (*USERS_EXTRAS, "bench")))
    undeclared = {name: third_party(tree) - declared for name, tree in trees()}
    assert {name: found for name, found in undeclared.items() if found} == {}


def test_what_a_module_imports_at_once_comes_with_every_installation() -> None:
    for name, tree in trees():
        at_once = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        optional = third_party(ast.Module(at_once, [])) - BASE
        assert not optional, f"{name} imports {optional} at the top"


def test_every_hint_to_install_an_extra_names_one_that_helps() -> None:
    calls = [
        (name, node)
        for name, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "require"
    ]
    assert calls
    for name, call in calls:
        module, hint = (ast.literal_eval(argument) for argument in call.args[:2])
        assert distribution(module) in extra(hint), f"{name}:{call.lineno} require({module!r})"


def test_every_requirement_has_a_lower_bound() -> None:
    lines = itertools.chain(PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
    unbounded = {distribution(line) for line in lines if ">=" not in line}
    # setuptools has an upper one; "all" repeats the other extras.
    assert unbounded == {"setuptools", "keras-agnews"}


def test_all_is_every_extra_of_users_but_torch() -> None:
    (line,) = PROJECT["optional-dependencies"]["all"]
    names = line.removeprefix("keras-agnews[").removesuffix("]").split(",")
    assert set(names) == {*USERS_EXTRAS} - {"torch"}


# --- how it hangs together


def test_no_public_function_shares_its_name_with_a_module() -> None:
    modules = {part for name, _ in trees() for part in name.split(".")}
    functions = {
        node.name: name
        for name, tree in trees()
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
    }
    assert functions
    assert {n: module for n, module in functions.items() if n in modules} == {}
    assert not modules.intersection(keras_agnews.__all__)


def test_imports_point_one_way() -> None:
    syntax = dict(trees())
    del syntax["keras_agnews"]  # which names them all, lazily
    graph = {
        name: {module for found in imported(tree) for module in (found, found.rpartition(".")[0])}
        & (syntax.keys() - {name})
        for name, tree in syntax.items()
    }
    assert any(graph.values())
    list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError, naming the cycle


# --- what an import costs


LIGHT = {
    "import": "import keras_agnews",
    "list_models": "import keras_agnews; assert keras_agnews.list_models()",
    "list": """
import runpy, sys
sys.argv = ["keras-agnews", "list"]
try:
    runpy.run_module("keras_agnews", run_name="__main__")
except SystemExit as end:
    assert not end.code, end.code
""",
}


@pytest.mark.parametrize("code", LIGHT.values(), ids=LIGHT)
def test_imports_no_backend(code: str, fresh: Callable[..., str]) -> None:
    report = f"{code}\nimport sys\nprint([name for name in {HEAVY} if name in sys.modules])"
    assert fresh(report).splitlines()[-1] == "[]"


@pytest.mark.parametrize("code", LIGHT.values(), ids=LIGHT)
def test_takes_less_than_half_a_second(code: str, fresh: Callable[..., str]) -> None:
    """Of a processor: on the clock it is the same, were no other test running beside this one."""
    seconds = []
    for _ in range(5):
        before = os.times()
        fresh(code)
        after = os.times()
        seconds.append(sum(after[2:4]) - sum(before[2:4]))  # user and system time of children
    assert 0 < min(seconds) < 0.5
