"""Probe which tokens and rows of a model are steered, to find silent mistakes.

`patch` steers a vector at the middle layer, and a plain hook that uses none of faststeer's steering
adds it on a stock twin of the model (`reference_runs`). Only steering the same tokens gives the
same logits. Each probe also computes what the likeliest mistakes would give (a token too early or
too late, another row, everywhere, nowhere): where these hardly differ from what is right, it
reports no verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from faststeer.data.batches import Batch, left_padded
from faststeer.diagnostics.bench.findings import Finding
from faststeer.diagnostics.bench.layer_output import hidden_states
from faststeer.diagnostics.bench.probed_scopes import (
    MARKER,
    TOKENS,
    ProbedScope,
    in_rows,
    likely_mistakes,
    probed_scopes,
    with_padding_counted,
)
from faststeer.diagnostics.bench.reference_runs import (
    TokenPredicate,
    add_with_hook,
    generate_greedily,
    steered_tokens,
    uncached_logits,
)
from faststeer.diagnostics.bench.tolerance import rms
from faststeer.diagnostics.bench.verdicts import (
    DISTANCE_LIMIT,
    EXPECTED,
    HALF_DISTANCE_LIMIT,
    UNSTEERED,
    Verdict,
)
from faststeer.models.decoders import layers_of
from faststeer.models.inference import device_of
from faststeer.patching.patched import Patched
from faststeer.vectors.random import random_vector
from faststeer.vectors.steering_vector import SteeringVector

_ROWS, _NEW_TOKENS = 3, 5  # not as many rows as tokens: `layer_output` tells axes by their lengths
_PADDING = (0, 4, 2)  # by how many tokens each row of the padded batch is shorter

# A vector's norm relative to the residual stream's. Probing stops at the first at which every
# mistake stands out from rounding.
_RELATIVE_NORMS = (1.0, 4.0, 16.0)


class Probes:
    """Probes of one patched model: its prompts, and a stock twin for the reference runs."""

    def __init__(
        self, stock: Any, patched: Patched, model: Any, token_ids: Sequence[int], half: bool
    ) -> None:
        """Build the prompts and measure the residual stream's norm at the probed layer.

        Args:
            stock: a twin of `model` that is neither patched nor hooked.
            patched: the handle of `model`; nothing is steered.
            model: a causal model.
            token_ids: at least 33 different ones, to build prompts of.
            half: whether the model computes in half precision.
        """
        self.stock, self.patched, self.model = stock, patched, model
        self.limit = HALF_DISTANCE_LIMIT if half else DISTANCE_LIMIT
        self._explicit_positions = False
        ids = torch.tensor(token_ids[: _ROWS * TOKENS]).view(_ROWS, TOKENS)
        ids[:, MARKER] = ids[0, MARKER].clone()
        device = device_of(model)
        self.prompts = Batch(ids.to(device), torch.ones_like(ids).to(device))
        shorter = [row[cut:] for row, cut in zip(ids.tolist(), _PADDING, strict=True)]
        self.padded = left_padded(shorter, 0, device)
        layers = layers_of(stock)
        self.layer_index = len(layers) // 2
        self.layer = layers[self.layer_index]
        self.stream_norm = self._median_norm()

    def positions(self) -> Iterator[Finding]:
        """Compare a cached `generate`, steered at each scope in turn, with reference runs."""
        try:
            sequences, cached = generate_greedily(self.stock, self.prompts, _NEW_TOKENS)
        except Exception as error:  # whatever the model's own code raises
            yield Finding(
                "tokens", None, f"the stock model does not generate: {_first_line(error)}"
            )
            return
        noises = {}
        for self._explicit_positions in (True, False):  # generate gives some models position ids
            uncached = self.reference_logits(self.prompts, sequences[:, :-1])[:, -_NEW_TOKENS:]
            noises[self._explicit_positions] = rms(cached - uncached)
        self._explicit_positions = min(noises, key=lambda explicit: noises[explicit])
        noise = noises[self._explicit_positions]
        for name, scope in probed_scopes(self.prompts.ids).items():
            yield finding(
                f"these tokens and no others (positions={name})",
                partial(self._probe_scope, scope, noise),
            )

    def rows(self) -> Iterator[Finding]:
        """Steer one row of a padded batch at a time and compare all rows with reference runs."""
        span = range(1, 4)
        for scope in (
            ProbedScope("all", lambda p, n: True),
            ProbedScope(span, lambda p, n: p in span),
        ):
            yield finding(
                f"this row and no other (padded batch, positions={scope.positions})",
                partial(self._probe_rows, scope),
            )

    def _probe_scope(self, scope: ProbedScope, noise: float) -> tuple[bool | None, str]:
        candidates = {EXPECTED: scope.is_steered} | likely_mistakes(scope.is_steered)
        for relative_norm in _RELATIVE_NORMS:
            vector = self.vector(relative_norm)
            handle = self.patched.steer(vector, positions=scope.positions)
            try:
                sequences, ours = generate_greedily(self.model, self.prompts, _NEW_TOKENS)
            finally:
                handle.remove()
            runs = self._reference_runs(
                self.prompts,
                sequences[:, :-1],
                vector,
                {name: in_rows(range(_ROWS), own) for name, own in candidates.items()},
            )
            new_tokens = {name: logits[:, -_NEW_TOKENS:] for name, logits in runs.items()}
            verdict = Verdict.of(ours, new_tokens, noise)
            if verdict.distinguishable:
                break
        return verdict.judge(self.limit)

    def _probe_rows(self, scope: ProbedScope) -> tuple[bool | None, str]:
        vector, real = self.vector(_RELATIVE_NORMS[1]), self.padded.real
        handle = self.patched.steer(vector, positions=scope.positions)
        verdicts = []
        try:
            for row in range(_ROWS):
                with self.patched.rows(
                    [{vector.name: 1.0} if b == row else {} for b in range(_ROWS)]
                ):
                    ours = uncached_logits(self.model, self.padded.ids, self.padded.mask)
                candidates = {
                    EXPECTED: in_rows([row], scope.is_steered),
                    "the next row": in_rows([(row + 1) % _ROWS], scope.is_steered),
                    "every row": in_rows(range(_ROWS), scope.is_steered),
                    UNSTEERED: in_rows([], scope.is_steered),
                    "counting padding": in_rows([row], with_padding_counted(scope.is_steered)),
                }
                runs = self._reference_runs(self.padded, self.padded.ids, vector, candidates)
                unpadded = {name: logits[real] for name, logits in runs.items()}
                verdicts.append(Verdict.of(ours[real], unpadded, noise=0.0))
        finally:
            handle.remove()
        worst = max(verdicts, key=lambda verdict: (verdict.projection, verdict.distance))
        return worst.judge(self.limit)

    def _reference_runs(
        self,
        batch: Batch,
        ids: Tensor,
        vector: SteeringVector,
        candidates: Mapping[str, TokenPredicate],
    ) -> dict[str, Tensor]:
        """Return the twin's logits ``[B, T, V]`` with each candidate's tokens steered by a hook.

        A candidate that steers the same tokens as the expected one is no mistake and is left out.
        """
        steered = {name: steered_tokens(batch, ids, own) for name, own in candidates.items()}
        expected = steered[EXPECTED]
        return {
            name: self.reference_logits(batch, ids, vector, own)
            for name, own in steered.items()
            if own is expected or not torch.equal(own, expected)
        }

    def reference_logits(
        self,
        batch: Batch,
        ids: Tensor,
        vector: SteeringVector | None = None,
        coefficients: Tensor | None = None,
    ) -> Tensor:
        """Return the twin's logits ``[B, T, V]``, with ``coefficients * direction`` added."""
        mask = batch.mask
        mask = torch.cat([mask, mask.new_ones(len(ids), ids.shape[1] - mask.shape[1])], 1)
        if vector is None or coefficients is None:
            return uncached_logits(self.stock, ids, mask, self._explicit_positions)
        with add_with_hook(self.layer, vector.directions[self.layer_index], coefficients):
            return uncached_logits(self.stock, ids, mask, self._explicit_positions)

    def vector(self, relative_norm: float) -> SteeringVector:
        """Return a random vector of that norm relative to the residual stream's."""
        norms = {self.layer_index: relative_norm * self.stream_norm}
        return random_vector("probe", norms, self.patched.hidden_size, seed=7)

    def _median_norm(self) -> float:
        """Return the median norm of the residual stream after the probed layer."""
        outputs: list[Tensor] = []
        hook = self.layer.register_forward_hook(
            lambda module, args, output: outputs.append(hidden_states(output))
        )
        try:
            self.reference_logits(self.prompts, self.prompts.ids)
        finally:
            hook.remove()
        return float(outputs[0].float().norm(dim=-1).median())


def finding(name: str, probe: Callable[[], tuple[bool | None, str]]) -> Finding:
    """Run a probe. A ValueError is a refusal and no failure; any other exception is a failure."""
    try:
        return Finding(name, *probe())
    except ValueError as error:
        return Finding(name, None, f"refused: {_first_line(error)}")
    except Exception as error:  # the stock twin ran
        return Finding(name, False, f"crashed with {_first_line(error)}")


def _first_line(error: BaseException) -> str:
    text = f"{type(error).__name__}: {error}".splitlines()[0]
    return text if len(text) <= 300 else text[:297] + "..."
