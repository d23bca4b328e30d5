"""The positions that are read of one forward pass's texts, without attention sinks in means.

A few positions, above all a text's first, have activations of huge norm on which attention rests:
22,700 against a median of 131 from layer 11 of SmolLM2 135M on. In a mean they drown all others,
and texts of unequal length divide them by unequal numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

# Times the median norm of its text at which a position is a sink. On SmolLM2 135M a text's first
# position has 8 to 190 times the median from layer 11 on, 6 to 12 times at layers 2 to 6, and no
# other has more than 1.5 times from layer 10 on. On Qwen2.5-Coder 0.5B some full stops and commas
# have 5 to 21 times from layer 5 on, and all other tokens less than 2 times.
SINK_FACTOR = 5.0


class SinkCounts:
    """Sinks met in an extraction, counted on the device until they are reported.

    Its vector of counts is ``[4 + 2 L]`` int64: texts, positions left out of means, texts that they
    were left out of, texts of which nothing but sinks was read, and the latter two by layer.
    """

    def __init__(self, layers: Sequence[int], device: torch.device) -> None:
        """Start without texts."""
        self.layers = list(layers)
        self.counts = torch.zeros(4 + 2 * len(layers), dtype=torch.int64, device=device)
        self.dropped: dict[int, int] = {}  # layer -> pairs that its direction leaves out
        self._recorded: RecordedSinks | None = None
        self._of_batch: list[tuple[Tensor, Tensor]] = []

    def add(self, left_out: Tensor, only_sinks: Tensor, texts: Sequence[int] | None = None) -> None:
        """Count sinks ``[L, B, T]`` left out of means, and texts ``[L, B]`` read at sinks alone.

        `texts`: their numbers in the batch that is read; None where they are the next ones.
        """
        numbers = torch.arange(only_sinks.shape[1])
        if texts is not None:
            numbers = torch.tensor(texts)
        elif self._of_batch:
            numbers += sum(len(part) for part, _ in self._of_batch)
        self._of_batch.append((numbers, only_sinks))
        if self._recorded is not None:
            self._recorded.parts.append((numbers, left_out, only_sinks))
        anywhere = left_out.any(0)
        with_sinks = left_out.any(2)
        totals = [anywhere.sum(), with_sinks.any(0).sum(), only_sinks.any(0).sum()]
        by_layer = [with_sinks.sum(1), only_sinks.sum(1)]
        self.counts += torch.cat(
            [self.counts.new_tensor([left_out.shape[1]]), torch.stack(totals), *by_layer]
        )

    def begin_batch(self) -> None:
        """Begin a batch, whose texts are numbered from 0."""
        self._of_batch = []

    def only_sinks(self, texts: int) -> Tensor:
        """Return which of the batch's texts were read at sinks alone, ``[L, B]`` bool on the CPU.

        `texts`: B.
        """
        found = torch.zeros(len(self.layers), texts, dtype=torch.bool)
        for numbers, only in self._of_batch:
            found[:, numbers] = only.cpu()
        return found

    @contextmanager
    def recording(self) -> Iterator[RecordedSinks]:
        """Yield what is counted inside, text by text."""
        self._recorded = RecordedSinks()
        try:
            yield self._recorded
        finally:
            self._recorded = None

    def metadata(self) -> dict[str, object]:
        """Return what a vector's metadata hold: nothing where no sink was met."""
        _, positions, texts, only, left_out, read = self._split()
        facts: dict[str, object] = {}
        if positions:
            by_layer = {str(layer): count for layer, count in left_out.items()}
            facts["sinks_left_out"] = {"positions": positions, "texts": texts, "layers": by_layer}
        if only:
            by_layer = {str(layer): count for layer, count in read.items()}
            facts["sinks_read"] = {"texts": only, "layers": by_layer}
        if self.dropped:
            facts["sinks_dropped"] = {str(layer): count for layer, count in self.dropped.items()}
        return facts

    def messages(self) -> list[str]:
        """Return what to warn of, in words."""
        total, positions, texts, only, left_out, read = self._split()
        found = []
        large = f"norms of over {SINK_FACTOR:g} times the median of their text"
        if positions:
            found.append(
                f"attention sinks: {positions} positions of {texts} of {total} texts, with {large} "
                f"at layers {_ranges(left_out)}, were left out of the means there"
            )
        if only:
            only_read = {layer: count for layer, count in read.items() if layer not in self.dropped}
            outcomes = []
            if self.dropped:
                outcomes.append(
                    f"were left out of the directions at layers {_ranges(self.dropped)}, each with "
                    "its pair if it has one"
                )
            if only_read:
                outcomes.append(
                    f"were read as they are at layers {_ranges(only_read)}, where they outweigh "
                    "other texts: choose another read_token, or longer texts"
                )
            found.append(
                f"attention sinks: of {only} of {total} texts nothing was read but positions with "
                f"{large} at layers {_ranges(read)}; they {', and '.join(outcomes)}"
            )
        return found

    def _split(self) -> tuple[int, int, int, int, dict[int, int], dict[int, int]]:
        values = self.counts.tolist()
        size = len(self.layers)
        left_out, read = (
            {layer: count for layer, count in zip(self.layers, part, strict=True) if count}
            for part in (values[4 : 4 + size], values[4 + size :])
        )
        return values[0], values[1], values[2], values[3], left_out, read


class RecordedSinks:
    """The sinks of a batch of texts, which took one forward pass or several."""

    def __init__(self) -> None:
        # Of each pass the numbers of its texts, and what `SinkCounts.add` takes.
        self.parts: list[tuple[Tensor, Tensor, Tensor]] = []

    def of_layer(self, number: int) -> tuple[Tensor, Tensor]:
        """Return where sinks are at the layer of this number, int32 on the CPU.

        Text and column of those left out, ``[n, 2]``, and texts read at sinks alone, ``[m]``.
        """
        left_out = [torch.empty(0, 2, dtype=torch.int64)]
        only = [torch.empty(0, dtype=torch.int64)]
        for numbers, left_out_part, only_part in self.parts:
            texts, columns = left_out_part[number].cpu().nonzero().unbind(1)
            left_out.append(torch.stack([numbers[texts], columns], 1))
            only.append(numbers[only_part[number].cpu()])
        return torch.cat(left_out).int(), torch.cat(only).int()

    @staticmethod
    def masks(
        layers: Sequence[tuple[Tensor, Tensor]], texts: int, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Return what `SinkCounts.add` takes, from what `of_layer` returned for several layers."""
        columns = [int(places[:, 1].max()) + 1 for places, _ in layers if len(places)]
        left_out = torch.zeros(len(layers), texts, max(columns, default=1), dtype=torch.bool)
        only_sinks = torch.zeros(len(layers), texts, dtype=torch.bool)
        for number, (places, only) in enumerate(layers):
            left_out[number, places[:, 0].long(), places[:, 1].long()] = True
            only_sinks[number, only.long()] = True
        return left_out.to(device), only_sinks.to(device)


class Selection:
    """Reads the chosen positions of B texts at each layer, and keeps what it saw of sinks."""

    def __init__(
        self,
        real: Tensor,
        chosen: Tensor,
        column: int | Tensor | None,
        before: Mapping[int, Tensor] | None = None,
        keep_sinks: bool = False,
    ) -> None:
        """Choose positions.

        Args:
            real: ``[B, T]`` bool, false for padding.
            chosen: ``[B, T]`` bool, the positions that are read.
            column: where a single position is read, its column or the texts' columns ``[B]``; None
                for the mean.
            before: layer -> norms ``[B, P]`` of the positions before these, NaN for padding.
            keep_sinks: whether sinks stay in means, and are not looked for.
        """
        self.real = real
        self.chosen = chosen
        self.column = column
        self.before = before
        self.keep_sinks = keep_sinks
        self.found: dict[int, tuple[Tensor, Tensor]] = {}  # layer -> norms, median

    def __call__(self, layer: int, hidden: Tensor) -> Tensor:
        """Return each text's read token, or mean, ``[B, H]``, from hidden states ``[B, T, H]``."""
        weights = self.chosen.to(hidden.device)
        if not self.keep_sinks:
            norms = token_norms(hidden, self.real)
            self.found[layer] = (norms, self._median(layer, norms))
            if self.column is None:
                weights, _, _ = without_sinks(weights, *self.found[layer])
        if isinstance(self.column, int):
            return hidden[:, self.column].clone()
        if self.column is not None:
            lines = torch.arange(len(hidden), device=hidden.device)
            return hidden[lines, self.column.to(hidden.device)]
        weights = weights / weights.sum(1, keepdim=True)
        # Hidden states at padding may be NaN, and zero times NaN is NaN.
        kept = hidden.float().masked_fill((weights == 0)[..., None], 0)
        return torch.bmm(weights[:, None], kept)[:, 0]

    def count(self, counts: SinkCounts, texts: Sequence[int] | None = None) -> None:
        """Add the sinks among the chosen positions to `counts`, after the forward pass.

        `texts`: see `SinkCounts.add`.
        """
        if self.keep_sinks:
            return
        device = counts.counts.device
        norms, medians = (
            torch.stack([self.found[layer][part].to(device) for layer in counts.layers])
            for part in (0, 1)
        )
        _, left_out, only_sinks = without_sinks(self.chosen.to(device), norms, medians)
        counts.add(left_out, only_sinks, texts)

    def _median(self, layer: int, norms: Tensor) -> Tensor:
        if self.before is not None:
            norms = torch.cat([self.before[layer], norms], 1)
        return lower_median(norms)


def token_norms(hidden: Tensor, real: Tensor) -> Tensor:
    """Return the norms of hidden states ``[B, T, H]``, ``[B, T]``, NaN for padding."""
    dtype = torch.promote_types(hidden.dtype, torch.float32)
    norms: Tensor = torch.linalg.vector_norm(hidden, dim=-1, dtype=dtype)
    return norms.masked_fill(~real.to(norms.device), torch.nan)


def lower_median(norms: Tensor) -> Tensor:
    """Return the lower median of each text's norms ``[..., B, T]``, ``[..., B]``, NaN left out.

    By sorting: the medians of torch are not deterministic on CUDA.
    """
    middle = (norms.isnan().logical_not().sum(-1, keepdim=True) - 1).clamp(min=0) // 2
    return norms.sort(-1).values.gather(-1, middle)[..., 0]  # NaN is last


def without_sinks(chosen: Tensor, norms: Tensor, median: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the positions to read, those left out, and the texts that are read at sinks alone.

    A text of which every chosen position is a sink is read as it is.

    Args:
        chosen: ``[B, T]`` bool.
        norms: ``[..., B, T]``.
        median: ``[..., B]``.
    """
    # An overflow is no sink: it is refused once it has been read.
    large = (norms > SINK_FACTOR * median[..., None]) & norms.isfinite()
    only_sinks = ~(chosen & ~large).any(-1)
    kept = chosen & (~large | only_sinks[..., None])
    return kept, chosen & ~kept, only_sinks


def _ranges(layers: Mapping[int, int]) -> str:
    """Return ascending layers in words such as "11-28, 30"."""
    parts: list[list[int]] = []
    for layer in layers:
        if parts and layer == parts[-1][-1] + 1:
            parts[-1].append(layer)
        else:
            parts.append([layer])
    return ", ".join(str(p[0]) if len(p) == 1 else f"{p[0]}-{p[-1]}" for p in parts)
