"""Time the backward pass of the ops against PyTorch's formulas for it, in one run.

    python benchmarks/ops/backward.py --output result.json

"formulas" is the backward pass that the kernels replaced: the same gradients in 23 kernels of
PyTorch without vectors and 41 with them, behind the same forward kernel. Timed are the backward
pass alone, forward and backward together, and a training step of learned vectors on a model.
Medians of interleaved rounds; the spread is that of the middle half of the rounds, over the median.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

import faststeer
from faststeer import _C, ops
from faststeer.diagnostics.bench.timing import OtherLoad, Samples, interleaved
from faststeer.diagnostics.bench.variants import vectors_on_all_layers
from faststeer.models import load
from faststeer.utils.files import write_whole
from faststeer.utils.machine import machine_facts, source_commit

Record = dict[str, Any]
Forward = Callable[..., Any]

EPS, HIDDEN, ENTRIES, STORED = 1e-5, 4096, 4, 8
OURS, BEFORE = "kernel", "formulas"
ROWS = (64, 2048)
TARGET = 4.0  # times faster, the backward pass alone


def formulas(
    grad_out: Tensor, grad_residual: Tensor, h: Tensor, weight: Tensor, eps: float, entries: Any
) -> tuple[Tensor | None, ...]:
    """Return the gradients of h, weight, vectors and coefficient, as PyTorch computed them."""
    wide = h.float()
    inverse_rms = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    y = wide * inverse_rms
    grad_y = grad_out.float() * (0.0 + weight.float())
    grad_h = inverse_rms * (grad_y - y * (grad_y * y).mean(-1, keepdim=True))
    grad_weight = (grad_out.float() * y).flatten(0, -2).sum(0)
    grad_h = grad_h + grad_residual.float()
    return grad_h.to(h.dtype), grad_weight.to(weight.dtype), *entry_formulas(grad_h, entries)


def entry_formulas(grad_h: Tensor, entries: Any) -> tuple[Tensor | None, Tensor | None]:
    vectors, index, coefficient = entries
    if vectors is None:
        return None, None
    grad_s = grad_h.float().reshape(len(index), -1, grad_h.shape[-1]).sum(1)
    used, rows = index >= 0, index.clamp(min=0).long()
    terms = torch.where(used, coefficient, 0.0)[:, :, None] * grad_s[:, None, :]
    grad_vectors = torch.zeros(vectors.shape, dtype=torch.float32, device=vectors.device)
    grad_vectors.index_add_(0, rows.flatten(), terms.flatten(0, 1))
    dots = torch.einsum("rkh,rh->rk", vectors[rows].float(), grad_s)
    return grad_vectors.to(vectors.dtype), torch.where(used, dots, 0.0)


class NormByFormulas(torch.autograd.Function):
    """The forward kernel of steer_add_rms_norm, with the formulas behind it."""

    @staticmethod
    def forward(
        ctx: Any, x: Any, residual: Tensor, weight: Tensor, eps: float, *entries: Any
    ) -> Any:
        op = torch.ops.faststeer.steer_add_rms_norm.default
        out, h = op(x, residual, weight, eps, *entries)
        kept = entries if any(t is not None and t.requires_grad for t in entries) else (None,) * 3
        ctx.save_for_backward(h, weight, *kept)
        ctx.eps, ctx.x = eps, x is not None
        return out, h

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor, grad_residual: Tensor) -> Any:
        h, weight, *entries = ctx.saved_tensors
        grad_h, *rest = formulas(grad_out, grad_residual, h, weight, ctx.eps, entries)
        return grad_h if ctx.x else None, grad_h, rest[0], None, rest[1], None, rest[2]


class AddByFormulas(torch.autograd.Function):
    """The forward kernel of steer_add, with the formulas behind it."""

    @staticmethod
    def forward(ctx: Any, x: Any, residual: Tensor, *entries: Any) -> Tensor:
        ctx.save_for_backward(*entries)
        ctx.x = x is not None
        h: Tensor = torch.ops.faststeer.steer_add.default(x, residual, *entries)
        return h

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        grad_vectors, grad_coefficient = entry_formulas(grad, ctx.saved_tensors)
        return grad if ctx.x else None, grad, grad_vectors, None, grad_coefficient


def norm_by_formulas(
    x: Any, residual: Tensor, weight: Tensor, eps: float, *entries: Any, weight_offset: float = 0.0
) -> tuple[Tensor, Tensor]:
    if weight_offset != 0.0:
        raise ValueError("the formulas are those of a norm without an offset")
    three = (*entries, None, None, None)[:3]
    result: tuple[Tensor, Tensor] = NormByFormulas.apply(x, residual, weight, eps, *three)
    return result


def add_by_formulas(x: Any, residual: Tensor, *entries: Any) -> Tensor:
    result: Tensor = AddByFormulas.apply(x, residual, *(*entries, None, None, None)[:3])
    return result


@contextmanager
def formulas_in_models() -> Iterator[None]:
    """Let fused layers differentiate through the formulas."""
    before = ops.steer_add_rms_norm, ops.steer_add
    ops.steer_add_rms_norm, ops.steer_add = norm_by_formulas, add_by_formulas
    try:
        yield
    finally:
        ops.steer_add_rms_norm, ops.steer_add = before


def inputs(rows: int, settings: int) -> dict[str, Any]:
    torch.manual_seed(0)
    given: dict[str, Any] = {
        name: torch.randn(rows, HIDDEN).bfloat16() for name in ("x", "residual")
    }
    given |= {"weight": torch.rand(HIDDEN).bfloat16(), "vectors": torch.randn(STORED, HIDDEN)}
    given["coefficient"] = torch.randn(settings, ENTRIES)
    for tensor in given.values():
        tensor.requires_grad_()
    given["index"] = torch.randint(0, STORED, (settings, ENTRIES), dtype=torch.int32)
    return given


def calls_of(
    given: dict[str, Any], forward: Forward, learned: bool
) -> dict[str, Callable[[], Any]]:
    """Return the backward pass alone, and with the forward pass before it."""
    names = ("vectors", "index", "coefficient")
    entries = tuple(given[n] for n in names) if learned else ()
    leaves = [given[n] for n in ("x", "residual", "weight")]
    leaves += [given["vectors"], given["coefficient"]] if learned else []
    grads = tuple(torch.randn_like(given["residual"]) for _ in range(2))

    def run() -> Any:
        return forward(given["x"], given["residual"], given["weight"], EPS, *entries)

    result = run()
    return {
        "backward": lambda: torch.autograd.grad(result, leaves, grads, retain_graph=True),
        "forward and backward": lambda: torch.autograd.grad(run(), leaves, grads),
    }


def summary(samples: Samples, load: OtherLoad, **facts: Any) -> Record:
    """Return medians, and how far the middle half of the rounds lies apart."""
    quarters = {name: statistics.quantiles(own, n=4) for name, own in samples.seconds.items()}
    return {
        **facts,
        "milliseconds": {name: samples.median(name) * 1e3 for name in samples.seconds},
        "spread": {n: (q[2] - q[0]) / samples.median(n) for n, q in quarters.items()},
        "times_faster": samples.speedup(OURS, over=BEFORE),
        "cores_elsewhere": load.cores(),
    }


def measure_ops(rows: int, settings: int, learned: bool, rounds: int) -> Iterator[Record]:
    given = inputs(rows, settings)
    calls = {
        OURS: calls_of(given, ops.steer_add_rms_norm, learned),
        BEFORE: calls_of(given, norm_by_formulas, learned),
    }
    for what in ("backward", "forward and backward"):
        load = OtherLoad()
        samples = interleaved({name: own[what] for name, own in calls.items()}, rounds)
        entries = ENTRIES if learned else 0
        yield summary(samples, load, what=what, rows=rows, settings=settings, entries=entries)


def measure_training(name: str, rounds: int) -> Record:
    """Time a step that trains one vector per layer of a frozen model."""
    model = load(name, dtype=torch.float32).model.requires_grad_(False)
    ids = torch.randint(0, model.config.vocab_size, (4, 32))
    with faststeer.patch(model) as patched:
        learned = patched.learn(vectors_on_all_layers(model, 1)[0], 1.0)
        optimizer = torch.optim.SGD(learned.parameters(), lr=1e-3)

        def step() -> None:
            optimizer.zero_grad()
            model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
            optimizer.step()

        def step_by_formulas() -> None:
            with formulas_in_models():
                step()

        load_of_others = OtherLoad()
        variants: Mapping[str, Callable[[], object]] = {OURS: step, BEFORE: step_by_formulas}
        samples = interleaved(variants, rounds)
    facts = {"model": name, "layers": len(learned.vector.layers), "tokens": ids.numel()}
    return summary(samples, load_of_others, what="training step", **facts)


def table_of(records: list[Record]) -> Table:
    columns = ("what", "rows", "settings", "entries", OURS, BEFORE, "faster", "spread", "others")
    table = Table(*columns)
    for record in records:
        times, spread = record["milliseconds"], record["spread"]
        table.add_row(
            record["what"],
            str(record.get("rows", record.get("tokens"))),
            str(record.get("settings", "")),
            str(record.get("entries", "")),
            *(f"{times[name]:.3f} ms" for name in (OURS, BEFORE)),
            f"{record['times_faster']:.2f}",
            " ".join(f"{spread[name]:.0%}" for name in (OURS, BEFORE)),
            f"{record['cores_elsewhere'] or 0:.1f}",
        )
    return table


def main(
    rows: Annotated[
        list[int] | None, typer.Option(help="Numbers of rows; 64 and 2,048 if none are given.")
    ] = None,
    rounds: Annotated[int, typer.Option(help="Rounds of the ops.")] = 15,
    model: Annotated[str | None, typer.Option(help="Train a vector on this model.")] = None,
    output: Annotated[Path | None, typer.Option(help="Write JSON here.")] = None,
) -> None:
    console = Console()
    records = []
    for count in rows or ROWS:
        for settings, learned in ((count, False), (1, True), (count, True)):
            records += measure_ops(count, settings, learned, rounds)
    if model is not None:
        records.append(measure_training(model, max(3, rounds // 3)))
    console.print(table_of(records))
    slow = [
        r
        for r in records
        if r["what"] == "backward" and r["entries"] > 0 and r["times_faster"] < TARGET
    ]
    console.print(f"backward passes with vectors under {TARGET} times as fast: {len(slow)}")
    if output is not None:
        facts = machine_facts() | {"isa": _C.isa(), "commit": source_commit(Path(__file__).parent)}
        result = {"machine": facts, "dtype": "bfloat16", "hidden": HIDDEN, "records": records}
        write_whole(output, (json.dumps(result, indent=2) + "\n").encode())


if __name__ == "__main__":
    typer.run(main)
