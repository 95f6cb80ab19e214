"""The page: well-formed, self-contained, with every number and picture; charts that stand where the numbers are."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from episodes.errors import UserError
from tests.tools.test_table import METHODS, make_table
from tools.charts import comparison_svg, curves_svg, group_ticks, nice_ticks
from tools.page import MOST_BYTES, write_page
from tools.table import Cell, EpisodePicture, Table

VOID = {"meta", "link", "img", "input", "br"}


def make_episode(size=8, n_query=2, grey=True, seed=0, **changes) -> EpisodePicture:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (3 + 3 * n_query, 1 if grey else 3, size, size)).astype(np.uint8)
    images = np.broadcast_to(images, (len(images), 3, size, size))
    labels = np.tile(np.arange(3), n_query)
    wrong = labels.copy()
    wrong[0] = 2
    values = {
        "title": "three letters",
        "support_images": images[:3],
        "support_labels": np.array([1, 0, 2]),
        "query_images": images[3:],
        "query_labels": labels,
        "class_names": [f"greek/{c} U+{ord(c):04X}" for c in "αβγ"],
        "predictions": {METHODS[0]: wrong, METHODS[1]: labels},
    }
    return EpisodePicture(**{**values, **changes})


HISTORY = [
    {"epoch": 0, "loss": 2.125, "accuracy": 0.2, "val_accuracy": 0.3, "val_interval": 0.05, "lr": 0.1},
    {"epoch": 1, "loss": 1.0625, "accuracy": 0.6, "val_accuracy": 0.5512, "val_interval": 0.0175},
    {"epoch": 2, "loss": float("nan"), "accuracy": 0.7},
]


class Page(HTMLParser):
    """Collects elements and checks that every element is closed in its turn."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None], str]] = []  # tag, attributes, text inside
        self.open: list[int] = []
        self.feed(text)
        self.close()
        assert not self.open, "elements are left open"

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes), ""))
        if tag not in VOID:
            self.open.append(len(self.elements) - 1)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes), ""))

    def handle_endtag(self, tag):
        assert self.open and self.elements[self.open[-1]][0] == tag, f"</{tag}> closes something else"
        self.open.pop()

    def handle_data(self, data):
        for number in self.open:
            tag, attributes, text = self.elements[number]
            self.elements[number] = (tag, attributes, text + data)

    def all(self, tag: str, **wanted: str) -> list[tuple[dict[str, str | None], str]]:
        return [
            (attributes, text)
            for name, attributes, text in self.elements
            if name == tag and all(value in (attributes.get(key) or "").split() for key, value in wanted.items())
        ]


def render(path, **changes) -> tuple[str, Page]:
    values = {
        "title": "Letters & digits",
        "intro": "First words.\n\nSecond <words>.",
        "table": make_table(),
        "curves": {"pre-training": HISTORY},
        "episodes": [make_episode()],
        "facts": {"device": "2 cores", "seed": "7"},
        "commands": ["# Your own folder:\npython -m tools.evaluate --data 'a & b'"],
    }
    write_page(path, **{**values, **changes})
    text = path.read_text(encoding="utf-8")
    return text, Page(text)


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> tuple[str, Page]:
    return render(tmp_path_factory.mktemp("page") / "deep" / "index.html")


def test_nothing_comes_from_elsewhere(page):
    text, parsed = page
    assert not re.search(r"https?://|//[a-z]|@import|url\(", text)
    for tag, attributes, _ in parsed.elements:
        assert tag not in {"script", "iframe", "object", "embed"}
        for key in ("src", "href"):
            assert (attributes.get(key) or "data:").startswith("data:"), f"<{tag} {key}=...> points outside"
    assert any("default-src 'none'" in (attributes.get("content") or "") for attributes, _ in parsed.all("meta"))


def test_every_number_of_the_table_is_there(page):
    _, parsed = page
    cells = [" ".join(text.split()) for _, text in parsed.all("td") if "rowspan" not in _]
    assert cells == [
        "62.34 ± 1.12600 ep, 2.0 s",
        "80.00 ± 0.90 best of the column600 ep, 3.0 s",
        "45.00 ± 2.00600 ep, 123 s",
        "71.51 ± 1.08 best of the column600 ep, 4.0 s",
        "80.00 ± 0.91 best of the column600 ep, 5.5 s",  # prints like its rival: both are best
        "–",
    ]
    assert [text for _, text in parsed.all("th", scope="row")] == METHODS
    assert [(text, a["colspan"]) for a, text in parsed.all("th", scope="colgroup")] == [("greek", "2"), ("digits", "1")]
    assert [text for _, text in parsed.all("th", scope="col")] == ["1-shot", "5-shot", "1-shot"]


def test_every_picture_is_there_as_it_was(page):
    _, parsed = page
    episode = make_episode()
    images = [attributes for attributes, _ in parsed.all("img")]
    shown = []
    for attributes in images:
        assert attributes["alt"]
        data = base64.b64decode(attributes["src"].removeprefix("data:image/png;base64,"))
        shown.append(np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).transpose(2, 0, 1))
    expected = []
    for label in range(3):
        expected += [*episode.support_images[episode.support_labels == label]]
        expected += [*episode.query_images[episode.query_labels == label]]
    np.testing.assert_array_equal(shown, expected)
    assert images[1]["alt"] == "query of class α; ProtoNet: wrong, says γ; Meta <DeepBDC>: right"


def test_predictions_show_where_methods_differ(page):
    text, parsed = page
    assert [len(parsed.all("figure", **{"class": kind})) for kind in ("all-right", "differ", "all-wrong")] == [5, 1, 0]
    marks = [" ".join(text.split()) for _, text in parsed.all("figcaption") if _.get("aria-hidden")]
    assert marks[0] == "✕✕ γ●" and set(marks[1:]) == {"●●"}
    labels = [text for _, text in parsed.all("label")]
    assert labels == ["all methods", *METHODS]
    assert [" ".join(text.split()) for _, text in parsed.all("li")] == ["ProtoNet 5/6", "Meta <DeepBDC> 6/6"]
    for number in range(len(METHODS)):  # the rule that shows one method alone names the input that chooses it
        assert f".episodes:has(#show-{number + 1}:checked) .said:not(.m{number})" in text
        assert any(attributes["id"] == f"show-{number + 1}" for attributes, _ in parsed.all("input"))


def test_curves_tell_their_numbers(page):
    _, parsed = page
    titles = [text for _, text in parsed.all("title")]
    assert any("epoch 1\nloss 1.062\naccuracy 60.00 %\nvalidation accuracy 55.12 ± 1.75 %" in title for title in titles)
    assert any("learning rate 0.1" in title for title in titles)
    assert "3 epochs, best validation accuracy 55.12 ± 1.75 % (epoch 1)" in [text for _, text in parsed.all("p")]
    for attributes, _ in parsed.all("svg", role="img"):
        assert attributes["aria-label"]


def test_words_are_there_and_escaped(page):
    text, parsed = page
    assert "<words>" not in text and "<DeepBDC>" not in text
    assert [words for _, words in parsed.all("p", **{"class": "lead"})] == ["First words.", "Second <words>."]
    assert [words for _, words in parsed.all("code")] == ["python -m tools.evaluate --data 'a & b'"]
    assert "Your own folder:" in [words for _, words in parsed.all("p")]
    assert [words for _, words in parsed.all("dt")] == ["device", "seed"]
    assert [words for _, words in parsed.all("dd")] == ["2 cores", "7"]
    assert parsed.all("h1")[0][1] == "Letters & digits"


def test_light_dark_and_small_screens_are_cared_for(page):
    text, parsed = page
    assert "prefers-color-scheme: dark" in text and "max-width: 42rem" in text and "image-rendering: pixelated" in text
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in [a for a, _ in parsed.all("meta")]
    assert parsed.all("article", **{"class": "pixelated"})  # 8 x 8 pictures stay crisp


def test_parts_without_content_are_left_out(tmp_path):
    text, parsed = render(tmp_path / "page.html", curves={}, episodes=[], facts={}, commands=[])
    assert [words for _, words in parsed.all("h2")] == ["Accuracy"]
    assert not parsed.all("img") and not parsed.all("footer")


def test_large_pictures_shrink_until_the_page_is_small_enough(tmp_path):
    episodes = [make_episode(size=100, n_query=20, grey=False, seed=seed) for seed in range(4)]
    text, parsed = render(tmp_path / "page.html", episodes=episodes)
    assert len(text.encode()) <= MOST_BYTES
    sources = [attributes["src"] for attributes, _ in parsed.all("img")]
    sizes = {Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))).size for source in sources}
    assert sizes == {(48, 48)} and len(sources) == 4 * 63


def test_a_page_that_cannot_be_small_is_refused_and_not_written(tmp_path):
    episodes = [make_episode(size=32, n_query=250, grey=False, seed=seed) for seed in range(3)]
    with pytest.raises(UserError, match="show fewer episodes"):
        render(tmp_path / "page.html", episodes=episodes)
    assert not list(tmp_path.iterdir())


def test_what_does_not_fit_is_named(tmp_path):
    with pytest.raises(ValueError, match="'three letters' has 3 support and 6 query images"):
        render(tmp_path / "page.html", episodes=[make_episode(predictions={"ProtoNet": np.zeros(5, int)})])
    with pytest.raises(ValueError, match="'empty' have no epoch"):
        render(tmp_path / "page.html", curves={"empty": []})


def test_padding_queries_are_left_out(tmp_path):
    labels = np.array([0, 1, 2, 0, 1, -1])
    _, parsed = render(tmp_path / "page.html", episodes=[make_episode(query_labels=labels, predictions={"A": labels})])
    assert len(parsed.all("img")) == 8
    assert [" ".join(text.split()) for _, text in parsed.all("li")] == ["A 5/5"]


def test_ticks_are_round_and_span_the_data():
    assert nice_ticks(0.03, 0.98) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    for low, high in ((0, 1), (0.401, 0.402), (3, 3), (0, 0), (17, 1234)):
        ticks = nice_ticks(low, high)
        assert ticks[0] <= low and ticks[-1] >= high and 2 <= len(ticks) <= 7


def test_comparison_charts_have_one_scale_and_true_positions():
    table = make_table()
    spans = {group: ticks[-1] - ticks[0] for group, ticks in group_ticks(table).items()}
    assert spans["greek"] == pytest.approx(spans["digits"])
    svg = comparison_svg(table, "greek")
    ticks = [
        (float(x), float(label.split()[0])) for x, label in re.findall(r'class="tick" x="([\d.]+)"[^>]*>([^<]+)<', svg)
    ]
    (x0, value0), (x1, value1) = ticks[0], ticks[-1]
    ends = [(float(a), float(b)) for a, b in re.findall(r'class="span" d="M([\d.]+) [\d.]+H([\d.]+)M', svg)]
    read = [[value0 + (x - x0) * (value1 - value0) / (x1 - x0) for x in pair] for pair in ends]
    np.testing.assert_allclose(read, [[61.22, 63.46], [79.1, 80.9], [70.43, 72.59], [79.091, 80.911]], atol=0.02)
    assert svg.count("point best") == 3


def test_curves_leave_gaps_and_bound_the_number_of_strips():
    history = [{"accuracy": None if i == 2 else 0.1 * i, "loss": float("inf")} for i in range(6)]
    svg = curves_svg("run", history)
    lines = re.findall(r'<polyline class="train" points="([^"]+)"', svg)
    assert [len(line.split()) for line in lines] == [2, 3] and ">loss<" not in svg
    assert curves_svg("one", [{"val_accuracy": 0.5, "val_interval": 0.1}]).count("dot") == 1
    assert curves_svg("long", [{"loss": 1.0}] * 1000).count('class="hover"') == 200


def test_captions_say_what_was_measured_and_what_has_no_result(tmp_path):
    table = make_table(measure="AUROC of unknown queries", failed={("ProtoNet", "digits", "1-shot"): 1})
    del table.cells["ProtoNet", "digits", "1-shot"]
    picture = tmp_path / "ranks.png"
    Image.new("L", (4, 4)).save(picture)
    text, page = render(tmp_path / "page.html", table=table, figures=[("Ranks", "Bars join what is alike.", picture)])
    assert "AUROC of unknown queries in percent, mean ± half-width of its 95 % interval" in text
    assert "Accuracy in percent" not in text and "Bars join what is alike." in text
    assert len(page.all("svg", role="img")) == 1 + 1  # greek and the curves; nothing to draw of the digits
    assert "No results, see the notes below the table." in [words for _, words in page.all("p")]


def test_marks_of_many_columns_do_not_collide_and_long_names_have_two_lines():
    columns, row = [f"kind {n}" for n in range(6)], "Soft k-means (semi-supervised)"
    rows = [row, "TIM (transductive)", "ProtoNet"]
    cells = {(name, "greek", column): Cell(0.5, 0.01, 600, 1.0) for name in rows for column in columns}
    svg = comparison_svg(Table("Accuracy", rows, [("greek", columns)], cells), "greek")
    ys = [float(y) for y in re.findall(r'class="span" d="M[\d.]+ ([\d.]+)H', svg)]
    assert len(ys) == 3 * 6 and min(b - a for a, b in zip(ys, ys[1:], strict=False)) >= 10
    assert ys[6] - ys[5] > ys[1] - ys[0]
    names = re.findall(r'class="name"[^>]*>([^<]+)<', svg)
    assert names == ["Soft k-means", "(semi-supervised)", "TIM", "(transductive)", "ProtoNet"]
