"""The controls of a condition: prompts or tokens are steered that resemble another vector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from faststeer.steering.conditions import Condition, TokenCondition, when
from faststeer.vectors.layer_text import layers_text
from faststeer.vectors.steering_vector import SteeringVector

NONE = -1  # in the place of a vector's number
ABOVE, BELOW = "above", "below"
PROMPT, TOKEN = "prompt", "token"


class ConditionControls:
    """Which vector decides, at which layer, above or below, which cosine, and for what.

    Attributes:
        values: the components, whose values `condition_of` takes in their order.
    """

    def __init__(self, number: int, vectors: Sequence[SteeringVector]) -> None:
        """Make the components of the vector of that number, in the column that is open."""
        self.chosen = gr.Dropdown(
            choices(vectors),
            value=NONE,
            label="steer only what resembles",
            elem_id=f"condition-{number}",
        )
        with gr.Column(visible=False) as self.fields:
            with gr.Row():
                each = gr.Dropdown(
                    [PROMPT, TOKEN],
                    value=PROMPT,
                    label="each",
                    min_width=120,
                    elem_id=f"condition-each-{number}",
                )
                hysteresis = gr.Number(
                    0,
                    label="tokens more",
                    precision=0,
                    minimum=0,
                    min_width=90,
                    elem_id=f"condition-hysteresis-{number}",
                )
            layer = gr.Number(
                label="read at layer", precision=0, elem_id=f"condition-layer-{number}"
            )
            with gr.Row():
                sign = gr.Dropdown(
                    [ABOVE, BELOW], value=ABOVE, label="its cosine is", min_width=120
                )
                threshold = gr.Number(
                    0.0,
                    label="this",
                    step=0.01,
                    min_width=90,
                    elem_id=f"condition-threshold-{number}",
                )
        self.values: list[Any] = [self.chosen, layer, sign, threshold, each, hysteresis]

    def connect(self, vectors: Any, layers: gr.Textbox, own: gr.State) -> None:
        """Show the rest once a vector is chosen, with a layer to begin with.

        Args:
            vectors: the client's own vectors to those in the order of their controls.
            layers: of the vector that steers.
            own: state, the client's own vectors.
        """

        def change(number: int, steered: str, own: list[SteeringVector], now: float | None) -> Any:
            if number == NONE:
                return [gr.update(visible=False), gr.update(info="")]
            vector = vectors(own)[number]
            info = f"before those that are steered; it has {layers_text(vector.layers)}"
            if now is not None and int(now) in vector.layers:
                return [gr.update(visible=True), gr.update(info=info)]
            first = steered.replace("-", ",").partition(",")[0].strip()
            before = [n for n in vector.layers if first.isdecimal() and n < int(first)]
            value = before[-1] if before else None
            return [gr.update(visible=True), gr.update(value=value, info=info)]

        self.chosen.change(
            change,
            [self.chosen, layers, own, self.values[1]],
            [self.fields, self.values[1]],
            api_visibility="private",
            show_progress="hidden",
        )


def choices(
    vectors: Sequence[SteeringVector], none: str = "(no condition)"
) -> list[tuple[str, int]]:
    """Return the choices of one vector of the page, or none of them."""
    return [(none, NONE), *((own.name, number) for number, own in enumerate(vectors))]


def condition_of(
    vectors: Sequence[SteeringVector],
    chosen: int | None,
    layer: float | None,
    sign: str,
    threshold: float | None,
    each: str,
    hysteresis: float | None,
) -> Condition | None:
    """Return the condition that the controls say, or None. Raises ValueError in words."""
    if chosen is None or chosen == NONE:
        return None
    vector = vectors[chosen]
    if threshold is None:
        raise ValueError(f"the cosine with {vector.name!r} is empty; give a number from -1 to 1")
    if layer is None:
        raise ValueError(
            f"the layer at which {vector.name!r} is read is empty; give one before those that are "
            f"steered (it has {layers_text(vector.layers)})"
        )
    longer = int(hysteresis or 0) if each == TOKEN else 0  # of prompts it means nothing
    above, below = (float(threshold) if sign == own else None for own in (ABOVE, BELOW))
    return when(vector, layer=int(layer), above=above, below=below, each=each, hysteresis=longer)


def values_of(
    condition: Condition | None, vectors: Sequence[SteeringVector]
) -> list[dict[str, Any]]:
    """Return the components' values that `condition_of` reads as the condition."""
    if condition is None:
        return [{"value": own} for own in (NONE, None, ABOVE, 0.0, PROMPT, 0)]
    number = next(n for n, vector in enumerate(vectors) if vector is condition.vector)
    sign = ABOVE if condition.above else BELOW
    each, longer = PROMPT, 0
    if isinstance(condition, TokenCondition):
        each, longer = TOKEN, condition.hysteresis
    values = [number, condition.site.layer, sign, condition.threshold, each, longer]
    return [{"value": value} for value in values]
