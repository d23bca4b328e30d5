"""Reading the residual stream of texts at chosen layers and tokens.

Forward passes stop after the last layer that is read, logits are never computed, and the common
prefix of a pair's texts is computed once.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from faststeer.data.batches import Batch
from faststeer.data.chat import ChatFormat
from faststeer.extraction.activation_batch import ActivationBatch
from faststeer.extraction.bf16_linear import fastest_linear
from faststeer.extraction.early_exit import Select, read_sites, run_until_stop
from faststeer.extraction.examples import Encoder, Example, TextRow, encoded_batches
from faststeer.extraction.read_token import ReadToken
from faststeer.extraction.reading_checks import require_finite, steers_by_place, warn_of_later_hooks
from faststeer.extraction.selection import Selection, SinkCounts, token_norms
from faststeer.extraction.single_pass import require_single_pass
from faststeer.models.decoders import find_blocks, find_known
from faststeer.models.family import Family
from faststeer.models.patch_mark import MARK
from faststeer.models.special_tokens import Remember, missing_bos
from faststeer.models.text_calls import TextCalls, context_of, evaluating
from faststeer.patching.patch import temporarily_patched
from faststeer.patching.patched import Patched
from faststeer.steering.positions import Positions
from faststeer.utils.progress import Advance
from faststeer.utils.warnings import FaststeerWarning
from faststeer.vectors.arguments import chosen_layers
from faststeer.vectors.sites import SITES, Site


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
        *,
        keep_sinks: bool = False,
        match_endings: bool = False,
        chat: ChatFormat | None = None,
    ) -> None:
        """Check the arguments, which are those of `faststeer.extract`.

        `chat` is the format of the texts where it is known, else the tokenizer's own is assumed.

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
        if chat is None and getattr(tokenizer, "chat_template", None):
            chat = ChatFormat(tokenizer)
        self.read_token = ReadToken(read_token, chat)
        self.sites = {Site.of(layer, site): layer for layer in self.layers}
        self.window: int | None = getattr(config, "sliding_window", None)
        self.encoder = Encoder(
            tokenizer,
            context_of(self.decoder),
            self.read_token.min_tokens,
            max_length,
            add_special_tokens,
            match_endings,
        )
        self.tokenizer = tokenizer
        self.add_special_tokens = add_special_tokens
        self.device = self.calls.device
        self.keep_sinks = keep_sinks
        self.sinks = SinkCounts(self.layers, self.device)
        self.single_pass = self.known  # whether each layer is known to run once per forward pass
        self.dtype: torch.dtype | None = None  # of the residual stream, once it was read
        self.remember: Remember | None = None  # of what was measured in earlier runs
        self._patches = ExitStack()  # undoes the patch of a model that was not patched
        warn_of_later_hooks(blocks, self.layers, site)

    def read(
        self,
        examples: Iterable[Example],
        batch_size: int,
        advance: Advance,
        shard: tuple[int, int] = (0, 1),
        watch: Callable[[Example], None] | None = None,
    ) -> Iterator[ActivationBatch]:
        """Yield the activations of each batch of examples.

        Args:
            examples: not yet encoded.
            batch_size: texts per forward pass.
            advance: called with the number of texts of each batch when it is done.
            shard: (rank, processes): of all batches, only those of this rank are computed.
            watch: called with every encoded example, on every rank.

        Raises:
            ValueError: texts that the model cannot read, or without a token at the read token;
                activations that are not finite; a decoder without a single residual stream.
        """
        rank, processes = shard
        for number, batch in enumerate(encoded_batches(examples, batch_size, self.encoder)):
            if watch is not None:
                for example in batch:
                    watch(example)
            if number % processes == rank:
                indices = [example.index for example in batch]
                sides = [side for example in batch for side in example.sides]
                self.sinks.begin_batch()
                found = self._read_batch(batch)
                yield ActivationBatch(indices, sides, found, self.sinks.only_sinks(len(sides)))
            advance(sum(len(example.texts) for example in batch))

    def report(
        self, emit_warnings: bool = True, more: Sequence[str] = (), stacklevel: int = 3
    ) -> None:
        """Warn about what was met in the texts, with `more` messages; of attention sinks too.

        `emit_warnings`: whether this process warns, of several only one; `stacklevel`: see there.

        Raises:
            ValueError: as `Encoder.messages`.
        """
        for message in [*self._messages(), *more] if emit_warnings else ():
            warnings.warn(message, FaststeerWarning, stacklevel=stacklevel)

    def _messages(self) -> list[str]:
        return [*self.encoder.messages(), *self.sinks.messages()]

    @contextmanager
    def keep_patched(self) -> Iterator[None]:
        """Keep the model patched between batches; restore it on exit."""
        with self._patches:
            yield

    def read_all_tokens(
        self, ids: list[list[int]], select: Callable[[Tensor], Tensor] = Tensor.clone
    ) -> dict[int, Tensor]:
        """Return layer -> `select` of the hidden states ``[B, T, H]`` of B texts of T tokens.

        Raises:
            ValueError: as `read`.
        """
        padded = self.calls.batch(ids, self.tokenizer.pad_token_id)
        with self._prepared(ids) as patched:
            given = self.calls.arguments(padded)
            found = self._read_call(patched, lambda _, hidden: select(hidden), given)
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
        self._check_bos(rows)
        if not self.single_pass:
            require_single_pass(patched, self.calls, self.sites, max(rows, key=len))
            self.single_pass = True
        with evaluating(self.decoder):
            yield patched

    def _check_bos(self, rows: list[list[int]]) -> None:
        """Measure whether the model needs a BOS that the texts lack, unless it is known."""
        if self.encoder.missing_bos is None:
            self.encoder.missing_bos = missing_bos(
                self.model, self.tokenizer, rows, self.add_special_tokens, self.remember
            )

    def _whole_texts(self) -> bool:
        """Return whether the common prefix of a pair is computed for each of its texts."""
        # How an unknown decoder handles a cache with padding in its middle is unknown. The
        # embedding alone fills no cache.
        embedding = self.sites.keys() == {Site(0, "resid_pre")}
        return not self.known or embedding or steers_by_place(self.decoder)

    def _read_batch(self, batch: list[Example]) -> dict[int, Tensor]:
        rows = [row for example in batch for row in example.rows()]
        with self._prepared([row.ids for row in rows]) as patched:
            whole = self._whole_texts()
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
            chosen = self.read_token.chosen(padded, group_rows)
            given = self.calls.arguments(padded)
            parts.append(self._read_chosen(patched, padded, chosen, given, texts=group))
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
        given = self.calls.with_past(prefixes, prefixes.mask, prefixes.positions, cache)
        # Whether a position is a sink depends on the norms of the whole text.
        norms = self._read_call(
            patched, lambda _, hidden: token_norms(hidden, prefixes.real), given
        )
        before = {layer: own.repeat_interleave(2, 0) for layer, own in norms.items()}
        cache.batch_repeat_interleave(2)
        mask = torch.cat([prefixes.mask.repeat_interleave(2, 0), rest.mask], 1)
        positions = rest.positions + prefixes.mask.sum(1).repeat_interleave(2)[:, None]
        given = self.calls.with_past(rest, mask, positions, cache)
        chosen = rest.real
        if self.read_token.index is not None:
            chosen = self.read_token.chosen(rest, [])
        return self._read_chosen(patched, rest, chosen, given, before)

    def _read_chosen(
        self,
        patched: Patched,
        padded: Batch,
        chosen: Tensor,
        given: dict[str, Any],
        before: dict[int, Tensor] | None = None,
        texts: Sequence[int] | None = None,
    ) -> dict[int, Tensor]:
        """Read the chosen tokens ``[B, T]`` of texts, and count the sinks among them.

        `before`: see `Selection`; `texts`: see `SinkCounts.add`.
        """
        column: int | Tensor | None = self.read_token.index
        if column is not None and not self.known:  # padded on the right
            column = self.read_token.columns(padded)
        selection = Selection(padded.real, chosen, column, before, self.keep_sinks)
        found = self._read_call(patched, selection, given)
        selection.count(self.sinks, texts)
        return found

    def _read_call(
        self, patched: Patched, select: Select, given: dict[str, Any]
    ) -> dict[int, Tensor]:
        def select_and_note_dtype(layer: int, hidden: Tensor) -> Tensor:
            self.dtype = hidden.dtype
            return select(layer, hidden)

        with read_sites(patched, self.sites, select_and_note_dtype) as found:
            self._run(patched, given)
        return found

    def _run(self, patched: Patched, given: dict[str, Any]) -> None:
        with fastest_linear(self.device):
            run_until_stop(self.decoder, patched, **given)
