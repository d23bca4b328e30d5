"""What patching does to the modules of a model, and how that is undone.

Decoder layers and the final norm of a known family change their class, nothing else: parameters,
hooks, isinstance and saving see the same modules.
"""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from typing import Any
from weakref import ref

from torch import nn
from torch.utils.hooks import RemovableHandle

from faststeer.models.calls import require_same_names
from faststeer.models.decoders import family_layers, require_distinct
from faststeer.models.family import Family
from faststeer.models.residual_stream import EmbeddingSteering, FusedResidual, NormHandoff
from faststeer.patching.class_swap import check_replaceable, replace, replaceable, restore
from faststeer.patching.forward_hooks import BeginsForward, EndsForward, devices_of
from faststeer.steering.plan import Plan
from faststeer.vectors.sites import Site


class Attachment(ABC):
    """The steering of one decoder's modules.

    It does not hold the decoder, which may hold it: a model is freed when its last user lets go, as
    a stock one is.
    """

    kinds: tuple[str, ...]  # the sites of each layer
    layers: list[nn.Module]
    hidden_size: int
    plan: Plan
    _hooks: list[RemovableHandle]

    @abstractmethod
    def current_layers(self, decoder: nn.Module) -> list[nn.Module]:
        """Return the layers that the decoder has now."""

    @abstractmethod
    def put_on(self, decoder: nn.Module) -> None:
        """Let `layers` read the tables of `plan`."""

    @abstractmethod
    def take_off(self) -> None:
        """Undo `put_on`."""

    @abstractmethod
    def require_steerable(self, layer: nn.Module, what: str) -> None:
        """Raise ValueError, calling the layer `what`, where it cannot be steered."""

    def attach(self, decoder: nn.Module) -> None:
        """Steer the decoder by a new `plan`, which has a table for every site."""
        self.bind(decoder)
        self.plan = Plan.for_layers(decoder, devices_of(self.layers), self.hidden_size, self.kinds)
        self.put_on(decoder)

    def detach(self) -> None:
        """Restore every module."""
        self.take_off()

    def bind(self, decoder: nn.Module) -> None:
        """Remember the decoder whose layers are followed: a copied model's attachment has another.

        Graphs read it from here; as an argument of theirs it would be a guard on the very model.
        """
        self._decoder = ref(decoder)

    def follow(self) -> None:
        """Steer the layers that the decoder has now: some may have been replaced.

        Raises:
            ValueError: one of them cannot be steered, or there are more or fewer than there were.
        """
        decoder = self._decoder()
        assert decoder is not None  # it is running
        now = self.current_layers(decoder)
        if len(now) == len(self.layers) and all(map(operator.is_, now, self.layers)):
            return
        name = type(decoder).__name__
        if len(now) != len(self.layers):
            if self.plan.idle:
                return  # each norm that was computed ahead names the layer it is for
            raise ValueError(
                f"a {name} had {len(self.layers)} layers when it was patched and has {len(now)} "
                "now; unpatch() it and patch() it again"
            )
        for index, layer in enumerate(now):
            if not any(layer is old for old in self.layers):
                self.require_steerable(layer, f"layer {index}")
        self.take_off()
        self.layers = now
        self.put_on(decoder)
        self.plan.tables.settle(devices_of(now))


class FusedPatch(Attachment):
    """A decoder of a known family, whose residual adds and norms become one op with the steering.

    Nothing is changed before `attach`.
    """

    kinds = ("resid_mid", "resid_post")

    def __init__(self, decoder: nn.Module, family: Family) -> None:
        """Raises ValueError where a layer cannot be replaced."""
        self.family = family
        self.layers = family_layers(decoder, family)
        require_distinct(decoder, self.layers)
        for index, layer in enumerate(self.layers):
            self.require_steerable(layer, f"layer {index}")
        if not self.layers:
            raise ValueError(f"{type(decoder).__name__} has no layers; there is nothing to steer")
        self.hidden_size = _hidden_size(decoder, self._norm_of(decoder))

    def current_layers(self, decoder: nn.Module) -> list[nn.Module]:
        """The layers that the decoder has now."""
        return family_layers(decoder, self.family)

    def require_steerable(self, layer: nn.Module, what: str) -> None:
        """Raise ValueError, calling the layer `what`, where its class cannot be replaced."""
        check_replaceable(layer, self.family.layer, what)
        require_same_names(layer, layer.get_submodule(self.family.attention))

    def put_on(self, decoder: nn.Module) -> None:
        """Replace the classes of the layers and of the final norm."""
        tables = self.plan.tables
        self.norm = self._norm_of(decoder)
        handoff = NormHandoff()
        for index, layer in enumerate(self.layers):
            last = index + 1 == len(self.layers)
            stream = FusedResidual(
                handoff,
                (tables[Site(index, "resid_mid")], tables[Site(index, "resid_post")]),
                self.family,
                self.norm if last else self.layers[index + 1],
                None if last else self.family.input_norm,
            )
            replace(layer, self.family.steered_layer, stream)
        self._norm_replaced = replaceable(self.norm, self.family.norm)
        if self._norm_replaced:
            replace(self.norm, self.family.steered_norm, handoff)
        embedding = EmbeddingSteering(tables[Site(0, "resid_pre")], self.layers[0])
        self._hooks = beginning(decoder, self, embedding)

    def take_off(self) -> None:
        """Give every module its stock class back."""
        for hook in self._hooks:
            hook.remove()
        for layer in self.layers:
            restore(layer, self.family.layer)
        if self._norm_replaced:
            restore(self.norm, self.family.norm)

    def _norm_of(self, decoder: nn.Module) -> nn.Module:
        norm = decoder._modules[self.family.final_norm]
        assert norm is not None
        return norm


def beginning(
    decoder: nn.Module, attachment: Attachment, embedding: EmbeddingSteering
) -> list[RemovableHandle]:
    """Hooks that begin and end each forward of the plan, and steer what the first layer reads."""
    plan = attachment.plan
    begins = BeginsForward(plan, attachment)
    return [
        attachment.layers[0].register_forward_pre_hook(embedding, with_kwargs=True),
        decoder.register_forward_pre_hook(begins, with_kwargs=True),
        decoder.register_forward_hook(EndsForward(plan)),
    ]


def _hidden_size(decoder: nn.Module, norm: nn.Module) -> int:
    weight = norm._parameters.get("weight")
    if weight is not None and weight.dim() == 1:
        return weight.numel()
    config: Any = decoder.config
    return int(config.hidden_size)
