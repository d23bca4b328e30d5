"""A comparison as coloured text and as HTML: what is shown, marked, escaped and scoped."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser

import pytest
from rich.console import Console

from faststeer import diagnostics
from faststeer.diagnostics import ComparedText, Comparison, NextToken
from faststeer.diagnostics.colour_scale import INK, Scale
from faststeer.diagnostics.token_text import printable
from faststeer.utils.plot_style import contrast
from faststeer.vectors.sites import Site

HOSTILE = '<script>alert("1")</script> & \' onmouseover="x" \x1b[31m \u202e {x}'
RED, WHITE = "#d6604d", "#f7f7f7"


def text(name: str, pieces: list[str], kl: list[float], start: int = 0) -> ComparedText:
    count = range(len(pieces))
    return ComparedText(
        name,
        start,
        list(count),
        pieces,
        kl,
        [10 * value for value in kl],
        [-1.0 for _ in count],
        [-value for value in kl],
        [[NextToken(7, HOSTILE, 0.25), NextToken(8, " b", 0.125)] for _ in count],
        [[NextToken(8, f" s{n}", 0.5), NextToken(9, "\n", 0.2)] for n in count],
    )


def comparison(vector: str | None = "praise", steering: str = "praise +2 at layer 1") -> Comparison:
    unsteered = text("unsteered answer", [" one", " two", "\nthree"], [0.0, 0.1, 0.2], 2)
    steered = text("steered answer", [" one", HOSTILE], [0.0, 0.4], 2)
    steered.ids[1] = 99
    prompt = text("prompt", ["<s>", "Tell"], [0.0, 0.0])
    other = text("text 0", ["", "京", "\x00"], [0.4, 0.4, math.nan])
    if vector is None:
        for own in (prompt, unsteered, steered, other):
            own.unsteered_projection.clear()
            own.steered_projection.clear()
    return Comparison(
        steering,
        prompt,
        (unsteered, steered),
        [other],
        Site(3, "resid_post"),
        None if vector is None else Site(1, "resid_mid"),
        vector,
    )


class Page(HTMLParser):
    """The tags, the texts without what is under the pointer, and the tokens of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.names: set[str] = set()  # of attributes
        self.stack: list[dict[str, str | None]] = []
        self.texts: list[str] = []
        self.tokens: list[dict[str, str | None]] = []
        self.tips: list[str] = []
        self.radios: list[dict[str, str | None]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        own = dict(attrs)
        self.tags.append(tag)
        self.names |= own.keys()
        kind = own.get("class") or ""
        if tag == "input":
            self.radios.append(own)
        if tag in ("input", "meta"):
            return
        self.stack.append(own)
        if kind == "fs-text":
            self.texts.append("")
        elif kind.startswith("fs-token"):
            self.tokens.append(own)
        elif kind == "fs-tip":
            self.tips.append("")

    def handle_endtag(self, tag: str) -> None:
        self.stack.pop()

    def handle_data(self, data: str) -> None:
        kinds = [own.get("class") for own in self.stack]
        if "fs-tip" in kinds:
            self.tips[-1] += f"{data}|"
        elif "fs-text" in kinds:
            self.texts[-1] += data


def test_the_page_holds_every_text_and_token_escaped() -> None:
    page = Page(diagnostics.comparison_as_html(comparison(), "t"))
    assert page.texts == [
        "<s>Tell",
        " one two↵\nthree",
        f" one{printable(HOSTILE)}",
        "京\\x00",
    ]
    assert len(page.tokens) == len(page.tips) == 10
    assert all(token["tabindex"] == "0" for token in page.tokens)
    assert page.stack == []
    assert "script" not in page.tags
    assert "onmouseover" not in page.names


def test_the_page_runs_and_loads_nothing_even_with_hostile_names() -> None:
    own = comparison(vector=f"</style>{HOSTILE}", steering=f"</style>{HOSTILE}")
    written = diagnostics.comparison_as_html(own, f"</title>{HOSTILE}", "projection")
    page = Page(written)
    assert not {"script", "img", "link", "iframe"} & set(page.tags)
    assert page.tags.count("style") == written.count("</style>") == 2
    assert "onmouseover" not in page.names
    assert "http" not in written.replace("http-equiv", "")
    assert "url(" not in written
    assert "@import" not in written
    assert "default-src 'none'" in written
    assert "\x1b" not in written
    assert "&lt;/title&gt;&lt;script&gt;" in written


def test_a_token_shows_its_values_and_the_likeliest_tokens_of_both_models() -> None:
    page = Page(diagnostics.comparison_as_html(comparison(), "t"))
    values = "KL 0.100 nats; projection -1.00 unsteered, -0.10 steered; change 100.0 %"
    assert page.tokens[3]["title"] == f"The answers part here. {values}"
    assert page.tips[3] == (
        f"The answers part here. {values}|next, unsteered|{show(HOSTILE)}|25.0 %|␣b|12.5 %|"
        "next, steered|␣s1|50.0 %|\\n|20.0 %|"
    )
    without = Page(diagnostics.comparison_as_html(comparison(vector=None), "t"))
    assert "projection" not in str(without.tokens) + str(without.tips) + str(without.radios)


def show(piece: str) -> str:
    return printable(piece).replace(" ", "␣")


def test_colours_are_those_of_each_scale() -> None:
    own = comparison()
    values = {
        name: [v for t in own for v in t.values(name)] for name in ("kl", "projection", "change")
    }
    scales = {
        "kl": Scale.from_zero(values["kl"]),
        "projection": Scale.around_median(values["projection"]),
        "change": Scale.from_zero(values["change"]),
    }
    page = Page(diagnostics.comparison_fragment(own))
    for n, token in enumerate(page.tokens):
        expected = [f"--fs-{name}:{s.colour(values[name][n])}" for name, s in scales.items()]
        assert token["style"] == ";".join(expected)
    assert page.tokens[0]["style"].startswith(f"--fs-kl:{WHITE};")
    assert page.tokens[6]["style"].startswith(f"--fs-kl:{RED};")
    assert "nan" not in str(page.tokens[-1]["style"])


def test_the_parting_token_of_both_answers_is_marked_and_a_part_of_a_character_is_there() -> None:
    page = Page(diagnostics.comparison_fragment(comparison()))
    parting = [n for n, token in enumerate(page.tokens) if "fs-parting" in str(token["class"])]
    assert parting == [3, 6]
    parts = [n for n, token in enumerate(page.tokens) if "fs-part" in str(token["class"]).split()]
    assert parts == [7]
    assert str(page.tokens[7]["title"]).startswith("Part of a character. KL 0.400 nats")


@pytest.mark.parametrize("colour", ["kl", "projection", "change"])
def test_the_switch_starts_with_the_chosen_colour(colour: str) -> None:
    page = Page(diagnostics.comparison_fragment(comparison(), colour))
    assert [own["value"] for own in page.radios] == ["kl", "projection", "change"]
    assert [own["value"] for own in page.radios if "checked" in own] == [colour]
    names = {own["name"] for own in page.radios}
    other = Page(diagnostics.comparison_fragment(comparison(steering="w +1 at layer 1"), colour))
    assert len(names) == 1
    assert len(other.radios) == 3


def test_two_fragments_on_a_page_have_switches_of_their_own() -> None:
    other = comparison()
    other.texts[0].kl[0] = 0.3
    both = [Page(diagnostics.comparison_fragment(one)) for one in (comparison(), other)]
    assert both[0].radios[0]["name"] != both[1].radios[0]["name"]


def test_the_fragment_is_one_element_whose_style_reaches_nothing_else() -> None:
    fragment = diagnostics.comparison_fragment(comparison())
    assert fragment.startswith('<div class="fs-compare">')
    assert fragment.endswith("</div>")
    [style] = re.findall(r"<style>(.*?)</style>", fragment, re.DOTALL)
    selectors = re.sub(r"\{[^}]*\}", "\n", style).replace(",\n", ", ").split("\n")
    found = [part.strip() for line in selectors for part in line.split(",") if part.strip()]
    assert len(found) > 20
    assert [one for one in found if not re.match(r"\.fs-compare(\s|:|$)", one)] == []


def test_text_is_legible_on_every_colour() -> None:
    for scale in (Scale(0.0, 1.0), Scale.from_zero([math.nan])):
        for value in (-1.0, -0.5, 0.0, 0.5, 1.0, math.nan):
            assert contrast(INK, scale.colour(value)) >= 4.5


def printed(found: object) -> str:
    console = Console(width=200, force_terminal=True, color_system="truecolor")
    with console.capture() as shown:
        console.print(found)
    return shown.get()


def test_the_terminal_shows_legend_texts_and_the_parting() -> None:
    shown = printed(diagnostics.comparison_as_text(comparison()))
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    assert "praise +2 at layer 1\n 0.000  0.100  0.200  0.300  0.400 \n" in plain
    assert "KL(unsteered || steered) of the distributions of the next token, in nats." in plain
    assert f"steered answer\n one{printable(HOSTILE)}\n" in plain
    assert "The answers part at token 2: the unsteered one has “␣two”, the steered one has" in plain
    assert "␣s0" in plain.split("likeliest tokens there")[1]
    assert "\x1b[31m" not in shown
    assert re.search(r"\x1b\[1;4;38;2;17;17;17;48;2;[0-9;]*m two", shown)


def test_the_terminal_shows_the_colour_that_is_asked_for() -> None:
    own = comparison()
    for colour, words in (
        ("projection", "Projection of the steered residual stream on the unit direction of praise"),
        ("change", "as a share of the unsteered norm, at resid_post of layer 3."),
    ):
        shown = printed(diagnostics.comparison_as_text(own, colour))
        assert words in shown
    assert "at resid_mid of layer 1, in the units" in printed(
        diagnostics.comparison_as_text(own, "projection")
    )


def test_answers_that_do_not_part_are_reported() -> None:
    own = comparison()
    assert own.answers is not None
    same = Comparison(
        own.steering, own.prompt, (own.answers[0],) * 2, [], own.changed_at, None, None
    )
    assert "Both answers are the same 3 tokens." in printed(diagnostics.comparison_as_text(same))
    shorter = text("steered answer", [" one", " two"], [0.0, 0.1], 2)
    ends = Comparison(
        own.steering, own.prompt, (own.answers[0], shorter), [], own.changed_at, None, None
    )
    words = "at token 3: the unsteered one has “\\nthree”, the steered one ends."
    assert words in printed(diagnostics.comparison_as_text(ends))


def test_a_colour_that_cannot_be_shown_is_refused() -> None:
    for show_it in (
        diagnostics.comparison_fragment,
        diagnostics.comparison_as_text,
        lambda own, colour: diagnostics.comparison_as_html(own, "t", colour),
    ):
        with pytest.raises(ValueError, match="colour 'red' is unknown; expected one of kl, proj"):
            show_it(comparison(), "red")
        with pytest.raises(ValueError, match="'projection' needs a vector, and the steering has"):
            show_it(comparison(vector=None), "projection")
