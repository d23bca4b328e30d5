"""The life of a patched model: what its handle knows of it, and how it is restored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn

from faststeer.models.patch_mark import MARK, PatchMark
from faststeer.patching.fused import FusedPatch
from faststeer.patching.hooked import HookPatch
from faststeer.patching.outer_masks import OuterMask, preparing_models
from faststeer.patching.virtual_tokens import wrappers_of
from faststeer.patching.wrapped_calls import CallCounter, GenerateWatch
from faststeer.steering.token_positions import lengths_of

if TYPE_CHECKING:
    from typing_extensions import Self


class PatchLifecycle(PatchMark):
    """Base class of `Patched`: lifecycle and model facts."""

    def __init__(
        self, model: nn.Module, decoder: nn.Module, attachment: FusedPatch | HookPatch
    ) -> None:
        """Take over an attachment that `patch` has attached."""
        self.decoder = decoder
        self.hidden_size = attachment.hidden_size
        self.plan = attachment.plan
        self.plan.tables.has_handle = True
        self._attachment = attachment
        self.signature = attachment.signature
        guard = self.plan.forward.guard
        self._counted = CallCounter(decoder, guard, self.plan.interrupt)
        self._watched: list[GenerateWatch] = []
        self._outer: list[OuterMask] = []
        self._entered = 0
        self.watch(model)
        decoder.__dict__[MARK] = self

    def watch(self, model: nn.Module) -> None:
        """Wrap each `generate` in `model`, a module around the decoder, and record the masks of
        models that prepare the decoder's.
        """
        watched = [own.model for own in self._watched]
        for module in model.modules():
            if (
                hasattr(module, "generate")
                and all(module is not one for one in watched)
                and any(part is self.decoder for part in module.modules())
            ):
                self._watched.append(GenerateWatch(self.plan, module))
        known = isinstance(self._attachment, FusedPatch)
        for module in wrappers_of(model, self.decoder):
            if all(module is not one for one in self._attachment.peft_models):
                self._attachment.peft_models.append(module)
        for module in preparing_models(model, self.decoder, known):
            if all(module is not outer.model for outer in self._outer):
                self._outer.append(OuterMask(self.plan.forward, module))

    @property
    def num_layers(self) -> int:
        """The number of decoder layers; valid layers are 0 to num_layers - 1."""
        return len(self._attachment.layers)

    @property
    def prompt_lengths(self) -> Tensor | None:
        """The tokens of each prompt, ``[B]``, for positions= in forwards outside of `generate`.

        Set it, to a tensor or a list, where a forward holds more or less than the whole prompts:
        with a past, in chunks, or with an answer appended. It applies until it is set to None.

        Raises:
            TypeError: numbers that are not integers.
            ValueError: another shape, or a length below 1.
        """
        return self.plan.forward.prompt_lengths

    @prompt_lengths.setter
    def prompt_lengths(self, lengths: Tensor | Sequence[int] | None) -> None:
        self.require_patched()
        known = None if lengths is None else lengths_of(lengths, self.plan.tables.device)
        forward = self.plan.forward
        forward.prompt_lengths = known
        forward.longest_prompt = 0 if known is None else int(known.max())

    def reserve(self, rows: int, settings: int | None = None) -> None:
        """Make room for that many rows and different settings, before a graph is made.

        Room grows by itself, but then compiled models recompile, and captured CUDA graphs must be
        recaptured.
        """
        self.require_patched()
        self.plan.tables.reserve(rows if settings is None else settings, rows)

    def unpatch(self) -> None:
        """Restore every module's original class. Idempotent.

        Raises:
            RuntimeError: another thread is using the model; nothing has changed then.
        """
        if self.decoder.__dict__.get(MARK) is not self:
            return
        self.plan.forward.guard.require()
        self.plan.tables.forget_graphs()
        self.plan.clear()
        for watched in self._watched:
            watched.restore()
        for outer in self._outer:
            outer.restore()
        self._counted.restore()
        self._attachment.detach()
        del self.decoder.__dict__[MARK]

    def __enter__(self) -> Self:
        """Return the handle."""
        self._entered += 1
        return self

    def __exit__(self, *exception: object) -> None:
        """Unpatch, also after an error; of nested blocks, on leaving the outermost."""
        self._entered -= 1
        if not self._entered:
            self.unpatch()

    def require_patched(self) -> None:
        """Raise ValueError after `unpatch`, RuntimeError while another thread uses the model."""
        if self.decoder.__dict__.get(MARK) is not self:
            raise ValueError("this handle's model was unpatched; call faststeer.patch(model) again")
        self.plan.forward.guard.require()
