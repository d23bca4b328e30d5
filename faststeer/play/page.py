"""The page: `build` makes the Gradio app, which `faststeer play` or a hosted Space serves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import gradio as gr

from faststeer.play.acted_tab import acted_tab
from faststeer.play.answering import MOST_TOKENS, Answering
from faststeer.play.asking import Request, Use
from faststeer.play.library import default_layers
from faststeer.play.making_tab import making_tab
from faststeer.play.playground import Playground
from faststeer.play.setting_controls import SettingControls
from faststeer.play.vector_controls import VectorControls

ANSWERED_AT_ONCE = 32  # clients; more wait in Gradio's queue

CSS = """
.gradio-container {max-width: 1500px !important}
footer {opacity: .6}
"""


@dataclass(frozen=True)
class Shown:
    """What tabs besides the first may read and change: the vectors, and the latest answers.

    Attributes:
        playground: the model, its batcher and the shared vectors.
        controls: a slider per vector; `add` shows one more.
        conversation: state that holds an `answering.Conversation`, both histories.
    """

    playground: Playground
    controls: VectorControls
    conversation: gr.State


# Every tab: its title, and a function that puts its components into it.
TABS: list[tuple[str, Callable[[Shown], None]]] = [
    ("where steering acted", acted_tab),
    ("make a vector", making_tab),
]


def build(playground: Playground) -> gr.Blocks:
    """Return the app of a playground, not launched yet.

    Texts are shown as they are, never as Markdown or HTML.
    """
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    with gr.Blocks(
        title="faststeer play",
        analytics_enabled=False,
        delete_cache=(3600, 24 * 3600),
    ) as app:
        gr.Markdown(f"### faststeer play: {playground.loaded.name}")
        with gr.Tabs():
            with gr.Tab("steer"), gr.Row():
                controls = VectorControls(playground)
                setting = SettingControls(playground, controls)
                with gr.Column(scale=1, min_width=320):
                    controls.render()
                    setting.render()
                with gr.Column(scale=2, min_width=320):
                    answering = Answering(playground, controls)
                    conversation = answering.render()
                setting.connect(answering.settings)
            shown = Shown(playground, controls, conversation)
            for title, fill in TABS:
                with gr.Tab(title):
                    fill(shown)
        gr.api(_steer(playground), api_name="steer", concurrency_limit=ANSWERED_AT_ONCE)
    app.queue(max_size=256)
    app.theme = gr.themes.Default(**fonts)  # local fonts: the page loads nothing from elsewhere
    app.css = CSS
    return app


def _steer(playground: Playground) -> Callable[..., Iterator[list[str]]]:
    def steer(
        prompt: str, setting: dict[str, float], max_new_tokens: int = 64
    ) -> Iterator[list[str]]:
        """Stream [unsteered, steered] continuations; setting: coefficients by vector name."""
        known = {vector.name: vector for vector in playground.vectors}
        try:
            if unknown := [name for name in setting if name not in known]:
                raise ValueError(
                    f"no vector is named {unknown[0]!r}; there are: {', '.join(known)}"
                )
            if max_new_tokens > MOST_TOKENS:  # all clients of a batch wait for its longest answer
                raise ValueError(
                    f"max_new_tokens is {max_new_tokens}; expected {MOST_TOKENS} at most"
                )
            uses = [
                Use(known[name], coefficient, tuple(default_layers(known[name])))
                for name, coefficient in setting.items()
            ]
            for answers in playground.batcher.submit(Request(prompt, uses, max_new_tokens)):
                yield [answer.text for answer in answers]
        except (TypeError, ValueError) as error:
            raise gr.Error(str(error), print_exception=False) from error

    return steer
