"""Texts coloured by a vector: the values, the pieces, the terminal colours and the page."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from residual_streams import residual_streams
from rich.console import Console
from tiny import ByteTokenizer
from transformers import AutoTokenizer, LlamaForCausalLM

import faststeer
from faststeer import SteeringVector, diagnostics
from faststeer.data.shipped import Behaviour
from faststeer.diagnostics import TokenProjections
from faststeer.diagnostics.colour_scale import Scale
from faststeer.diagnostics.token_text import printable, token_pieces, token_text
from faststeer.models.loading import Loaded

HOSTILE = '<script>alert("1")</script> & \x1b[31m \u202e {x}'


@pytest.fixture
def tiny_tokenizer(tiny_folder: Path):
    return AutoTokenizer.from_pretrained(tiny_folder)


def projections(texts: list[str], values: list[float]) -> TokenProjections:
    return TokenProjections(list(range(len(texts))), texts, values)


@pytest.mark.parametrize("site", ["resid_pre", "resid_mid", "resid_post"])
def test_values_are_each_token_s_residual_stream_on_the_unit_direction(
    tiny_model: LlamaForCausalLM, tiny_tokenizer, site: str
) -> None:
    draw = torch.Generator().manual_seed(0)
    vector = SteeringVector("v", {n: torch.randn(64, generator=draw) for n in (1, 2)}, site)
    texts = ["one text", "another"]
    found = diagnostics.project_tokens(tiny_model, tiny_tokenizer, vector, texts, layer=2)
    unit = vector.directions[2].double() / vector.directions[2].double().norm()
    for own, text in zip(found, texts, strict=True):
        ids = tiny_tokenizer(text)["input_ids"]
        expected = residual_streams(tiny_model, ids)[site][2].double() @ unit
        assert own.ids == ids
        assert own.values == pytest.approx(expected.tolist(), abs=1e-4)


def test_joined_pieces_are_the_text_and_characters_of_several_tokens_are_not_split(
    demo: Loaded, tiny_tokenizer
) -> None:
    text = "naïve  café, 東京 🙂\n\ttabs"
    for tokenizer in (demo.tokenizer, tiny_tokenizer):
        ids = tokenizer(text)["input_ids"]
        found = token_pieces(tokenizer, ids)
        assert "".join(found) == text
        assert len(found) == len(ids)
        assert "\ufffd" not in "".join(found)
    assert token_pieces(demo.tokenizer, demo.tokenizer("The hotel was")["input_ids"]) == [
        *("The", " hotel", " was")
    ]


def test_a_single_token_is_shown_with_its_space_or_by_its_name(demo: Loaded) -> None:
    tokenizer = demo.tokenizer
    (hotel,) = tokenizer(" hotel", add_special_tokens=False)["input_ids"]
    assert token_text(tokenizer, hotel) == " hotel"
    first, *_ = tokenizer("🙂", add_special_tokens=False)["input_ids"]  # a part of its bytes
    assert token_text(tokenizer, first) == tokenizer.convert_ids_to_tokens(first)


def test_white_is_the_median_red_the_vector_s_side_and_an_outlier_does_not_fade_the_rest() -> None:
    values = [-1000.0, *(float(n) for n in range(41))]
    scale = Scale.around_median(values)
    assert scale.middle == 19.5
    assert scale.reach == 19.5
    assert scale.colour(19.5) == "#f7f7f7"
    assert scale.colour(39.0) == scale.colour(1e9) == "#d6604d"
    assert scale.colour(0.0) == scale.colour(-1e9) == "#4393c3"
    red, green, blue = (int(scale.colour(30.0)[n : n + 2], 16) for n in (1, 3, 5))
    assert red > green > blue > 0x4D


def test_all_texts_share_one_scale_and_equal_values_are_white() -> None:
    shown = Page(diagnostics.as_html([projections(["a"], [0.0]), projections(["b"], [2.0])], "t"))
    assert [span["style"] for span in shown.spans] == ["background:#4393c3", "background:#d6604d"]
    assert Scale.around_median([0.0]).colour(0.0) == "#f7f7f7"


def test_the_scale_from_zero_leaves_out_an_outlier_and_shows_what_is_not_finite_in_grey() -> None:
    scale = Scale.from_zero([1000.0, *(float(n) for n in range(41)), float("nan"), float("inf")])
    assert scale == Scale(0.0, 38.0)
    assert scale.colour(0.0) == "#f7f7f7"
    assert scale.colour(38.0) == scale.colour(1000.0) == "#d6604d"
    grey = {scale.colour(value) for value in (float("nan"), float("inf"))}
    assert len(grey) == 1
    assert grey.isdisjoint({"#f7f7f7", "#d6604d", "#4393c3"})


def test_the_terminal_s_text_is_the_text_with_control_characters_escaped() -> None:
    found = diagnostics.as_text([projections(["a", HOSTILE, "\nb"], [0.0, 1.0, 2.0])])
    assert found.plain.endswith('a<script>alert("1")</script> & \\x1b[31m \\u202e {x}\nb\n')
    styles = {str(span.style) for span in found.spans}
    assert "#111111 on #d6604d" in styles
    console = Console(width=200, force_terminal=True, color_system="truecolor", record=True)
    with console.capture() as shown:
        console.print(found)
    assert "\x1b[31m" not in shown.get()


class Page(HTMLParser):
    """Parser of texts, titles and colours of spans, and of the names of all tags."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.spans: list[dict[str, str | None]] = []
        self.inside = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if ("class", "text") in attrs:
            self.inside = True
        elif tag == "span" and self.inside:
            self.spans.append(dict(attrs))

    def handle_endtag(self, tag: str) -> None:
        self.inside = self.inside and tag != "p"

    def handle_data(self, data: str) -> None:
        self.text += data if self.inside else ""


def test_the_page_holds_the_text_escaped_with_each_token_s_number_and_colour() -> None:
    page = Page(diagnostics.as_html([projections(["a", HOSTILE], [-1.5, 2.25])], "t"))
    assert page.text == "a" + printable(HOSTILE)
    assert [span["title"] for span in page.spans] == ["-1.500", "+2.250"]
    assert [span["style"] for span in page.spans] == ["background:#4393c3", "background:#d6604d"]
    assert "script" not in page.tags


def test_the_page_runs_and_loads_nothing_even_with_a_hostile_title() -> None:
    written = diagnostics.as_html([projections(["a"], [0.0])], f"</title>{HOSTILE}")
    page = Page(written)
    assert not {"script", "img", "link", "iframe"} & set(page.tags)
    assert "http" not in written.replace("http-equiv", "")
    assert "default-src 'none'" in written
    assert "&lt;/title&gt;&lt;script&gt;" in written
    assert "\x1b" not in written


def test_what_cannot_be_projected_is_refused_with_a_clear_error(
    tiny_model: LlamaForCausalLM, tiny_tokenizer, byte_tokenizer: ByteTokenizer
) -> None:
    project = diagnostics.project_tokens
    vector = SteeringVector("v", {1: torch.ones(64), 2: torch.zeros(64)})
    small = SteeringVector("small", {1: torch.ones(8)})
    one = vector.select([1])
    with pytest.raises(ValueError, match=r"'v' has layers \[1, 2\]; choose one with layer="):
        project(tiny_model, tiny_tokenizer, vector, ["a"])
    with pytest.raises(ValueError, match="no direction for layer 3"):
        project(tiny_model, tiny_tokenizer, vector, ["a"], layer=3)
    with pytest.raises(ValueError, match="a zero cannot be normalised"):
        project(tiny_model, tiny_tokenizer, vector, ["a"], layer=2)
    with pytest.raises(ValueError, match="hidden size 8, but the model's is 64"):
        project(tiny_model, tiny_tokenizer, small, ["a"])
    with pytest.raises(ValueError, match="got no texts; at least one is needed"):
        project(tiny_model, tiny_tokenizer, one, [])
    with pytest.raises(ValueError, match="the model's context is 1024"):
        project(tiny_model, byte_tokenizer, one, ["a" * 1024])


def test_a_sentiment_vector_colours_praise_and_blame_differently(
    demo: Loaded,
) -> None:
    pairs = Behaviour.shipped("sentiment").pairs
    vector = faststeer.extract(demo.model, demo.tokenizer, pairs, layers=23, progress=False)
    text = "The staff were wonderful and kind. The food was awful and cold."
    (found,) = diagnostics.project_tokens(demo.model, demo.tokenizer, vector, [text])
    value = dict(zip(found.pieces, found.values, strict=True))
    for praise in (" wonderful", " kind"):
        for blame in (" awful", " cold"):
            assert value[praise] > value[blame] + 20
