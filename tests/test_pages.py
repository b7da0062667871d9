"""Pages in a real browser: what they show, how they are used, and that they load nothing."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from keras_agnews import files, pages, text_files
from keras_agnews.errors import InputError
from keras_agnews.explain_page import explanation_page, readable, signed

HOSTILE = "Chips <script>alert(1)</script> & </script><img src=x onerror=alert(2)> \ud800 \x00 שלום"
BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"),
    *("--disable-sync", "--disable-component-update"),
]


def explanation(
    text: str = "", tokens: tuple[str, ...] = (), layers: int = 2, heads: int = 3
) -> Any:
    """As `keras_agnews.attention` gives it, without a model."""
    tokens = tokens or ("[CLS]", "car", "##maker", "slashes", "forecast", "[SEP]")
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(layers, heads, len(tokens), len(tokens))) * 3
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    attribution = np.linspace(-1, 2, len(tokens)).astype(np.float32)
    attribution[[0, -1]] = 0
    return SimpleNamespace(
        text=text or "Carmaker slashes forecast",
        tokens=tokens,
        weights=weights.astype(np.float32),
        pooled=False,
        attribution=attribution,
        label="Business",
        logits=np.array([0.5, 3.25, -1], np.float32),
        baseline=np.array([0.1, -0.25, 0], np.float32),
        prediction=SimpleNamespace(
            label="Business",
            score=0.875,
            scores={"World": 0.1, "Business": 0.875, "<b>": 0.025},
            truncated=True,
        ),
        specials=np.array([i in (0, len(tokens) - 1) for i in range(len(tokens))]),
    )


class Visitor:
    """A tab of the browser that keeps what goes wrong in it."""

    def __init__(self, browser: Any, path: Path, **options: Any) -> None:
        self.context = browser.new_context(
            **({"viewport": {"width": 1100, "height": 800}} | options)
        )
        self.page = self.context.new_page()
        self.faults: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.faults.append(message.text))
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.faults.append("dialog"), dialog.dismiss()))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())

    def text(self, selector: str) -> str:
        return str(self.page.inner_text(selector))

    def evaluate(self, code: str) -> Any:
        return self.page.evaluate(code)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not BROWSER:
        pytest.skip("there is no Chromium: `apt-get install chromium` brings one")
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Visitor]]:
    """Open a page; at the end, nothing was logged and nothing but the file was asked for."""
    visitors: list[Visitor] = []

    def visit_page(page: str, **options: Any) -> Visitor:
        path = tmp_path / f"page{len(visitors)}.html"
        text_files.write_text(path, page)
        visitors.append(Visitor(browser, path, **options))
        return visitors[-1]

    yield visit_page
    for visitor in visitors:
        inside = [url for url in visitor.requests if not url.startswith("data:")]
        assert (visitor.faults, len(inside)) == ([], 1), inside
        visitor.context.close()


class Text(HTMLParser):
    """The elements of a page and the text in them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[str] = []
        self.parts: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]

    def handle_data(self, data: str) -> None:
        self.parts.append(data)


# --- what is in them, for which no browser is needed


def hostile() -> str:
    tokens = ("[CLS]", "<script>", "alert(1)", "</script>", '"onload="', "[SEP]")
    return explanation_page(explanation(HOSTILE, tokens), "<i>model")


def test_a_text_is_only_text(tmp_path: Path) -> None:
    page = hostile()
    seen, plain = Text(page), Text(explanation_page(explanation(), "model"))
    assert seen.tags.count("script") == 2  # the data and ours
    assert not {"i", "b", "img"} & set(seen.tags)
    assert set(seen.attributes) == set(plain.attributes)
    assert HOSTILE.replace("\ud800", "\ufffd") in seen.parts
    text_files.write_text(tmp_path / "page.html", page)  # a lone surrogate has no UTF-8
    (data,) = re.findall(r'id="data">(.*?)</script>', page)
    assert not set("<>&") & set(data)
    assert json.loads(data)["tokens"][3] == "</script>"


def test_pieces_are_joined_to_words() -> None:
    assert readable(("##ing", "car", "##maker", "##", "##s")) == [
        *(("##ing", False), ("car", False), ("maker", True)),
        *(("##", False), ("s", True)),
    ]
    assert [signed(x) for x in (0.5, -1.234, 0.004, -0.004)] == [
        "+0.50",
        "\u22121.23",
        "0.00",
        "0.00",
    ]


@pytest.mark.parametrize("pooled", [False, True])
def test_a_text_without_tokens_has_a_page(pooled: bool) -> None:
    seen = explanation()
    nothing = {
        "pooled": pooled,
        "tokens": (),
        "weights": seen.weights[:, :, :0, :0],
        "attribution": seen.attribution[:0],
        "specials": seen.specials[:0],
    }
    page = explanation_page(SimpleNamespace(**(vars(seen) | nothing)), "model")
    assert "sees no token" in page
    assert 'class="head"' not in page


def test_a_place_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="is a directory"):
        pages.check_path(tmp_path)
    with pytest.raises(InputError, match="there is no directory"):
        pages.check_path(tmp_path / "none" / "page.html")
    pages.check_path(tmp_path / "page.html")
    pages.check_path(Path(os.devnull))
    monkeypatch.setattr(files.os, "access", lambda path, mode: path != tmp_path)
    with pytest.raises(InputError, match=r"page\.html cannot be written to"):
        pages.check_path(tmp_path / "page.html")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with a name on this system")
def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as threads:
        read = threads.submit(pipe.read_text)
        text_files.write_text(pipe, "a page")
        assert read.result(10) == "a page"
    assert pipe.is_fifo()
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


# --- the explanation, in a browser


def attended(head: np.ndarray) -> str:
    """What the page says of a head: where a token attends, on average, the most first."""
    length = len(head)
    ends = head[:, [0, -1]].sum() - head[0, 0] - head[-1, -1]
    inner = range(1, length - 1)
    shares = {
        "itself": np.trace(head),
        "the token before": sum(head[i + 1, i] for i in inner),
        "the token after": sum(head[i - 1, i] for i in inner),
        "[CLS] and [SEP]": ends,
    }
    shares = {name: float(share) / length for name, share in shares.items()}
    other = 1 - sum(shares.values())
    parts = sorted(shares.items(), key=lambda item: -item[1])

    def percent(share: float) -> str:
        return f"{100 * share:.{1 if share < 0.0995 else 0}f} %"

    listed = ", ".join(f"{name} {percent(share)}" for name, share in parts)
    return f"On average a token attends to {listed}, others {percent(other)}."


def test_clicks_and_keys_choose_the_head(visit: Callable[..., Visitor]) -> None:
    seen = explanation()
    visitor = visit(explanation_page(seen, "model"))
    page = visitor.page

    def shown() -> tuple[str, str, str, int]:
        picture = visitor.evaluate("document.querySelector('#map image').getAttribute('href')")
        checked = "[...document.querySelectorAll('.head')].findIndex(b => b.ariaChecked === 'true')"
        return visitor.text("#which"), picture, visitor.text("#most"), visitor.evaluate(checked)

    assert visitor.evaluate("document.querySelectorAll('.head').length") == 6
    states = [shown()]
    page.click(".head[data-layer='1'][data-head='2']")
    states.append(shown())
    page.keyboard.press("ArrowLeft")
    states.append(shown())
    page.keyboard.press("ArrowUp")
    states.append(shown())
    page.click("#after")
    states.append(shown())
    page.focus("#after")
    page.keyboard.press("Enter")
    states.append(shown())
    heads = [(0, 0), (1, 2), (1, 1), (0, 1), (0, 2), (1, 0)]
    assert visitor.text("#summary").replace("\u00a0", " ") == attended(seen.weights[1, 0])
    for state, (layer, head) in zip(states, heads, strict=True):
        most = seen.weights[layer, head].max()
        assert state[0] == f"Layer {layer + 1}, head {head + 1}"
        assert state[2] == f"{100 * most:.0f}\N{NO-BREAK SPACE}%"
        assert state[3] == 3 * layer + head
    assert len({picture for _, picture, *_ in states}) == len(states)


def test_the_heat_map_tells_each_weight(visit: Callable[..., Visitor]) -> None:
    seen = explanation()
    visitor = visit(explanation_page(seen, "model"))

    def told(row: int, column: int) -> str:
        share = float(seen.weights[0, 0, row, column])
        share = round(share * 65_535) / 65_535
        digits = 1 if share < 0.0995 else 0
        return f"takes {100 * share:.{digits}f}\N{NO-BREAK SPACE}% from"

    visitor.page.focus("#map")
    for _ in range(9):  # beyond the corner
        visitor.page.keyboard.press("ArrowUp")
        visitor.page.keyboard.press("ArrowLeft")
    assert visitor.text("#cell") == f"[CLS] {told(0, 0)} itself"
    visitor.page.keyboard.press("ArrowDown")
    visitor.page.keyboard.press("ArrowRight")
    visitor.page.keyboard.press("ArrowRight")
    assert visitor.text("#cell") == f"\u201ccar\u201d {told(1, 2)} \u201c\u00b7maker\u201d"
    cells = visitor.page.locator("#map .cells").bounding_box()
    assert cells is not None
    side = cells["width"] / 6
    visitor.page.mouse.move(cells["x"] + 4.5 * side, cells["y"] + 3.5 * side)
    assert visitor.text("#cell") == f"\u201cslashes\u201d {told(3, 4)} \u201cforecast\u201d"
    # What is painted there is what is told: the opacity is the weight over the head's largest.
    painted = visitor.evaluate(
        """async () => {
            const image = new Image();
            image.src = document.querySelector('#map image').getAttribute('href');
            await image.decode();
            const canvas = document.createElement('canvas');
            canvas.width = canvas.height = image.width;
            const context = canvas.getContext('2d', {willReadFrequently: true});
            context.drawImage(image, 0, 0);
            const at = (i) => Math.floor((i + 0.4) * image.width / 6);
            return [...Array(36).keys()].map(
                (i) => context.getImageData(at(i % 6), at(Math.floor(i / 6)), 1, 1).data[3]);
        }"""
    )
    expected = 255 * seen.weights[0, 0] / seen.weights[0, 0].max()
    np.testing.assert_allclose(np.reshape(painted, (6, 6)), expected, atol=1)


def test_a_text_that_attends_as_a_whole_has_one_row(visit: Callable[..., Visitor]) -> None:
    seen = explanation()
    shares = np.array([0.01, 0.3, 0.05, 0.4, 0.2, 0.04], np.float32)
    pooled = {"pooled": True, "weights": shares[None, None, None]}
    page = explanation_page(SimpleNamespace(**(vars(seen) | pooled)), "model")
    visitor = visit(page)
    summary = visitor.text("#summary").replace("\u00a0", " ")
    most = "\u201cslashes\u201d 40 %, \u201ccar\u201d 30 %, \u201cforecast\u201d 20 %"
    assert summary == f"It attends to {most}, others 10 %."
    assert visitor.page.locator(".head, .step").count() == 0
    visitor.page.click(".token >> nth=1")  # a token chosen above is chosen in the map
    assert visitor.text("#cell") == "The text takes 30\u00a0% from \u201ccar\u201d"
    visitor.page.focus("#map")
    visitor.page.keyboard.press("ArrowDown")  # there is one row
    visitor.page.keyboard.press("ArrowRight")
    assert visitor.text("#cell") == "The text takes 5.0\u00a0% from \u201c\u00b7maker\u201d"
    cells = visitor.page.locator("#map .cells").bounding_box()
    assert cells is not None
    visitor.page.mouse.move(cells["x"] + 3.5 * cells["width"] / 6, cells["y"] + 1)
    assert visitor.text("#cell") == "The text takes 40\u00a0% from \u201cslashes\u201d"
    assert visitor.text("#most") == "40\u00a0%"


def test_tokens_tell_what_they_add(visit: Callable[..., Visitor]) -> None:
    seen = explanation()
    visitor = visit(explanation_page(seen, "model"))
    assert visitor.text("#word") == "\u201cforecast\u201d adds +1.40 to Business"  # the most
    shades = "[...document.querySelectorAll('.token')].map(e => +e.style.getPropertyValue('--a'))"
    expected = abs(seen.attribution) / abs(seen.attribution).max()
    np.testing.assert_allclose(visitor.evaluate(shades), expected, atol=1e-3)
    kinds = "[...document.querySelectorAll('.token')].map(e => e.classList[1])"
    assert visitor.evaluate(kinds) == ["special", "against", "for", "for", "for", "special"]
    visitor.page.hover(".token >> nth=1")
    assert visitor.text("#word") == "\u201ccar\u201d adds \u22120.40 to Business"
    visitor.page.click(".token >> nth=2")
    visitor.page.mouse.move(0, 0)
    visitor.page.keyboard.press("ArrowRight")
    assert visitor.text("#word") == "\u201cslashes\u201d adds +0.80 to Business"
    assert visitor.text("#cell").startswith("\u201cslashes\u201d takes")  # its row in the map
    visitor.page.keyboard.press("End")
    assert visitor.text("#word") == "[SEP] is part of every text"
    focused = "document.activeElement.textContent"
    assert visitor.evaluate(focused) == "[SEP]"
    # The pieces of a word touch, words do not.
    boxes = [visitor.page.locator(".token").nth(i).bounding_box() for i in range(4)]
    gaps = [b["x"] - a["x"] - a["width"] for a, b in itertools.pairwise(boxes)]
    assert gaps[1] < 2 < min(gaps[0], gaps[2])


def test_tab_goes_through_and_everything_has_a_name(visit: Callable[..., Visitor]) -> None:
    visitor = visit(explanation_page(explanation(), "model"))
    stops = []
    for _ in range(5):
        visitor.page.keyboard.press("Tab")
        stops.append(
            visitor.evaluate("document.activeElement.id || document.activeElement.className")
        )
    assert stops == ["token for", "head", "before", "after", "map"]
    nameless = """[...document.querySelectorAll('button, [tabindex], [role=img]')].filter(
        e => !e.getAttribute('aria-label') && !e.getAttribute('aria-labelledby')).length"""
    assert visitor.evaluate(nameless) == 0


def test_a_hostile_text_runs_nothing(visit: Callable[..., Visitor]) -> None:
    visitor = visit(hostile())  # an alert or a blocked script would be a fault
    assert "<script>alert(1)</script>" in visitor.text(".lead")
    assert visitor.page.locator(".token").nth(3).inner_text() == "</script>"
    assert visitor.evaluate("document.images.length") == 0


@pytest.mark.parametrize("count", [6, 60])
def test_it_fits_a_phone(visit: Callable[..., Visitor], count: int) -> None:
    tokens = ("[CLS]", *("w" * (5 + i % 60) for i in range(count - 2)), "[SEP]")
    seen = explanation("x" * 200, tokens, layers=1, heads=16)
    visitor = visit(explanation_page(seen, "model" * 30), viewport={"width": 360, "height": 740})
    assert visitor.evaluate("document.documentElement.scrollWidth") == 360
    beyond = "[...document.querySelectorAll('main *')]"
    beyond += ".filter(e => e.getBoundingClientRect().right > 361)"
    assert visitor.evaluate(f"{beyond}.map(e => e.outerHTML.slice(0, 80))") == []
    visitor.page.set_viewport_size({"width": 800, "height": 740})
    redrawn = """async () => {
        const wide = () => document.querySelector('#map svg').getBoundingClientRect().width > 400;
        for (let i = 0; i < 200 && !wide(); i++) await new Promise(requestAnimationFrame);
        return wide();
    }"""
    assert visitor.evaluate(redrawn)


def test_light_dark_and_paper(visit: Callable[..., Visitor]) -> None:
    visitor = visit(explanation_page(explanation(), "model"), color_scheme="light")
    channels = "getComputedStyle(document.body).{}.match(/[\\d.]+/g).slice(0, 3).map(Number)"
    surface, ink = channels.format("backgroundColor"), channels.format("color")
    assert min(visitor.evaluate(surface)) > 240 > 60 > max(visitor.evaluate(ink))
    visitor.page.emulate_media(color_scheme="dark")
    assert max(visitor.evaluate(surface)) < 40 < 220 < min(visitor.evaluate(ink))
    visitor.page.emulate_media(media="print", color_scheme="dark")
    assert min(visitor.evaluate(surface)) > 240
    assert visitor.evaluate("getComputedStyle(document.getElementById('after')).display") == "none"


def test_text_can_be_read_on_every_shade(visit: Callable[..., Visitor]) -> None:
    """WCAG's contrast of 4.5 between each token and what is behind it."""
    visitor = visit(explanation_page(explanation(), "model"))
    colors = """() => {
        const canvas = document.createElement('canvas');
        const context = canvas.getContext('2d', {willReadFrequently: true});
        const paint = (...layers) => {
            for (const color of layers) {
                context.fillStyle = color;
                context.fillRect(0, 0, 1, 1);
            }
            return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3);
        };
        const page = getComputedStyle(document.body).backgroundColor;
        return [...document.querySelectorAll('.token, .note, .kicker, .key, td')].map((e) => {
            const style = getComputedStyle(e);
            return [paint(page, style.color), paint(page, style.backgroundColor)];
        });
    }"""

    def luminance(color: list[int]) -> float:
        parts = np.array(color) / 255
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    for scheme in ("light", "dark"):
        visitor.page.emulate_media(color_scheme=scheme)
        pairs = visitor.evaluate(colors)
        assert len(pairs) > 10
        for text, behind in pairs:
            low, high = sorted((luminance(text), luminance(behind)))
            assert (high + 0.05) / (low + 0.05) >= 4.5, (scheme, text, behind)


# --- the report, in a browser


def report(rows: int = 300) -> str:
    from keras_agnews.report import Answers, report_page

    rng = np.random.default_rng(0)
    return report_page(
        Answers(
            texts=[f"{i} {HOSTILE} {'x' * 90}" for i in range(rows)],
            labels=rng.integers(0, 4, rows),
            probabilities=rng.dirichlet(np.ones(4) / 4, rows),
            lengths=rng.integers(5, 90, rows),
            truncated=0,
            label_names=("World", "<script>alert(3)</script>", "Business", "Sci/Tech"),
        ),
        "model" * 20,
        "rows.csv",
    )


def test_the_report_is_drawn_and_fits_a_phone(visit: Callable[..., Visitor]) -> None:
    visitor = visit(report(), viewport={"width": 360, "height": 740}, color_scheme="dark")
    assert visitor.evaluate("document.documentElement.scrollWidth") == 360
    assert visitor.evaluate("[document.scripts.length, document.images.length]") == [0, 0]
    assert visitor.evaluate("document.querySelectorAll('svg.chart[aria-label]').length") == 2
    # No mark is outside its picture.
    outside = """[...document.querySelectorAll('svg.chart')].map((svg) => {
        const frame = svg.getBoundingClientRect();
        return [...svg.querySelectorAll('circle, text, rect')].filter((mark) => {
            const box = mark.getBoundingClientRect();
            return box.left < frame.left - 1 || box.right > frame.right + 1
                || box.top < frame.top - 1 || box.bottom > frame.bottom + 1;
        }).length;
    })"""
    assert visitor.evaluate(outside) == [0, 0]
    visitor.page.click("summary >> nth=0")
    assert visitor.page.locator("details[open] tbody tr").count() > 5
    background = visitor.evaluate("getComputedStyle(document.body).backgroundColor")
    assert max(map(int, re.findall(r"\d+", background))) < 40


def test_the_whole_report_is_on_paper(visit: Callable[..., Visitor]) -> None:
    """Whose sheets do not scroll."""
    visitor = visit(report(), viewport={"width": 688, "height": 970})
    visitor.page.emulate_media(media="print")
    cut = """[...document.querySelectorAll('.scroll, .pair, figure, svg')].filter(
        (e) => e.scrollWidth > e.clientWidth + 1 || e.getBoundingClientRect().right > 689)"""
    assert visitor.evaluate(f"{cut}.map((e) => e.outerHTML.slice(0, 80))") == []


def test_nothing_but_our_script_may_run() -> None:
    head = r'http-equiv="Content-Security-Policy" content="([^"]*)"'
    page = explanation_page(explanation(), "model")
    (policy,) = re.findall(head, page)
    (code,) = re.findall("<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    assert policy.startswith("default-src 'none';")
    assert f"script-src 'sha256-{digest}';" in policy
    (policy,) = re.findall(head, report(9))
    assert policy.startswith("default-src 'none';")
    assert "script-src 'none';" in policy


def test_a_page_of_another_label_tells_the_answer_and_that_the_text_was_cut() -> None:
    seen = SimpleNamespace(**(vars(explanation()) | {"label": "World"}))
    shown = " ".join("".join(Text(explanation_page(seen, "m")).parts).split())
    assert "The model's answer is Business, 87.5" in shown
    assert "World 10.0 % Carmaker" in shown  # its own score
    assert "the logit of World would be +0.10. With these words it is +0.50." in shown
    assert "and was cut" in shown
