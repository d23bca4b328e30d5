"""Numerical tolerances: decide whether two sets of logits agree.

In float32 a fixed limit separates mistakes from rounding. In half precision it cannot: two correct
programs differ by as much as the model amplifies their roundings. There the model is also evaluated
in float32, and one program may not be farther from that than the other is, token by token.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from faststeer.data.batches import Batch
from faststeer.diagnostics.bench.hook_baselines import Steering, steer_with_hooks
from faststeer.models.inference import logits

LARGEST_COPY = 10**9  # parameters: 4 GB in float32
HALF_LIMIT = 5e-2
# SmolLM2-135M, 16 draws of vectors in bfloat16 and float16: the geometric mean of the tokens'
# ratios was 0.80 to 1.01. The ratio of RMS, which a few chaotic tokens decide, was 0.2 to 4.8.
RATIO_LIMIT = 1.1


def rms(values: Tensor) -> float:
    """Return the root of the mean square."""
    return float(values.double().square().mean().sqrt())


class ParityJudge:
    """Judge of whether logits in a model's dtype are as good as a baseline's.

    In half precision it holds a float32 copy of the model, until `free_copy`; of a model of more
    than `LARGEST_COPY` parameters it makes none.
    """

    def __init__(self, model: nn.Module) -> None:
        """Copy `model`, which must be neither patched nor hooked, in float32 if that is needed."""
        self.dtype = next(model.parameters()).dtype
        self.half = self.dtype in (torch.bfloat16, torch.float16)
        self.size = sum(parameter.numel() for parameter in model.parameters())
        self._float32_copy: nn.Module | None = None
        if self.half and self.size <= LARGEST_COPY:
            self._float32_copy = copy.deepcopy(model).float()

    def exact_logits(self, batch: Batch, steering: Steering) -> Tensor | None:
        """Return the float32 copy's logits ``[P, V]``, steered by hooks; None without a copy."""
        if self._float32_copy is None:
            return None
        with steer_with_hooks(self._float32_copy, steering):
            return logits(self._float32_copy, batch)

    def free_copy(self) -> None:
        """Free the float32 copy."""
        self._float32_copy = None

    def compare(
        self,
        ours: Tensor,
        theirs: Tensor,
        exact: Tensor | None,
        unit: float,
        limit: float,
        baseline: str,
    ) -> tuple[bool, str]:
        """Return whether `ours` is as good as `theirs`, and the measured number in words.

        With `exact`, their distances from it are compared. Without it, their difference is: over
        all tokens with `limit`, or in half precision the median token's with `HALF_LIMIT`.

        Args:
            ours: logits ``[P, V]`` to judge.
            theirs: the baseline's logits ``[P, V]``.
            exact: the logits ``[P, V]`` of a float32 evaluation, or None.
            unit: the RMS that differences are relative to.
            limit: the largest relative difference in float32.
            baseline: what `theirs` are, for the text: "stock", for instance.
        """
        if exact is not None:
            tiny = torch.finfo(torch.float32).tiny  # both may be exact
            distance, allowed = (_token_rms(values - exact) + tiny for values in (ours, theirs))
            ratio = float((distance / allowed).log().mean().exp())
            measured = (
                f"{ratio:.3g} times as far from float32 as {baseline} (limit {RATIO_LIMIT:g})"
            )
            return ratio <= RATIO_LIMIT, measured
        if self.half:
            difference = float(_token_rms(ours - theirs).median()) / unit
            measured = f"the median token's RMS difference {difference:.2g} (limit {HALF_LIMIT:g})"
            return difference <= HALF_LIMIT, measured
        difference = rms(ours - theirs) / unit
        return difference <= limit, f"RMS difference {difference:.2g} (limit {limit:g})"

    def __str__(self) -> str:
        """Describe which limit applies, and why."""
        weights = f"{self.size:,} parameters in {str(self.dtype).removeprefix('torch.')}"
        if not self.half:
            return f"fixed limits; {weights}"
        if self.size <= LARGEST_COPY:
            return f"the distance from a float32 evaluation of the same weights; {weights}"
        return (
            f"one wide limit; {weights}, more than the {LARGEST_COPY:,} up to which a float32 copy "
            "is evaluated (--dtype float32 checks more strictly)"
        )


def _token_rms(difference: Tensor) -> Tensor:
    return difference.double().square().mean(-1).sqrt()
