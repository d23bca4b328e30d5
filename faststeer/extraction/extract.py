"""Steering vectors from contrasting texts, and activations of texts.

Forward passes stop after the last layer that is read, and logits are never computed. Activations
include the model's active steering; read inside `Patched.off()` for those of the unsteered model.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence, Sized
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor, nn

from faststeer.extraction.confounds import Confounds
from faststeer.extraction.examples import (
    NEGATIVE,
    POSITIVE,
    Example,
    labelled_examples,
    reject_single_text,
)
from faststeer.extraction.methods import METHODS, Statistic
from faststeer.extraction.read_token import as_metadata, reject_answer
from faststeer.extraction.reader import ActivationBatch, ActivationReader
from faststeer.models.vector_origin import origin_facts
from faststeer.steering.positions import Positions
from faststeer.utils.progress import progress_bar
from faststeer.utils.version import VERSION
from faststeer.utils.warnings import FaststeerWarning
from faststeer.vectors.other_spelling import refuse_unknown
from faststeer.vectors.steering_vector import SteeringVector


def extract(
    model: nn.Module,
    tokenizer: Any,
    pairs: Iterable[tuple[str, str]] | None = None,
    *,
    positive: Iterable[str] | None = None,
    negative: Iterable[str] | None = None,
    name: str = "vector",
    layers: str | int | Sequence[int] = "all",
    method: str = "mean_difference",
    site: str = "resid_post",
    read_token: int | Positions = -1,
    batch_size: int = 16,
    max_length: int | None = None,
    add_special_tokens: bool = True,
    match_endings: bool = False,
    keep_sinks: bool = False,
    progress: bool = True,
    process_group: dist.ProcessGroup | None = None,
    **unknown: NoReturn,
) -> SteeringVector:
    """Make a steering vector from a model's activations on contrasting texts.

    h is the residual stream ``[H]`` of a text at the read token. The vector has a direction ``[H]``
    float32 per layer, which points from negative to positive:

    - "mean_difference": ``mean(h(positive)) - mean(h(negative))``, not normalised. On pairs this is
      contrastive activation addition (Rimsky et al. 2024, arXiv 2312.06681); on two sets of
      documents it is van der Weij et al. 2024 (arXiv 2403.05767).
    - "mean_centring": the same for texts of one kind against a broad background (Jorgensen et al.
      2023, arXiv 2312.03813).
    - "pca_diff", "pca_center": the first principal component of the pairs' differences, centred or
      not, of norm 1 (Zou et al. 2023, arXiv 2310.01405; named as in repeng).
    - "logistic_probe": the normal of scikit-learn's logistic regression, of norm 1 (Li et al. 2023,
      arXiv 2306.03341).
    - "permuted_means": a baseline, the difference of the means with permuted coordinates (van der
      Weij et al. 2024).

    Args:
        model: a model that `patch` accepts, patched or not; active steering is included.
        tokenizer: its tokenizer. It needs no padding token and is not changed.
        pairs: (positive, negative) texts; any iterable, read once and never held in memory. The
            common prefix of a pair's texts is computed once.
        positive: instead of pairs, texts of one kind, together with `negative`.
        negative: texts to contrast with `positive`.
        name: the vector's name.
        layers: 0-based decoder layers, or "all".
        method: one of the methods above.
        site: ``resid_pre``, ``resid_mid`` or ``resid_post``.
        read_token: the token of each text at which h is read, -1 for the last (CAA reads -2); or
            several, whose mean is h: "answer", the tokens from the first in which a pair's texts
            differ, or the positions of `Patched.steer`, for which a text is a prompt: "all", a
            range, ...
        batch_size: texts per forward pass, padded on the left; a pair is never split.
        max_length: texts are truncated to this many tokens.
        add_special_tokens: passed to the tokenizer; False for texts from a chat template.
        match_endings: trim both texts of a pair to equal last tokens, by as few tokens as possible.
            Pairs that would lose more than half of what follows their common beginning are dropped
            and counted.
        keep_sinks: average all positions. By default those of a norm over 10 times the median of
            their text, attention sinks, are left out of means at the layers where they are.
        progress: show a progress bar.
        process_group: processes that share the work, each called with the same arguments: batch i
            is computed by rank i mod W, and all return the same vector. torch's
            ``dist.group.WORLD`` is the group of all processes.
        unknown: nothing; other keywords are refused.

    A `FaststeerWarning` names attention sinks and confounds: how the sides differ in their last
    tokens, their lengths or the embeddings of what is read, and a read token of the chat template.

    Raises:
        TypeError: a model that is not a transformers model.
        ValueError: no pairs, or fewer than the method needs; texts that are empty, longer than the
            model's context or too short for the read token; activations that are not finite; a
            layer out of range, or an unknown method or site.
    """
    refuse_unknown("extract", unknown, "layers")
    if method not in METHODS:
        raise ValueError(f"method {method!r} is unknown; expected one of {', '.join(METHODS)}")
    statistic = METHODS[method]
    examples, expected = labelled_examples(pairs, positive, negative)
    if pairs is None and not statistic.takes_sets:
        raise ValueError(f"method {method!r} compares the texts of each pair; give pairs")
    if pairs is not None and not statistic.takes_pairs:
        raise ValueError(
            f"method {method!r} compares texts of one kind with a broad background; give positive= "
            "and negative="
        )
    if pairs is None:
        reject_answer(read_token)
        if match_endings:
            raise ValueError("match_endings trims the two texts of a pair; give pairs")
    reader = ActivationReader(
        model,
        tokenizer,
        layers,
        site,
        read_token,
        max_length,
        add_special_tokens,
        keep_sinks=keep_sinks,
        match_endings=match_endings,
    )
    template = getattr(pairs, "template", None)  # set by faststeer.data.InChat
    found = Confounds(reader, template)
    statistics: dict[int, Statistic] = {}
    counts = [0, 0]
    rank, processes = 0, 1
    if process_group is not None:
        rank, processes = dist.get_rank(process_group), dist.get_world_size(process_group)
    with (
        progress_bar("extracting", expected, progress and rank == 0) as advance,
        reader.keep_patched(),
    ):
        counted = _count_sides(examples, counts)
        for batch in reader.read(counted, batch_size, advance, (rank, processes), found.add):
            _update(statistics, batch, statistic)
    reader.encoder.messages()  # raises where match_endings left nothing
    counts = [count - reader.encoder.dropped for count in counts]
    _require_enough(counts, statistic, method, pairs is not None)
    if process_group is not None:
        for layer in reader.layers:
            if layer not in statistics:  # fewer batches than processes
                statistics[layer] = statistic(reader.hidden_size, reader.device)
            statistics[layer].all_reduce(process_group)
        dist.all_reduce(reader.sinks.counts, group=process_group)
    reader.report(rank == 0, found.messages())
    metadata: dict[str, Any] = {
        **origin_facts(reader.decoder),
        "hidden_size": reader.hidden_size,
        "num_layers": reader.num_layers,
        "method": method,
        "read_token": as_metadata(read_token),
        "positives": counts[POSITIVE],
        "negatives": counts[NEGATIVE],
        "faststeer": VERSION,
    }
    metadata |= {"keep_sinks": True} if keep_sinks else reader.sinks.metadata()
    if pairs is not None:
        metadata["pairs"] = counts[POSITIVE]
    if match_endings:
        metadata |= {"match_endings": True, "pairs_dropped": reader.encoder.dropped}
    if template is not None:
        metadata["template"] = template
    directions = {layer: statistics[layer].direction() for layer in reader.layers}
    return SteeringVector(name, directions, site, metadata)


def activations(
    model: nn.Module,
    tokenizer: Any,
    texts: Iterable[str],
    *,
    layers: str | int | Sequence[int] = "all",
    site: str = "resid_post",
    read_token: int | Positions = -1,
    batch_size: int = 16,
    max_length: int | None = None,
    add_special_tokens: bool = True,
    keep_sinks: bool = False,
    progress: bool = True,
    **unknown: NoReturn,
) -> Tensor:
    """Return the residual stream at the read token of each text, ``[N, L, H]`` float32 on the CPU.

    N counts the texts in their order, L the chosen layers, ascending. Arguments and errors are
    those of `extract`.
    """
    refuse_unknown("activations", unknown, "layers")
    reject_single_text(texts, "texts")
    reject_answer(read_token)
    reader = ActivationReader(
        model,
        tokenizer,
        layers,
        site,
        read_token,
        max_length,
        add_special_tokens,
        keep_sinks=keep_sinks,
    )
    expected = len(texts) if isinstance(texts, Sized) else None
    found: dict[int, Tensor] = {}
    examples = (Example(index, (text,), (POSITIVE,)) for index, text in enumerate(texts))
    with progress_bar("reading", expected, progress) as advance, reader.keep_patched():
        for batch in reader.read(examples, batch_size, advance):
            rows = [batch.by_layer[layer].to("cpu", torch.float32) for layer in reader.layers]
            found.update(zip(batch.indices, torch.stack(rows, 1), strict=True))
    if not found:
        raise ValueError("got no texts; at least one is needed")
    reader.report()
    return torch.stack([found[i] for i in range(len(found))])


def _update(
    statistics: dict[int, Statistic], batch: ActivationBatch, statistic: type[Statistic]
) -> None:
    """Update each layer's statistic; the first batch creates them, on the layers' devices."""
    sides: dict[torch.device, Tensor] = {}
    for layer, rows in batch.by_layer.items():
        if rows.device not in sides:
            sides[rows.device] = torch.tensor(batch.sides, dtype=torch.int32, device=rows.device)
        if layer not in statistics:
            statistics[layer] = statistic(rows.shape[1], rows.device)
        statistics[layer].update(rows, sides[rows.device])


def _count_sides(examples: Iterable[Example], counts: list[int]) -> Iterator[Example]:
    """Yield the examples and count their texts by side in `counts`."""
    for example in examples:
        for side in example.sides:
            counts[side] += 1
        yield example


def _require_enough(
    counts: list[int], statistic: type[Statistic], method: str, paired: bool
) -> None:
    """Raise ValueError for too few texts, on every process, before any waits for the others."""
    if not all(counts):
        raise ValueError(
            f"got {counts[0]} positive and {counts[1]} negative texts; at least one of each is "
            "needed"
        )
    if min(counts) < statistic.min_examples:
        what = "pair" if paired else "text of a side"
        raise ValueError(
            f"got one {what}; method {method!r} needs at least {statistic.min_examples}"
        )
    if paired and counts[0] == 1:
        warnings.warn(
            "got one pair: its vector contains every difference between its two texts, intended or "
            "not",
            FaststeerWarning,
            stacklevel=3,
        )
