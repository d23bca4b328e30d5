"""How far two correct programs may differ: what turns a difference of logits into pass or fail.

In float32 a fixed limit tells a mistake from rounding. In half precision it cannot: two correct
programs differ by what the model makes of their roundings. There the model is also evaluated in
float32, and one program may not be farther from that than the other is, token by token.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from faststeer.bench.hook_baselines import Steering, steer_with_hooks
from faststeer.data.batches import Batch
from faststeer.models.inference import logits

LARGEST_COPY = 10**9  # parameters: 4 GB in float32
HALF_LIMIT = 5e-2
# SmolLM2-135M, 16 draws of vectors in bfloat16 and float16: the geometric mean of the tokens'
# ratios was 0.80 to 1.01. The ratio of RMS, which a few chaotic tokens decide, was 0.2 to 4.8.
RATIO_LIMIT = 1.1


def rms(values: Tensor) -> float:
    """The root of the mean square."""
    return float(values.double().square().mean().sqrt())


class ParityJudge:
    """Judges logits of `model`'s dtype. Holds a float32 copy of it until told to forget it.

    Only half precision needs one, and a model of more than `LARGEST_COPY` parameters gets none.
    """

    def __init__(self, model: nn.Module) -> None:
        """`model` is stock: neither patched nor hooked."""
        self.dtype = next(model.parameters()).dtype
        self.half = self.dtype in (torch.bfloat16, torch.float16)
        self.size = sum(parameter.numel() for parameter in model.parameters())
        self._wide: nn.Module | None = None
        if self.half and self.size <= LARGEST_COPY:
            self._wide = copy.deepcopy(model).float()

    def evaluate(self, batch: Batch, steering: Steering) -> Tensor | None:
        """The float32 copy's logits ``[P, V]``, steered by hooks; None where there is no copy."""
        if self._wide is None:
            return None
        with steer_with_hooks(self._wide, steering):
            return logits(self._wide, batch)

    def forget(self) -> None:
        """Free the copy."""
        self._wide = None

    def compare(
        self,
        ours: Tensor,
        theirs: Tensor,
        exact: Tensor | None,
        unit: float,
        limit: float,
        who: str,
    ) -> tuple[bool, str]:
        """Whether `ours` ``[P, V]`` is as good as `theirs`, and the number that says so.

        By distance from `exact` where that is known, else by the difference in units of `unit`:
        over all tokens against `limit`, or in half precision the median token's against
        `HALF_LIMIT`.
        """
        if exact is not None:
            tiny = torch.finfo(torch.float32).tiny  # both may be exact
            distance, allowed = (_token_rms(values - exact) + tiny for values in (ours, theirs))
            ratio = float((distance / allowed).log().mean().exp())
            measured = f"{ratio:.3g} times as far from float32 as {who} (limit {RATIO_LIMIT:g})"
            return ratio <= RATIO_LIMIT, measured
        if self.half:
            difference = float(_token_rms(ours - theirs).median()) / unit
            measured = f"the median token's RMS difference {difference:.2g} (limit {HALF_LIMIT:g})"
            return difference <= HALF_LIMIT, measured
        difference = rms(ours - theirs) / unit
        return difference <= limit, f"RMS difference {difference:.2g} (limit {limit:g})"

    def __str__(self) -> str:
        """Which yardstick is used, and why."""
        weights = f"{self.size:,} parameters in {str(self.dtype).removeprefix('torch.')}"
        if not self.half:
            return f"fixed limits; {weights}"
        if self.size <= LARGEST_COPY:
            return f"the distance from a float32 evaluation of the same weights; {weights}"
        return (
            f"one wide limit; {weights}, more than the {LARGEST_COPY:,} up to which a float32 "
            "evaluation would tell (--dtype float32 checks more sharply)"
        )


def _token_rms(difference: Tensor) -> Tensor:
    return difference.double().square().mean(-1).sqrt()
