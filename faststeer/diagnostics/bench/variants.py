"""Build the variants that `faststeer bench` compares: a model stock, hooked and patched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from faststeer.diagnostics.bench.hook_baselines import add_with_hooks, twin
from faststeer.models.decoders import layers_of
from faststeer.patching.patch import patch
from faststeer.steering.row_settings import RowSettings
from faststeer.vectors.aggregate import sum_directions
from faststeer.vectors.random import random_vector
from faststeer.vectors.steering_vector import SteeringVector

STOCK, HOOKS, IDLE = "stock", "plain hooks", "faststeer, idle"
COUNTS = (1, 4, 16, 64)  # stacked vectors
_NORM = 1e-3  # of each vector: the cost does not depend on it, and nothing can overflow

Variants = Mapping[str, nn.Module]


def shared_variant(count: int) -> str:
    """Return the name of the variant in which all sequences share `count` vectors."""
    return f"faststeer, {count} vector{'s' * (count > 1)}"


def per_row_variant(count: int) -> str:
    """Return the name of the variant in which every sequence has its own `count` coefficients."""
    return f"{shared_variant(count)} a row"  # recorded results are keyed by these names


NAMES = (STOCK, HOOKS, IDLE, *map(shared_variant, COUNTS), *map(per_row_variant, COUNTS))


def vectors_on_all_layers(model: nn.Module, count: int) -> list[SteeringVector]:
    """Return `count` small random vectors, each with a direction for every layer."""
    norms = dict.fromkeys(range(len(layers_of(model))), _NORM)
    config: Any = model.config
    hidden_size: int = config.hidden_size
    return [random_vector(f"random {i}", norms, hidden_size, seed=i) for i in range(count)]


def steered_twin(model: nn.Module, vectors: list[SteeringVector]) -> nn.Module:
    """Return a patched and steered twin of `model`, which stays as it is."""
    other = twin(model)
    patched = patch(other)
    patched.plan.doses.judged = False  # the vectors are small on purpose
    for vector in vectors:
        patched.steer(vector)
    return other


def hooked_twin(model: nn.Module, vectors: list[SteeringVector]) -> nn.Module:
    """Return a twin of `model` with the fastest hooks: one sum of all vectors per layer."""
    other = twin(model)
    weights = next(model.parameters())
    summed = sum_directions(vectors)
    add_with_hooks(other, {layer: row.to(weights) for layer, row in summed.items()})
    return other


def variants_of(model: nn.Module) -> dict[str, nn.Module]:
    """Return all variants by name. Those of `per_row_variant` need `per_row_steering`.

    Raises:
        ValueError: `patch` refuses the model.
    """
    variants = {STOCK: model, HOOKS: hooked_twin(model, vectors_on_all_layers(model, 1))}
    variants[IDLE] = steered_twin(model, [])
    for name in (shared_variant, per_row_variant):
        for count in COUNTS:
            variants[name(count)] = steered_twin(model, vectors_on_all_layers(model, count))
    return variants


@contextmanager
def per_row_steering(variants: Variants, sequences: int) -> Iterator[None]:
    """Give each of `sequences` sequences its own coefficients, in the per-row variants, until exit.

    Outside, these variants steer all sequences alike.
    """
    with ExitStack() as stack:
        for count in COUNTS:
            stack.enter_context(
                _different_coefficients(variants[per_row_variant(count)], sequences)
            )
        yield


def _different_coefficients(model: nn.Module, sequences: int) -> RowSettings:
    """Return row settings with different coefficients for every sequence and vector."""
    patched = patch(model)
    names = [handle.name for handle in patched.handles]
    return patched.rows(
        [{name: 1.0 + row + i / 8 for i, name in enumerate(names)} for row in range(sequences)]
    )
