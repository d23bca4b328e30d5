"""The proof at start that steering takes, at every site and in the compiled model too."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from faststeer.vectors.sites import Site
from faststeer.vllm.batch import Batch
from faststeer.vllm.slots import Slots


class _Recorded(TorchDispatchMode):
    """Gives the ops a stream of small integers, and records what they made of it.

    A model's own stream has outliers beside which an addition of 1 does not show.
    """

    def __init__(self) -> None:
        super().__init__()
        # Number of the table or address of the index, and the stream before and after.
        self.calls: list[tuple[int, Tensor, Tensor]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an op, and record it if it is one of faststeer's."""
        name = str(func)
        if name.startswith("faststeer.steer_add"):
            x, residual, *rest = args
            by_table = "by_table" in name
            given = [x, residual]
            x, residual = None if x is None else _integers(x), _integers(residual)
            before = residual.float() if x is None else residual.float() + x.float()
            result = func(x, residual, *rest, **(kwargs or {}))
            if by_table:
                own, after = rest[-1], residual
                for tensor, changed in zip(given, (x, residual), strict=True):
                    tensor.copy_(changed)
            elif "rms_norm" in name:
                own, after = rest[3].data_ptr(), result[1]
            else:
                own, after = rest[1].data_ptr(), result
            self.calls.append((own, before, after.float()))
            return result
        return func(*args, **(kwargs or {}))


def _integers(like: Tensor) -> Tensor:
    """Return -3 to 3 in turn, which every dtype adds up exactly."""
    count = torch.arange(like.numel(), device=like.device)
    return (count % 7 - 3).reshape(like.shape).to(like.dtype)


def require_steering(
    sites: Sequence[Site],
    tables: Mapping[Site, int],
    slots: Slots,
    batch: Batch,
    run: Callable[[int], Any],
) -> None:
    """Run the model on a few tokens, token i steered at site i alone, and look at the stream.

    Args:
        sites: those of this process, in the order of the tables.
        tables: the numbers of tables of entries, at sites whose calls name one.
        slots: the vectors.
        batch: the entries of the tokens.
        run: runs that many tokens, eagerly.

    Raises:
        RuntimeError: a site that no op steered, or where the stream is not what it should be.
    """
    tokens = _write(sites, slots, batch, 1.0)
    try:
        with _Recorded() as recorded:
            run(tokens)
    finally:
        _clear(slots, batch)
    found = {own: (before, after) for own, before, after in recorded.calls}
    for at, site in enumerate(sites):
        table = tables.get(site)
        calls = found.get(batch.index[at].data_ptr() if table is None else table)
        if calls is None:
            raise RuntimeError(f"faststeer: nothing steered {site.kind} of layer {site.layer}")
        expected, after = calls
        expected = expected[:tokens].clone()
        expected[at] += 1.0
        wrong = (after[:tokens] != expected).any(1)  # NaN is wrong too
        if bool(wrong.any()):
            raise RuntimeError(
                f"faststeer: {site.kind} of layer {site.layer} is not what steering makes of it, "
                f"for the tokens {wrong.nonzero().flatten().tolist()}"
            )


def require_compiled_steering(
    sites: Sequence[Site], slots: Slots, batch: Batch, run: Callable[[int], Tensor]
) -> None:
    """Run the model as it serves, and see that what is put into the tables reaches its output.

    Token i gets NaN at site i alone, and the last token nothing.

    Args:
        sites: those of this process, in the order of the tables.
        slots: the vectors.
        batch: the entries of the tokens.
        run: runs that many tokens, compiled, and returns their hidden states ``[N, H]``.

    Raises:
        RuntimeError: a site whose steering does not arrive.
    """
    tokens = _write(sites, slots, batch, torch.nan)
    try:
        *reached, unsteered = run(tokens)[:tokens].isnan().any(1).tolist()
    finally:
        _clear(slots, batch)
    if unsteered:
        raise RuntimeError(
            "faststeer: the compiled model returns NaN for a token that nothing steers, so that it "
            "cannot be seen whether steering takes"
        )
    for at, site in enumerate(sites):
        if not reached[at]:
            raise RuntimeError(
                f"faststeer: the compiled model does not read what {site.kind} of layer "
                f"{site.layer} is steered with; its compile cache may hold another graph "
                "(VLLM_DISABLE_COMPILE_CACHE=1 recompiles)"
            )


def _write(sites: Sequence[Site], slots: Slots, batch: Batch, value: float) -> int:
    """Put a constant vector at site i for token i. Returns the number of tokens, one unsteered."""
    with torch.inference_mode(False), torch.no_grad():
        slots.vectors[:, slots.probe_slot] = value
        for at in range(len(sites)):
            batch.index[at, at, 0] = slots.probe_slot
            batch.coefficient[at, at, 0] = 1.0
    return len(sites) + 1


def _clear(slots: Slots, batch: Batch) -> None:
    with torch.inference_mode(False), torch.no_grad():
        slots.vectors[:, slots.probe_slot] = 0.0
        batch.index.fill_(-1)
        batch.coefficient.fill_(0.0)
