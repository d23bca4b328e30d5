"""The layout of a layer's hidden states: ``[B, T, H]``, or what can be brought to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from faststeer.bank import Site
from faststeer.patching import Patched
from faststeer.text_calls import TextCalls, unsteered


def batch_first(
    hidden: Tensor, batch: int, tokens: int, decoder: str, transposed: bool | None = None
) -> Tensor:
    """View hidden states as ``[B, T, H]``.

    Args:
        hidden: ``[B, T, H]``, or ``[T, B, H]`` as in XLNet.
        batch: B of the decoder's input.
        tokens: T of the decoder's input.
        decoder: the decoder's class, for errors.
        transposed: which of the two it is, where B equals T and the shape cannot tell.

    Raises:
        ValueError: another shape, such as several parallel streams (Gemma3n, DeepSeek-V4), of which
            none is the residual stream, or tokens of the model's own in front (CPM-Ant).
    """
    shape = tuple(hidden.shape)
    if hidden.dim() == 3:
        if transposed and shape[:2] == (tokens, batch):
            return hidden.transpose(0, 1)
        if shape[:2] == (batch, tokens):
            return hidden
        if shape[:2] == (tokens, batch):
            return hidden.transpose(0, 1)
    raise ValueError(
        f"the hidden states of a {decoder} have shape {shape} for {batch} sequences of {tokens} "
        "tokens; only one residual stream, [B, T, H] or [T, B, H], can be read"
    )


@dataclass(frozen=True)
class Layout:
    """What one text shows of an unknown decoder: whether its streams are ``[T, B, H]``."""

    transposed: bool

    @classmethod
    def of(
        cls, patched: Patched, calls: TextCalls, sites: Mapping[Site, int], row: list[int]
    ) -> Layout:
        """Run one text and look at the sites that are to be read.

        Raises:
            ValueError: hidden states of another shape, a layer that runs several times per forward
                pass, or not at all.
        """
        shapes: dict[int, list[Tensor]] = {layer: [] for layer in sites.values()}
        tables = {layer: patched.plan.tables[site] for site, layer in sites.items()}
        for layer, table in tables.items():
            table.readers.append(shapes[layer].append)
        batch = calls.batch([row], None)
        try:
            with unsteered(calls.decoder):
                calls.decoder(**calls.arguments(batch))
        finally:
            for layer, table in tables.items():
                table.readers.remove(shapes[layer].append)
        decoder = type(calls.decoder).__name__
        if skipped := [layer for layer, seen in shapes.items() if not seen]:
            raise ValueError(
                f"a {decoder} does not run layers {skipped} on texts alone; choose layers= that it "
                "runs"
            )
        for layer, seen in shapes.items():
            if len(seen) > 1:
                raise ValueError(
                    f"a {decoder} runs layer {layer} {len(seen)} times per forward pass, so it has "
                    "no one residual stream to be read; choose layers= that run once"
                )
            batch_first(seen[0], 1, len(row), decoder)
        transposed = any(seen[0].shape[0] != 1 for seen in shapes.values())
        return cls(transposed)
