"""Both runs of texts, unsteered and steered: what differs at each token.

The layers below the first steered one run once for both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from faststeer.data.batches import Batch
from faststeer.evaluate.lm_head import LMHead
from faststeer.evaluate.setting_runs import ManySettings
from faststeer.patching.patched import Patched
from faststeer.steering.plan import Row
from faststeer.steering.token_positions import PromptLayout
from faststeer.vectors.sites import Site

LIKELIEST = 5  # next tokens that are kept


@dataclass(frozen=True)
class TokenChanges:
    """What differs at P tokens, on the CPU.

    `kl` ``[P]`` float64 is KL(unsteered || steered) of the next token in nats; `change` ``[P]`` the
    norm of the difference of the residual streams over the unsteered norm; `projections`
    ``[2, P]``, unsteered first, or None without a direction; `next_ids` and `next_probabilities`
    ``[2, P, 5]`` the likeliest next tokens.
    """

    kl: Tensor
    change: Tensor
    projections: Tensor | None
    next_ids: Tensor
    next_probabilities: Tensor

    def tokens(self, chosen: slice) -> TokenChanges:
        """Return those of some of the tokens."""
        projections = None if self.projections is None else self.projections[:, chosen]
        return TokenChanges(
            self.kl[chosen],
            self.change[chosen],
            projections,
            self.next_ids[:, chosen],
            self.next_probabilities[:, chosen],
        )


class PairedRuns:
    """A patched model that runs texts unsteered and under one setting."""

    def __init__(
        self,
        patched: Patched,
        model: Any,
        setting: Row,
        changed_at: Site,
        projection: tuple[Site, Tensor] | None,
    ) -> None:
        """Prepare the runs.

        Args:
            patched: the handle of `model`.
            model: a causal model.
            setting: one row, as `Patched.rows` takes it.
            changed_at: where `change` is read.
            projection: where the residual stream is projected, and on which unit direction ``[H]``.

        Raises:
            TypeError, ValueError: as `ManySettings` and `LMHead`; a site that cannot be read.
        """
        self.patched = patched
        self.changed_at, self.projection = changed_at, projection
        self.sites = {changed_at} if projection is None else {changed_at, projection[0]}
        if not patched.plan.tables.keys() >= self.sites:
            kinds = ", ".join(sorted({site.kind for site in self.sites}))
            raise ValueError(f"{kinds} of a {type(patched.decoder).__name__} cannot be read")
        self.runner = ManySettings(patched, [setting])
        with patched.rows([{}]):
            self.head = LMHead(model)

    def run(
        self, rows: Sequence[Sequence[int]], prompt: int, pad: int | None
    ) -> list[TokenChanges]:
        """Return what differs at the tokens of each row of token ids.

        Args:
            rows: texts that begin with the same prompt.
            prompt: the number of its tokens, for `positions=` and conditions.
            pad: the padding token.

        Raises:
            ValueError: a scope that cannot find its tokens; a decoder that runs a layer several
                times per forward pass.
        """
        calls = self.runner.calls
        found: dict[int, TokenChanges] = {}
        for group in calls.groups(rows, pad):
            # Padded behind the texts, so that the prompt has the same columns in all of them, and
            # scopes find it as `generate` shows it.
            batch = calls.batch([rows[number] for number in group], pad, side="right")
            changes, start = self._run(batch, prompt), 0
            for number in group:
                found[number] = changes.tokens(slice(start, start + len(rows[number])))
                start += len(rows[number])
        return [found[number] for number in range(len(rows))]

    def _run(self, batch: Batch, prompt: int) -> TokenChanges:
        layout = PromptLayout.masked(batch.mask[:, :prompt], batch.ids[:, :prompt])
        forward = self.patched.plan.forward
        hidden: list[Tensor] = []
        with (
            forward.guard.generating() as nested,
            forward.fresh_decisions(nested),
            forward.with_prompts(layout, None),
            self._reading(batch.real) as residuals,
        ):
            for states in self.runner.run(batch, batch.real):
                hidden.append(states.hidden[0])
                self._require_single_reads(residuals, len(hidden))
        both = {site: (own[0], own[-1]) for site, own in residuals.items()}
        before, after = both[self.changed_at]
        change = (after - before).norm(dim=-1) / before.norm(dim=-1)
        projections = None
        if self.projection is not None:
            site, direction = self.projection
            pair = torch.stack(both[site])
            projections = (pair @ direction.to(pair.device)).cpu()
        return TokenChanges(*self._next_tokens(hidden[0], hidden[-1], change.cpu(), projections))

    @contextmanager
    def _reading(self, real: Tensor) -> Iterator[dict[Site, list[Tensor]]]:
        """Yield the residual streams ``[P, H]`` float32 by site, per forward pass that reaches it.

        The steered pass does not reach the sites below its start, where nothing differs.
        """
        found: dict[Site, list[Tensor]] = {site: [] for site in self.sites}

        def keep(kept: list[Tensor], hidden: Tensor) -> None:
            kept.append(hidden[real.to(hidden.device)].float())

        with ExitStack() as stack:
            for site, kept in found.items():
                stack.enter_context(self.patched.plan.reading(site, partial(keep, kept)))
            yield found

    def _require_single_reads(self, residuals: dict[Site, list[Tensor]], passes: int) -> None:
        if any(not 1 <= len(kept) <= passes for kept in residuals.values()):
            raise ValueError(
                f"a {type(self.patched.decoder).__name__} does not run each layer that is read "
                "once per forward pass, so that there is no single residual stream to compare"
            )

    @torch.inference_mode()
    def _next_tokens(
        self, unsteered: Tensor, steered: Tensor, change: Tensor, projections: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor]:
        """Return the fields of `TokenChanges` from final hidden states ``[P, H]``."""
        kl, ids, probabilities = [], [], []
        for chunk in self.head.chunks(len(unsteered)):
            both = [_Softmax(self.head.logits(hidden[chunk])) for hidden in (unsteered, steered)]
            kl.append(both[0].divergence(both[1]).cpu())
            best = [own.logits.topk(min(LIKELIEST, own.logits.shape[1])) for own in both]
            ids.append(torch.stack([found.indices for found in best]).cpu())
            likeliest = [own.of(found.values) for own, found in zip(both, best, strict=True)]
            probabilities.append(torch.stack(likeliest).cpu())
        return torch.cat(kl), change, projections, torch.cat(ids, 1), torch.cat(probabilities, 1)


class _Softmax:
    """The distributions ``[P, V]`` of logits, with sums over the vocabulary in float64.

    From float32 logarithms of probabilities, KL on SmolLM2 is off by up to 1e-4 nats, ten times
    what the rounding of its logits does; float64 throughout takes five times as long as this.
    """

    def __init__(self, logits: Tensor) -> None:
        """Normalise logits ``[P, V]``."""
        self.logits = logits.float()
        self.largest = self.logits.amax(-1, keepdim=True)
        self.weights = (self.logits - self.largest).exp()
        self.total = self.weights.sum(-1, dtype=torch.float64)

    def of(self, logits: Tensor) -> Tensor:
        """Return the probabilities ``[P, K]`` of tokens with these logits."""
        return ((logits - self.largest).exp() / self.total[:, None]).float()

    def divergence(self, other: _Softmax) -> Tensor:
        """Return KL(self || other) ``[P]`` float64, in nats."""
        terms = self.weights * (self.logits - other.logits)
        # A token of probability 0 adds nothing, also where both logits are infinite.
        terms = torch.where(self.weights == 0, 0.0, terms)
        return (terms.sum(-1, dtype=torch.float64) / self.total + other._log - self._log).clamp(0)

    @property
    def _log(self) -> Tensor:
        """The logarithm ``[P]`` of the sum of the exponentials of the logits."""
        return self.total.log() + self.largest[:, 0].double()
