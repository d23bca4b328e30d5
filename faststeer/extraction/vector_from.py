"""From contrasting texts and a reader of their activations to a steering vector."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist

from faststeer.extraction.confounds import Confounds
from faststeer.extraction.examples import NEGATIVE, POSITIVE, Example, labelled_examples
from faststeer.extraction.layer_statistics import LayerStatistics
from faststeer.extraction.methods import METHODS, Statistic
from faststeer.extraction.read_token import as_metadata, reject_answer
from faststeer.extraction.text_reader import TextReader
from faststeer.steering.positions import Positions
from faststeer.utils.progress import progress_bar
from faststeer.utils.version import VERSION
from faststeer.utils.warnings import FaststeerWarning
from faststeer.vectors.steering_vector import SteeringVector


@dataclass(frozen=True)
class Source:
    """The texts of an extraction and its method, which fit each other.

    `expected` is the number of texts where it is known, and `paired` whether they are pairs.
    """

    method: str
    statistic: type[Statistic]
    examples: Iterator[Example]
    expected: int | None
    paired: bool

    @classmethod
    def of(
        cls,
        method: str,
        pairs: Iterable[tuple[str, str]] | None,
        positive: Iterable[str] | None,
        negative: Iterable[str] | None,
        read_token: int | Positions,
        match_endings: bool,
    ) -> Source:
        """Check the arguments, which are those of `faststeer.extract`, as are the errors."""
        if method not in METHODS:
            raise ValueError(f"method {method!r} is unknown; expected one of {', '.join(METHODS)}")
        statistic = METHODS[method]
        examples, expected = labelled_examples(pairs, positive, negative)
        if pairs is None and not statistic.takes_sets:
            raise ValueError(f"method {method!r} compares the texts of each pair; give pairs")
        if pairs is not None and not statistic.takes_pairs:
            raise ValueError(
                f"method {method!r} compares texts of one kind with a broad background; give "
                "positive= and negative="
            )
        if pairs is None:
            reject_answer(read_token)
            if match_endings:
                raise ValueError("match_endings trims the two texts of a pair; give pairs")
        return cls(method, statistic, examples, expected, pairs is not None)


def vector_from(
    reader: TextReader,
    source: Source,
    origin: Mapping[str, Any],
    *,
    name: str,
    site: str,
    read_token: int | Positions,
    batch_size: int,
    match_endings: bool,
    keep_sinks: bool,
    template: str | None,
    progress: bool,
    process_group: dist.ProcessGroup | None = None,
) -> SteeringVector:
    """Return the vector of texts, as `faststeer.extract`, whose arguments and errors these are.

    It is called by what the user calls, whose caller warnings are attributed to.

    Args:
        reader: of the activations.
        source: the texts and the method.
        origin: metadata by which the model is recognised.
        name: see `faststeer.extract`, as for the rest.
        site: where the reader reads.
        read_token: what the reader reads.
        batch_size: texts that are read together.
        match_endings: whether the reader trims pairs.
        keep_sinks: whether the reader averages all positions.
        template: the digest of the texts' chat template, where it is known.
        progress: show a progress bar.
        process_group: processes that share the work.
    """
    statistic = source.statistic
    found = Confounds(reader, template)
    statistics = LayerStatistics(
        reader.layers,
        lambda device: statistic(reader.hidden_size, device),
        source.paired,
        statistic.min_examples,
    )
    counts = [0, 0]
    rank, processes = 0, 1
    if process_group is not None:
        rank, processes = dist.get_rank(process_group), dist.get_world_size(process_group)
    with (
        progress_bar("extracting", source.expected, progress and rank == 0) as advance,
        reader.keep_patched(),
    ):
        counted = _count_sides(source.examples, counts)
        for batch in reader.read(counted, batch_size, advance, (rank, processes), found.add):
            statistics.update(batch)
    reader.encoder.messages()  # raises where match_endings left nothing
    counts = [count - reader.encoder.dropped for count in counts]
    _require_enough(counts, source)
    if process_group is not None:
        statistics.all_reduce(process_group, reader.device)
        dist.all_reduce(reader.sinks.counts, group=process_group)
    reader.sinks.dropped = statistics.left_out()
    reader.report(rank == 0, found.messages(), stacklevel=4)
    metadata: dict[str, Any] = {
        **origin,
        "hidden_size": reader.hidden_size,
        "num_layers": reader.num_layers,
        "method": source.method,
        "read_token": as_metadata(read_token),
        "positives": counts[POSITIVE],
        "negatives": counts[NEGATIVE],
        "faststeer": VERSION,
    }
    metadata |= {"keep_sinks": True} if keep_sinks else reader.sinks.metadata()
    if source.paired:
        metadata["pairs"] = counts[POSITIVE]
    if match_endings:
        metadata |= {"match_endings": True, "pairs_dropped": reader.encoder.dropped}
    if template is not None:
        metadata["template"] = template
    return SteeringVector(name, statistics.directions(), site, metadata)


def _count_sides(examples: Iterable[Example], counts: list[int]) -> Iterator[Example]:
    """Yield the examples and count their texts by side in `counts`."""
    for example in examples:
        for side in example.sides:
            counts[side] += 1
        yield example


def _require_enough(counts: list[int], source: Source) -> None:
    """Raise ValueError for too few texts, on every process, before any waits for the others."""
    if not all(counts):
        raise ValueError(
            f"got {counts[0]} positive and {counts[1]} negative texts; at least one of each is "
            "needed"
        )
    least = source.statistic.min_examples
    if min(counts) < least:
        what = "pair" if source.paired else "text of a side"
        raise ValueError(f"got one {what}; method {source.method!r} needs at least {least}")
    if source.paired and counts[0] == 1:
        warnings.warn(
            "got one pair: its vector contains every difference between its two texts, intended or "
            "not",
            FaststeerWarning,
            stacklevel=4,
        )
