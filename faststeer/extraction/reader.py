"""Reading the residual stream of texts while the model runs: rows out of the fused layers.

The forward stops after the last layer that is read, logits are never computed, and what the texts
of a pair begin with in common is computed once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from faststeer.data.batches import Batch
from faststeer.extraction.bf16_linear import fastest_products
from faststeer.extraction.early_exit import Take, ending_at, reading, run
from faststeer.extraction.examples import Encoder, Example, TextRow, batched
from faststeer.extraction.passes import require_single_pass
from faststeer.extraction.read_token import ReadToken, evenly
from faststeer.extraction.reading_checks import require_finite, warn_of_later_hooks
from faststeer.models.decoders import find_blocks, find_known
from faststeer.models.family import Family
from faststeer.models.patch_mark import MARK
from faststeer.models.special_tokens import missing_bos
from faststeer.models.text_calls import TextCalls, context_of, evaluating
from faststeer.patching.patch import temporarily_patched
from faststeer.patching.patched import Patched
from faststeer.steering.positions import Positions
from faststeer.utils.progress import Advance
from faststeer.vectors.arguments import chosen_layers
from faststeer.vectors.sites import SITES, Site


@dataclass(frozen=True)
class ActivationBatch:
    """Of a batch: the units' numbers ``[U]``, the texts' sides ``[B]``, and by layer ``[B, H]``.

    Rows are in the model's dtype (float32 where several tokens were averaged) on the layer's
    device. A pair has two rows, one after the other.
    """

    numbers: list[int]
    sides: list[int]
    by_layer: dict[int, Tensor]


class ActivationReader:
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
        self.calls = TextCalls(model)
        self.decoder, self.known = self.calls.decoder, self.calls.known
        _, parts = find_known(model) or find_blocks(model)
        if isinstance(parts, Family):
            blocks = list(self.decoder.get_submodule(parts.layers).children())
        else:
            blocks = parts.of(self.decoder)
        config: Any = self.decoder.config
        self.hidden_size = int(config.hidden_size)
        self.num_layers = len(blocks)
        self.layers = chosen_layers(layers, self.num_layers)
        if site not in SITES:
            raise ValueError(f"site {site!r} is unknown; expected one of {', '.join(SITES)}")
        if site == "resid_mid" and not self.known:
            raise ValueError(f"resid_mid of a {type(self.decoder).__name__} cannot be read")
        self.site = site
        self.token = ReadToken(read_token)
        self.sites = {Site.of(layer, site): layer for layer in self.layers}
        self.window: int | None = getattr(config, "sliding_window", None)
        self.encoder = Encoder(
            tokenizer, context_of(self.decoder), self.token.fewest, max_length, add_special_tokens
        )
        self.tokenizer = tokenizer
        self.add_special_tokens = add_special_tokens
        self.device = self.calls.device
        self.single_pass = self.known  # or found to be so
        self.dtype: torch.dtype | None = None  # of the stream
        self._opened = ExitStack()  # what reading has patched
        warn_of_later_hooks(blocks, self.layers, site)

    def read(
        self,
        units: Iterable[Example],
        batch_size: int,
        advance: Advance,
        share: tuple[int, int] = (0, 1),
    ) -> Iterator[ActivationBatch]:
        """Rows of each batch; with `share` (rank, processes), of every batch that is this rank's.

        Raises:
            ValueError: texts that the model cannot read, or without a token to be read; activations
                that are not finite; a decoder without a single residual stream.
        """
        rank, processes = share
        for number, batch in enumerate(batched(units, batch_size, self.encoder)):
            if number % processes == rank:
                sides = [side for unit in batch for side in unit.sides]
                yield ActivationBatch([unit.number for unit in batch], sides, self._forward(batch))
            advance(sum(len(unit.texts) for unit in batch))

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Keep the model patched between batches; restore it on exit, whatever happened."""
        with self._opened:
            yield

    def every_token(self, ids: list[list[int]], take: Take = Tensor.clone) -> dict[int, Tensor]:
        """By layer what `take` makes of ``[B, T, H]``, of ids of one length: without padding.

        Raises:
            ValueError: as `read`.
        """
        padded = self.calls.batch(ids, self.tokenizer.pad_token_id)
        with self._ready(ids) as patched:
            found = self._read(patched, take, self.calls.arguments(padded))
        require_finite(
            found, self.site, self.dtype, [f"a text of {len(own)} tokens" for own in ids]
        )
        return found

    @contextmanager
    def _ready(self, rows: list[list[int]]) -> Iterator[Patched]:
        """The model patched, out of training and without gradients; known by its first rows."""
        patched = self.decoder.__dict__.get(MARK)
        if not isinstance(patched, Patched):
            patched = self._opened.enter_context(temporarily_patched(self.model))
        if self.encoder.missing_bos is None:
            self.encoder.missing_bos = missing_bos(
                self.model, self.tokenizer, rows, self.add_special_tokens
            )
        if not self.single_pass:
            require_single_pass(patched, self.calls, self.sites, max(rows, key=len))
            self.single_pass = True
        with evaluating(self.decoder):
            yield patched

    def _forward(self, batch: list[Example]) -> dict[int, Tensor]:
        rows = [row for unit in batch for row in unit.rows()]
        with self._ready([row.ids for row in rows]) as patched:
            # Steering that looks at positions or rows has to see whole texts, and what an unknown
            # decoder makes of a cache with padding in its middle is unknown too.
            whole = not self.known or patched.plan.rows or patched.plan.forward.needs_tokens
            cuts = None if whole else self.token.cuts(batch, self.window)
            if cuts is None:
                found = self._whole(patched, rows)
            else:
                found = self._in_two(patched, batch, cuts)
        require_finite(found, self.site, self.dtype, [row.name for row in rows])
        return found

    def _whole(self, patched: Patched, rows: list[TextRow]) -> dict[int, Tensor]:
        pad = self.tokenizer.pad_token_id
        groups = self.calls.groups([row.ids for row in rows], pad)
        parts = []
        for group in groups:
            own = [rows[number] for number in group]
            padded = self.calls.batch([row.ids for row in own], pad)
            take = self._taking(padded, self.token.weights(padded, own))
            parts.append(self._read(patched, take, self.calls.arguments(padded)))
        if len(groups) == 1:
            return parts[0]
        order = torch.tensor([number for group in groups for number in group]).argsort()
        return {
            layer: torch.cat([part[layer] for part in parts])[order.to(parts[0][layer].device)]
            for layer in self.layers
        }

    def _in_two(self, patched: Patched, batch: list[Example], cuts: list[int]) -> dict[int, Tensor]:
        """The shared beginnings into a cache, then both continuations of each."""
        from transformers import DynamicCache

        pad = self.tokenizer.pad_token_id
        both = zip(batch, cuts, strict=True)
        begun = self.calls.batch([unit.ids[0][:cut] for unit, cut in both], pad)
        both = zip(batch, cuts, strict=True)
        rest = self.calls.batch([ids[cut:] for unit, cut in both for ids in unit.ids], pad)
        cache: Any = DynamicCache()
        last = max(self.sites, key=lambda site: site.layer)
        # Of the last layer only keys and values are needed.
        given = self.calls.with_past(begun, begun.mask, begun.positions, cache)
        with ending_at(patched, Site(last.layer, "resid_mid")):
            self._run(patched, given)
        cache.batch_repeat_interleave(2)
        mask = torch.cat([begun.mask.repeat_interleave(2, 0), rest.mask], 1)
        positions = rest.positions + begun.mask.sum(1).repeat_interleave(2)[:, None]
        weights = None if self.token.index is not None else evenly(rest.real)
        given = self.calls.with_past(rest, mask, positions, cache)
        return self._read(patched, self._taking(rest, weights), given)

    def _read(self, patched: Patched, take: Take, given: dict[str, Any]) -> dict[int, Tensor]:
        def from_stream(hidden: Tensor) -> Tensor:
            self.dtype = hidden.dtype
            return take(hidden)

        with reading(patched, self.sites, from_stream) as found:
            self._run(patched, given)
        return found

    def _run(self, patched: Patched, given: dict[str, Any]) -> None:
        with fastest_products(self.device):
            run(self.decoder, patched, **given)

    def _taking(self, padded: Batch, weights: Tensor | None) -> Take:
        """From ``[B, T, H]`` each text's one token ``[B, H]``, or the mean over its tokens."""
        if weights is None and self.known:  # padded on the left, so that texts end together
            return lambda hidden: hidden[:, self.token.index].clone()
        if weights is None:
            lines, columns = torch.arange(len(padded.ids)), self.token.columns(padded)
            return lambda hidden: hidden[lines.to(hidden.device), columns.to(hidden.device)]

        def mean(hidden: Tensor) -> Tensor:
            own = weights.to(hidden.device)
            # What stands at padding may be NaN, and zero times NaN is.
            real = hidden.float().masked_fill((own == 0)[..., None], 0)
            return torch.bmm(own[:, None], real)[:, 0]

        return mean
