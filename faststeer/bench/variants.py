"""What `faststeer bench` compares: a model stock, hooked, and patched in several ways."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from faststeer.bench.hook_baselines import add_with_hooks, twin
from faststeer.models.decoders import layers_of
from faststeer.patching.patch import patch
from faststeer.steering.row_settings import RowSettings
from faststeer.vectors.aggregate import sum_directions
from faststeer.vectors.random import random_vector
from faststeer.vectors.steering_vector import SteeringVector

STOCK, HOOKS, IDLE = "stock", "plain hooks", "faststeer, idle"
COUNTS = (1, 4, 16, 64)  # stacked vectors
_NORM = 1e-3  # of what is added: cost does not depend on it, and nothing can overflow

Variants = Mapping[str, nn.Module]


def of_all(count: int) -> str:
    """The variant in which all sequences share so many vectors."""
    return f"faststeer, {count} vector{'s' * (count > 1)}"


def of_rows(count: int) -> str:
    """The variant in which every sequence has coefficients of its own for so many vectors."""
    return f"{of_all(count)} a row"


NAMES = (STOCK, HOOKS, IDLE, *map(of_all, COUNTS), *map(of_rows, COUNTS))


def vectors_on_all_layers(model: nn.Module, count: int) -> list[SteeringVector]:
    """`count` small random vectors, each with a direction for every layer."""
    norms = dict.fromkeys(range(len(layers_of(model))), _NORM)
    config: Any = model.config
    hidden_size: int = config.hidden_size
    return [random_vector(f"random {i}", norms, hidden_size, seed=i) for i in range(count)]


def steered_twin(model: nn.Module, vectors: list[SteeringVector]) -> nn.Module:
    """`model` patched and steered, but for its weights a model apart."""
    other = twin(model)
    patched = patch(other)
    patched.plan.doses.judged = False  # they are small on purpose
    for vector in vectors:
        patched.steer(vector)
    return other


def hooked_twin(model: nn.Module, vectors: list[SteeringVector]) -> nn.Module:
    """`model` steered by hooks as fast as hooks can be, with its vectors summed beforehand."""
    other = twin(model)
    weights = next(model.parameters())
    summed = sum_directions(vectors)
    add_with_hooks(other, {layer: row.to(weights) for layer, row in summed.items()})
    return other


def variants_of(model: nn.Module) -> dict[str, nn.Module]:
    """Everything that `bench` compares, by name. Raises ValueError for a model it cannot patch.

    Those `of_rows` steer all sequences alike until they are inside `rows_for`.
    """
    variants = {STOCK: model, HOOKS: hooked_twin(model, vectors_on_all_layers(model, 1))}
    variants[IDLE] = steered_twin(model, [])
    for name in (of_all, of_rows):
        for count in COUNTS:
            variants[name(count)] = steered_twin(model, vectors_on_all_layers(model, count))
    return variants


@contextmanager
def rows_for(variants: Variants, sequences: int) -> Iterator[None]:
    """Inside, the variants `of_rows` are ready for so many sequences."""
    with ExitStack() as stack:
        for count in COUNTS:
            stack.enter_context(_different_rows(variants[of_rows(count)], sequences))
        yield


def _different_rows(model: nn.Module, sequences: int) -> RowSettings:
    """Rows for a patched model whose every sequence gets its vectors with other coefficients."""
    patched = patch(model)
    names = [handle.name for handle in patched.handles]
    return patched.rows(
        [{name: 1.0 + row + i / 8 for i, name in enumerate(names)} for row in range(sequences)]
    )
