"""The pinned download, by the Hub's real client from a loopback server.

The client reads its environment when it is imported, so each user is a process of its own.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference_bert as oracle
from hub_server import HubServer

from keras_agnews import hub, registry
from keras_agnews.errors import InputError

FIRST, SECOND = "1" * 40, "2" * 40
NEEDED = {"config.json", "model.safetensors", "vocab.txt", "tokenizer_config.json"}
CALLS = """
import json, sys, warnings
from keras_agnews import hub, registry
from keras_agnews.errors import KerasAgnewsError
answers = []
for call in json.loads(sys.argv[1]):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            snapshot = hub.download(**call)
            answer = {"directory": str(snapshot.directory), "source": snapshot.source,
                      "revision": snapshot.revision}
        except KerasAgnewsError as error:
            alone = error.__cause__ is None and (
                error.__context__ is None or error.__suppress_context__
            )
            answer = {"error": type(error).__name__, "message": str(error), "alone": alone}
    answer["warnings"] = [str(w.message) for w in caught if w.category is UserWarning]
    answers.append(answer)
print(json.dumps(answers))
"""


class User:
    """A machine's caches, and the environment to talk to a Hub."""

    def __init__(self, server: HubServer, home: Path) -> None:
        self.home = home
        self.environment = server.environment(home) | {"KERAS_AGNEWS_CACHE": str(home / "own")}

    def run(self, script: str, *arguments: str, **changes: str) -> str:
        ended = subprocess.run(
            [sys.executable, "-c", script, *arguments],
            env=self.environment | changes,
            capture_output=True,
            text=True,
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout.splitlines()[-1] if ended.stdout else ""

    def download(self, *calls: dict[str, Any], **changes: str) -> list[dict[str, Any]]:
        """What `hub.download` answers to each call, one after another in one process."""
        answers: list[dict[str, Any]] = json.loads(self.run(CALLS, json.dumps(calls), **changes))
        return answers

    def record(self, name: str) -> Any:
        return json.loads((self.home / "own" / "hub" / name).read_text())


@pytest.fixture
def server(tmp_path: Path) -> Any:
    with HubServer(tmp_path / "hub") as running:
        publish(running)
        yield running


@pytest.fixture
def user(server: HubServer, tmp_path: Path) -> User:
    return User(server, tmp_path / "home")


def publish(server: HubServer, commit: str = FIRST, seed: int = 1) -> Path:
    """A commit of user/checkpoint, with what no user should fetch beside it."""
    directory = server.root / "models" / "user" / "checkpoint" / commit
    config = oracle.bert_config()
    oracle.checkpoint(directory, config, oracle.random_tensors(config, seed))
    others = ("pytorch_model.bin", "tf_model.h5", "model.keras", "onnx/model.safetensors", "a.py")
    for name in others:
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_bytes(b"not for us")
    return directory


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def fetched(server: HubServer) -> list[str]:
    """The files that were sent since the last call, in order."""
    found = [p.partition("/resolve/")[2] for m, p in server.requests if m == "GET"]
    server.requests.clear()
    return [name.partition("/")[2] for name in found if name]


def asked(server: HubServer) -> list[str]:
    """Every request about our repository; the client may ask other things of its own accord."""
    return [path for _, path in server.requests if "user/checkpoint" in path]


def damage(path: Path) -> None:
    """Flip a byte, as a bad line would: the length stays."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.resolve().write_bytes(content)


def test_only_what_a_model_needs_is_fetched(server: HubServer, user: User) -> None:
    (answer,) = user.download({"source": "hf://user/checkpoint"})
    assert (answer["source"], answer["revision"]) == ("hf://user/checkpoint", FIRST)
    assert set(fetched(server)) == NEEDED
    published = server.root / "models" / "user" / "checkpoint" / FIRST
    for name in NEEDED:
        assert sha256(Path(answer["directory"]) / name) == sha256(published / name)
    assert user.record(f"user--checkpoint@{FIRST}.json") == {
        "source": "hf://user/checkpoint",
        "revision": FIRST,
        "sha256": {name: sha256(published / name) for name in sorted(NEEDED)},
    }


def test_a_pinned_commit_in_the_cache_needs_no_hub(server: HubServer, user: User) -> None:
    publish(server, SECOND, seed=2)
    pinned = {"source": f"hf://user/checkpoint@{FIRST}"}
    (first,) = user.download(pinned)
    assert first["revision"] == FIRST
    before = len(asked(server))
    again, apart = user.download(pinned, {"source": "hf://user/checkpoint", "revision": FIRST})
    assert again == apart == first
    assert len(asked(server)) == before
    (offline,) = user.download(pinned, HF_HUB_OFFLINE="1")
    assert offline == first


def test_a_branch_is_resolved_to_its_commit(server: HubServer, user: User) -> None:
    (first,) = user.download({"source": "hf://user/checkpoint@main"})
    publish(server, SECOND, seed=2)
    (second,) = user.download({"source": "hf://user/checkpoint", "revision": "main"})
    assert (first["revision"], second["revision"]) == (FIRST, SECOND)
    (offline,) = user.download({"source": "hf://user/checkpoint"}, HF_HUB_OFFLINE="1")
    assert offline == second


def test_a_blank_pin_stays_what_it_first_was(server: HubServer, user: User) -> None:
    blank = {"source": "hf://user/checkpoint", "revision": "", "sha256": {"model.safetensors": ""}}
    (first,) = user.download(blank)
    assert first["revision"] == FIRST
    record = user.record("user--checkpoint.json")
    assert record["revision"] == FIRST
    assert set(record["sha256"]) == NEEDED
    publish(server, SECOND, seed=2)
    again, newest = user.download(blank, {"source": "hf://user/checkpoint"})
    assert again == first
    assert newest["revision"] == SECOND
    assert user.record("user--checkpoint.json") == record


def test_a_damaged_file_is_fetched_again(server: HubServer, user: User) -> None:
    call = {"source": f"hf://user/checkpoint@{FIRST}"}
    (answer,) = user.download(call)
    for name in ("model.safetensors", "vocab.txt"):
        whole = sha256(Path(answer["directory"]) / name)
        damage(Path(answer["directory"]) / name)
        fetched(server)
        user.download(call)
        assert fetched(server) == [name]
        assert sha256(Path(answer["directory"]) / name) == whole


def test_a_damaged_file_that_is_no_link_is_fetched_again(server: HubServer, user: User) -> None:
    """As a cache has them on Windows; the client takes such a one for whole, whatever is in it."""
    call = {"source": f"hf://user/checkpoint@{FIRST}"}
    (answer,) = user.download(call)
    file = Path(answer["directory"]) / "vocab.txt"
    whole = file.read_bytes()
    file.unlink()
    file.write_bytes(b"damaged")
    (offline,) = user.download(call, HF_HUB_OFFLINE="1")
    assert "vocab.txt is damaged" in offline["message"]
    assert file.read_bytes() == b"damaged"
    fetched(server)
    user.download(call)
    assert fetched(server) == ["vocab.txt"]
    assert file.read_bytes() == whole
    assert not list(file.parent.glob(".*"))


def test_damage_of_the_first_download_is_found(server: HubServer, user: User) -> None:
    user.run(
        "import huggingface_hub as hub; hub.snapshot_download('user/checkpoint', revision='main',"
        "allow_patterns=['*.json', 'vocab.txt', 'model.safetensors'])"
    )
    snapshot = user.home / "hub" / "models--user--checkpoint" / "snapshots" / FIRST
    damage(snapshot / "model.safetensors")
    fetched(server)
    (answer,) = user.download({"source": f"hf://user/checkpoint@{FIRST}"})
    assert answer["directory"] == str(snapshot)
    assert fetched(server) == ["model.safetensors"]
    published = server.root / "models" / "user" / "checkpoint" / FIRST
    assert sha256(snapshot / "model.safetensors") == sha256(published / "model.safetensors")


def test_damage_offline_is_an_error(user: User) -> None:
    call = {"source": f"hf://user/checkpoint@{FIRST}"}
    (answer,) = user.download(call)
    damage(Path(answer["directory"]) / "vocab.txt")
    (offline,) = user.download(call, HF_HUB_OFFLINE="1")
    assert offline["error"] == "DownloadError"
    assert "vocab.txt is damaged" in offline["message"]
    assert offline["alone"]


def test_small_files_are_held_to_gits_sum(server: HubServer, user: User) -> None:
    """The cache as the real Hub makes it, which names small files' blobs by git's own sums."""
    published = server.root / "models" / "user" / "checkpoint" / FIRST
    root = user.home / "hub" / "models--user--checkpoint"
    (root / "blobs").mkdir(parents=True)
    (root / "snapshots" / FIRST).mkdir(parents=True)
    for name in NEEDED:
        content = (published / name).read_bytes()
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        (root / "blobs" / blob).write_bytes(content)
        (root / "snapshots" / FIRST / name).symlink_to(Path("../../blobs") / blob)
    call = {"source": f"hf://user/checkpoint@{FIRST}"}
    (whole,) = user.download(call, HF_HUB_OFFLINE="1")
    assert whole["revision"] == FIRST
    shutil.rmtree(user.home / "own")
    damage(root / "snapshots" / FIRST / "vocab.txt")
    (damaged,) = user.download(call, HF_HUB_OFFLINE="1")
    assert damaged["error"] == "DownloadError"


def test_another_file_than_the_pinned_one_is_refused(server: HubServer, user: User) -> None:
    published = server.root / "models" / "user" / "checkpoint" / FIRST
    right, wrong = sha256(published / "model.safetensors"), "0" * 64
    call = {"source": f"hf://user/checkpoint@{FIRST}"}
    (good,) = user.download(call | {"sha256": {"model.safetensors": right}})
    assert good["revision"] == FIRST
    fetched(server)
    (bad,) = user.download(call | {"sha256": {"model.safetensors": wrong}})
    assert bad["error"] == "DownloadError"
    assert "model.safetensors" in bad["message"]
    assert right in bad["message"]
    assert wrong in bad["message"]
    assert fetched(server) == ["model.safetensors"]  # once more, and no third time


def test_what_was_trusted_once_may_not_change(server: HubServer, user: User) -> None:
    call = {"source": f"hf://user/checkpoint@{FIRST}"}
    user.download(call)
    shutil.rmtree(user.home / "hub")
    damage(server.root / "models" / "user" / "checkpoint" / FIRST / "model.safetensors")
    (answer,) = user.download(call)
    assert answer["error"] == "DownloadError"
    assert "model.safetensors" in answer["message"]


def test_nothing_cached_and_no_hub(user: User) -> None:
    calls = ({"source": "hf://user/checkpoint"}, {"source": f"hf://user/checkpoint@{FIRST}"})
    answers = user.download(*calls, HF_HUB_OFFLINE="1")
    answers += user.download(*calls, HF_ENDPOINT="http://127.0.0.1:9")
    for answer in answers:
        assert answer["error"] == "DownloadError"
        assert answer["alone"]
        for way in ("hf://user/checkpoint", "weights=PATH", "HF_ENDPOINT", "weights=None"):
            assert way in answer["message"]


@pytest.mark.parametrize("revision", [FIRST, "main"])
def test_what_the_cache_lacks_is_not_said_of_the_hub(user: User, revision: str) -> None:
    user.run(
        "import huggingface_hub as hub; "
        f"hub.snapshot_download('user/checkpoint', revision='{revision}', "
        "allow_patterns=['config.json', 'vocab.txt'])"
    )
    shutil.rmtree(user.home / "hub" / "models--user--checkpoint" / "trees", ignore_errors=True)
    call = {"source": f"hf://user/checkpoint@{revision}"}
    named = call | {"sha256": {"model.safetensors": ""}}
    answers = user.download(call, named, HF_HUB_OFFLINE="1")
    answers += user.download(call, named, HF_ENDPOINT="http://127.0.0.1:9")
    for answer in answers:
        assert answer["error"] == "DownloadError", answer
        assert "no model.safetensors" not in answer["message"]
        for part in ("model.safetensors", "could not be asked", "HF_ENDPOINT"):
            assert part in answer["message"]
    assert "HF_HUB_OFFLINE" in answers[0]["message"]
    (whole,) = user.download(call)
    assert whole["revision"] == FIRST


@pytest.mark.parametrize(
    ("name", "blob"), [("tokenizer_config.json", False), ("model.safetensors", True)]
)
def test_a_cache_that_lost_a_file_is_said_so(name: str, blob: bool, user: User) -> None:
    """The link to it, or what that leads to."""
    call = {"source": f"hf://user/checkpoint@{FIRST}"}
    (answer,) = user.download(call)
    link = Path(answer["directory"]) / name
    (link.resolve() if blob else link).unlink()
    shutil.rmtree(user.home / "hub" / "models--user--checkpoint" / "trees", ignore_errors=True)
    (offline,) = user.download(call, HF_HUB_OFFLINE="1")
    assert offline["error"] == "DownloadError"
    assert name in offline["message"]
    (repaired,) = user.download(call)
    assert repaired == answer


def test_what_the_hub_does_not_have(server: HubServer, user: User) -> None:
    models = server.root / "models" / "user"
    (models / "empty" / FIRST).mkdir(parents=True)
    (models / "empty" / FIRST / "vocab.txt").write_text("[PAD]\n")
    (models / "pickled" / FIRST).mkdir(parents=True)
    (models / "pickled" / FIRST / "config.json").write_text(json.dumps(oracle.bert_config()))
    (models / "pickled" / FIRST / "pytorch_model.bin").write_bytes(b"pickle")
    answers = user.download(
        {"source": "hf://user/nobody"},
        {"source": "hf://user/checkpoint@v9"},
        {"source": "hf://user/checkpoint@" + "9" * 40},
        {"source": "hf://user/empty"},
        {"source": "hf://user/checkpoint", "sha256": {"other.safetensors": ""}},
        {"source": "hf://user/pickled"},
    )
    for answer, part in zip(
        answers,
        [
            *("hf://user/nobody does not exist", "no revision 'v9'", "no revision '9999"),
            *("no config.json", "no other.safetensors", "pytorch_model.bin"),
        ],
        strict=True,
    ):
        assert answer["error"] == "NotFoundError", answer
        assert part in answer["message"]
        assert answer["alone"]
    assert "pytorch_model.bin" not in fetched(server)


def test_a_pickle_in_the_cache_does_not_count(server: HubServer, user: User) -> None:
    models = server.root / "models" / "user"
    (models / "pickled" / FIRST).mkdir(parents=True)
    (models / "pickled" / FIRST / "config.json").write_text(json.dumps(oracle.bert_config()))
    (models / "pickled" / FIRST / "pytorch_model.bin").write_bytes(b"pickle")
    (models / "pickled" / FIRST / "adapter.safetensors").write_bytes(b"other")
    user.run("import huggingface_hub as hub; hub.snapshot_download('user/pickled')")
    (answer,) = user.download({"source": "hf://user/pickled"})
    assert answer["error"] == "NotFoundError"
    assert "pytorch_model.bin" in answer["message"]


def test_damaged_records_are_named(server: HubServer, user: User) -> None:
    contents = {
        "a" * 40: "{",
        "b" * 40: "[]",
        "c" * 40: "{}",
        "d" * 40: json.dumps({"revision": FIRST, "sha256": {"vocab.txt": "?"}}),
        "e" * 40: json.dumps({"revision": "main", "sha256": {}}),
    }
    records = []
    for commit, content in contents.items():
        publish(server, commit)
        records.append(user.home / "own" / "hub" / f"user--checkpoint@{commit}.json")
        records[-1].parent.mkdir(parents=True, exist_ok=True)
        records[-1].write_text(content)
    calls = [{"source": f"hf://user/checkpoint@{commit}"} for commit in contents]
    for answer, record in zip(user.download(*calls), records, strict=True):
        assert answer["error"] == "DownloadError"
        assert str(record) in answer["message"]
        assert "delete it" in answer["message"]


def test_a_cache_that_cannot_be_made_is_warned_about(user: User) -> None:
    user.home.mkdir()
    (user.home / "own").write_text("a file in the way")
    (answer,) = user.download({"source": "hf://user/checkpoint"})
    assert answer["revision"] == FIRST
    assert "KERAS_AGNEWS_CACHE" in answer["warnings"][0]


@pytest.mark.parametrize(
    "source",
    [
        *("", "user/checkpoint", "hf://", "hf://user", "hf://user/", "hf://user/name/file"),
        *("hf://user/name@", "hf://../name", "hf://user/..", "hf://user/name@../x", "https://a/b"),
        *("hf://user/na me", "hf://user/näme", "hf://user/name\n", "HF://user/name"),
    ],
)
def test_other_addresses_are_refused(source: str) -> None:
    with pytest.raises(InputError, match="hf://user/name"):
        hub.download(source)


@pytest.mark.parametrize("revision", ["/dev/zero", "../x", "a/../b", "a b", "-x", "C:\\x"])
def test_a_revision_leads_nowhere_else(revision: str) -> None:
    with pytest.raises(InputError, match="is no commit, branch or tag"):
        hub.download("hf://user/name", revision=revision)
    with pytest.raises(InputError, match="is not an address"):
        hub.download(f"hf://user/name@{revision}")


def test_two_revisions_are_one_too_many() -> None:
    with pytest.raises(InputError, match="two revisions"):
        hub.download("hf://user/name@one", revision="two")


LOAD = """
import json, sys, warnings
import numpy as np
import keras, keras_agnews
warnings.simplefilter("error", UserWarning)
classifier = keras_agnews.load(sys.argv[1])
answer = {"name": classifier.description.name, "labels": classifier.labels,
          "source": classifier.source, "probabilities": classifier.predict(sys.argv[2]).tolist()}
print(json.dumps(answer))
"""


@pytest.mark.backend
@pytest.mark.once
def test_load_takes_an_address(server: HubServer, user: User) -> None:
    answer = json.loads(user.run(LOAD, f"hf://user/checkpoint@{FIRST}", oracle.SENTENCES[0]))
    assert (answer["name"], answer["labels"]) == ("checkpoint", oracle.LABELS)
    assert FIRST in json.dumps(answer["source"])
    config = oracle.bert_config()
    ids = oracle.token_ids(oracle.SENTENCES[:1])
    logits = oracle.forward(config, oracle.random_tensors(config, 1), ids, ids != 0)["logits"]
    expected = np.exp(logits) / np.exp(logits).sum()
    assert np.abs(np.array(answer["probabilities"]) - expected).max() < 1e-4


ENTRY = """
import json, sys, warnings
import keras, keras_agnews
from keras_agnews.errors import DownloadError, NotFoundError
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    classifier = keras_agnews.load("small-bert-L4", weights="pretrained")
ids = keras.ops.convert_to_tensor([classifier.tokenizer.encode("I love transformers")])
pooled = keras.ops.convert_to_numpy(classifier.encoder({"input_word_ids": ids})["pooled_output"])
answer = {"warnings": [str(w.message) for w in caught if w.category is UserWarning],
          "source": classifier.source, "labels": classifier.labels, "pooled": pooled.tolist()}
try:
    keras_agnews.load("bert-base")
except (DownloadError, NotFoundError) as error:
    answer["message"] = str(error)
print(json.dumps(answer))
"""


@pytest.mark.slow
@pytest.mark.backend
def test_an_entry_fetches_its_weights(server: HubServer, user: User) -> None:
    directory = server.root / "models" / "gaunernst" / "bert-L4-H128-uncased" / FIRST
    config = oracle.bert_config(
        architectures=["BertModel"],
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=512,
        max_position_embeddings=512,
        vocab_size=30_522,
    )
    tensors = oracle.random_tensors(config, 1)
    stored = {name: value for name, value in tensors.items() if "classifier" not in name}
    oracle.checkpoint(directory, config, stored)
    entry = registry.find("small-bert-L4")
    assert entry is not None
    (directory / "vocab.txt").write_bytes((entry / "vocab.txt").read_bytes())

    answers = [json.loads(user.run(ENTRY)), json.loads(user.run(ENTRY, HF_HUB_OFFLINE="1"))]
    ids = np.array([[101, 1045, 2293, 19081, 102]])
    expected = oracle.forward(config, tensors, ids, ids != 0)["pooled"]
    for answer in answers:
        assert np.abs(np.array(answer["pooled"]) - expected).max() < 1e-4
        assert answer["labels"] == ["World", "Sports", "Business", "Sci/Tech"]
        assert FIRST in json.dumps(answer["source"])
        assert len(answer["warnings"]) == 1
        assert "logits/kernel" in answer["warnings"][0]
    for way in ("google-bert/bert-base-uncased", "weights=PATH", "HF_ENDPOINT", "weights=None"):
        assert way in answers[1]["message"]
    assert "google-bert/bert-base-uncased" in answers[0]["message"]  # which this Hub has not
    assert user.record("gaunernst--bert-L4-H128-uncased.json")["revision"] == FIRST
