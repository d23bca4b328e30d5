"""The effect of ways to steer at equal alignment tax, with intervals over prompts and texts.

The tax is the share of the unsteered model's correct next tokens on general text that is lost (van
der Weij et al. 2024). Between the measured strengths of a way, effect over tax is a straight line;
the tax of a strength counts as at least that of the weaker ones. A way is as strong as a tax
permits, and at most as strong as it was measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from faststeer.evaluate.next_token import TokenScores
from faststeer.evaluate.records import Record, Setting, key_of
from faststeer.evaluate.trait_tasks import scores_of
from faststeer.experiments.estimates import TEXT, Estimate
from faststeer.experiments.measure import Measured
from faststeer.experiments.traits.ways import Way

DRAWS = 1000


class Draws:
    """Bootstrap draws of the prompts of each trait and of the texts; row 0 is the data itself.

    All statistics over the same draws are paired: a difference of two has the interval of the
    difference.
    """

    def __init__(self, prompts: Mapping[str, int], texts: int, draws: int = DRAWS) -> None:
        """Draw from so many prompts per trait and so many texts."""
        generator = torch.Generator().manual_seed(0)

        def drawn(items: int) -> Tensor:
            again = torch.randint(items, (draws, items), generator=generator)
            return torch.cat([torch.arange(items)[None], again])

        self.prompts = {name: drawn(items) for name, items in prompts.items()}
        self.texts = drawn(texts)

    def mean(self, trait: str, values: Tensor) -> Tensor:
        """Return the means ``[..., D]`` of values ``[..., N]`` of a trait's prompts."""
        return values[..., self.prompts[trait]].mean(-1)

    def share(self, parts: Tensor, wholes: Tensor) -> Tensor:
        """Return the ratios ``[..., D]`` of sums of ``[..., M]`` and of ``[M]`` over the texts.

        Of nothing, the share is 0.
        """
        whole = wholes[self.texts].sum(-1)
        return parts[..., self.texts].sum(-1) / whole.where(whole != 0, torch.inf)


def estimate_of(drawn: Tensor) -> Estimate:
    """Return the estimate whose value and draws ``[D]`` are given: the value is the first."""
    tails = drawn[1:].quantile(torch.tensor([0.025, 0.975], dtype=drawn.dtype))
    return Estimate(float(drawn[0]), *tails.tolist())


def probabilities(record: Record, trait: str) -> Tensor:
    """Return the matching probabilities ``[N]`` of a trait's prompts; undefined ones are 1/2."""
    return scores_of(record, trait).by_prompt.nan_to_num(0.5)


@dataclass(frozen=True)
class Comparison:
    """The records of all ways' settings on the traits' prompts and on general text.

    `prompts`: by trait, since ways of a few traits are measured on theirs alone.
    """

    prompts: Mapping[str, Measured]
    text: Measured
    draws: Draws

    def gain(self, trait: str, added: Setting, subtracted: Setting) -> Tensor:
        """Return adding minus subtracting in the matching probability, by prompt ``[N]``."""
        found = self.prompts[trait]
        high, low = (probabilities(found[key_of(own)], trait) for own in (added, subtracted))
        return high - low

    def taxes(self, way: Way) -> Tensor:
        """Return the tax of each strength ``[S, D]``, the mean of its two settings' taxes."""
        before = self._correct({})
        lost = [
            sum(self._correct(own) for own in both) / len(both) - before for both in way.settings
        ]
        return -self.draws.share(torch.stack(lost), before)

    def effects(self, way: Way) -> dict[str, Tensor]:
        """Return each trait's gain at each strength ``[S, D]``."""
        return {
            trait: torch.stack(
                [self.draws.mean(trait, self.gain(trait, *both)) for both in way.settings]
            )
            for trait in way.traits
        }

    def effects_at(self, way: Way, tax: float) -> dict[str, Tensor]:
        """Return each trait's gain ``[D]`` where the way costs `tax`, or at its full strength."""
        costs = self.taxes(way)
        return {trait: at_cost(costs, own, tax) for trait, own in self.effects(way).items()}

    def mean_at(self, way: Way, tax: float) -> Tensor:
        """Return the mean gain over the way's traits ``[D]`` where it costs `tax`."""
        found = self.effects_at(way, tax)
        return torch.stack(list(found.values())).mean(0)

    def strength_at(self, way: Way, tax: float) -> float:
        """Return the strength at which the way costs `tax`, or its greatest."""
        strengths = torch.tensor(way.strengths, dtype=torch.float64)[:, None]
        return float(at_cost(self.taxes(way)[:, :1], strengths, tax)[0])

    def _correct(self, setting: Setting) -> Tensor:
        record = self.text[key_of(setting)]
        return TokenScores.from_items(record["items"][TEXT]).top1.double()


def at_cost(costs: Tensor, values: Tensor, cost: float) -> Tensor:
    """Return values ``[D]`` at a cost, from ``[S, D]`` of growing strengths; both begin at 0."""
    zero = costs.new_zeros(1, costs.shape[1])
    costs = torch.cat([zero, costs]).cummax(0).values
    values = torch.cat([zero, values.expand_as(costs[1:])])
    above = (costs > cost).int()
    beyond = above.argmax(0)  # the first strength that costs more
    last = torch.where(above.any(0), beyond - 1, len(costs) - 1)
    following = (last + 1).clamp(max=len(costs) - 1)
    lines = torch.arange(costs.shape[1])
    low, high = costs[last, lines], costs[following, lines]
    share = torch.where(high > low, (cost - low) / (high - low).clamp(min=1e-300), 0.0)
    return values[last, lines] + share * (values[following, lines] - values[last, lines])


def mean_of(found: Sequence[Tensor]) -> Tensor:
    """Return the mean of several drawn statistics."""
    return torch.stack(list(found)).mean(0)
