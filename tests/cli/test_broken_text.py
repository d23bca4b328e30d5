"""`faststeer generate` names output that is no text, unsteered or steered."""

from __future__ import annotations

import pytest
from rich.console import Console

from faststeer.cli import generate
from faststeer.cli.broken_text import fault_of
from faststeer.models.loading import Loaded

BROKEN = {
    "": "nothing: it ends at once",
    "\n\n\n\n": "only newlines",
    "\xa0" * 24 + " \n": "blank: only white space",
    # All of these are from SmolLM2 under too strong a dose.
    " enjoyed enjoyed enjoyed enjoyed enjoyed enjoyed": "repeats ' enjoyed' 6 times",
    "_ooseveltooseveltooseveltooseveltoosevelt": "repeats 'oosevelt' 5 times",
    " up!" + "\n" * 22: "repeats '\\n' 22 times",
    ", the, , , , , , , , , , , , , , , , ,": "repeats ', ' 16 times",
    " a world. The world was a world. The world was the world. A world was the world, the world "
    "was": "repeats itself: 4 different words of 20",
}
# Also from SmolLM2, unsteered or at a usual dose.
TEXTS = [
    " a place where people could come to relax and enjoy themselves. It was a place where they "
    "could be themselves and have fun",
    ' "The Hunger Games" by Suzanne Collins.',
    " Paris.\n\nThe answer is: 2018-01-22 12:1",
    "1. Bread\n2. Butter\n3. Jam\n4. Tea\n\n* * *\n\nThat is all we need.",
    "Wait.......... what did you say about the hotel, and who told you that it was closed?",
    " yes",
]


@pytest.mark.parametrize("text", BROKEN)
def test_blank_and_repeated_output_is_named(text: str) -> None:
    assert fault_of(text) == BROKEN[text]


@pytest.mark.parametrize("text", TEXTS)
def test_text_is_not_named(text: str) -> None:
    assert fault_of(text) is None


def test_a_long_repetition_is_found_in_a_long_text_at_once() -> None:
    assert fault_of("".join(f"word {n} " for n in range(4000))) is None
    assert fault_of("start" + "ab" * 20_000) == "repeats 'ab' 20000 times"


def test_the_line_stands_beneath_the_text_in_the_column_that_it_is_about(
    tiny_model, byte_tokenizer, monkeypatch
) -> None:
    given = iter([["\n\n\n", " enjoyed" * 9], [" a fine place", " the best one"]])
    monkeypatch.setattr(generate, "continuations", lambda *_, **__: next(given))
    console, loaded = Console(width=120), Loaded("tiny", tiny_model, byte_tokenizer)
    with console.capture() as shown:
        generate.show_side_by_side(loaded, [], ["The hotel was", "It is"], 8, None, console)
    rows = [line.split("│")[1:-1] for line in shown.get().splitlines() if "│" in line]
    found = [[cell.strip() for cell in row] for row in rows]
    assert ["The hotel was", "a fine place", "(only newlines)"] in found
    assert ["", "", "(repeats ' enjoyed' 9 times)"] in found
