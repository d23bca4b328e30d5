"""`Attachment`: how steering is put on the modules of a decoder, and taken off again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from weakref import ref

from torch import nn
from torch.utils.hooks import RemovableHandle

from faststeer.models.calls import DecoderSignature
from faststeer.models.residual_stream import EmbeddingSteering
from faststeer.patching.start_forward import EndForward, StartForward, devices_of
from faststeer.steering.plan import Plan


class Attachment(ABC):
    """The steering of one decoder's modules.

    It does not hold the decoder, which may hold it: a model is freed when its last user releases
    it, as a stock one is.
    """

    kinds: Sequence[str]  # the sites per layer
    layers: list[nn.Module]
    hidden_size: int
    plan: Plan
    signature: DecoderSignature
    peft_models: list[nn.Module]  # around the decoder
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
        self.signature = DecoderSignature.of(decoder)
        self.peft_models = []
        self.plan = Plan.for_layers(devices_of(self.layers), self.hidden_size, self.kinds)
        self.put_on(decoder)

    def detach(self) -> None:
        """Restore every module."""
        self.take_off()

    def bind(self, decoder: nn.Module) -> None:
        """Set the decoder whose layers are followed; a copied model's attachment has its own.

        Graphs read it from here; as an argument it would become a guard on that model.
        """
        self._decoder = ref(decoder)

    def follow(self) -> None:
        """Steer the layers that the decoder has now: some may have been replaced.

        Raises:
            ValueError: one of them cannot be steered, or their number has changed.
        """
        decoder = self._decoder()
        assert decoder is not None  # it is running
        now = self.current_layers(decoder)
        if now == self.layers:  # modules are compared by identity
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
        self.plan.tables.follow_devices(devices_of(now))

    def register_start_and_end(
        self, decoder: nn.Module, embedding: EmbeddingSteering
    ) -> list[RemovableHandle]:
        """Register the hooks that start and end each forward, and steer the first layer's input."""
        return [
            self.layers[0].register_forward_pre_hook(embedding, with_kwargs=True),
            decoder.register_forward_pre_hook(StartForward(self), with_kwargs=True),
            decoder.register_forward_hook(EndForward(self.plan)),
        ]
