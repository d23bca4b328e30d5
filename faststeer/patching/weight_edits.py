"""Edits of the weights that write into the residual stream: collected, checked, then applied.

New values are computed in float64 on the CPU, so that a checkpoint does not depend on the device
that it was made on, and rounded once to the weights' dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from faststeer.models.stream_writers import StreamWriters

InPlace = Callable[[Tensor], Tensor]  # of rows [n, H] in float64; returns them
_BLOCK = 2048  # rows at a time: at hidden size 4096 that is 64 MB of float64


@dataclass(frozen=True)
class Edit:
    """The change of one parameter, seen as rows ``[N, H]`` that are written."""

    name: str
    rows: Tensor  # a view of the parameter
    change: InPlace

    def require_finite(self) -> None:
        """Raise ValueError where the parameter's dtype cannot hold a new value."""
        dtype = self.rows.dtype
        for _, new in self._blocks():
            largest = torch.linalg.vector_norm(new, torch.inf)
            if not largest.to(dtype).isfinite():
                raise ValueError(
                    f"{self.name} would have to hold {float(largest):g}, and {dtype} holds "
                    f"{torch.finfo(dtype).max:g} at most"
                )

    def make(self) -> None:
        """Put the new values in place."""
        for block, new in self._blocks():
            block.copy_(new)

    def _blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield blocks of the parameter with their new values, computed per call to save memory."""
        for start in range(0, len(self.rows), _BLOCK):
            block = self.rows[start : start + _BLOCK]
            yield block, self.change(block.to("cpu", torch.float64, copy=True))


@dataclass
class Edits:
    """All changes of a causal model that `require_bakeable` accepts; `make` applies them."""

    model: Any
    writers: StreamWriters
    edits: list[Edit] = field(default_factory=list)
    biases: dict[str, dict[str, nn.Parameter]] = field(default_factory=dict)  # flag -> name -> it
    unties: bool = False

    def embedding(self, change: InPlace) -> None:
        """Change the rows of the embedding, but not of a head that is tied to it."""
        rows = self.model.model.embed_tokens.weight.detach()
        self.edits.append(Edit("model.embed_tokens.weight", rows, change))
        self.unties = True

    def writing(self, layer: int, change: InPlace) -> None:
        """Change what a layer writes into the residual stream: for each input, and its biases."""
        module = self.model.model.layers[layer]
        for path, weight in self.writers.weights(module):
            self.edits.append(Edit(f"model.layers.{layer}.{path}", weight.detach().T, change))
        for path in self.writers.biased(module):
            self.bias(layer, path, change)

    def bias(self, layer: int, projection: str, change: InPlace, flag: str | None = None) -> None:
        """Change a projection's bias: made of zeros with all others of `flag`, if one is given."""
        name = f"model.layers.{layer}.{projection}"
        bias = self._biases_of(flag)[name] if flag else self.model.get_submodule(name).bias
        if bias is not None:
            self.edits.append(Edit(f"{name}.bias", bias.detach()[None], change))

    def require_finite(self) -> None:
        """Raise ValueError where a parameter's dtype cannot hold a new value."""
        with torch.inference_mode():
            for edit in self.edits:
                edit.require_finite()

    def make(self) -> None:
        """Change the model: weights in place, biases that were missing, the config's flags."""
        for flag, biases in self.biases.items():
            setattr(self.model.config, flag, True)
            for name, bias in biases.items():
                self.model.get_submodule(name).bias = bias
        if self.unties:
            self._untie()
        with torch.inference_mode():  # weights made in inference mode can be changed in no other
            for edit in self.edits:
                edit.make()

    def _biases_of(self, flag: str) -> dict[str, nn.Parameter]:
        if flag not in self.biases:
            names = [
                f"model.layers.{layer}.{projection}"
                for layer in range(len(self.model.model.layers))
                for projection in self.writers.of_flag(flag)
            ]
            self.biases[flag] = {name: _bias(self.model.get_submodule(name)) for name in names}
        return self.biases[flag]

    def _untie(self) -> None:
        embedding, head = self.model.model.embed_tokens.weight, self.model.lm_head
        if head.weight.data_ptr() == embedding.data_ptr():
            head.weight = _own(embedding.detach().clone, embedding)
        self.model.config.tie_word_embeddings = False
        getattr(self.model, "all_tied_weights_keys", {}).clear()  # transformers 5 keeps a list


def _bias(linear: nn.Linear) -> nn.Parameter:
    there: nn.Parameter | None = linear.bias  # torch's stubs know no None
    if there is not None:
        return there
    return _own(lambda: linear.weight.new_zeros(linear.out_features), linear.weight)


def _own(make: Callable[[], Tensor], like: Tensor) -> nn.Parameter:
    """Return a parameter that can be trained even if it is made in inference mode."""
    with torch.inference_mode(False), torch.no_grad():
        return nn.Parameter(make(), requires_grad=like.requires_grad)
