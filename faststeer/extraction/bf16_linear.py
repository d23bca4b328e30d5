"""Linear layers in bfloat16 computed in float32, on CPUs where that is faster.

Intel's AVX-512 multiplies bfloat16 at half the rate of float32 where the CPU, or the virtual
machine, has no AMX: 167 against 320 GFLOP/s on two cores, 270 including the conversions. A product
of two bfloat16 numbers is exact in float32, both accumulate in float32, and the result is rounded
to bfloat16 once: the same result but for the order of the sums.
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

# Below this many rows, converting the weight (about 14 bytes per element) costs more than it saves.
_MIN_ROWS = 128


class Float32Linear(TorchFunctionMode):
    """A mode in which bfloat16 linear layers on the CPU multiply in float32 and round the result.

    Weights are converted on use and not cached, so that one float32 weight is in memory at a time.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Compute `linear` in float32 where that is faster; call any other function unchanged."""
        if func is linear and not kwargs and _pays_off(args[0], args[1]):
            x, weight, *bias = args
            bias32 = None if not bias or bias[0] is None else bias[0].float()
            return linear(x.float(), weight.float(), bias32).to(x.dtype)
        return func(*args, **(kwargs or {}))


def fastest_linear(device: torch.device) -> AbstractContextManager[Any]:
    """Return `Float32Linear` where it is faster on `device`, else a context that does nothing."""
    return Float32Linear() if device.type == "cpu" and _slow_at_bfloat16() else nullcontext()


def _pays_off(x: Tensor, weight: Tensor) -> bool:
    return (
        type(weight) in (Tensor, nn.Parameter)  # neither quantised nor sharded
        and x.dtype == weight.dtype == torch.bfloat16
        and x.device.type == weight.device.type == "cpu"
        and x.numel() >= _MIN_ROWS * x.shape[-1]
    )


@cache
def _slow_at_bfloat16() -> bool:
    """Return whether this CPU multiplies bfloat16 more slowly than float32.

    Decided by the CPU's name and not by a measurement, so that every run gives the same bits. AMD's
    AVX-512 multiplies bfloat16 at twice the rate of float32.
    """
    return "Intel" in cpu_model() and not torch.cpu._is_amx_tile_supported()
