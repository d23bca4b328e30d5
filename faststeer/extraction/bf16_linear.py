"""Products of bfloat16 matrices by float32 instructions, on processors where those are faster.

Intel's AVX-512 multiplies bfloat16 at half the rate of float32 where the processor, or the machine
that it is lent by, has no AMX: 167 against 320 GFLOP/s on two cores, 270 with the conversions. A
product of two bfloat16 numbers is exact in float32, the sums are float32 either way, and what comes
out is rounded to bfloat16 once: the same result but for the order of the sums.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.overrides import TorchFunctionMode

from faststeer.utils.machine import cpu_model

# Under so many rows the conversion of the weight, of about fourteen bytes a number, is not repaid.
_FEWEST_ROWS = 128


class Float32Products(TorchFunctionMode):
    """Inside, linear layers in bfloat16 on the CPU convert, multiply in float32 and round.

    A weight is converted when it is used and not kept: one layer's is in memory at a time.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Every call of torch; those of `linear` are answered here where it helps."""
        if func is linear and not kwargs and _repays(args[0], args[1]):
            given, weight, *bias = args
            wide = None if not bias or bias[0] is None else bias[0].float()
            return linear(given.float(), weight.float(), wide).to(given.dtype)
        return func(*args, **(kwargs or {}))


def fastest_products(device: torch.device) -> AbstractContextManager[Any]:
    """`Float32Products` for a model on such a processor, and nothing elsewhere."""
    return Float32Products() if device.type == "cpu" and _slow_at_bfloat16() else nullcontext()


def _repays(given: Tensor, weight: Tensor) -> bool:
    return (
        type(weight) in (Tensor, nn.Parameter)  # what is quantised or sharded knows better
        and given.dtype == weight.dtype == torch.bfloat16
        and given.device.type == weight.device.type == "cpu"
        and given.numel() >= _FEWEST_ROWS * given.shape[-1]
    )


@cache
def _slow_at_bfloat16() -> bool:
    """By the processor's name and never by a trial: every run has to give the same bits.

    AMD's AVX-512 multiplies bfloat16 at twice the rate of float32.
    """
    return "Intel" in cpu_model() and not torch.cpu._is_amx_tile_supported()
