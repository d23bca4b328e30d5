"""The tab "make a vector": from two lists of sentences, or from a pair of words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gradio as gr

from faststeer.play.escaped_text import as_text
from faststeer.play.making import TEMPLATE, pairs_of_lists, pairs_of_words
from faststeer.vectors.steering_vector import SteeringVector

if TYPE_CHECKING:
    from faststeer.play.page import Shown

LISTS, WORDS = "two lists of sentences", "a pair of words"


def making_tab(shown: Shown) -> None:
    """Fill the tab that is open; a vector that is made gets controls in the first tab."""
    controls = shown.controls
    gr.Markdown(
        "Layer and strength are found by `tune`, within a small cost on neutral text. That takes "
        "one to three minutes on two cores; requests are answered in the meantime, more slowly."
    )
    name = gr.Textbox(label="name", value="mine", max_lines=1)
    kind = gr.Radio([LISTS, WORDS], value=LISTS, label="from")
    with gr.Row() as lists:
        positive = gr.Textbox(
            label="steer towards",
            info="one sentence per line, 8 or more; begin both sentences of a line alike",
            lines=10,
        )
        negative = gr.Textbox(
            label="steer away from",
            info="the opposite of the line beside it, of about the same length",
            lines=10,
        )
    with gr.Row(visible=False) as words:
        toward = gr.Textbox(label="steer towards", placeholder="happy", max_lines=1)
        away = gr.Textbox(label="steer away from", placeholder="sad", max_lines=1)
        template = gr.Textbox(label="template", value=TEMPLATE, max_lines=1)
    kind.change(
        lambda chosen: (gr.update(visible=chosen == LISTS), gr.update(visible=chosen == WORDS)),
        [kind],
        [lists, words],
        api_visibility="private",
    )
    button = gr.Button("Make and tune the vector", variant="primary")
    message = gr.Markdown(elem_id="making-message")
    report = gr.Textbox(label="what was found", lines=6, visible=False, interactive=False)

    def make(own: list[SteeringVector], chosen: str, name: str, *texts: str) -> list[Any]:
        unchanged = [gr.update() for _ in controls.slots]
        try:
            given = pairs_of_lists(*texts[:2]) if chosen == LISTS else pairs_of_words(*texts[2:])
            vector, words = shown.playground.maker.make(name, given, whole=chosen == LISTS)
            more, slots = controls.add(vector, own)
        except (TypeError, ValueError) as error:
            return [own, as_text(f"not made: {error}"), gr.update(), *unchanged]
        done = as_text(f"{vector.name} is made: its slider is in the first tab")
        return [more, done, gr.update(value=words, visible=True), *slots]

    button.click(
        make,
        [controls.own, kind, name, positive, negative, toward, away, template],
        [controls.own, message, report, *controls.slots],
        api_visibility="private",
        concurrency_limit=4,
    )
