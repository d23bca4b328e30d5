"""The controls of the vectors: a slider each, and layers, tokens, mode and condition behind it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from faststeer.play.asking import Use
from faststeer.play.condition_controls import (
    NONE,
    ConditionControls,
    choices,
    condition_of,
    values_of,
)
from faststeer.play.doses import REACHES
from faststeer.play.escaped_text import as_text
from faststeer.play.library import SUFFIXES, default_layers, offered_use, scopes, uploaded_vector
from faststeer.play.playground import Playground
from faststeer.play.same_in_code import file_name
from faststeer.steering.scope_text import EXAMPLES, is_name
from faststeer.vectors.layer_text import layers_text
from faststeer.vectors.position_range import NAMED_POSITIONS
from faststeer.vectors.steering_vector import SteeringVector

MOST_VECTORS = 12  # that one client sees at once
PER_VECTOR = 10  # components: coefficient, layers, positions, mode, and six of the condition
FIRST = "the first that steers"
_UNSTATED = "; a vector states no condition, which a saved setting does"


class VectorControls:
    """Controls of up to `MOST_VECTORS` vectors: the shared ones, then the client's own.

    Their number is fixed, so that a request's values come with the request and never from an
    event that is still on its way; those without a vector are hidden.

    Attributes:
        own: state, the list of the client's own vectors.
        values: all components whose values `uses` takes, in its order.
        projected: a choice among the vectors, for the tab that projects on one.
    """

    def __init__(self, playground: Playground) -> None:
        self.playground = playground
        self.values: list[gr.components.Component] = []
        self._groups: list[gr.Group] = []
        self._saves: list[tuple[gr.Button, list[Any]]] = []
        self.projected = gr.Dropdown(
            choices(playground.vectors, FIRST),
            value=NONE,
            label="project on",
            elem_id="projected",
            render=False,
        )

    def render(self) -> None:
        """Make the components, in the column that is open."""
        self.own = gr.State([])
        shared = self.playground.vectors[:MOST_VECTORS]
        for number in range(MOST_VECTORS):
            self._render_one(number, shared[number] if number < len(shared) else None)
        self.upload = gr.UploadButton(
            "Add a vector: .safetensors or .gguf",
            file_types=list(SUFFIXES),
            size="sm",
            elem_id="upload",
        )
        self.message = gr.Markdown(elem_id="vector-message")
        self.saved = gr.File(label="saved", visible=False, interactive=False, elem_id="saved")
        for button, inputs in self._saves:
            button.click(self._save, inputs, [self.saved, self.message], api_visibility="private")
        self.upload.upload(
            self._uploaded,
            [self.upload, self.own],
            [self.own, self.message, *self.slots],
            api_visibility="private",
        )

    @property
    def slots(self) -> list[Any]:
        """All components that `show_new` updates: the groups, their values, and `projected`."""
        return [*self._groups, *self.values, self.projected]

    def vectors(self, own: Sequence[SteeringVector]) -> list[SteeringVector]:
        """Return the vectors in the order of their controls."""
        return [*self.playground.vectors, *own][:MOST_VECTORS]

    def uses(self, own: Sequence[SteeringVector], values: Sequence[Any]) -> list[Use]:
        """Return what the controls say. Raises TypeError or ValueError in words."""
        vectors = self.vectors(own)
        given = [
            values[PER_VECTOR * number : PER_VECTOR * (number + 1)]
            for number in range(len(vectors))
        ]
        found = [
            self._use(vectors, number, each)
            for number, each in enumerate(given)
            if each[0] != 0 or each[3] == "clamp"  # the others do nothing, whatever else they say
        ]
        return [use for use in found if use.acts]

    def show_new(self, own: Sequence[SteeringVector]) -> list[Any]:
        """Return updates of `slots` that show the last of `own`; the others keep their values."""
        vectors = self.vectors(own)
        number = len(vectors) - 1
        groups = [gr.update() for _ in self._groups]
        groups[number] = gr.update(visible=True)
        values = [gr.update() for _ in self.values]
        for chosen in range(4, len(values), PER_VECTOR):
            values[chosen] = gr.update(choices=choices(vectors))
        first = PER_VECTOR * number
        for place, facts in enumerate(self._facts(vectors[-1], at_start=True), first):
            values[place] = gr.update(**facts)
        return [*groups, *values, gr.update(choices=choices(vectors, FIRST))]

    def show_uses(self, own: Sequence[SteeringVector], uses: Mapping[int, Use]) -> list[Any]:
        """Return updates of `values` that show the uses; the other vectors' sliders go to 0.

        Raises:
            ValueError: a use that the controls cannot show.
        """
        vectors = self.vectors(own)
        values = [gr.update() for _ in self.values]
        for number in range(len(vectors)):
            first = PER_VECTOR * number
            if number not in uses:
                values[first] = gr.update(value=0.0)
                values[first + 3] = gr.update(value="add")
                continue
            for place, facts in enumerate(self._facts_of(uses[number], vectors), first):
                values[place] = gr.update(**facts)
        return values

    def add(
        self, vector: SteeringVector, own: Sequence[SteeringVector]
    ) -> tuple[list[SteeringVector], list[Any]]:
        """Return the client's vectors with one more, and updates of `slots`.

        Raises:
            ValueError: there is no room, or the vector cannot steer this model.
        """
        if len(self.playground.vectors) + len(own) >= MOST_VECTORS:
            raise ValueError(
                f"there are {MOST_VECTORS} vectors already; reload the page to begin again"
            )
        self._facts(vector, at_start=True)  # raises where its layers are not the model's
        more = [*own, vector]
        return more, self.show_new(more)

    def _use(self, vectors: Sequence[SteeringVector], number: int, given: Sequence[Any]) -> Use:
        coefficient, layers, positions, mode, *rest = given
        condition = condition_of(vectors, *rest)
        return self.playground.use(vectors[number], coefficient, layers, positions, mode, condition)

    def _facts(self, vector: SteeringVector, at_start: bool) -> list[dict[str, Any]]:
        """Return what the first four components of a vector show to begin with."""
        layers = default_layers(vector)
        mode, positions = offered_use(vector)
        reach = self.playground.reach(vector, layers, mode)
        value = self.playground.start(vector) if at_start and mode == "add" else 0.0
        return [
            {
                "minimum": reach.least,
                "maximum": reach.most,
                "step": reach.step,
                "value": min(max(value, reach.least), reach.most),
                "label": vector.name,
                "info": reach.words,
            },
            {"value": ",".join(map(str, layers)), "info": f"it has {layers_text(vector.layers)}"},
            {"value": positions, "choices": scopes(vector)},
            {"value": mode},
        ]

    def _facts_of(self, use: Use, vectors: Sequence[SteeringVector]) -> list[dict[str, Any]]:
        """Return what all components of a vector show for a use. Raises ValueError."""
        vector, layers, mode = use.vector, use.layers, use.mode
        assert layers is not None  # a setting states them, and the mode
        assert mode is not None
        reach = self.playground.reach(vector, layers, mode)
        if not reach.least <= use.coefficient <= reach.most:
            raise ValueError(
                f"the coefficient of {vector.name!r} is {use.coefficient:g}; its slider reaches "
                f"from {reach.least:g} to {reach.most:g} here"
            )
        positions = use.positions
        if positions is None:
            _, positions = offered_use(vector)
        slider = {
            "minimum": reach.least,
            "maximum": reach.most,
            "step": reach.step,
            "value": use.coefficient,
            "info": reach.words,
        }
        return [
            slider,
            {"value": ",".join(map(str, layers))},
            {"value": positions},
            {"value": mode},
            *values_of(use.when, vectors),
        ]

    def _render_one(self, number: int, vector: SteeringVector | None) -> None:
        facts: list[dict[str, Any]] = [{}, {}, {}, {}]
        if vector is not None:
            facts = self._facts(vector, at_start=number == 0)
        with gr.Group(visible=vector is not None) as group:
            slider = gr.Slider(
                elem_id=f"slider-{number}", **{"minimum": -1, "maximum": 1, **facts[0]}
            )
            with gr.Accordion("where and how", open=False, elem_id=f"how-{number}"):
                layers = gr.Textbox(label="layers", **{"value": "", **facts[1]})
                scope = {"choices": list(NAMED_POSITIONS), "value": "all", **facts[2]}
                positions = gr.Dropdown(
                    label="tokens that it acts on",
                    info=f"a name, or {EXAMPLES}; combined by &, | and ~",
                    allow_custom_value=True,
                    elem_id=f"tokens-{number}",
                    **scope,
                )
                mode = gr.Dropdown(
                    list(REACHES),
                    label="mode",
                    elem_id=f"mode-{number}",
                    **{"value": "add", **facts[3]},
                )
                condition = ConditionControls(number, self.playground.vectors)
                save = gr.Button("Save this vector with its setting", size="sm")
        own = [slider, layers, positions, mode, *condition.values]
        self._groups.append(group)
        self.values += own
        index = gr.State(number)
        self._saves.append((save, [index, self.own, *own]))
        condition.connect(self.vectors, layers, self.own)
        for changed in (layers.submit, layers.blur, mode.change):
            changed(
                self._changed,
                [index, self.own, slider, layers, mode],
                [slider],
                api_visibility="private",
                show_progress="hidden",
            )

    def _changed(
        self, number: int, own: list[SteeringVector], value: float | None, layers: str, mode: str
    ) -> Any:
        vector = self.vectors(own)[number]
        try:
            reach = self.playground.reach(vector, self.playground.layers(layers), mode)
        except ValueError as error:
            return gr.update(info=str(error))
        value = min(max(value or 0.0, reach.least), reach.most)
        return gr.update(
            minimum=reach.least,
            maximum=reach.most,
            step=reach.step,
            value=value,
            info=reach.words,
        )

    def _uploaded(self, path: str | None, own: list[SteeringVector]) -> list[Any]:
        try:
            if path is None:
                raise ValueError("no file came with the upload")
            vector = uploaded_vector(Path(path), self.playground.hidden_size)
            more, slots = self.add(vector, own)
        except (OSError, ValueError) as error:
            return [own, as_text(f"not added: {error}"), *[gr.update() for _ in self.slots]]
        return [more, as_text(f"added {vector.name}"), *slots]

    def _save(self, number: int, own: list[SteeringVector], *given: Any) -> list[Any]:
        vectors = self.vectors(own)
        vector = vectors[number]
        try:
            use = self._use(vectors, number, given)
            if isinstance(use.positions, str) and not is_name(use.positions):
                raise ValueError(
                    f"a vector's file cannot state the tokens {use.positions}; a saved setting can"
                )
            stated = vector.for_use(
                layers=use.layers,
                coefficient=use.coefficient,
                mode=use.mode,
                positions=use.positions,
            )
            path = Path(tempfile.mkdtemp(prefix="faststeer-")) / file_name(vector.name)
            stated.save(path)
        except (OSError, TypeError, ValueError) as error:
            return [gr.update(), as_text(f"not saved: {error}")]
        words = f"{path.name} is ready below" + _UNSTATED * (use.when is not None)
        return [gr.update(value=str(path), visible=True), as_text(words)]
