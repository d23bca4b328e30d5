"""Measure the cost of steering a user's own model; it neither passes nor fails."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator

from torch import nn

from faststeer.diagnostics.bench import phases
from faststeer.diagnostics.bench.findings import Finding
from faststeer.diagnostics.bench.timing import Samples
from faststeer.diagnostics.bench.variants import steered_twin, vectors_on_all_layers
from faststeer.models.inference import random_ids
from faststeer.utils.warnings import FaststeerWarning


def costs(model: nn.Module) -> Iterator[Finding]:
    """Time a prefill and a decode step, stock and with four vectors on every layer."""
    variants: dict[str, nn.Module] = {"stock": model}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FaststeerWarning)
        variants["steered"] = steered_twin(model, vectors_on_all_layers(model, 4))
    ids = random_ids(model, 1, 128)

    def ignore_progress(_: int) -> None:
        """Show no progress."""

    measures: dict[str, Callable[[], Samples]] = {
        "prefill of 128 tokens": lambda: phases.prefill(variants, ids, 5, ignore_progress),
        "decode step": lambda: phases.decode(variants, ids, 8, 5, ignore_progress),
    }
    for name, measure in measures.items():
        try:
            samples = measure()
        except (TypeError, ValueError, RuntimeError, IndexError) as error:
            # A cache without a length, a context under 128 tokens, ...: not a fault of the patch.
            yield Finding(f"cost, {name}", None, f"not measured: {error}")
            continue
        ratio = samples.ratio("steered", against="stock")
        measured = f"with 4 vectors on every layer {ratio}: {ratio.verdict}"
        stock = samples.median("stock") * 1e3
        yield Finding(f"cost, {name}", None, f"{measured}; stock takes {stock:.2f} ms")
