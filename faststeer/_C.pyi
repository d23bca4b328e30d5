from torch import Tensor
from torch.nn import Module

def isa() -> str: ...
def available_isas() -> list[str]: ...
def build_facts() -> dict[str, str]: ...
def steer_add_rms_norm_out(
    x: Tensor | None,
    residual: Tensor,
    weight: Tensor,
    eps: float,
    vectors: Tensor | None,
    index: Tensor | None,
    coefficient: Tensor | None,
    modes: Tensor | None,
    weight_offset: float,
    out: Tensor,
    residual_out: Tensor,
    /,
) -> bool: ...
def steer_add_rms_norm(
    x: Tensor | None,
    residual: Tensor,
    weight: Tensor,
    eps: float,
    vectors: Tensor | None,
    index: Tensor | None,
    coefficient: Tensor | None,
    modes: Tensor | None,
    weight_offset: float,
    /,
) -> tuple[Tensor, Tensor] | None: ...
def steer_add(
    x: Tensor | None,
    residual: Tensor,
    vectors: Tensor | None,
    index: Tensor | None,
    coefficient: Tensor | None,
    modes: Tensor | None,
    /,
) -> Tensor | None: ...
def steer_add_norm(
    norm: Module,
    types: tuple[type[Module], type[Module]],
    epsilon: str,
    weight_offset: float,
    x: Tensor | None,
    residual: Tensor,
    entries: tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None],
    overwrite: bool,
    /,
) -> tuple[Tensor, Tensor] | None: ...
def is_watched() -> bool: ...
def run_plainly(first: Module, second: Module, /) -> bool: ...
