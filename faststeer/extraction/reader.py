"""Reading the residual stream of texts at chosen layers and tokens.

Forward passes stop after the last layer that is read, logits are never computed, and the common
prefix of a pair's texts is computed once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from faststeer.data.batches import Batch
from faststeer.extraction.bf16_linear import fastest_linear
from faststeer.extraction.early_exit import Select, read_sites, run_until_stop, stop_at
from faststeer.extraction.examples import Encoder, Example, TextRow, encoded_batches
from faststeer.extraction.read_token import ReadToken, uniform_weights
from faststeer.extraction.reading_checks import require_finite, warn_of_later_hooks
from faststeer.extraction.single_pass import require_single_pass
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
    """Activations of a batch of E examples with B texts.

    `indices` ``[E]`` are the examples', `sides` ``[B]`` the texts', and `by_layer` maps layers to
    activations ``[B, H]`` in the model's dtype (float32 where several tokens were averaged) on the
    layer's device. A pair has two rows, one after the other, positive first.
    """

    indices: list[int]
    sides: list[int]
    by_layer: dict[int, Tensor]


class ActivationReader:
    """Reads chosen layers of a decoder at the read token of texts."""

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
        """Check the arguments, which are those of `faststeer.extract`.

        Raises:
            TypeError, ValueError: as `faststeer.extract`.
        """
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
        self.read_token = ReadToken(read_token)
        self.sites = {Site.of(layer, site): layer for layer in self.layers}
        self.window: int | None = getattr(config, "sliding_window", None)
        self.encoder = Encoder(
            tokenizer,
            context_of(self.decoder),
            self.read_token.min_tokens,
            max_length,
            add_special_tokens,
        )
        self.tokenizer = tokenizer
        self.add_special_tokens = add_special_tokens
        self.device = self.calls.device
        self.single_pass = self.known  # whether each layer is known to run once per forward pass
        self.dtype: torch.dtype | None = None  # of the residual stream, once it was read
        self._patches = ExitStack()  # undoes the patch of a model that was not patched
        warn_of_later_hooks(blocks, self.layers, site)

    def read(
        self,
        examples: Iterable[Example],
        batch_size: int,
        advance: Advance,
        shard: tuple[int, int] = (0, 1),
    ) -> Iterator[ActivationBatch]:
        """Yield the activations of each batch of examples.

        Args:
            examples: not yet encoded.
            batch_size: texts per forward pass.
            advance: called with the number of texts of each batch when it is done.
            shard: (rank, processes): of all batches, only those of this rank are computed.

        Raises:
            ValueError: texts that the model cannot read, or without a token at the read token;
                activations that are not finite; a decoder without a single residual stream.
        """
        rank, processes = shard
        for number, batch in enumerate(encoded_batches(examples, batch_size, self.encoder)):
            if number % processes == rank:
                indices = [example.index for example in batch]
                sides = [side for example in batch for side in example.sides]
                yield ActivationBatch(indices, sides, self._read_batch(batch))
            advance(sum(len(example.texts) for example in batch))

    @contextmanager
    def keep_patched(self) -> Iterator[None]:
        """Keep the model patched between batches; restore it on exit."""
        with self._patches:
            yield

    def read_all_tokens(
        self, ids: list[list[int]], select: Select = Tensor.clone
    ) -> dict[int, Tensor]:
        """Return layer -> `select` of the hidden states ``[B, T, H]`` of B texts of T tokens.

        Raises:
            ValueError: as `read`.
        """
        padded = self.calls.batch(ids, self.tokenizer.pad_token_id)
        with self._prepared(ids) as patched:
            found = self._read_call(patched, select, self.calls.arguments(padded))
        require_finite(
            found, self.site, self.dtype, [f"a text of {len(row)} tokens" for row in ids]
        )
        return found

    @contextmanager
    def _prepared(self, rows: list[list[int]]) -> Iterator[Patched]:
        """Patch the model, in evaluation mode and without gradients; check it on its first rows."""
        patched = self.decoder.__dict__.get(MARK)
        if not isinstance(patched, Patched):
            patched = self._patches.enter_context(temporarily_patched(self.model))
        if self.encoder.missing_bos is None:
            self.encoder.missing_bos = missing_bos(
                self.model, self.tokenizer, rows, self.add_special_tokens
            )
        if not self.single_pass:
            require_single_pass(patched, self.calls, self.sites, max(rows, key=len))
            self.single_pass = True
        with evaluating(self.decoder):
            yield patched

    def _read_batch(self, batch: list[Example]) -> dict[int, Tensor]:
        rows = [row for example in batch for row in example.rows()]
        with self._prepared([row.ids for row in rows]) as patched:
            # Steering by position or row needs whole texts, and how an unknown decoder handles a
            # cache with padding in its middle is unknown too.
            whole = not self.known or patched.plan.rows or patched.plan.forward.needs_tokens
            lengths = None if whole else self.read_token.prefix_lengths(batch, self.window)
            if lengths is None:
                found = self._read_whole_texts(patched, rows)
            else:
                found = self._read_after_prefixes(patched, batch, lengths)
        require_finite(found, self.site, self.dtype, [row.name for row in rows])
        return found

    def _read_whole_texts(self, patched: Patched, rows: list[TextRow]) -> dict[int, Tensor]:
        pad = self.tokenizer.pad_token_id
        groups = self.calls.groups([row.ids for row in rows], pad)
        parts = []
        for group in groups:
            group_rows = [rows[number] for number in group]
            padded = self.calls.batch([row.ids for row in group_rows], pad)
            select = self._selection(padded, self.read_token.weights(padded, group_rows))
            parts.append(self._read_call(patched, select, self.calls.arguments(padded)))
        if len(groups) == 1:
            return parts[0]
        order = torch.tensor([number for group in groups for number in group]).argsort()
        return {
            layer: torch.cat([part[layer] for part in parts])[order.to(parts[0][layer].device)]
            for layer in self.layers
        }

    def _read_after_prefixes(
        self, patched: Patched, batch: list[Example], lengths: list[int]
    ) -> dict[int, Tensor]:
        """Compute each pair's common prefix into a cache, then both continuations."""
        from transformers import DynamicCache

        pad = self.tokenizer.pad_token_id
        both = list(zip(batch, lengths, strict=True))
        prefixes = self.calls.batch([example.ids[0][:length] for example, length in both], pad)
        rest = self.calls.batch(
            [ids[length:] for example, length in both for ids in example.ids], pad
        )
        cache: Any = DynamicCache()
        last = max(self.sites, key=lambda site: site.layer)
        given = self.calls.with_past(prefixes, prefixes.mask, prefixes.positions, cache)
        # Of the last layer only keys and values are needed, so its MLP does not run.
        with stop_at(patched, Site(last.layer, "resid_mid")):
            self._run(patched, given)
        cache.batch_repeat_interleave(2)
        mask = torch.cat([prefixes.mask.repeat_interleave(2, 0), rest.mask], 1)
        positions = rest.positions + prefixes.mask.sum(1).repeat_interleave(2)[:, None]
        weights = None if self.read_token.index is not None else uniform_weights(rest.real)
        given = self.calls.with_past(rest, mask, positions, cache)
        return self._read_call(patched, self._selection(rest, weights), given)

    def _read_call(
        self, patched: Patched, select: Select, given: dict[str, Any]
    ) -> dict[int, Tensor]:
        def select_and_note_dtype(hidden: Tensor) -> Tensor:
            self.dtype = hidden.dtype
            return select(hidden)

        with read_sites(patched, self.sites, select_and_note_dtype) as found:
            self._run(patched, given)
        return found

    def _run(self, patched: Patched, given: dict[str, Any]) -> None:
        with fastest_linear(self.device):
            run_until_stop(self.decoder, patched, **given)

    def _selection(self, padded: Batch, weights: Tensor | None) -> Select:
        """Return the map from ``[B, T, H]`` to each text's read token, or mean, ``[B, H]``."""
        index = self.read_token.index
        if weights is None and self.known:  # padded on the left, so that texts end together
            return lambda hidden: hidden[:, index].clone()
        if weights is None:
            lines, columns = torch.arange(len(padded.ids)), self.read_token.columns(padded)
            return lambda hidden: hidden[lines.to(hidden.device), columns.to(hidden.device)]

        def mean(hidden: Tensor) -> Tensor:
            on_device = weights.to(hidden.device)
            # Hidden states at padding may be NaN, and zero times NaN is NaN.
            real = hidden.float().masked_fill((on_device == 0)[..., None], 0)
            return torch.bmm(on_device[:, None], real)[:, 0]

        return mean
