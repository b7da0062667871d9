"""The lesson in `examples/`: the script and the notebook are one, and run in their short form."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import needs

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
SCRIPT, NOTEBOOK = EXAMPLES / "lesson.py", EXAMPLES / "lesson.ipynb"


def check(printed: str, backend: str) -> None:
    """What a lesson has printed, by what is known without it."""
    assert f" on {backend}, short form" in printed
    counts = re.findall(r"^\w[\w ]+? +([\d,]+)$", printed.partition("Epoch")[0], re.MULTILINE)
    assert counts == ["648,192", "10,656", "660", "84", "659,592"]
    differences = [float(x) for x in re.findall(r"differ(?:s from tanh.*)? by (\S+)", printed)]
    assert len(differences) == 3
    assert max(differences) < 1e-5
    (average,) = re.findall(r"from the average over the tokens by (\S+)", printed)
    assert float(average) > 0.1
    assert "516 of 4,782,980 parameters learn" in printed
    assert "4,782,980 of 4,782,980 parameters learn" in printed
    assert "[101, 1045, 2293, 19081, 102, " in printed  # as BERT's own tokenizer has it
    assert "bert-base with 4 topics: 109,485,316 parameters" in printed
    assert "3,076 of 31,518,724 parameters learn" in printed
    *_, by_hand, frozen, tuned, base = printed.splitlines()
    for line, name in ((by_hand, "hand"), (frozen, "frozen"), (tuned, "tuned"), (base, "frozen")):
        assert re.fullmatch(rf".*{name} +\d+\.\d%", line)


def test_notebook_is_the_script() -> None:
    import jupytext

    script, notebook = (
        [(cell.cell_type, cell.source) for cell in jupytext.read(path).cells]
        for path in (SCRIPT, NOTEBOOK)
    )
    remedy = "make it anew, as examples/README.md says"
    assert len(script) > 10
    assert notebook == script, remedy
    code = [cell for cell in jupytext.read(NOTEBOOK).cells if cell.cell_type == "code"]
    # Outputs may hold rows of AG News.
    assert not any(cell.outputs or cell.execution_count for cell in code), remedy


@pytest.mark.slow
@pytest.mark.backend
def test_script_without_data_and_hub(tmp_path: Path) -> None:
    import keras

    nowhere = {"KERAS_AGNEWS_DATA": "", "KERAS_AGNEWS_CACHE": str(tmp_path)}
    nowhere |= {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, SCRIPT, "--short"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=os.environ | nowhere,
    )
    assert done.returncode == 0, done.stderr[-4_000:]
    check(done.stdout, keras.backend.backend())
    assert "16 invented sentences stand in for it" in done.stdout
    assert "12 texts to learn from, 4 held out" in done.stdout
    assert "small-bert-L4: RANDOM weights" in done.stdout


@pytest.mark.slow
@needs("tensorflow", "tensorflow_text", "tensorflow_hub")
def test_notebook_with_strings_in_the_graph(
    agnews: Path, reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import jupytext
    from nbclient import NotebookClient

    small = f"tfhub:{reference / 'tfhub/bert_en_uncased_L-4_H-128_A-2'}"
    settings = {"LESSON": "short", "LESSON_SMALL_BERT": small, "KERAS_BACKEND": "tensorflow"}
    settings |= {"KERAS_AGNEWS_DATA": str(agnews), "KERAS_AGNEWS_CACHE": str(tmp_path / "cache")}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR"):  # not the user's own
        monkeypatch.setenv(name, str(tmp_path / name))
    notebook = jupytext.read(NOTEBOOK)
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=900, resources=resources).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    printed = "".join(output.text for output in outputs if output.get("name") == "stdout")
    check(printed, "tensorflow")
    assert "64 texts to learn from, 16 held out" in printed
    assert f"small-bert-L4: weights {small}" in printed
    assert "strings go into the model" in printed
