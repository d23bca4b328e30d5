"""What a setting costs on neutral text, and how much of that is allowed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from faststeer.evaluate.bootstrap import interval
from faststeer.evaluate.next_token import ScoredTexts, TokenScores
from faststeer.evaluate.setting_runs import ManySettings
from faststeer.evaluate.tasks import Subject
from faststeer.steering.plan import Row
from faststeer.utils.progress import Advance

_DRAWS = 300  # bootstrap samples of texts


@dataclass(frozen=True)
class Damage:
    """The cost of a setting on neutral text.

    `kl`: KL(unsteered || steered) of the next token, nats, the mean per token. `perplexity`: in
    multiples of the unsteered one. `lost`: the share of next tokens predicted right that no longer
    are, net; NaN where none is. `kl_interval`: of `kl`, 95 % over texts.
    """

    kl: float
    perplexity: float
    lost: float
    kl_interval: tuple[float, float] = (math.nan, math.nan)


@dataclass(frozen=True)
class Budget:
    """Limits of `Damage`; None is no limit.

    Raises:
        ValueError: no limits, or one that nothing can keep to.
    """

    kl: float | None = None
    perplexity: float | None = None
    lost: float | None = None

    def __post_init__(self) -> None:
        limits = (self.kl, self.perplexity, self.lost)
        if all(limit is None for limit in limits):
            raise ValueError("no budget is given: expected kl, perplexity or lost")
        for name, least, limit in zip(("kl", "perplexity", "lost"), (0, 1, 0), limits, strict=True):
            if limit is not None and not least < limit < math.inf:
                raise ValueError(f"{name} is {limit:g}; expected a finite number above {least}")

    def used(self, damage: Damage) -> float:
        """Return the share of the budget that is used up; more than 1 is beyond it."""
        shares = []
        if self.kl is not None:
            shares.append(damage.kl / self.kl)
        if self.perplexity is not None:
            shares.append((damage.perplexity - 1) / (self.perplexity - 1))
        if self.lost is not None:
            shares.append(damage.lost / self.lost)
        return max(math.inf if math.isnan(share) else share for share in shares)

    @property
    def nats(self) -> float:
        """The divergence at which a search begins."""
        return 0.1 if self.kl is None else self.kl

    def __str__(self) -> str:
        """Return the limits in words."""
        words = []
        if self.kl is not None:
            words.append(f"KL at most {self.kl:g} nats")
        if self.perplexity is not None:
            words.append(f"perplexity at most {self.perplexity:g} times unsteered")
        if self.lost is not None:
            words.append(f"at most {self.lost:.3g} of right next tokens lost")
        return ", ".join(words)


def damages(
    subject: Subject,
    texts: ScoredTexts,
    settings: Sequence[Row],
    advance: Advance = lambda steps: None,
    intervals: bool = False,
    needs_hits: bool = False,
) -> list[Damage]:
    """Return what each setting costs on the texts.

    Args:
        subject: the model, whose handles the settings name.
        texts: neutral texts.
        settings: as `Patched.rows` accepts them.
        advance: called with the number of (text, setting) pairs completed.
        intervals: whether `kl_interval` is computed.
        needs_hits: whether `lost` has to be a number.

    Raises:
        ValueError: as `ManySettings`; unsteered logits that are not finite, or no token that is
            predicted right where that is needed.
    """
    runner = ManySettings(subject.patched, settings, subject.at_once)
    *found, unsteered = texts.scores(runner, subject.batch_size, advance)
    if needs_hits and not unsteered.accuracy:
        raise ValueError(
            "lost counts next tokens that the unsteered model predicts right, and it predicts none "
            "of the neutral texts'; give another budget, or other texts"
        )
    if not unsteered.surprise.isfinite().all():
        raise ValueError("the unsteered model's logits are not finite, so no damage is defined")
    return [_damage(own, unsteered, intervals) for own in found]


def _damage(scores: TokenScores, unsteered: TokenScores, intervals: bool) -> Damage:
    kl = scores.kl
    if intervals and math.isfinite(kl):
        own = interval(lambda at: scores.chosen(at.tolist()).kl, len(scores.tokens), draws=_DRAWS)
    else:
        own = (math.nan, math.nan)
    return Damage(
        kl,
        scores.perplexity / unsteered.perplexity,
        1 - scores.accuracy / unsteered.accuracy if unsteered.accuracy else math.nan,
        own,
    )
