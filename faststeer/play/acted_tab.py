"""The tab "where steering acted": the tokens of the latest answers, coloured by what it changed."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import gradio as gr

from faststeer.data.chat import chat_text
from faststeer.data.encoding import token_ids
from faststeer.diagnostics.compared_texts import compare
from faststeer.diagnostics.comparison import Comparison
from faststeer.diagnostics.comparison_html import comparison_fragment
from faststeer.patching.patched import Patched
from faststeer.play.answering import MOST_TOKENS, Conversation
from faststeer.play.asking import Use
from faststeer.play.condition_controls import NONE
from faststeer.play.escaped_text import as_text
from faststeer.play.library import default_layers
from faststeer.play.playground import Playground
from faststeer.utils.warnings import FaststeerWarning
from faststeer.vectors.steering_vector import SteeringVector

if TYPE_CHECKING:
    from faststeer.play.page import Shown

Vectors = list[SteeringVector]


def acted_tab(shown: Shown) -> None:
    """Fill the tab that is open; it reads the latest answers of the first tab."""
    gr.Markdown(
        "The latest two answers, and a text of your own if you paste one: every token coloured by "
        "how far steering moves what comes next, by the projection on the vector, or by how much "
        "of the residual stream changes. Point at a token for its numbers."
    )
    text = gr.Textbox(
        label="a text of your own",
        info=f"up to {MOST_TOKENS} tokens; steered as in the latest answer",
        lines=2,
        max_lines=8,
        elem_id="acted-text",
    )
    with gr.Row():
        shown.controls.projected.render()
        layer = gr.Textbox(
            label="layer",
            info="where the stream is read; empty: the last, and for projections the vector's own",
            max_lines=1,
            elem_id="acted-layer",
        )
    button = gr.Button("Show where steering acted", variant="primary", elem_id="acted")
    message = gr.Markdown(elem_id="acted-message")
    result = gr.HTML(elem_id="acted-result")
    controls = shown.controls

    def show(
        conversation: Conversation, own: str, at: str, chosen: int, mine: Vectors
    ) -> tuple[str, str]:
        try:
            vector = None if chosen == NONE else controls.vectors(mine)[chosen]
            found = acted(shown.playground, conversation, own, _layer(at), vector)
        except (TypeError, ValueError) as error:
            return as_text(f"not shown: {error}"), ""
        return "", comparison_fragment(found)

    button.click(
        show,
        [shown.conversation, text, layer, controls.projected, controls.own],
        [message, result],
        api_visibility="private",
        concurrency_limit=4,
    )


def _layer(text: str) -> int | None:
    """Return the layer that is asked for; None where the field is empty."""
    if not text.strip():
        return None
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"layer is {text!r}; expected a number, or nothing") from None


def _direction(vector: SteeringVector, acting: Sequence[Use], layer: int | None) -> SteeringVector:
    """Return the vector with the one direction to project on, where no `layer` chooses it."""
    if layer in vector.layers:
        return vector
    steered = [max(use.layers) for use in acting if use.vector is vector and use.layers]
    return vector.select(steered[-1:] or default_layers(vector)[-1:])


def acted(
    playground: Playground,
    conversation: Conversation,
    text: str = "",
    layer: int | None = None,
    vector: SteeringVector | None = None,
) -> Comparison:
    """Compare the latest answers, and a text, token by token.

    In a chat whose two histories differ, both answers are generated again, from the steered one.

    Args:
        playground: the model, and the thread that runs it.
        conversation: with the latest request and the tokens of its answers.
        text: one more text; none if it is blank.
        layer: as for `faststeer.diagnostics.compare`.
        vector: what is projected on, one that steers or any other; None: the first that steers.

    Raises:
        ValueError: no answers yet, none of whose vectors steers, a text of too many tokens, and as
            `faststeer.diagnostics.compare`.
    """
    request = conversation.request
    if request is None:
        raise ValueError("send a prompt in the first tab; its answers are shown here")
    model, tokenizer = playground.loaded.model, playground.loaded.tokenizer
    acting = [use for use in request.uses if use.acts]
    if not acting:
        raise ValueError("nothing was steered: move a slider in the first tab, and send")
    texts = [text] if text.strip() else []
    if texts and (count := len(token_ids(tokenizer, text)[0])) > MOST_TOKENS:
        raise ValueError(f"the text has {count} tokens; {MOST_TOKENS} are compared at most")
    is_chat = not isinstance(request.prompt, str)
    prompt = (
        request.prompt if isinstance(request.prompt, str) else chat_text(request.prompt, tokenizer)
    )
    direction = _direction(vector or acting[0].vector, acting, layer)
    parted = request.unsteered_prompt not in (None, request.prompt)

    def job(patched: Patched) -> Comparison:
        with warnings.catch_warnings():  # already shown beside the answers
            warnings.simplefilter("ignore", FaststeerWarning)
            names = [use.vector.name for use in acting]
            for number, use in enumerate(acting):
                own = use.vector.name
                patched.steer(
                    use.vector,
                    use.coefficient,
                    layers=use.layers,
                    name=own if names.count(own) == 1 else f"{own} ({number})",
                    mode=use.mode,
                    positions=use.scope(tokenizer),
                    when=use.when,
                )
            return compare(
                model,
                tokenizer,
                prompt,
                texts=texts,
                max_new_tokens=request.max_new_tokens,
                answers=None if parted else conversation.answers,
                vector=direction,
                layer=layer,
                add_special_tokens=not is_chat,
            )

    return playground.batcher.run(job)
