"""Call a decoder on texts, such that padding does not change what it computes.

Position ids differ between models: RoBERTa's start after its padding index, BART's count columns,
Mamba and RWKV have none. So a decoder of an unknown family gets none, and its texts are padded on
the right, where a causal model does not look. Whether that holds is measured on the model itself;
where it does not, only texts of equal length share a forward pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from faststeer.data.batches import Batch, padded
from faststeer.models.calls import DecoderSignature, past_argument
from faststeer.models.decoders import find_blocks, find_known
from faststeer.models.family import Family
from faststeer.models.inference import device_of
from faststeer.models.patch_mark import MARK, PatchMark

_GAP = 8  # padding of a measurement, at least: of a token or two some models forget in time

# How far a text beside padding may be from the text alone, as a share of its rows' norms: ten times
# what rounding does and more. Zamba2 of transformers 4.57 is off by 5e-4, RecurrentGemma by 6e-2.
_ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 3e-2}


class TextCalls:
    """Calls of one decoder, or of the whole model, on batches of token ids.

    `pads`: whether texts of several lengths may share a forward pass; None until `measure` ran.
    """

    def __init__(self, model: nn.Module, whole: bool = False) -> None:
        """Prepare calls of the decoder in `model`, or of `model` for its logits if `whole`.

        Raises:
            ValueError: it takes no token ids.
        """
        self.decoder, parts = find_known(model) or find_blocks(model)
        self.known = isinstance(parts, Family)
        self.whole = whole
        self.called = model if whole else self.decoder
        self.signature = DecoderSignature.of(self.called)
        if not (self.known or self.signature.takes("input_ids")):
            raise ValueError(
                f"a {type(self.called).__name__} takes no input_ids, so it cannot be run on texts"
            )
        if isinstance(getattr(self.decoder, "embed_tokens", None), nn.ModuleList):
            raise ValueError(  # MusicGen: ids of several codebooks per place
                f"a {type(self.decoder).__name__} has several token embeddings, and texts have one "
                "token per place; it cannot be run on texts"
            )
        self.device = device_of(self.decoder)
        self.pads: bool | None = True if self.known else None

    def arguments(self, batch: Batch) -> dict[str, Any]:
        """Return what the module is given for a batch without a past."""
        given: dict[str, Any] = {"input_ids": batch.ids}
        if self.signature.takes("attention_mask"):
            given["attention_mask"] = batch.mask
        if self.known:  # also through wrappers such as PEFT's, which hand these on
            return given | {"position_ids": batch.positions, "use_cache": False}
        # RecurrentGemma of transformers 4.57 takes no past: its state is in its modules, and only a
        # forward with a cache begins with an empty one.
        if self.signature.takes("use_cache") and self.signature.past is not None:
            given["use_cache"] = False
        return given

    def with_past(self, batch: Batch, mask: Tensor, positions: Tensor, past: Any) -> dict[str, Any]:
        """Return what a decoder of a known family is given for tokens that continue `past`.

        Raises:
            ValueError: its argument for the past is not known.
        """
        given = {"input_ids": batch.ids, "attention_mask": mask, "position_ids": positions}
        return given | {past_argument(self.decoder): past, "use_cache": True}

    def batch(self, rows: Sequence[Sequence[int]], pad: int | None, side: str = "left") -> Batch:
        """Pad `rows` to one batch; `side` counts for a known family alone."""
        if not self.known:
            side = "right"
            own = getattr(self.decoder.config, "pad_token_id", None)
            pad = own if isinstance(own, int) and own >= 0 else pad
        return padded(rows, pad, self.device, side)

    def groups(self, rows: Sequence[Sequence[int]], pad: int | None) -> list[list[int]]:
        """Return the numbers of rows that may share a forward pass, group by group."""
        lengths = sorted({len(row) for row in rows})
        if len(lengths) == 1:
            return [list(range(len(rows)))]
        if self.pads is None:
            self.measure(rows, pad)
        if self.pads:
            return [list(range(len(rows)))]
        return [[n for n, row in enumerate(rows) if len(row) == length] for length in lengths]

    def measure(self, rows: Sequence[Sequence[int]], pad: int | None) -> None:
        """Measure whether rows give beside padding what they give alone.

        The shortest, the longest and one between: Zamba2 of transformers 4.57 is right for two
        tokens and wrong for nine.
        """
        ordered = sorted(rows, key=len)
        tried = {len(row): row for row in (ordered[0], ordered[len(rows) // 2], ordered[-1])}
        longest = len(ordered[-1])
        context = context_of(self.decoder)
        width = longest + _GAP if context is None else min(longest + _GAP, max(context, longest))
        full = (list(ordered[-1]) * width)[:width]
        together = self._unsteered([*tried.values(), full], pad)
        self.pads = all(
            _agree(beside[: len(row)], self._unsteered([row], pad)[0])
            for row, beside in zip(tried.values(), together, strict=False)
        )

    def _unsteered(self, rows: Sequence[Sequence[int]], pad: int | None) -> Tensor:
        """Return the output; rows of steering might ask for a larger batch, so nothing steers."""
        batch = self.batch(rows, pad)
        with unsteered(self.called):
            return self.output(batch)

    def output(self, batch: Batch) -> Tensor:
        """Return logits ``[B, T, V]``, or the decoder's last hidden states ``[B, T, H]``.

        Raises:
            ValueError: the module returns something else.
        """
        if self.whole:
            found: Tensor = self.called(**self.arguments(batch)).logits
            return found
        return last_hidden(self.decoder, self.arguments(batch))


def _agree(found: Tensor, expected: Tensor) -> bool:
    """Return whether rows ``[T, H]`` are equal up to rounding."""
    apart = (found.double() - expected.double()).norm(dim=-1)
    norms = expected.double().norm(dim=-1)
    return bool((apart <= _ROUNDING.get(expected.dtype, 1e-4) * norms).all())


def decoder_of(model: nn.Module) -> nn.Module:
    """Return the decoder inside `model`, of a known family or not. Raises as `patch`."""
    decoder, _ = find_known(model) or find_blocks(model)
    return decoder


def last_hidden(decoder: nn.Module, given: dict[str, Any]) -> Tensor:
    """Return a decoder's last hidden states ``[B, T, H]``. Raises ValueError without any."""
    hidden = hidden_of(decoder(**given))
    ids = given["input_ids"]
    if not isinstance(hidden, Tensor) or hidden.shape[:-1] != ids.shape:
        got = tuple(hidden.shape) if isinstance(hidden, Tensor) else type(hidden).__name__
        raise ValueError(
            f"a {type(decoder).__name__} returned {got} for {tuple(ids.shape)} tokens; expected "
            "last hidden states [B, T, H]"
        )
    return hidden


def hidden_of(output: Any) -> Any:
    """Return what a decoder's output begins with: its last hidden states."""
    if isinstance(output, tuple):
        return output[0]
    return getattr(output, "last_hidden_state", None)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Inside, the module is out of training and makes no gradients; restore its modes on exit."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, training in modes:
            part.training = training


@contextmanager
def unsteered(module: nn.Module) -> Iterator[None]:
    """Inside, what is measured is the model itself: as in `evaluating`, and nothing steers it."""
    marks = (part.__dict__.get(MARK) for part in module.modules())
    patched = next((mark for mark in marks if isinstance(mark, PatchMark)), None)
    with evaluating(module), nullcontext() if patched is None else patched.off():
        yield


# What configurations call the number of positions; attribute maps translate most of the others.
_CONTEXTS = (
    "max_position_embeddings",
    "max_target_positions",
    "max_seq_len",
    "n_positions",
    "n_ctx",
)


def context_of(decoder: nn.Module) -> int | None:
    """Return how many tokens a decoder has positions for; None where no limit is configured.

    XLNet's is -1, which is none. RoBERTa's table of positions begins with those up to its padding
    index, that no token has.
    """
    config: Any = decoder.config
    found = (getattr(config, name, None) for name in _CONTEXTS)
    limits = [limit for limit in found if isinstance(limit, int) and limit > 0][:1]
    for name, part in decoder.named_modules():
        if isinstance(part, nn.Embedding) and "position" in name and part.padding_idx is not None:
            limits.append(part.num_embeddings - part.padding_idx - 1)
    return min(limits, default=None)
