"""Reading the residual stream of texts by vLLM's engine, for `faststeer.vllm.extract`.

Each text of a wave has a group of its own, whose mean is what is read of it: the read token, or
the mean of several tokens. Whether a token is an attention sink depends on the norms of its whole
text, which are known once the text has run. Texts with sinks among the tokens of a mean run again,
without those, so that what is averaged are the same tokens as in `faststeer.extract`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from vllm import SamplingParams

from faststeer.data.batches import Batch, left_padded
from faststeer.data.chat import ChatFormat
from faststeer.extraction.activation_batch import ActivationBatch
from faststeer.extraction.examples import Encoder, Example, TextRow, encoded_batches
from faststeer.extraction.read_token import ReadToken
from faststeer.extraction.reading_checks import require_finite
from faststeer.extraction.selection import SinkCounts, lower_median, without_sinks
from faststeer.models.special_tokens import (
    are_evidence,
    bos_message,
    compared_perplexity,
    rows_without_bos,
)
from faststeer.steering.positions import Positions
from faststeer.utils.progress import Advance
from faststeer.utils.warnings import FaststeerWarning
from faststeer.vllm.captured_tokens import CaptureRequest
from faststeer.vllm.engine_capture import EngineFacts, Steering, read_state, require_count, run
from faststeer.vllm.engine_embeddings import EngineEmbeddings

_CPU = torch.device("cpu")


class EngineReader:
    """Reads layers that an engine captures at the read token of texts, as `ActivationReader`."""

    def __init__(
        self,
        llm: Any,
        tokenizer: Any,
        layers: str | int | Sequence[int],
        read_token: int | Positions,
        max_length: int | None,
        add_special_tokens: bool,
        *,
        keep_sinks: bool = False,
        match_endings: bool = False,
        chat: ChatFormat | None = None,
        steering: Steering | None = None,
    ) -> None:
        """Check the arguments, which are those of `faststeer.vllm.extract`, as are the errors."""
        self.llm = llm
        self.facts = EngineFacts.of(llm)
        self.layers = self.facts.chosen(layers)
        self.hidden_size = self.facts.hidden_size
        self.num_layers = self.facts.num_layers
        if chat is None and getattr(tokenizer, "chat_template", None):
            chat = ChatFormat(tokenizer)
        self.read_token = ReadToken(read_token, chat)
        self.tokenizer = tokenizer
        self.add_special_tokens = add_special_tokens
        self.keep_sinks = keep_sinks
        self.steering = steering
        self.device = _CPU
        self.encoder = Encoder(
            tokenizer,
            self.facts.longest - 1,  # the engine wants room for a token to generate
            self.read_token.min_tokens,
            max_length,
            add_special_tokens,
            match_endings,
        )
        self.sinks = SinkCounts(self.layers, _CPU)
        self.calls = SimpleNamespace(batch=lambda rows, pad: left_padded(rows, pad, _CPU))
        embeddings = EngineEmbeddings(llm)
        self.decoder = SimpleNamespace(get_input_embeddings=lambda: embeddings)
        self._checked_bos = False

    def read(
        self,
        examples: Iterable[Example],
        batch_size: int,
        advance: Advance,
        shard: tuple[int, int] = (0, 1),
        watch: Callable[[Example], None] | None = None,
    ) -> Iterator[ActivationBatch]:
        """Yield the activations of each batch of examples, as `ActivationReader.read`."""
        for batch in encoded_batches(examples, batch_size, self.encoder):
            rows = [row for example in batch for row in example.rows()]
            self._check_bos([row.ids for row in rows])
            if watch is not None:
                for example in batch:
                    watch(example)
            self.sinks.begin_batch()
            parts = [self._read_wave(wave) for wave in self._waves(rows)]
            found = {layer: torch.cat([part[layer] for part in parts]) for layer in self.layers}
            dtype = getattr(torch, self.facts.dtype)
            require_finite(found, "resid_post", dtype, [row.name for row in rows])
            indices = [example.index for example in batch]
            sides = [side for example in batch for side in example.sides]
            yield ActivationBatch(indices, sides, found, self.sinks.only_sinks(len(sides)))
            advance(len(rows))

    def report(
        self, emit_warnings: bool = True, more: Sequence[str] = (), stacklevel: int = 3
    ) -> None:
        """Warn about what was met in the texts, as `ActivationReader.report`."""
        messages = [*self.encoder.messages(), *self.sinks.messages(), *more]
        for message in messages if emit_warnings else ():
            warnings.warn(message, FaststeerWarning, stacklevel=stacklevel)

    def keep_patched(self) -> AbstractContextManager[None]:
        """Return a context without effect: the engine has been ready since its start."""
        return nullcontext()

    def _waves(self, rows: Sequence[TextRow]) -> Iterator[list[TextRow]]:
        """Yield rows that have a group each, and places for all their norms."""
        wave: list[TextRow] = []
        places = 0
        for row in rows:
            if len(wave) == self.facts.groups or places + len(row.ids) > self.facts.places:
                yield wave
                wave, places = [], 0
            wave.append(row)
            places += len(row.ids)
        yield wave

    def _read_wave(self, rows: list[TextRow]) -> dict[int, Tensor]:
        """Return layer -> what is read of each row, ``[B, H]`` float32."""
        batch = left_padded([row.ids for row in rows], None, _CPU)
        chosen = self.read_token.chosen(batch, rows)
        everywhere = chosen.expand(len(self.layers), *chosen.shape)
        found, norms = self._run(rows, batch, everywhere)
        if self.keep_sinks:
            return found
        kept, left_out, only_sinks = without_sinks(chosen, norms, lower_median(norms))
        self.sinks.add(left_out, only_sinks)
        again = left_out.any(2).any(0).nonzero()[:, 0]
        if len(again):
            part = Batch(batch.ids[again], batch.mask[again])
            means, _ = self._run([rows[i] for i in again.tolist()], part, kept[:, again])
            for layer, own in means.items():
                found[layer][again] = own
        return found

    def _run(
        self, rows: list[TextRow], batch: Batch, kept: Tensor
    ) -> tuple[dict[int, Tensor], Tensor]:
        """Return the mean of the kept tokens of each text, and norms ``[L, B, T]``.

        `kept`: ``[L, B, T]`` bool; norms of padding are NaN.
        """
        asked, places = [], 0
        for group, row in enumerate(rows):
            own = kept[:, group, batch.real[group]]  # [L, tokens]
            left_out = {
                layer: (own.any(0) & ~own[at]).nonzero()[:, 0].tolist()
                for at, layer in enumerate(self.layers)
            }
            asked.append(
                CaptureRequest(
                    group,
                    group,
                    _spans(own.any(0)),
                    {layer: positions for layer, positions in left_out.items() if positions},
                    places,
                )
            )
            places += len(row.ids)
        run(self.llm, [{"prompt_token_ids": row.ids} for row in rows], asked, self.steering)
        state = read_state(self.llm, self.facts, len(rows), places)
        norms = torch.full(kept.shape, torch.nan)
        for at, layer in enumerate(self.layers):
            require_count(state[layer].count, kept[at].sum(1), layer)
            norms[at][batch.real] = state[layer].norms
        return {layer: state[layer].mean.float() for layer in self.layers}, norms

    def _check_bos(self, rows: list[list[int]]) -> None:
        """Measure on the first rows that are evidence whether the model needs a BOS they lack."""
        lacking = rows_without_bos(self.tokenizer, rows)
        if self._checked_bos or not are_evidence(lacking):
            return
        self._checked_bos = True
        why = compared_perplexity(lacking, self.tokenizer.bos_token_id, self._surprise_of(lacking))
        self.encoder.missing_bos = bos_message(self.tokenizer, self.add_special_tokens, why)

    def _surprise_of(self, rows: list[list[int]]) -> Callable[[list[int]], float]:
        def surprise(before: list[int]) -> float:
            params = SamplingParams(
                temperature=0.0, max_tokens=1, prompt_logprobs=0, detokenize=False
            )
            prompts = [{"prompt_token_ids": before + row} for row in rows]
            outputs = self.llm.generate(prompts, params, use_tqdm=False)
            return -sum(
                float(found[token].logprob)
                for own, row in zip(outputs, rows, strict=True)
                for token, found in zip(
                    row[1:], own.prompt_logprobs[len(before) + 1 :], strict=True
                )
            )

        return surprise


def _spans(chosen: Tensor) -> list[tuple[int, int]]:
    """Return the runs of true values ``[T]``, each from its first to before its end."""
    edges = torch.nn.functional.pad(chosen.int(), (1, 1)).diff()
    starts, stops = ((edges == own).nonzero()[:, 0].tolist() for own in (1, -1))
    return list(zip(starts, stops, strict=True))
