"""Which tokens and rows of a user's own model are steered: probes for steering that is silent.

A vector is steered at the middle layer by `patch`, and on a stock twin of the model by a plain hook
that is written here and uses nothing of faststeer: it adds the vector to tokens that plain Python
chooses, in one forward without a cache. Only steering those tokens and no others gives the same
logits. Each probe also computes what the likeliest mistakes would give (a token too early or too
late, another row, everywhere, nowhere): where these hardly differ from what is right, it reports no
verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from faststeer.bench.findings import Finding
from faststeer.bench.recomputing import Inside as InRow
from faststeer.bench.recomputing import adding, amounts_of, forward, generated, hidden_of
from faststeer.bench.tolerance import rms
from faststeer.bench.verdicts import HALF_LIMIT, LIMIT, NOTHING, RIGHT, Verdict
from faststeer.data.batches import Batch, left_padded
from faststeer.models.decoders import layers_of
from faststeer.models.inference import device_of
from faststeer.patching.patched import Patched
from faststeer.steering.markers import after
from faststeer.steering.positions import Positions
from faststeer.vectors.random import random_vector
from faststeer.vectors.steering_vector import SteeringVector

# Rows and tokens differ in number, by which a layer's axes are known (`layout`).
_ROWS, _TOKENS, _NEW = 3, 11, 5
_SHORTER = (0, 4, 2)  # tokens that each row lacks in the padded batch
_MARKER = slice(3, 5)  # of each prompt

_DOSES = (1.0, 4.0, 16.0)  # times the stream's norm, until every mistake is plainer than rounding

Inside = Callable[[int, int], bool]  # position, tokens of the prompt -> is it steered?


@dataclass(frozen=True)
class Probed:
    """A scope as `steer` takes it, and as plain Python has it."""

    positions: Positions
    inside: Inside


def scopes(ids: Tensor) -> dict[str, Probed]:
    """Return every kind of scope for prompts ``[B, T]`` that hold one marker at `_MARKER`."""
    span = range(2, _TOKENS + 2)
    marker = after(ids[0, _MARKER].tolist())
    return {
        "all": Probed("all", lambda p, n: True),
        "prompt": Probed("prompt", lambda p, n: p < n),
        "generated": Probed("generated", lambda p, n: p >= n),
        "from_last_prompt": Probed("from_last_prompt", lambda p, n: p >= n - 1),
        "last": Probed("last", lambda p, n: p == n - 1),
        f"{span}": Probed(span, lambda p, n: p in span),
        "after(marker)": Probed(marker, lambda p, n: p >= _MARKER.stop),
    }


def mistakes(inside: Inside) -> dict[str, Inside]:
    """Return what goes wrong most easily in place of a scope."""
    return {
        "one token later": lambda p, n: p > 0 and inside(p - 1, n),
        "one token earlier": lambda p, n: inside(p + 1, n),
        "all tokens": lambda p, n: True,
        NOTHING: lambda p, n: False,
    }


def _in_rows(rows: Sequence[int], inside: Inside) -> InRow:
    return lambda b, p, n: b in rows and inside(p, n)


def _counting_padding(inside: Inside) -> Inside:
    return lambda p, n: inside(p + _TOKENS - n, n)


class Probes:
    """Prompts, a vector and a stock twin, on which one patched model is probed."""

    def __init__(
        self, stock: Any, patched: Patched, model: Any, words: Sequence[int], half: bool
    ) -> None:
        """Measure the stream that the vector is added to.

        Args:
            stock: a twin of `model` that is neither patched nor hooked.
            patched: the handle of `model`; nothing is steered.
            model: a causal model.
            words: token ids to make prompts of, at least 33 different ones.
            half: whether the model computes in half precision.
        """
        self.stock, self.patched, self.model = stock, patched, model
        self.limit = HALF_LIMIT if half else LIMIT
        self._numbered = False
        ids = torch.tensor(words[: _ROWS * _TOKENS]).view(_ROWS, _TOKENS)
        ids[:, _MARKER] = ids[0, _MARKER].clone()
        device = device_of(model)
        self.prompts = Batch(ids.to(device), torch.ones_like(ids).to(device))
        shorter = [row[gap:] for row, gap in zip(ids.tolist(), _SHORTER, strict=True)]
        self.padded = left_padded(shorter, 0, device)
        layers = layers_of(stock)
        self.layer = len(layers) // 2
        self.block = layers[self.layer]
        self.norm = self._norm()

    def tokens(self) -> Iterator[Finding]:
        """Hold a cached `generate` with each scope against recomputation."""
        try:
            sequences, cached = generated(self.stock, self.prompts, _NEW)
        except Exception as error:  # whatever the model's own code raises
            yield Finding("tokens", None, f"the stock model does not generate: {_short(error)}")
            return
        noises = {}
        for self._numbered in (True, False):  # generate gives some models position ids
            again = self._recomputed(self.prompts, sequences[:, :-1])[:, -_NEW:]
            noises[self._numbered] = rms(cached - again)
        self._numbered = min(noises, key=lambda numbered: noises[numbered])
        noise = noises[self._numbered]
        for name, probed in scopes(self.prompts.ids).items():
            yield _refusable(
                f"these tokens and no others (positions={name})",
                partial(self._scope, probed, noise),
            )

    def rows(self) -> Iterator[Finding]:
        """Steer one row of a padded batch at a time, and hold all rows against plain hooks."""
        span = range(1, 4)
        for probed in (Probed("all", lambda p, n: True), Probed(span, lambda p, n: p in span)):
            yield _refusable(
                f"this row and no other (padded batch, positions={probed.positions})",
                partial(self._rows, probed),
            )

    def _scope(self, probed: Probed, noise: float) -> tuple[bool | None, str]:
        for dose in _DOSES:
            vector = self._vector(dose)
            handle = self.patched.steer(vector, positions=probed.positions)
            try:
                sequences, ours = generated(self.model, self.prompts, _NEW)
            finally:
                handle.remove()
            runs = self._runs(self.prompts, sequences[:, :-1], vector)
            chosen = {RIGHT: probed.inside} | mistakes(probed.inside)
            logits = runs({what: _in_rows(range(_ROWS), own) for what, own in chosen.items()})
            found = {what: own[:, -_NEW:] for what, own in logits.items()}
            verdict = Verdict.of(ours, found, noise)
            if verdict.plain:
                break
        return verdict.against(self.limit)

    def _rows(self, probed: Probed) -> tuple[bool | None, str]:
        vector, real = self._vector(_DOSES[1]), self.padded.real
        handle = self.patched.steer(vector, positions=probed.positions)
        runs = self._runs(self.padded, self.padded.ids, vector)
        verdicts = []
        try:
            for row in range(_ROWS):
                with self.patched.rows(
                    [{vector.name: 1.0} if b == row else {} for b in range(_ROWS)]
                ):
                    ours = forward(self.model, self.padded.ids, self.padded.mask)
                chosen = {
                    RIGHT: _in_rows([row], probed.inside),
                    "the next row": _in_rows([(row + 1) % _ROWS], probed.inside),
                    "every row": _in_rows(range(_ROWS), probed.inside),
                    NOTHING: _in_rows([], probed.inside),
                    "counting padding": _in_rows([row], _counting_padding(probed.inside)),
                }
                found = {what: logits[real] for what, logits in runs(chosen).items()}
                verdicts.append(Verdict.of(ours[real], found, 0.0))
        finally:
            handle.remove()
        worst = max(verdicts, key=lambda verdict: (verdict.way, verdict.distance))
        return worst.against(self.limit)

    def _runs(
        self, batch: Batch, ids: Tensor, vector: SteeringVector
    ) -> Callable[[dict[str, InRow]], dict[str, Tensor]]:
        """Return what computes logits ``[B, T, V]`` with hooks for several choices of tokens.

        Choices that come to the same tokens as the right one are left out: they are no mistake.
        """

        def run(choices: dict[str, InRow]) -> dict[str, Tensor]:
            amounts = {what: amounts_of(batch, ids, inside) for what, inside in choices.items()}
            right = amounts[RIGHT]
            return {
                what: self._recomputed(batch, ids, vector, own)
                for what, own in amounts.items()
                if own is right or not torch.equal(own, right)
            }

        return run

    def _recomputed(
        self,
        batch: Batch,
        ids: Tensor,
        vector: SteeringVector | None = None,
        amounts: Tensor | None = None,
    ) -> Tensor:
        """Return the twin's logits ``[B, T, V]``, with ``amounts * direction`` added by a hook."""
        mask = batch.mask
        mask = torch.cat([mask, mask.new_ones(len(ids), ids.shape[1] - mask.shape[1])], 1)
        if vector is None or amounts is None:
            return forward(self.stock, ids, mask, self._numbered)
        with adding(self.block, vector.directions[self.layer], amounts):
            return forward(self.stock, ids, mask, self._numbered)

    def _vector(self, dose: float) -> SteeringVector:
        norms = {self.layer: dose * self.norm}
        return random_vector("probe", norms, self.patched.hidden_size, seed=7)

    def _norm(self) -> float:
        """Return the median norm of the stream behind the layer."""
        found: list[Tensor] = []
        hook = self.block.register_forward_hook(
            lambda module, args, output: found.append(hidden_of(output))
        )
        try:
            self._recomputed(self.prompts, self.prompts.ids)
        finally:
            hook.remove()
        return float(found[0].float().norm(dim=-1).median())


def _refusable(name: str, probe: Callable[[], tuple[bool | None, str]]) -> Finding:
    """Return a probe's finding; what is refused in words is no failure, a crash is one."""
    try:
        return Finding(name, *probe())
    except ValueError as error:
        return Finding(name, None, f"refused: {_short(error)}")
    except Exception as error:  # the stock twin ran
        return Finding(name, False, f"crashed with {_short(error)}")


def _short(error: BaseException) -> str:
    text = f"{type(error).__name__}: {error}".splitlines()[0]
    return text if len(text) <= 300 else text[:297] + "..."
