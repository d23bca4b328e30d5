"""Which ops a model calls."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class CountsFused(TorchDispatchMode):
    """How often an add, what steers there and the norm after it were one op."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.faststeer.steer_add_rms_norm.default
        return func(*args, **(kwargs or {}))
