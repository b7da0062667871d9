"""Push, pull and verify by the real Hub client over HTTP, and what may go wrong on the way."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import reference_bert as oracle
import safetensors.numpy
from hub_client import CallError, HubClient
from hub_server import FOR_EVER, STRANGER, TOKEN, HubServer
from test_bundle import contents, model

from keras_agnews import bundle, card, hub, hub_requests, text_files
from keras_agnews.configs import TransformerConfig
from keras_agnews.errors import UploadError
from keras_agnews.files import digest

FILES = {"config.json", "model.safetensors", "vocab.txt", "README.md"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    with HubServer(tmp_path_factory.mktemp("hub")) as running:
        yield running


@pytest.fixture(scope="module")
def machine(server: HubServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubClient]:
    with HubClient(server, tmp_path_factory.mktemp("machine") / "home") as running:
        yield running


@pytest.fixture(scope="module")
def other(server: HubServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubClient]:
    """Another machine, whose caches are its own."""
    with HubClient(server, tmp_path_factory.mktemp("other") / "home") as running:
        yield running


@pytest.fixture
def name(server: HubServer, request: pytest.FixtureRequest) -> Iterator[str]:
    """A repository of the test's own."""
    server.requests.clear()
    shutil.rmtree(server.root / ".lfs", ignore_errors=True)
    yield "user/" + re.sub(r"\W+", "-", request.node.name).strip("-")[:80]
    server.failures.clear()


Write = Callable[[int], Path]


@pytest.fixture
def written(tmp_path: Path) -> Write:
    """A version of a small bundle, of which every part depends on the number."""

    def write(version: int) -> Path:
        description, words, tensors = model(version)
        description = dataclasses.replace(description, source=None)
        bundle.write(tmp_path / f"v{version}", description, words, tensors)
        return tmp_path / f"v{version}"

    return write


def of(directory: str | Path) -> tuple[Any, ...]:
    """What `load` would take from a bundle, but for its source."""
    description, *rest = contents(Path(directory))
    return dataclasses.replace(description, source=None), *rest


def written_to(server: HubServer) -> list[str]:
    """The requests that change something."""
    paths = [path for method, path in server.requests if method in ("POST", "PUT")]
    return [path for path in paths if not path.endswith(("/validate-yaml", "preupload/main"))]


# --- there and back


def test_push_and_load_two_revisions(
    server: HubServer, machine: HubClient, other: HubClient, name: str, written: Write
) -> None:
    first = machine("push", written(0), name, tag="v1.0")
    assert set(first["files"]) == FILES
    second = machine("push", written(1), name, commit_message="Better")
    assert first["revision"] != second["revision"]
    state = server.repository(name).state
    assert state["heads"] == {"main": second["revision"]}
    assert state["tags"] == {"v1.0": first["revision"]}
    assert state["commits"][second["revision"]] == {"title": "Better", "parent": first["revision"]}

    for client in (machine, other):
        for revision, version in (
            ("", 1),
            ("@main", 1),
            ("@v1.0", 0),
            (f"@{first['revision']}", 0),
            (f"@{second['revision']}", 1),
        ):
            directory = client("pull", f"hf://{name}{revision}")
            assert of(directory) == of(written(version))
            commit = (second if version else first)["revision"]
            assert hub.origin(Path(directory)) == {"repository": f"hf://{name}", "revision": commit}


def test_unchanged_files_are_not_sent_again(
    server: HubServer, machine: HubClient, name: str, written: Write
) -> None:
    first = machine("push", written(0), name)
    server.requests.clear()
    again = machine("push", written(0), name)
    assert (again["revision"], again["files"]) == (first["revision"], {})
    assert written_to(server) == []

    description = dataclasses.replace(bundle.read(written(0)), temperature=2.0)
    text_files.write_json(written(0).parent / "config.json", description.to_dict())
    shutil.copy(written(0).parent / "config.json", written(0) / "config.json")
    directory = written(0)
    text_files.write_json(directory / "config.json", description.to_dict())
    server.requests.clear()
    third = machine("push", directory, name)
    assert set(third["files"]) == {"config.json"}
    assert written_to(server) == [f"/api/models/{name}/commit/main"]


def test_a_dry_run_sends_nothing(
    server: HubServer, machine: HubClient, name: str, written: Write
) -> None:
    planned = machine("push", written(0), name, dry_run=True)
    assert (planned["revision"], set(planned["files"])) == ("", FILES)
    assert written_to(server) == []
    done = machine("push", written(0), name)
    assert done["files"] == planned["files"]
    server.requests.clear()
    planned = machine("push", written(1), name, dry_run=True, revision="next", tag="v1")
    assert planned["revision"] == done["revision"]
    assert set(planned["files"]) == FILES
    assert written_to(server) == []


def test_branch_and_pull_request(
    server: HubServer, machine: HubClient, name: str, written: Write
) -> None:
    main = machine("push", written(0), name)
    branch = machine("push", written(1), name, revision="next")
    proposed = machine("push", written(2), name, create_pr=True)
    state = server.repository(name).state
    assert state["heads"] == {"main": main["revision"], "next": branch["revision"]}
    assert state["pulls"] == {"refs/pr/1": proposed["revision"]}
    assert proposed["pull_request"].endswith(f"{name}/discussions/1")
    for revision, version in (("main", 0), ("next", 1), ("refs/pr/1", 2)):
        directory = machine("pull", f"hf://{name}", revision=revision)
        assert of(directory) == of(written(version))
    more = machine("push", written(3), name, revision="refs/pr/1")
    assert server.repository(name).state["pulls"] == {"refs/pr/1": more["revision"]}
    with pytest.raises(CallError, match="no revision 'refs/pr/7'"):
        machine("push", written(3), name, revision="refs/pr/7")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"revision": "1" * 40}, "is a commit"),
        ({"create_pr": True, "tag": "v1"}, "without revision and tag"),
        ({"create_pr": True, "revision": "next"}, "without revision and tag"),
        ({"tag": "a b"}, "cannot be a tag"),
        ({"tag": 1.0}, "a str of letters"),
    ],
)
def test_arguments_that_do_not_fit(
    server: HubServer, machine: HubClient, written: Write, options: Any, message: str, name: str
) -> None:
    with pytest.raises(CallError, match=message) as caught:
        machine("push", written(0), name, **options)
    assert caught.value.kind == "InputError"
    assert server.requests == []


def test_a_tag_that_is_taken(
    server: HubServer, machine: HubClient, name: str, written: Write
) -> None:
    first = machine("push", written(0), name, tag="v1")
    machine("push", written(0), name, tag="v1")  # the same is no error
    server.requests.clear()
    with pytest.raises(CallError, match=f"'v1' already, on {first['revision']}"):
        machine("push", written(1), name, tag="v1")
    assert written_to(server) == []


def test_who_may_see_and_write(
    server: HubServer, machine: HubClient, other: HubClient, name: str, written: Write
) -> None:
    pushed = machine("push", written(0), name, private=True)
    assert server.repository(name).state["private"] is True
    for token in ("", STRANGER):
        with pytest.raises(CallError, match="does not exist, or is private") as caught:
            other("pull", f"hf://{name}", token=token)
        assert (caught.value.kind, caught.value.alone) == ("NotFoundError", True)
        with pytest.raises(CallError, match="HF_TOKEN") as caught:
            other("push", written(1), name, token=token)
        assert (caught.value.kind, caught.value.alone) == ("UploadError", True)
    assert of(other("pull", f"hf://{name}")) == of(written(0))
    assert machine("push", written(0), name)["revision"] == pushed["revision"]
    with pytest.raises(CallError, match="exists and is private"):
        machine("push", written(1), name, private=False)
    machine("push", written(0), name + "-public")
    with pytest.raises(CallError, match="exists and is public"):
        machine("push", written(1), name + "-public", private=True)
    with pytest.raises(CallError, match="HF_TOKEN"):
        other("push", written(1), name + "-public", token=STRANGER)


def test_a_gated_repository(
    server: HubServer, machine: HubClient, other: HubClient, name: str, written: Write
) -> None:
    machine("push", written(0), name)
    server.repository(name).change(gated="manual")
    for token in ("", STRANGER):
        with pytest.raises(CallError, match="is gated: accept its terms") as caught:
            other("pull", f"hf://{name}", token=token)
        assert caught.value.kind == "NotFoundError"
    assert of(other("pull", f"hf://{name}")) == of(written(0))


def test_what_is_not_there(machine: HubClient, name: str, written: Write) -> None:
    for function in ("pull", "verify"):
        with pytest.raises(CallError, match=f"hf://{name} does not exist"):
            machine(function, f"hf://{name}")
    machine("push", written(0), name)
    for revision in ("v9", "9" * 40):
        with pytest.raises(CallError, match=f"no revision '{revision}'") as caught:
            machine("pull", f"hf://{name}@{revision}")
        assert caught.value.kind == "NotFoundError"


def test_what_cannot_be_pushed(
    server: HubServer, machine: HubClient, name: str, written: Write, tmp_path: Path
) -> None:
    (tmp_path / "none").mkdir()
    with pytest.raises(CallError, match="no such file"):
        machine("push", tmp_path / "none", name)
    with pytest.raises(CallError, match="not int"):
        machine("push", 3, name)
    damaged = bytearray((written(0) / "model.safetensors").read_bytes())
    damaged[-1] ^= 1
    (tmp_path / "v0" / "model.safetensors").write_bytes(damaged)
    with pytest.raises(CallError, match="swapped or damaged") as caught:
        machine("push", tmp_path / "v0", name)
    assert caught.value.kind == "BundleError"
    directory = written(1)
    (tmp_path / "elsewhere.txt").write_bytes((directory / "vocab.txt").read_bytes())
    (directory / "vocab.txt").unlink()
    (directory / "vocab.txt").symlink_to(tmp_path / "elsewhere.txt")
    with pytest.raises(CallError, match="link that leads out"):
        machine("push", directory, name)
    (written(2) / "README.md").write_text("---\nlicense: mit: x\n---\n")
    with pytest.raises(CallError, match=r"README\.md"):
        machine("push", written(2), name)
    assert server.requests == []


def test_a_card_that_leads_elsewhere_is_not_pushed(
    server: HubServer, machine: HubClient, name: str, written: Write, tmp_path: Path
) -> None:
    """Nor the files of a directory that only looks as the Hub client's cache does."""
    (tmp_path / "secret").write_text("the secret")
    snapshot = tmp_path / "cache" / "models--a--b" / "snapshots" / ("1" * 40)
    shutil.copytree(written(0), snapshot)
    for directory in (written(0), snapshot):
        (directory / "README.md").symlink_to(tmp_path / "secret")
        with pytest.raises(CallError, match=r"README\.md is a link that leads out"):
            machine("push", directory, name)
        (directory / "README.md").unlink()
    (snapshot / "vocab.txt").rename(tmp_path / "vocab.txt")
    (snapshot / "vocab.txt").symlink_to(tmp_path / "vocab.txt")
    with pytest.raises(CallError, match=r"vocab\.txt is a link that leads out"):
        machine("push", snapshot, name)
    assert server.requests == []
    machine("push", written(0), name)
    fetched = machine("huggingface_hub.snapshot_download", name)  # whose files are links
    assert machine("push", fetched, f"{name}-again")["files"].keys() == FILES


def test_a_path_is_not_taken_for_a_name(
    server: HubServer, machine: HubClient, name: str, written: Write, tmp_path: Path
) -> None:
    mine = tmp_path / "home" / "tiny-transformer"
    shutil.copytree(written(0), mine)
    environment = server.environment(machine.home) | {"HF_TOKEN": TOKEN, "HOME": str(mine.parent)}

    def told(*arguments: str, command: Any = (sys.executable, "-m", "keras_agnews")) -> str:
        return subprocess.run(
            [*command, *arguments],
            cwd=mine.parent,
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    told("push", "./tiny-transformer", name)
    assert of(server.repository(name).commit()) == of(written(0))
    assert "nothing: all of it is there" in told("push", "~/tiny-transformer", name)
    weights = digest(mine / "model.safetensors")
    assert weights in told("verify", "~/tiny-transformer")
    assert weights not in told("verify", "tiny-transformer")
    told("pull", f"hf://{name}", "--local-dir", "~/pulled")
    assert of(mine.parent / "pulled") == of(written(0))
    code = "import pathlib, keras_agnews as k; print(k.verify(pathlib.Path('tiny-transformer')))"
    assert weights in told(code, command=[sys.executable, "-c"])


def test_files_get_their_usual_names(
    machine: HubClient, name: str, written: Write, server: HubServer
) -> None:
    """Also where a crash has left a bundle with passing ones."""
    directory = written(0)
    values = json.loads((directory / "config.json").read_text())
    values["weights"]["file"] = ".0123abcdmodel.safetensors"
    values["tokenizer"]["vocabulary"] = ".0123abcdvocab.txt"
    for file in ("model.safetensors", "vocab.txt"):
        (directory / file).rename(directory / f".0123abcd{file}")
    text_files.write_json(directory / "config.json", values)
    machine("push", directory, name)
    assert of(machine("pull", f"hf://{name}")) == of(written(0))
    there = {path.name for path in server.repository(name).commit().iterdir()}
    assert there == FILES | {".gitattributes"}


def test_a_difference_to_a_pinned_base(
    machine: HubClient, name: str, server: HubServer, tmp_path: Path
) -> None:
    base = server.root / "models" / f"{name}-base" / ("b" * 40)
    config = oracle.bert_config()
    oracle.checkpoint(base, config, oracle.random_tensors(config, 1))
    description, words, tensors = model()
    pin = bundle.Weights(
        file="model.safetensors",
        sha256=digest(base / "model.safetensors"),
        source=f"hf://{name}-base",
        revision=base.name,
    )
    description = dataclasses.replace(description, weights=pin, source=None)
    change = {"logits/kernel": tensors["logits/kernel"]}
    bundle.write(tmp_path / "model", description, words, tensors, delta=change)
    pushed = machine("push", tmp_path / "model", name)
    assert set(pushed["files"]) == FILES - {"model.safetensors"} | {"delta.safetensors"}
    # Where it was whole before, nobody is to fetch the old weights too; and so back again.
    for whole in (True, False):
        stored = {"delta": None if whole else change}
        bundle.write(tmp_path / "model", description, words, tensors, **stored)
        kept, gone = ("model", "delta") if whole else ("delta", "model")
        pushed = machine("push", tmp_path / "model", name)
        for there in map(os.listdir, (server.repository(name).commit(), tmp_path / "model")):
            assert f"{kept}.safetensors" in there
            assert f"{gone}.safetensors" not in there
    machine("pull", f"hf://{name}", local_dir=tmp_path / "mine")
    written = bundle.read(tmp_path / "model")
    assert dataclasses.replace(bundle.read(tmp_path / "mine"), source=None) == written
    # It came with its base, which nobody asks for any more.
    shutil.move(base.parent, tmp_path / "gone")
    cached = machine("keras_agnews.hub.download", pin.source, revision=pin.revision)["directory"]
    assert digest(Path(cached) / "model.safetensors") == pin.sha256
    shutil.move(tmp_path / "gone", base.parent)
    for place in (f"hf://{name}", tmp_path / "mine"):
        against = {f["name"]: f["against"] for f in machine("verify", place)}
        assert against["delta.safetensors"] == ["hub", "bundle"]
        assert against["base/model.safetensors"] == ["hub", "bundle"]
        assert against["base/config.json"] == ["hub"]
    local = machine("verify", tmp_path / "mine", base=base)
    assert local[-1] | {"sha256": ""} == {
        "name": "base/model.safetensors",
        "sha256": "",
        "against": ["bundle"],
    }
    damage(Path(cached) / "model.safetensors")
    with pytest.raises(CallError, match=rf"model\.safetensors of hf://{name}-base"):
        machine("verify", tmp_path / "mine")
    machine("pull", f"hf://{name}")
    assert machine.warnings == []
    machine("verify", tmp_path / "mine")
    shutil.copytree(base, tmp_path / "another")
    damage(tmp_path / "another" / "model.safetensors")
    with pytest.raises(CallError, match="the base of"):
        machine("verify", tmp_path / "mine", base=tmp_path / "another")
    damage(tmp_path / "mine" / "delta.safetensors")
    with pytest.raises(CallError, match="delta_sha256"):
        machine("verify", tmp_path / "mine")


def test_weights_that_are_replaced_meanwhile_are_not_pushed(
    server: HubServer, machine: HubClient, name: str, written: Write
) -> None:
    """As a run does that saves a better epoch into the directory that is pushed."""
    first = machine("push", written(0), name)["revision"]
    directory = written(1)

    def train() -> None:
        description, words, tensors = model(2)
        bundle.write(directory, dataclasses.replace(description, source=None), words, tensors)

    server.fail(f"GET /api/models/{name}", train)
    with pytest.raises(CallError, match=r"model\.safetensors was replaced .* push again") as caught:
        machine("push", directory, name)
    assert caught.value.kind == "UploadError"
    assert server.repository(name).state["heads"] == {"main": first}
    pushed = machine("push", directory, name)["revision"]
    machine("verify", f"hf://{name}@{pushed}")


def test_a_pull_replaces_no_other_checkpoint(
    machine: HubClient, name: str, written: Write, tmp_path: Path
) -> None:
    machine("push", written(0), name)
    for other in ({"config.json": b"{}"}, {}):
        mine = tmp_path / f"mine-{len(other)}"
        mine.mkdir()
        for file, content in ({"model.safetensors": b"precious"} | other).items():
            (mine / file).write_bytes(content)
        with pytest.raises(CallError, match="holds another checkpoint"):
            machine("pull", f"hf://{name}", local_dir=mine)
        assert (mine / "model.safetensors").read_bytes() == b"precious"


def test_a_difference_whose_base_is_gone(machine: HubClient, name: str, tmp_path: Path) -> None:
    """What was asked for comes all the same; that it does not load is said."""
    description, words, tensors = model()
    pin = bundle.Weights(
        file="model.safetensors", sha256="a" * 64, source="hf://user/gone", revision="b" * 40
    )
    description = dataclasses.replace(description, weights=pin, source=None)
    change = {"logits/kernel": tensors["logits/kernel"]}
    bundle.write(tmp_path / "model", description, words, tensors, delta=change)
    machine("push", tmp_path / "model", name)
    directory = Path(machine("pull", f"hf://{name}"))
    assert (directory / "delta.safetensors").is_file()
    assert [w for w in machine.warnings if "base of" in w and "hf://user/gone" in w]
    with pytest.raises(CallError, match="hf://user/gone") as caught:
        machine("verify", directory)
    assert caught.value.kind == "NotFoundError"


def test_thirty_megabytes(server: HubServer, machine: HubClient, name: str, tmp_path: Path) -> None:
    words = ("", "[UNK]", *(f"word{i}" for i in range(9_998)))
    config = TransformerConfig(vocabulary_size=10_000, max_positions=8, hidden_size=768, key_size=2)
    description, _, _ = model()
    description = dataclasses.replace(description, config=config, max_length=8, source=None)
    tensors = {
        name: np.full(shape, 0.1, "float32") for name, shape in description.variables().items()
    }
    bundle.write(tmp_path / "large", description, words, tensors)
    before = server.sent
    machine("push", tmp_path / "large", name)
    assert 30e6 < server.sent - before < 34e6
    directory = machine("pull", f"hf://{name}")
    assert of(directory) == of(tmp_path / "large")


def test_a_directory_of_ones_own(
    machine: HubClient, name: str, written: Write, tmp_path: Path
) -> None:
    commits = [machine("push", written(version), name)["revision"] for version in (0, 1)]
    for version in (0, 1, 1):
        source = f"hf://{name}@{commits[version]}"
        assert machine("pull", source, local_dir=tmp_path / "a" / "mine") == str(
            tmp_path / "a" / "mine"
        )
        assert of(tmp_path / "a" / "mine") == of(written(version))
        place = {"repository": f"hf://{name}", "revision": commits[version]}
        assert bundle.read(tmp_path / "a" / "mine").source == place
        found = machine("verify", tmp_path / "a" / "mine")
        assert [(file["name"], file["against"]) for file in found] == [
            ("config.json", ["hub"]),
            ("model.safetensors", ["hub", "bundle"]),
            ("vocab.txt", ["hub"]),
        ]
    assert {path.name for path in (tmp_path / "a" / "mine").iterdir()} == FILES - {"README.md"}


def test_a_foreign_checkpoint_is_pulled(
    server: HubServer, machine: HubClient, name: str, tmp_path: Path
) -> None:
    config = oracle.bert_config()
    oracle.checkpoint(
        server.root / "models" / name / ("1" * 40), config, oracle.random_tensors(config, 1)
    )
    machine("pull", f"hf://{name}", local_dir=tmp_path / "mine")
    names = {"config.json", "model.safetensors", "vocab.txt", "tokenizer_config.json"}
    assert {path.name for path in (tmp_path / "mine").iterdir()} == names
    with pytest.raises(CallError, match="is not empty"):
        machine("pull", f"hf://{name}", local_dir=tmp_path / "mine")
    assert {f["name"] for f in machine("verify", f"hf://{name}") if f["against"]} == names
    (tmp_path / "here").mkdir()
    subprocess.run(
        [sys.executable, "-m", "keras_agnews", "pull", f"hf://{name}", "--local-dir", "."],
        cwd=tmp_path / "here",
        env=server.environment(machine.home),
        check=True,
    )
    assert {path.name for path in (tmp_path / "here").iterdir()} == names


def test_a_users_bundles(server: HubServer, machine: HubClient, name: str, written: Write) -> None:
    user = "lister"
    machine("push", written(1), name, private=True)
    shutil.copytree(server.root / "models" / name, server.root / "models" / user / "mine")
    other_commit = server.root / "models" / user / "other" / ("1" * 40)
    other_commit.mkdir(parents=True)
    (other_commit / "config.json").write_text("{}")
    (row,) = machine("keras_agnews.hub.list_bundles", f"hf://{user}")
    assert row == {
        "name": f"hf://{user}/mine",
        "revision": server.repository(name).state["heads"]["main"],
        "private": True,
        "accuracy": 0.5 + 1 / 1024,
    }
    assert machine("keras_agnews.hub.list_bundles", f"hf://{user}", token="") == []
    with pytest.raises(CallError, match="not a user's address"):
        machine("keras_agnews.hub.list_bundles", f"hf://{name}/x")


# --- the card


def test_the_card_tells_what_is_known(
    server: HubServer, machine: HubClient, name: str, written: Write
) -> None:
    machine("push", written(1), name, license="mit")
    assert any(path == "/api/validate-yaml" for _, path in server.requests)  # the Hub's own check
    text = (server.repository(name).commit() / "README.md").read_text(encoding="utf-8")
    data = huggingface_hub.ModelCard(text).data
    assert (data.library_name, data.license, data.model_name) == ("keras_agnews", "mit", "model-1")
    assert data.pipeline_tag == "text-classification"
    (result,) = data.eval_results
    assert (result.metric_type, result.metric_value) == ("accuracy", 0.5 + 1 / 1024)
    assert (result.dataset_type, result.dataset_name) == ("ours", "ours")
    parameters = f"{model(1)[0].parameters:,}"
    for part in (f'keras_agnews.load("hf://{name}")', "Welt, 스포츠", parameters, "epochs 3"):
        assert part in text


def test_what_a_person_wrote_is_kept(
    server: HubServer, machine: HubClient, name: str, written: Write
) -> None:
    machine("push", written(0), name)
    text = (server.repository(name).commit() / "README.md").read_text(encoding="utf-8")
    text = text.replace("---\n", "---\nlanguage: [de, ko]\n", 1)
    text = text.replace("tags:\n", "tags:\n- mine\n")
    text = text.replace(card.START, "Read this first.\n\n" + card.START) + "\nAnd this last.\n"
    server.repository(name).write("main", {"README.md": text.encode()}, [])
    machine("push", written(1), name)
    card_text = (server.repository(name).commit() / "README.md").read_text(encoding="utf-8")
    assert card.words(card_text).split() == ["Read", "this", "first.", "And", "this", "last."]
    assert "model-1" in card_text
    assert "model-0" not in card_text
    data = huggingface_hub.ModelCard(card_text).data
    assert data.language == ["de", "ko"]
    assert data.tags[0] == "mine"
    assert [r.metric_value for r in data.eval_results] == [0.5 + 1 / 1024]

    local = written(1) / "README.md"
    local.write_text("# By hand, too\n", encoding="utf-8")
    pushed = machine("push", local.parent, name)
    assert "differ" in machine.warnings[0]
    assert pushed["files"] == {}


def test_metadata_of_both_sides_come_together(
    server: HubServer, machine: HubClient, name: str, written: Write
) -> None:
    def theirs() -> str:
        return (server.repository(name).commit() / "README.md").read_text(encoding="utf-8")

    def change(old: str, new: str) -> None:
        assert old in theirs()
        changed = theirs().replace(old, new, 1).encode()
        server.repository(name).write("main", {"README.md": changed}, [])

    def data() -> Any:
        return huggingface_hub.ModelCard(theirs()).data

    local = written(0) / "README.md"
    card.write(local.parent, bundle.read(local.parent))
    machine("push", local.parent, name)
    # One on its page, a paragraph here.
    change("---\n", "---\nlicense: mit\n")
    text = local.read_text(encoding="utf-8")
    local.write_text(text.replace(card.START, "Of mine.\n\n" + card.START), encoding="utf-8")
    machine("push", local.parent, name)
    assert (data().license, card.words(theirs())) == ("mit", "Of mine.")
    # And more here, of which tags are ours until somebody changes them.
    text = local.read_text(encoding="utf-8").replace("---\n", "---\nlanguage: de\n", 1)
    local.write_text(text.replace("tags:\n", "tags:\n- news\n"), encoding="utf-8")
    assert machine("push", local.parent, name)["files"].keys() == {"README.md"}
    assert (data().license, data().language) == ("mit", "de")
    assert data().tags == ["news", "keras", "keras_agnews"]
    assert machine.warnings == []
    assert machine("push", local.parent, name)["files"] == {}
    # What both have and have otherwise.
    change("- news\n", "- theirs\n")
    change("language: de\n", "language: ko\n")
    assert machine("push", local.parent, name)["files"] == {}
    (warning,) = machine.warnings
    assert "language, tags" in warning
    assert f"hf://{name}" in warning
    # A figure that is measured anew is nobody's.
    better = dataclasses.replace(bundle.read(local.parent), results=())
    text_files.write_json(local.parent / "config.json", better.to_dict())
    machine("push", local.parent, name)
    assert data().eval_results is None
    # With a licence for the push.
    machine("push", local.parent, name, license="apache-2.0")
    assert (data().license, data().language) == ("apache-2.0", "ko")


def test_a_card_that_is_not_utf_8_is_named(
    server: HubServer, machine: HubClient, name: str, written: Write
) -> None:
    local = written(0) / "README.md"
    local.write_bytes(b"caf\xe9\n")
    with pytest.raises(CallError, match="UTF-8") as caught:
        machine("push", local.parent, name)
    assert str(local) in str(caught.value)
    local.unlink()
    machine("push", local.parent, name)
    server.repository(name).write("main", {"README.md": "\ufeff# Ä\n".encode("utf-16")}, [])
    with pytest.raises(CallError, match="UTF-8") as caught:
        machine("push", local.parent, name)
    assert (caught.value.kind, caught.value.alone) == ("BundleError", True)
    assert f"README.md of hf://{name}" in str(caught.value)
    server.repository(name).write("main", {"README.md": b"---\nlicense: mit\n---\n"}, [])
    local.write_text("---\n[\n---\n")
    with pytest.raises(CallError, match="its metadata cannot be read") as caught:
        machine("push", local.parent, name)
    assert str(local) in str(caught.value)


def test_the_command_tells_that_two_cards_differ(
    server: HubServer, machine: HubClient, name: str, written: Write
) -> None:
    machine("push", written(0), name)
    server.repository(name).write("main", {"README.md": b"# Theirs\n"}, [])
    (written(0) / "README.md").write_text("# Mine\n")
    told = subprocess.run(
        [sys.executable, "-m", "keras_agnews", "push", str(written(0)), name],
        env=server.environment(machine.home) | {"HF_TOKEN": TOKEN},
        capture_output=True,
        check=True,
        text=True,
    )
    assert told.stderr.startswith("Warning: README.md of ")
    assert told.stderr.count("differ: the Hub's is kept") == 1


@pytest.mark.parametrize("before", ["", "\n", " \n\n", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_metadata_begin_where_the_hub_sees_them(tmp_path: Path, before: str, end: str) -> None:
    """The Hub takes blanks before them, and its client a byte order mark."""
    path = tmp_path / "README.md"
    path.write_bytes((before + "---\nlicense: mit\n---\n# Mine\n").replace("\n", end).encode())
    text = card.render(dataclasses.replace(model()[0], source=None), None, card.read(path))
    assert huggingface_hub.ModelCard(text).data.license == "mit"
    assert card.words(text) == card.words(card.read(path)) == "# Mine"


def test_a_card_says_what_is_a_split_and_shows_names_as_they_are() -> None:
    names = ("agnews test", "contest", "test.csv", "mine train")
    results = tuple({"data": n, "metric": "accuracy", "value": 0.5, "rows": 9} for n in names)
    description = dataclasses.replace(
        model()[0], source=None, results=results, labels=("_World_", "~~R&amp;D~~")
    )
    text = card.render(description, None)
    found = huggingface_hub.ModelCard(text).data.eval_results
    splits = {result.dataset_name: result.dataset_split for result in found}
    assert splits == dict.fromkeys(names) | {"agnews test": "test", "mine train": "train"}
    assert r"| labels | \_World\_, \~\~R\&amp;D\~\~ |" in text


def test_a_number_too_large_for_a_card_is_left_out() -> None:
    results = ({"data": "mine", "metric": "accuracy", "value": 10**400},)
    assert "model-index" not in card.render(dataclasses.replace(model()[0], results=results), None)


def test_cards_without_a_hub() -> None:
    description = dataclasses.replace(model()[0], source=None)
    plain = card.render(description, "hf://user/x")
    assert card.words(plain) == ""
    assert card.render(description, "hf://user/x", plain) == plain
    older = plain.replace(card.START, "<!-- keras_agnews: start, written anew by each push -->")
    assert (card.words(older), card.render(description, "hf://user/x", older)) == ("", plain)
    by_hand = "---\nlicense: mit\n---\n# Mine\n"
    kept = card.render(description, "hf://user/x", by_hand)
    assert kept.endswith("---\n# Mine\n")  # without our markers nothing of it is ours
    assert huggingface_hub.ModelCard(kept).data.license == "mit"
    own = plain.replace("value: 0.5", "value: 0.9").replace("name: config.json", "name: theirs")
    (result,) = huggingface_hub.ModelCard(card.render(description, None, own)).data.eval_results
    assert result.metric_value == 0.9  # a person's figure stays
    bare = dataclasses.replace(description, results=(), recipe={})
    assert huggingface_hub.ModelCard(card.render(bare, None, plain)).data.eval_results is None
    hostile = dataclasses.replace(
        description, labels=("a|b\n# c", "---"), results=({"data": "-->\n|", "value": 1.0},)
    )
    text = card.render(hostile, "hf://user/x")
    assert card.words(text) == ""
    assert card.render(hostile, "hf://user/x", text) == text
    for broken in ("---\n[\n---\n", "---\n- a\n---\n", "---\nmodel-index: 3\n---\n"):
        with pytest.raises(bundle.BundleError, match=r"README\.md: its metadata cannot be read"):
            card.render(description, None, broken)


# --- two at once, and answers that are lost


def test_main_that_moved_is_told(
    server: HubServer, machine: HubClient, name: str, written: Write
) -> None:
    first = machine("push", written(0), name)
    moved: list[str] = []
    server.fail(
        "POST .*/commit/main",
        lambda: moved.append(server.repository(name).write("main", {"a": b"b"}, [])[0]),
    )
    with pytest.raises(CallError, match="has moved from") as caught:
        machine("push", written(1), name)
    assert (caught.value.kind, caught.value.alone) == ("UploadError", True)
    assert first["revision"] in str(caught.value)
    assert moved[0] in str(caught.value)
    state = server.repository(name).state
    assert state["heads"] == {"main": moved[0]}
    again = machine("push", written(1), name)
    assert server.repository(name).state["commits"][again["revision"]]["parent"] == moved[0]


def test_two_at_once_one_wins_and_one_is_told(
    server: HubServer, machine: HubClient, other: HubClient, name: str, written: Write
) -> None:
    directories = [written(1), written(2)]
    start = machine("push", written(0), name)["revision"]
    both = threading.Barrier(2, timeout=60)
    server.fail("POST .*/commit/main", both.wait, times=2)

    def push(client: HubClient, directory: Path) -> Any:
        try:
            return client("push", directory, name)
        except CallError as error:
            return error

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(push, (machine, other), directories))
    (told,) = [result for result in results if isinstance(result, CallError)]
    (won,) = [result for result in results if not isinstance(result, CallError)]
    assert told.kind == "UploadError"
    assert "has moved" in str(told)
    state = server.repository(name).state
    assert state["heads"] == {"main": won["revision"]}
    assert state["commits"][won["revision"]]["parent"] == start
    version = results.index(won) + 1
    assert of(machine("pull", f"hf://{name}")) == of(written(version))


@pytest.mark.parametrize(
    "request_", ["POST .*/commit/", "POST .*/tag/", "POST .*/repos/create", "POST .*/branch/"]
)
def test_an_answer_that_is_lost(
    server: HubServer, machine: HubClient, name: str, written: Write, request_: str
) -> None:
    server.fail(request_, "lost")
    pushed = machine("push", written(0), name, tag="v1", revision="next")
    assert not [failure for failure in server.failures if failure.times]
    state = server.repository(name).state
    assert state["tags"] == {"v1": pushed["revision"]}
    assert len(state["commits"]) == 2  # with the first one, of .gitattributes
    assert state["heads"]["next"] == pushed["revision"]


# --- the Hub is not well

PUSH_REQUESTS = (
    *("GET .*/revision/main", "POST .*/repos/create", "GET .*/refs", "POST .*/validate-yaml"),
    *("POST .*/preupload/", "POST .*/objects/batch", "PUT ", "POST .*/commit/", "POST .*/tag/"),
)
PULL_REQUESTS = (
    *("GET .*/revision/", "GET .*/tree/", "HEAD .*/config.json", "HEAD .*/model.safetensors"),
    *("GET .*/resolve/.*config.json", "GET .*/resolve/.*vocab.txt", "GET .*model.safetensors"),
)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_one_bad_answer_does_not_stop_a_push(
    server: HubServer, machine: HubClient, name: str, written: Write, status: int
) -> None:
    for i, request in enumerate(PUSH_REQUESTS):
        server.failures.clear()
        server.fail(request, status)
        pushed = machine("push", written(i), f"{name}-{i}", tag="v1")
        assert [failure.times for failure in server.failures] == [0], request
        state = server.repository(f"{name}-{i}").state
        assert state["heads"]["main"] == state["tags"]["v1"] == pushed["revision"]
        assert len(state["commits"]) == 2


@pytest.mark.parametrize("how", [429, 500, 503, "cut", "flip"])
def test_one_bad_answer_does_not_stop_a_pull(
    server: HubServer, machine: HubClient, other: HubClient, name: str, written: Write, how: Any
) -> None:
    files = [request for request in PULL_REQUESTS if "GET" in request and "/re" in request]
    requests = PULL_REQUESTS if isinstance(how, int) else files[1:]
    for i, request in enumerate(requests):
        machine("push", written(i), name)
        server.failures.clear()
        server.fail(request, how)
        assert of(other("pull", f"hf://{name}")) == of(written(i)), request
        assert [failure.times for failure in server.failures] == [0], request


def test_a_flip_for_ever_is_refused(
    server: HubServer, machine: HubClient, name: str, written: Write
) -> None:
    for i, file in enumerate(("vocab.txt", "model.safetensors", "config.json")):
        machine("push", written(i), name)
        server.failures.clear()
        server.fail(f"GET .*/resolve/.*{file}", "flip", FOR_EVER)
        with pytest.raises(CallError, match=re.escape(file)) as caught:
            machine("pull", f"hf://{name}")
        assert caught.value.kind in ("DownloadError", "BundleError")
        server.failures.clear()
        assert of(machine("pull", f"hf://{name}")) == of(written(i))


def test_a_cut_for_ever_is_an_error(
    server: HubServer, machine: HubClient, name: str, written: Write
) -> None:
    machine("push", written(0), name)
    server.fail("GET .*/resolve/.*vocab.txt", "cut", FOR_EVER)
    with pytest.raises(CallError, match="could not be fetched") as caught:
        machine("pull", f"hf://{name}")
    assert (caught.value.kind, caught.value.alone) == ("DownloadError", True)
    server.failures.clear()
    assert of(machine("pull", f"hf://{name}")) == of(written(0))


def test_a_hub_that_stays_ill(
    server: HubServer, machine: HubClient, other: HubClient, name: str, written: Write
) -> None:
    first = machine("push", written(0), name)
    server.fail(" /", 503, FOR_EVER)
    start = time.monotonic()
    with pytest.raises(CallError, match="503") as caught:
        machine("push", written(1), name)
    assert (caught.value.kind, caught.value.alone) == ("UploadError", True)
    with pytest.raises(CallError, match="503") as caught:
        other("pull", f"hf://{name}")
    assert (caught.value.kind, caught.value.alone) == ("DownloadError", True)
    assert time.monotonic() - start < 20
    server.failures.clear()
    machine("pull", f"hf://{name}")
    machine("push", written(1), name)
    server.fail(" /", 503, FOR_EVER)
    assert of(machine("pull", f"hf://{name}")) == of(written(0))  # what is at hand, said aloud
    assert first["revision"] in machine.warnings[0]
    assert of(machine("pull", f"hf://{name}@{first['revision']}")) == of(written(0))


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.slow
@pytest.mark.parametrize("status", [429, 500, 503])
def test_bad_answers_for_ever_end(
    server: HubServer, machine: HubClient, other: HubClient, name: str, written: Write, status: int
) -> None:
    version = 0
    machine("push", written(version), name)
    for request in PUSH_REQUESTS[:1] + PUSH_REQUESTS[2:-1] + PULL_REQUESTS:
        server.failures.clear()
        client, call, options = machine, ("push", written(99), name), {"tag": "v1"}
        if request in PULL_REQUESTS:
            version += 1
            machine("push", written(version), name)
            client, call, options = other, ("pull", f"hf://{name}"), {}
        server.fail(request, status, FOR_EVER)
        start = time.monotonic()
        with pytest.raises(CallError, match=str(status)) as caught:
            client(*call, **options)
        expected = "DownloadError" if client is other else "UploadError"
        assert (caught.value.kind, caught.value.alone) == (expected, True), request
        assert time.monotonic() - start < 30
        assert of(server.repository(name).commit()) == of(written(version))


def test_nobody_listens(
    server: HubServer, name: str, written: Write, tmp_path: Path, machine: HubClient
) -> None:
    machine("push", written(0), name)
    machine("pull", f"hf://{name}")
    elsewhere = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(machine.home)}
    with HubClient(server, tmp_path / "home", **elsewhere) as lost:
        with pytest.raises(CallError, match="push again") as caught:
            lost("push", written(1), name)
        assert (caught.value.kind, caught.value.alone) == ("UploadError", True)
        with pytest.raises(CallError, match="HF_ENDPOINT") as caught:
            lost("pull", f"hf://{name}-other")
        assert (caught.value.kind, caught.value.alone) == ("DownloadError", True)
        assert of(lost("pull", f"hf://{name}")) == of(written(0))
        assert "cannot be reached" in lost.warnings[0]
    with HubClient(server, tmp_path / "home", **elsewhere, HF_HUB_OFFLINE="1") as offline:
        assert of(offline("pull", f"hf://{name}")) == of(written(0))
        assert offline.warnings == []
        with pytest.raises(CallError, match="HF_HUB_OFFLINE") as caught:
            offline("push", written(1), name)
        assert caught.value.kind == "UploadError"


def test_no_token_in_a_message(
    server: HubServer, machine: HubClient, name: str, written: Write
) -> None:
    machine("push", written(0), name)
    log = machine.home.with_suffix(".log")
    for request in ("GET .*/revision/", "PUT ", "POST .*/commit/"):
        server.failures.clear()
        server.fail(request, "echo", FOR_EVER)
        with pytest.raises(CallError) as caught:
            machine("push", written(1), name)
        for secret in (TOKEN, "Bearer", "Signature=secret"):
            assert secret not in str(caught.value)
        assert TOKEN not in log.read_text()
    server.failures.clear()
    server.fail("GET .*/revision/", "echo", FOR_EVER)
    with pytest.raises(CallError) as caught:
        machine("pull", f"hf://{name}")
    assert TOKEN not in str(caught.value)
    for path in (server.root / "models" / name).rglob("*.*"):
        assert TOKEN.encode() not in path.read_bytes()


# --- files that are not what they should be


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.resolve().write_bytes(content)


def test_verify_reports_and_pull_repairs(
    server: HubServer, machine: HubClient, name: str, written: Write
) -> None:
    machine("push", written(0), name)
    directory = Path(machine("pull", f"hf://{name}"))
    for file in ("vocab.txt", "model.safetensors", "config.json"):
        damage(directory / file)
        for source in (f"hf://{name}", directory):
            with pytest.raises(CallError, match=re.escape(file)) as caught:
                machine("verify", source)
            assert caught.value.kind in ("DownloadError", "BundleError")
        machine("pull", f"hf://{name}")
        found = machine("verify", f"hf://{name}")
        assert {f["name"]: f["against"] for f in found} == {
            "config.json": ["hub"],
            "model.safetensors": ["hub", "bundle"],
            "vocab.txt": ["hub"],
        }


def test_verify_of_a_directory(
    machine: HubClient, name: str, written: Write, tmp_path: Path
) -> None:
    found = machine("verify", written(0))
    against = {file["name"]: file["against"] for file in found}
    assert against == {"config.json": [], "model.safetensors": ["bundle"], "vocab.txt": []}
    with pytest.raises(CallError, match=r"is no model: it has no config\.json"):
        machine("verify", tmp_path)
    with pytest.raises(CallError, match="revision 'v1' goes with an hf:// address"):
        machine("verify", written(0), revision="v1")
    commit = machine("push", written(0), name)["revision"]
    copy = Path(machine("pull", f"hf://{name}", local_dir=tmp_path / "copy"))
    words = (copy / "vocab.txt").read_text(encoding="utf-8")
    (copy / "vocab.txt").write_text(words.replace("oil", "oli"), encoding="utf-8")
    with pytest.raises(CallError, match=r"vocab\.txt .* not what the Hub has"):
        machine("verify", copy)
    description, vocabulary, tensors = model(5)  # trained further
    origin = {"repository": f"hf://{name}", "revision": commit}
    bundle.write(copy, dataclasses.replace(description, source=origin), vocabulary, tensors)
    assert [file["against"] for file in machine("verify", copy)] == [[], ["bundle"], []]
    assert "another model by now" in machine.warnings[0]


def test_verify_of_what_began_with_a_foreign_checkpoint(
    server: HubServer, machine: HubClient, name: str, tmp_path: Path
) -> None:
    """The Hub has the checkpoint's files, none of the bundle's; no weights are fetched for that."""
    description, vocabulary, tensors = model(5)
    commit = "1" * 40
    config = oracle.bert_config()
    oracle.checkpoint(
        server.root / "models" / name / commit, config, oracle.random_tensors(config, 1)
    )
    origin = {"repository": f"hf://{name}", "revision": commit}
    directory = tmp_path / "mine"
    bundle.write(directory, dataclasses.replace(description, source=origin), vocabulary, tensors)
    assert [file["against"] for file in machine("verify", directory)] == [[], ["bundle"], []]
    assert machine.warnings == []
    assert not [request for request in server.requests if "model.safetensors" in str(request)]


def test_a_link_out_of_the_cache_is_not_followed(
    machine: HubClient, name: str, written: Write, tmp_path: Path
) -> None:
    machine("push", written(0), name)
    directory = Path(machine("pull", f"hf://{name}"))
    shutil.copy(directory / "vocab.txt", tmp_path / "secret")
    (directory / "vocab.txt").unlink()
    (directory / "vocab.txt").symlink_to(tmp_path / "secret")
    for function in ("pull", "verify"):
        with pytest.raises(CallError, match="leads out of the cache") as caught:
            machine(function, f"hf://{name}")
        assert caught.value.kind == "DownloadError"


FULL_DISK = """
import resource, signal, sys
import keras_agnews
from keras_agnews.errors import KerasAgnewsError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
try:
    keras_agnews.pull(sys.argv[2], local_dir=sys.argv[3])
except (KerasAgnewsError, OSError) as error:
    print(type(error).__name__)
"""


def test_a_full_disk(
    server: HubServer, machine: HubClient, name: str, written: Write, tmp_path: Path
) -> None:
    """No file can grow beyond so many bytes, as on a disk that is full."""
    size = (written(0) / "model.safetensors").stat().st_size
    machine("push", written(0), name)
    machine("pull", f"hf://{name}", local_dir=tmp_path / "mine")
    machine("push", written(1), name)
    environment = server.environment(tmp_path / "home") | {"HF_TOKEN": TOKEN}
    own = {"KERAS_AGNEWS_CACHE": str(tmp_path / "own")}
    for limit, home in ((size - 1, "home"), (100, "home"), (100, "filled")):
        if home == "filled":  # the cache has it all, so that the copy fails
            shutil.copytree(machine.home, tmp_path / "filled")
        ended = subprocess.run(
            [sys.executable, "-c", FULL_DISK, str(limit), f"hf://{name}", tmp_path / "mine"],
            env=environment | own | {"HF_HOME": str(tmp_path / home)},
            capture_output=True,
            text=True,
        )
        assert ended.stdout.strip().endswith(("DownloadError", "OSError")), ended.stderr
        assert of(tmp_path / "mine") == of(written(0))
    machine("pull", f"hf://{name}", local_dir=tmp_path / "mine")
    assert of(tmp_path / "mine") == of(written(1))


def kill_pushes(server: HubServer, machine: HubClient, name: str, written: Write, n: int) -> int:
    """Returns how many were killed before they were done."""
    killed = 0
    machine("push", written(0), name)
    start = time.monotonic()
    machine("push", written(1), name)
    last, duration = 1, time.monotonic() - start
    for i in range(n):
        version = i + 2
        delay = random.Random(i).uniform(0, 1.3 * duration)
        killed += machine("push", written(version), name, killed_after=delay)
        time.sleep(0.05)  # what it sent last may still be on its way through the server
        seen = of(server.repository(name).commit())
        assert seen in (of(written(last)), of(written(version)))  # which is what a reader sees
        commits = len(server.repository(name).state["commits"])
        machine("push", written(version), name)
        assert of(server.repository(name).commit()) == of(written(version))
        assert len(server.repository(name).state["commits"]) <= commits + 1
        last = version
    assert len(server.repository(name).state["commits"]) == n + 3
    return killed


def kill_pulls(
    machine: HubClient, other: HubClient, name: str, written: Write, target: Path, n: int
) -> int:
    machine("push", written(0), name)
    start = time.monotonic()
    other("pull", f"hf://{name}", local_dir=target)
    duration, killed = time.monotonic() - start, 0
    for i in range(n):
        machine("push", written(i + 1), name)
        delay = random.Random(i).uniform(0, 1.3 * duration)
        killed += other("pull", f"hf://{name}", local_dir=target, killed_after=delay)
        assert of(target) in (of(written(i)), of(written(i + 1)))
        other("pull", f"hf://{name}", local_dir=target)
        assert of(target) == of(written(i + 1))
        assert {path.name for path in target.iterdir()} == FILES - {"README.md"}
    return killed


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a process that it forks")


@needs_fork
def test_killed_pushes(server: HubServer, machine: HubClient, name: str, written: Write) -> None:
    assert kill_pushes(server, machine, name, written, 10) > 0


@needs_fork
def test_killed_pulls(
    machine: HubClient, other: HubClient, name: str, written: Write, tmp_path: Path
) -> None:
    assert kill_pulls(machine, other, name, written, tmp_path / "mine", 10) > 0


@needs_fork
@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.slow
def test_many_killed(
    server: HubServer,
    machine: HubClient,
    other: HubClient,
    name: str,
    written: Write,
    tmp_path: Path,
) -> None:
    assert kill_pushes(server, machine, f"{name}-push", written, 50) > 10
    assert kill_pulls(machine, other, f"{name}-pull", written, tmp_path / "mine", 50) > 10


# --- others


def test_others_can_use_it(
    server: HubServer, machine: HubClient, other: HubClient, name: str, written: Write
) -> None:
    machine("push", written(1), name)
    directory = Path(other("huggingface_hub.snapshot_download", name))
    assert {path.name for path in directory.iterdir()} == FILES | {".gitattributes"}
    assert of(directory) == of(written(1))
    stored = safetensors.numpy.load_file(directory / "model.safetensors")
    assert stored.keys() == model(1)[2].keys()
    loaded = huggingface_hub.ModelCard.load(directory / "README.md")
    assert loaded.data.eval_results[0].metric_value == 0.5 + 1 / 1024


ROUND_TRIP = """
import json, sys, warnings
import keras_agnews, huggingface_hub
warnings.simplefilter("error", UserWarning)
text = "Oil prices and bank shares"
clf = keras_agnews.load(sys.argv[1])
pushed = keras_agnews.push(clf, "user/round-trip", private=True, tag="v1.0")
sources = ["hf://user/round-trip@v1.0", f"hf://user/round-trip@{pushed}",
           huggingface_hub.snapshot_download("user/round-trip"),
           keras_agnews.pull("hf://user/round-trip"),
           keras_agnews.pull("hf://user/round-trip", local_dir=sys.argv[1] + "-mine")]
for source in sources:
    again = keras_agnews.load(source)
    assert again.source == {"repository": "hf://user/round-trip", "revision": str(pushed)}, source
    assert again.classify(text) == clf.classify(text)
print(pushed)
"""


@pytest.mark.backend
@pytest.mark.slow
def test_a_classifier_goes_round(
    server: HubServer, written: Write, tmp_path: Path, fresh: Callable[..., str]
) -> None:
    environment = server.environment(tmp_path / "home") | {
        "HF_TOKEN": TOKEN,
        "KERAS_AGNEWS_CACHE": str(tmp_path / "own"),
    }
    commit = fresh(ROUND_TRIP, str(written(0)), **environment).strip()
    assert server.repository("user/round-trip").state["tags"] == {"v1.0": commit}


def test_the_command(server: HubServer, written: Write, tmp_path: Path) -> None:
    environment = server.environment(tmp_path / "home") | {
        "HF_TOKEN": TOKEN,
        "KERAS_AGNEWS_CACHE": str(tmp_path / "own"),
    }
    code = """
import sys
from keras_agnews.cli import commands
for line in sys.stdin:
    print("$", line, end="")
    commands(line.split(), standalone_mode=False)
heavy = {"keras", "tensorflow", "jax", "torch"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    lines = f"""push {written(0)} user/command --dry-run
push {written(0)} user/command --private --tag v1.0
push {written(0)} user/command
list hf://user
pull hf://user/command@v1.0 --local-dir {tmp_path / "mine"}
verify hf://user/command
verify {tmp_path / "mine"} --format json
"""
    ended = subprocess.run(
        [sys.executable, "-c", code], input=lines, env=environment, capture_output=True, text=True
    )
    assert (ended.returncode, ended.stderr) == (0, "")  # no bars, since it is no terminal
    commit = server.repository("user/command").state["tags"]["v1.0"]
    planned, pushed, again, listed, pulled, verified, last = re.split(r"\$ .*\n", ended.stdout)[1:]
    assert "would send" in planned
    assert re.search(rf"commit +{commit}\nsent .*model\.safetensors \(", pushed)
    assert "nothing: all of it is there" in again
    assert re.search(rf"hf://user/command +50\.0% +you +{commit}", listed)
    assert pulled.strip() == str(tmp_path / "mine")
    assert re.search("model.safetensors +[0-9a-f]{64} +hub, bundle", verified)
    assert {file["name"] for file in json.loads(last)} == FILES - {"README.md"}


def test_no_signature_of_an_address_in_a_message() -> None:
    def call(_: Any) -> None:
        raise OSError("no answer: https://bucket/x?X-Amz-Signature=secret (Bearer abcdefgh)")

    with pytest.raises(UploadError, match="https://bucket/x ") as caught:
        hub_requests.ask("user/x", "main", call, upload=True)
    assert "secret" not in str(caught.value)
    assert "abcdefgh" not in str(caught.value)


def test_a_hub_that_says_how_long_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    class AnswerError(Exception):
        def __init__(self, status: int, **headers: str) -> None:
            self.response = SimpleNamespace(status_code=status, headers=headers)

    waited: list[float] = []
    answers = [AnswerError(429, **{"Retry-After": "7"}), AnswerError(503), None]
    monkeypatch.setattr(hub_requests.time, "sleep", waited.append)

    def call() -> str:
        if (answer := answers.pop(0)) is not None:
            raise answer
        return "done"

    assert hub_requests.retried(call) == "done"
    assert waited == [7.0, 1.0]


def test_an_earlier_download_is_the_witness_where_the_hub_cannot_be_asked(
    server: HubServer, machine: HubClient, name: str, written: Write
) -> None:
    commit = machine("push", written(0), name)["revision"]
    machine("pull", f"hf://{name}")
    server.fail(" /", 503, FOR_EVER)
    found = machine("verify", f"hf://{name}@{commit}")
    assert {file["name"]: file["against"] for file in found} == {
        "config.json": ["record"],
        "model.safetensors": ["record", "bundle"],
        "vocab.txt": ["record"],
    }
    assert machine.warnings[0].startswith("not held against the Hub")


def test_scores_of_other_rows_and_of_half_precision_are_not_the_hubs() -> None:
    rows = (("agnews test", 0.9), ("agnews.csv", 1.0), ("agnews old.csv test", 1.0))
    results = [{"data": data, "metric": "accuracy", "value": value} for data, value in rows]
    results.append(results[0] | {"precision": "bfloat16", "value": 0.8})
    text = card.render(dataclasses.replace(model()[0], results=tuple(results)), "hf://user/x")
    found = huggingface_hub.ModelCard(text).data.eval_results
    types = {result.dataset_name: (result.dataset_type, result.metric_value) for result in found}
    assert len(found) == 3
    assert types.pop("agnews test") == ("fancyzhx/ag_news", 0.9)
    assert {kind for kind, _ in types.values()} == {"agnews-csv", "agnews-old-csv-test"}
    assert "| agnews test | accuracy | 0.8 | precision bfloat16 |" in text


def test_the_card_tells_where_a_model_comes_from() -> None:
    results = ({"data": "AG News test", "metric": "accuracy", "value": 0.5},)
    known = dataclasses.replace(model()[0], results=results, recipe={"data": "my.csv"})
    text = card.render(known, "hf://user/x")
    data = huggingface_hub.ModelCard(text).data
    assert data.base_model == "user/model"
    (result,) = data.eval_results
    assert (result.dataset_type, result.dataset_split) == ("fancyzhx/ag_news", "test")
    assert f"| made from | hf://user/model at {'0' * 40} |" in text
    assert "| trained on | my.csv |" in text
