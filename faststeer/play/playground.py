"""What the page works on: a model that answers many clients, its vectors, and their doses."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from faststeer.data.shipped import prose_texts
from faststeer.diagnostics.dose import residual_norms
from faststeer.models.inference import device_of
from faststeer.models.loading import DEMO_NAME, Loaded
from faststeer.patching.patched import Patched
from faststeer.play.asking import Request, Use
from faststeer.play.batcher import Batcher
from faststeer.play.doses import BREAKING, Reach, reach
from faststeer.play.library import default_layers
from faststeer.play.making import Maker
from faststeer.steering.conditions import Condition, TokenCondition
from faststeer.steering.markers import After
from faststeer.steering.scope_text import scope_of_text
from faststeer.steering.scopes import Scope
from faststeer.utils.warnings import FaststeerWarning
from faststeer.vectors.layer_text import parse_layers
from faststeer.vectors.steering_vector import SteeringVector

_NEUTRAL, _TOKENS = 4, 64  # texts, and tokens of each, from which the stream's norms are taken


class Playground:
    """A loaded model, the vectors that all clients see, and the thread that answers.

    Args:
        loaded: a model with a tokenizer; it stays patched until `close`.
        vectors: they fit the model.

    Raises:
        ValueError: the model has no tokenizer, or as `Batcher`.
    """

    def __init__(self, loaded: Loaded, vectors: Sequence[SteeringVector] = ()) -> None:
        if loaded.tokenizer is None:
            raise ValueError(f"{loaded.name} has random weights and no tokenizer")
        self.loaded = loaded
        self.vectors = list(vectors)
        self.maker = Maker(loaded.model, loaded.tokenizer)  # before the model is patched
        self.batcher = Batcher(loaded.model, loaded.tokenizer)
        self._norms: dict[str, dict[int, float]] = {}
        for site in {vector.site for vector in self.vectors}:
            self.norms(site)

    @property
    def hidden_size(self) -> int:
        """The size of the residual stream."""
        return self.batcher.patched.hidden_size

    @property
    def is_demo(self) -> bool:
        """Whether it is the model that commands call "demo"."""
        return self.loaded.name == DEMO_NAME

    @property
    def chats(self) -> bool:
        """Whether the tokenizer has a chat template."""
        return bool(getattr(self.loaded.tokenizer, "chat_template", None))

    def norms(self, site: str) -> Mapping[int, float]:
        """Return the stream's median norm per layer at a site, on neutral prose; measured once."""
        if site not in self._norms:
            model, tokenizer = self.loaded.model, self.loaded.tokenizer

            def measure(patched: object) -> dict[int, float]:
                with warnings.catch_warnings():  # the texts are cut on purpose
                    warnings.simplefilter("ignore", FaststeerWarning)
                    found = residual_norms(
                        model, tokenizer, prose_texts()[:_NEUTRAL], site=site, max_length=_TOKENS
                    )
                return {layer: float(norms.median()) for layer, norms in found.items()}

            self._norms[site] = self.batcher.run(measure)
        return self._norms[site]

    def reach(self, vector: SteeringVector, layers: Sequence[int], mode: str) -> Reach:
        """Return how far the vector's slider reaches. Raises ValueError for a layer it lacks."""
        vector.select(layers)
        norms = self.norms(vector.site)
        if beyond := [layer for layer in layers if layer not in norms]:
            raise ValueError(f"layer {beyond[0]} is out of range: the model has 0 to {max(norms)}")
        return reach(vector, layers, mode, norms)

    def start(self, vector: SteeringVector) -> float:
        """Return a coefficient to begin with: the stated one, or three quarters of what breaks."""
        stated: Any = vector.metadata.get("coefficient")
        if isinstance(stated, (int, float)) and not isinstance(stated, bool):
            return float(stated)
        norms, own = self.norms(vector.site), vector.norms()
        dose = sum(own[layer] / norms[layer] for layer in default_layers(vector))
        return round(0.75 * BREAKING / dose, 2) if dose else 0.0

    def use(
        self,
        vector: SteeringVector,
        coefficient: float | None,
        layers: str,
        positions: str,
        mode: str,
        condition: Condition | None = None,
    ) -> Use:
        """Return what the controls of one vector say. Raises TypeError or ValueError in words."""
        numbers = tuple(self.layers(layers))
        vector.select(numbers)
        if coefficient is None:
            raise ValueError(f"the coefficient of {vector.name!r} is empty; give a number")
        # A range has no name to be given by: it is what the vector states.
        scope = None if positions == vector.metadata.get("positions") else positions
        if scope is not None:
            scope_of_text(scope, self.loaded.tokenizer)
        return Use(vector, coefficient, numbers, scope, mode, condition)

    def layers(self, text: str) -> list[int]:
        """Return the layers of text such as "10-12". Raises ValueError for others."""
        count = self.batcher.patched.num_layers
        for number in map(int, re.findall("[0-9]{1,9}", text)):
            if number >= count:  # before a range of as many numbers is made
                raise ValueError(f"layer {number} is out of range: the model has 0 to {count - 1}")
        return parse_layers(text)

    def cosines(self, request: Request, condition: Condition) -> list[float]:
        """Return what a condition compares: cosines of the unsteered prompt with its vector.

        One of the whole prompt, or one per token where tokens meet the condition. Vectors that
        steer below the condition's layer move it; `Stream.notes` has what was decided.
        """
        model: Any = self.loaded.model
        site = condition.site
        _, ids = request.prompts(self.loaded.tokenizer, None)

        def measure(patched: Patched) -> list[float]:
            found: list[Tensor] = []

            def keep(hidden: Tensor) -> None:
                found.append(hidden[0].float().cpu().clone())

            with torch.inference_mode(), patched.plan.reading(site, keep):
                model.get_decoder()(torch.tensor([ids], device=device_of(model)))
            [states] = found
            if not isinstance(condition, TokenCondition):
                states = states.mean(0, keepdim=True)
            similar = torch.cosine_similarity(states, condition.direction.cpu()[None], dim=1)
            return [float(own) for own in similar]

        return self.batcher.run(measure)

    def absent_markers(self, request: Request, answer: Sequence[int]) -> list[str]:
        """Return in words which vectors' markers neither the steered prompt nor `answer` holds."""
        found = []
        for use in request.uses:
            scope = use.scope(self.loaded.tokenizer)
            if not use.acts or not isinstance(scope, Scope):
                continue
            ids = torch.tensor([[*request.prompts(self.loaded.tokenizer, None)[1], *answer]])
            found += [
                f"{use.vector.name} steers nothing {marker}: it is not in the text"
                for marker in scope.needed()
                if isinstance(marker, After) and not bool(marker.automaton.completions(ids).any())
            ]
        return found

    def close(self) -> None:
        """Stop answering and unpatch the model."""
        self.batcher.close()
