"""Reading the residual stream of texts while the model runs: rows out of the fused layers.

The forward stops after the last layer that is read, logits are never computed, and what the texts
of a pair begin with in common is computed once.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from faststeer.bank import Site
from faststeer.batches import Batch, device_of, left_padded
from faststeer.calls import past_argument
from faststeer.finding import find_blocks, find_known
from faststeer.models import Family
from faststeer.ops import FaststeerWarning
from faststeer.partial_forward import Take, ending_at, reading, run
from faststeer.patching import Patched, patch
from faststeer.products import fastest_products
from faststeer.progress import Advance
from faststeer.read_tokens import ReadToken, evenly
from faststeer.scopes import Positions
from faststeer.swapping import MARK
from faststeer.texts import Encoder, Unit, batched
from faststeer.vectors import SITES


@dataclass(frozen=True)
class Rows:
    """Of a batch: the units' numbers ``[U]``, the texts' sides ``[B]``, and by layer ``[B, H]``.

    Rows are in the model's dtype (float32 where several tokens were averaged) on the layer's
    device. A pair has two rows, one after the other.
    """

    numbers: list[int]
    sides: list[int]
    by_layer: dict[int, Tensor]


class Reader:
    """Runs texts through the decoder and reads chosen layers at the read token."""

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        layers: str | int | Sequence[int],
        site: str,
        read_token: int | Positions,
        max_length: int | None,
        add_special_tokens: bool,
    ) -> None:
        """Arguments as for `faststeer.extract`. Raises ValueError for one that makes no sense."""
        self.model = model
        self.decoder, parts = find_known(model) or find_blocks(model)
        self.known = isinstance(parts, Family)
        if isinstance(parts, Family):
            blocks = list(self.decoder.get_submodule(parts.layers).children())
        else:
            blocks = parts
        config: Any = self.decoder.config
        parameters = inspect.signature(type(self.decoder).forward).parameters
        self.takes_positions = self.known or "position_ids" in parameters
        self.hidden_size = int(config.hidden_size)
        self.layers = chosen_layers(layers, len(blocks))
        if site not in SITES:
            raise ValueError(f"site {site!r} is unknown; expected one of {', '.join(SITES)}")
        if site == "resid_mid" and not self.known:
            raise ValueError(f"resid_mid of a {type(self.decoder).__name__} cannot be read")
        self.site = site
        self.token = ReadToken(read_token)
        self.sites = {Site.of(layer, site): layer for layer in self.layers}
        self.window: int | None = getattr(config, "sliding_window", None)
        self.encoder = Encoder(
            tokenizer,
            getattr(config, "max_position_embeddings", None),
            self.token.fewest,
            max_length,
            add_special_tokens,
        )
        self.pad = tokenizer.pad_token_id
        self.device = device_of(self.decoder)
        self._own: Patched | None = None  # the patch that reading put on
        self._warn_of_hooks(blocks)

    def read(
        self,
        units: Iterable[Unit],
        batch_size: int,
        advance: Advance,
        share: tuple[int, int] = (0, 1),
    ) -> Iterator[Rows]:
        """Rows of each batch; with `share` (rank, processes), of every batch that is this rank's.

        Raises:
            ValueError: texts that the model cannot read, or without a token to be read.
        """
        rank, processes = share
        for number, batch in enumerate(batched(units, batch_size, self.encoder)):
            if number % processes == rank:
                sides = [side for unit in batch for side in unit.sides]
                yield Rows([unit.number for unit in batch], sides, self._forward(batch))
            advance(sum(len(unit.texts) for unit in batch))

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Leave the model patched between batches; on leaving it is as it was before."""
        try:
            yield
        finally:
            if self._own is not None:
                self._own.unpatch()

    def every_token(self, ids: list[list[int]], take: Take = Tensor.clone) -> dict[int, Tensor]:
        """By layer what `take` makes of ``[B, T, H]``, of ids of one length: without padding."""
        padded = self._padded(ids)
        with self._ready() as patched, reading(patched, self.sites, take) as found:
            self._run(patched, padded.ids, padded.mask, padded.positions, None)
        return found

    @contextmanager
    def _ready(self) -> Iterator[Patched]:
        """The model patched, out of training and without gradients."""
        patched: Patched | None = self.decoder.__dict__.get(MARK)
        if patched is None:
            patched = self._own = patch(self.model)
        modes = [(module, module.training) for module in self.decoder.modules()]
        self.decoder.eval()
        try:
            with torch.no_grad():
                yield patched
        finally:
            for module, training in modes:
                module.training = training

    def _forward(self, batch: list[Unit]) -> dict[int, Tensor]:
        with self._ready() as patched:
            # Steering that looks at positions or rows has to see whole texts, and what an unknown
            # decoder makes of a cache with padding in its middle is unknown too.
            whole = not self.known or patched.plan.rows or patched.plan.tables.needs_tokens
            cuts = None if whole else self.token.cuts(batch, self.window)
            if cuts is None:
                return self._whole(patched, batch)
            return self._in_two(patched, batch, cuts)

    def _whole(self, patched: Patched, batch: list[Unit]) -> dict[int, Tensor]:
        padded = self._padded([ids for unit in batch for ids in unit.ids])
        weights = self.token.weights(padded, batch)
        with reading(patched, self.sites, self._taking(weights)) as found:
            self._run(patched, padded.ids, padded.mask, padded.positions, None)
        return found

    def _in_two(self, patched: Patched, batch: list[Unit], cuts: list[int]) -> dict[int, Tensor]:
        """The shared beginnings into a cache, then both continuations of each."""
        from transformers import DynamicCache

        begun = self._padded([unit.ids[0][:cut] for unit, cut in zip(batch, cuts, strict=True)])
        rest = self._padded(
            [ids[cut:] for unit, cut in zip(batch, cuts, strict=True) for ids in unit.ids]
        )
        cache: Any = DynamicCache()
        last = max(self.sites, key=lambda site: site.layer)
        # Of the last layer only keys and values are needed.
        with ending_at(patched, Site(last.layer, "resid_mid")):
            self._run(patched, begun.ids, begun.mask, begun.positions, cache)
        cache.batch_repeat_interleave(2)
        mask = torch.cat([begun.mask.repeat_interleave(2, 0), rest.mask], 1)
        positions = rest.positions + begun.mask.sum(1).repeat_interleave(2)[:, None]
        weights = None if self.token.index is not None else evenly(rest.real)
        with reading(patched, self.sites, self._taking(weights)) as found:
            self._run(patched, rest.ids, mask, positions, cache)
        return found

    def _run(
        self, patched: Patched, ids: Tensor, mask: Tensor, positions: Tensor, cache: Any
    ) -> None:
        given: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
        given["use_cache"] = cache is not None
        if cache is not None:
            given[past_argument(self.decoder)] = cache
        if self.takes_positions:
            given["position_ids"] = positions
        with fastest_products(self.device):
            run(self.decoder, patched, **given)

    def _padded(self, rows: list[list[int]]) -> Batch:
        return left_padded(rows, self.pad, self.device)

    def _taking(self, weights: Tensor | None) -> Take:
        """From ``[B, T, H]`` each text's one token ``[B, H]``, or the mean over its tokens."""
        if weights is None:
            assert self.token.index is not None
            index = self.token.index
            return lambda hidden: hidden[:, index].clone()
        return lambda hidden: torch.bmm(weights.to(hidden.device)[:, None], hidden.float())[:, 0]

    def _warn_of_hooks(self, blocks: list[nn.Module]) -> None:
        if self.site == "resid_mid":
            return
        shift = self.site == "resid_pre"
        last = [layer - shift for layer in self.layers if layer >= shift]
        hooked = [
            layer
            for layer in last
            if any(
                getattr(hook, "__module__", "") != "transformers.utils.output_capturing"
                for hook in blocks[layer]._forward_hooks.values()
            )
        ]
        if hooked:
            warnings.warn(
                f"layers {hooked} have forward hooks; what these change in the residual stream is "
                "not in what is read there, only in what later layers make of it",
                FaststeerWarning,
                stacklevel=4,
            )


def chosen_layers(layers: str | int | Sequence[int], count: int) -> list[int]:
    """0-based numbers, ascending; "all" is every one. Raises ValueError for one out of range."""
    if isinstance(layers, str):
        if layers != "all":
            raise ValueError(f"layers is {layers!r}; expected 'all', a number or several")
        return list(range(count))
    chosen = sorted({layers} if isinstance(layers, int) else set(layers))
    if not chosen:
        raise ValueError("layers is empty; expected 'all', a number or several")
    for layer in chosen:
        if not 0 <= layer < count:
            raise ValueError(f"layer {layer} is out of range: the model has 0 to {count - 1}")
    return chosen
