"""Exact gradients of effect and divergence with respect to coefficients, at many places at once.

One backward pass gives the slope of an objective in the coefficients of every layer. The curvature
of KL(unsteered || steered) is the Fisher information: the mean square of the slope of log p(y) for
tokens y that are drawn from the model's own predictions, and one backward pass gives it for every
layer too. Layers below the first place run once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from faststeer.data.batches import Batch
from faststeer.diagnostics.tuning.objectives import TextObjective
from faststeer.evaluate.layer_reuse import LayerReuse, SiteInputs
from faststeer.evaluate.next_token import ScoredTexts
from faststeer.evaluate.tasks import Subject
from faststeer.models.text_calls import TextCalls
from faststeer.patching.patched import Patched
from faststeer.vectors.sites import Site
from faststeer.vectors.steering_vector import SteeringVector


class Place(NamedTuple):
    """A layer of the vector of this number."""

    vector: int
    layer: int


class Slopes:
    """Coefficients at places, as parameters, and gradients with respect to them.

    `coefficients` are scalars, one per place; nothing else of the model gets gradients.
    """

    def __init__(
        self,
        subject: Subject,
        vectors: Sequence[SteeringVector],
        places: Sequence[Place],
        coefficients: Sequence[Tensor],
    ) -> None:
        """Prepare forward passes; made by `slopes_at`."""
        self.coefficients = list(coefficients)
        self.calls = TextCalls(subject.patched.decoder)
        self.pad = subject.tokenizer.pad_token_id
        self.batch_size = subject.batch_size
        self._reuse = LayerReuse(subject.patched.decoder)
        sites = [Site.of(place.layer, vectors[place.vector].site) for place in places]
        self._first = min(sites, key=lambda site: site.depth)
        self._inputs: dict[tuple[int, ...], SiteInputs] = {}

    def set(self, coefficients: Sequence[float]) -> None:
        """Set the coefficients at which gradients are taken."""
        for parameter, value in zip(self.coefficients, coefficients, strict=True):
            parameter.data.fill_(value)

    def effect(self, objective: TextObjective) -> Tensor:
        """Return the gradient ``[K]`` float64 of an objective's mean score, in nats."""
        texts = max(map(len, objective.texts_of))
        step = max(1, self.batch_size // texts)
        slopes = torch.zeros(len(self.coefficients), dtype=torch.float64)
        for start in range(0, objective.count, step):
            items = range(start, min(start + step, objective.count))
            texts_of = [text for n in items for text in objective.texts_of[n]]
            with torch.enable_grad():
                score = objective.scores(self._logs(objective, texts_of))[..., list(items)].sum()
            slopes += self._gradient(score)
        return slopes / objective.count

    def curvature(self, texts: ScoredTexts, draws: int, generator: torch.Generator) -> Tensor:
        """Return the Fisher information ``[K, K]`` float64 per token of neutral texts.

        Small coefficients c have a divergence of half of ``c @ curvature @ c`` nats per token.

        Args:
            texts: the texts; each is run alone.
            draws: backward passes per text.
            generator: draws the tokens.
        """
        total = torch.zeros(len(self.coefficients), len(self.coefficients), dtype=torch.float64)
        tokens = 0
        for row in texts.rows:
            batch = self.calls.batch([row], self.pad)
            with torch.enable_grad():
                hidden = self._hidden(batch)[0, : len(row) - 1]
                logprobs = texts.head.logits(hidden).float().log_softmax(-1)
            tokens += len(logprobs)
            for left in reversed(range(draws)):
                drawn = torch.multinomial(logprobs.detach().exp().cpu(), 1, generator=generator).to(
                    logprobs.device
                )
                with torch.enable_grad():
                    score = logprobs.gather(1, drawn).sum()
                slope = self._gradient(score, keep=left > 0)
                total += torch.outer(slope, slope)
        return total / (tokens * draws)

    def _logs(self, objective: TextObjective, texts: Sequence[int]) -> Tensor:
        """Return the log-probabilities of all continuations, as far as these texts have them."""
        read = objective.texts
        rows = [read.rows[text] for text in texts]
        logs: Tensor | None = None
        for group in self.calls.groups(rows, self.pad):
            batch = self.calls.batch([rows[at] for at in group], self.pad)
            reads = read.reads_of(batch, [texts[at] for at in group])
            hidden = self._hidden(batch)
            chosen = hidden[reads.chosen.to(hidden.device)]
            [sums] = reads.sums(read.head, chosen[None], read.continuations)
            logs = sums if logs is None else logs + sums
        assert logs is not None
        return logs

    def _hidden(self, batch: Batch) -> Tensor:
        """Return final hidden states ``[B, T, H]`` with gradients in the coefficients."""
        if not self._reuse.supports(self._first):
            with torch.enable_grad():
                return self.calls.output(batch)
        key = (*batch.ids.shape, *batch.ids.flatten().tolist(), *batch.mask.flatten().tolist())
        if key not in self._inputs:
            with torch.no_grad(), self._reuse.record_inputs([self._first]) as recorded:
                self.calls.output(batch)
            self._inputs[key] = recorded[self._first]
        with torch.enable_grad(), self._reuse.start_at(self._first, self._inputs[key]):
            return self.calls.output(batch)

    def _gradient(self, score: Tensor, keep: bool = False) -> Tensor:
        found = torch.autograd.grad(score, self.coefficients, retain_graph=keep)
        return torch.stack([slope.double().cpu() for slope in found])


@contextmanager
def slopes_at(
    subject: Subject, vectors: Sequence[SteeringVector], places: Sequence[Place]
) -> Iterator[Slopes]:
    """Steer at places with coefficients of 0, whose gradients can be taken inside the context.

    Args:
        subject: the patched model.
        vectors: whose directions are added, to all tokens.
        places: layers of the vectors.

    Raises:
        ValueError: as `Patched.learn`.
    """
    patched = subject.patched
    learned = []
    try:
        for number, place in enumerate(places):
            vector = vectors[place.vector].at(place.layer)
            own = patched.learn(vector, 0.0, layers=place.layer, name=f"faststeer.tune {number}")
            learned.append(own)
            own.directions.requires_grad_(False)
        coefficients: list[Tensor] = [own.coefficient for own in learned]
        with patched.rows([{}]):
            yield Slopes(subject, vectors, places, coefficients)
    finally:
        for own in learned:
            own.remove()


def differentiable(patched: Patched, vectors: Sequence[SteeringVector], model: nn.Module) -> bool:
    """Return whether gradients can be taken: of vectors that are added to all tokens."""
    every = all(
        own.metadata.get("mode") in (None, "add") and own.metadata.get("positions") in (None, "all")
        for own in vectors
    )
    return every and all(one.is_floating_point() for one in model.parameters())
