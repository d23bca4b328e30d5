"""Prompts to vectors: read activations while the model runs, keep statistics, return directions.

The forward stops after the last layer that is read, and logits are never computed. The model is
read as it stands: vectors that steer it meanwhile are in what is read (use `Patched.off()` to read
the bare model).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence, Sized
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from faststeer.extraction.examples import NEGATIVE, POSITIVE, Example, pair_units, set_units
from faststeer.extraction.methods import METHODS, Statistic
from faststeer.extraction.read_token import as_metadata
from faststeer.extraction.reader import ActivationBatch, ActivationReader
from faststeer.models.decoders import model_name
from faststeer.steering.positions import Positions
from faststeer.utils.progress import progress_bar
from faststeer.utils.version import VERSION
from faststeer.utils.warnings import FaststeerWarning
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
    progress: bool = True,
    process_group: dist.ProcessGroup | None = None,
) -> SteeringVector:
    """Make a steering vector from what a model computes on contrasting texts.

    h is a text's residual stream ``[H]`` at the read token. The vector points from negative to
    positive:

    - "mean_difference": ``mean(h(positive)) - mean(h(negative))``, not normalised. On pairs this is
      contrastive activation addition (Rimsky et al. 2024, arXiv 2312.06681); on two sets of
      documents it is van der Weij et al. 2024 (arXiv 2403.05767).
    - "mean_centring": the same, of texts of a kind against a broad background (Jorgensen et al.
      2023, arXiv 2312.03813).
    - "pca_diff", "pca_center": the first principal component of the pairs' differences, about
      their mean or about zero, of norm 1 (Zou et al. 2023, arXiv 2310.01405; named as in repeng).
    - "logistic_probe": the normal of scikit-learn's logistic regression, of norm 1 (Li et al. 2023,
      arXiv 2306.03341).
    - "permuted_means": a baseline, the two means' coordinates shuffled (arXiv 2403.05767).

    Args:
        model: a model that `patch` accepts, patched or not; it is read as it stands.
        tokenizer: its tokenizer. It needs no padding token and is not changed.
        pairs: (positive, negative) texts; any iterable, read once, never held as a whole. What the
            two begin with in common is computed once.
        positive: in place of pairs: texts of one kind, together with `negative`.
        negative: the texts to be subtracted.
        name: the vector's name.
        layers: 0-based decoder layers, or "all".
        method: one of those above.
        site: ``resid_pre``, ``resid_mid`` or ``resid_post``.
        read_token: which token of each text is read, -1 for the last (CAA reads -2). Or several, of
            which the mean is h: "answer", the tokens from the first in which a pair's texts differ,
            or what `Patched.steer` takes as positions, a text being a prompt: "all", a range, ...
        batch_size: texts a forward, padded on the left; a pair's two are never parted.
        max_length: texts are cut after so many tokens.
        add_special_tokens: passed to the tokenizer; False for texts from a chat template.
        progress: show a progress bar.
        process_group: processes that share the work, each called with the same arguments: batch i
            is computed by rank i mod W, and all return the same vector. torch's
            ``dist.group.WORLD`` is the group of all.

    Raises:
        ValueError: no pairs, or fewer than the method needs; texts that are empty, longer than the
            model's context or too short for the read token; a layer out of range, or an unknown
            method or site.
    """
    if method not in METHODS:
        raise ValueError(f"method {method!r} is unknown; expected one of {', '.join(METHODS)}")
    made_by = METHODS[method]
    units, expected = labelled_units(pairs, positive, negative)
    if pairs is None and not made_by.takes_sets:
        raise ValueError(f"method {method!r} compares the texts of each pair; give pairs")
    if pairs is not None and not made_by.takes_pairs:
        raise ValueError(
            f"method {method!r} compares texts of a kind with a broad background; give positive= "
            "and negative="
        )
    if pairs is None:
        refuse_answer(read_token)
    reader = ActivationReader(
        model, tokenizer, layers, site, read_token, max_length, add_special_tokens
    )
    statistics: dict[int, Statistic] = {}
    counts = [0, 0]
    rank, processes = 0, 1
    if process_group is not None:
        rank, processes = dist.get_rank(process_group), dist.get_world_size(process_group)
    with (
        progress_bar("extracting", expected, progress and rank == 0) as advance,
        reader.opened(),
    ):
        counted = _counting(units, counts)
        for rows in reader.read(counted, batch_size, advance, (rank, processes)):
            _take_in(rows, statistics, made_by)
    _require_enough(counts, made_by, method, pairs is not None)
    if process_group is not None:
        for layer in reader.layers:
            if layer not in statistics:  # fewer batches than processes
                statistics[layer] = made_by(reader.hidden_size, reader.device)
            statistics[layer].all_reduce(process_group)
    reader.encoder.warn(rank == 0)
    metadata = {
        "model": model_name(reader.decoder),
        "hidden_size": reader.hidden_size,
        "num_layers": reader.num_layers,
        "method": method,
        "read_token": as_metadata(read_token),
        "positives": counts[POSITIVE],
        "negatives": counts[NEGATIVE],
        "faststeer": VERSION,
    }
    if pairs is not None:
        metadata["pairs"] = counts[POSITIVE]
    template = getattr(pairs, "template", None)  # of faststeer.data.InChat
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
    progress: bool = True,
) -> Tensor:
    """The residual stream at the read token of each text: ``[N, L, H]`` float32 on the CPU.

    In the order of the texts; L counts the chosen layers, ascending. Arguments and errors as for
    `extract`.
    """
    _refuse_a_single_text(texts, "texts")
    refuse_answer(read_token)
    reader = ActivationReader(
        model, tokenizer, layers, site, read_token, max_length, add_special_tokens
    )
    expected = len(texts) if isinstance(texts, Sized) else None
    found: dict[int, Tensor] = {}
    units = (Example(number, (text,), (POSITIVE,)) for number, text in enumerate(texts))
    with progress_bar("reading", expected, progress) as advance, reader.opened():
        for rows in reader.read(units, batch_size, advance):
            own = [rows.by_layer[layer].to("cpu", torch.float32) for layer in reader.layers]
            found.update(zip(rows.numbers, torch.stack(own, 1), strict=True))
    if not found:
        raise ValueError("got no texts; at least one is needed")
    reader.encoder.warn()
    return torch.stack([found[i] for i in range(len(found))])


def _take_in(
    rows: ActivationBatch, statistics: dict[int, Statistic], made_by: type[Statistic]
) -> None:
    sides: dict[torch.device, Tensor] = {}
    for layer, own in rows.by_layer.items():
        if own.device not in sides:
            sides[own.device] = torch.tensor(rows.sides, dtype=torch.int32, device=own.device)
        if layer not in statistics:
            statistics[layer] = made_by(own.shape[1], own.device)
        statistics[layer].update(own, sides[own.device])


def _counting(units: Iterable[Example], counts: list[int]) -> Iterator[Example]:
    for unit in units:
        for side in unit.sides:
            counts[side] += 1
        yield unit


def _require_enough(counts: list[int], made_by: type[Statistic], method: str, paired: bool) -> None:
    """Before processes wait for each other: they all count all texts."""
    if not all(counts):
        raise ValueError(
            f"got {counts[0]} positive and {counts[1]} negative texts; at least one of each is "
            "needed"
        )
    if min(counts) < made_by.fewest:
        what = "pair" if paired else "text of a side"
        raise ValueError(f"got one {what}; method {method!r} needs at least {made_by.fewest}")
    if paired and counts[0] == 1:
        warnings.warn(
            "got one pair: its vector holds whatever else its two texts differ in",
            FaststeerWarning,
            stacklevel=3,
        )


def labelled_units(
    pairs: Iterable[tuple[str, str]] | None,
    positive: Iterable[str] | None,
    negative: Iterable[str] | None,
) -> tuple[Iterator[Example], int | None]:
    """What is read together, and how many texts there will be if that is known."""
    if (pairs is None) == (positive is None and negative is None):
        raise ValueError("give either pairs, or positive and negative texts")
    if pairs is not None:
        expected = 2 * len(pairs) if isinstance(pairs, Sized) else None
        return pair_units(pairs), expected
    if positive is None or negative is None:
        raise ValueError("positive and negative texts go together; one of them is missing")
    _refuse_a_single_text(positive, "positive")
    _refuse_a_single_text(negative, "negative")
    expected = None
    if isinstance(positive, Sized) and isinstance(negative, Sized):
        expected = len(positive) + len(negative)
    return set_units((positive, negative)), expected


def _refuse_a_single_text(texts: Iterable[str], what: str) -> None:
    if isinstance(texts, str):  # would be read letter by letter
        raise ValueError(f"{what} is a single text, {texts!r}; expected several, such as a list")


def refuse_answer(read_token: int | Positions) -> None:
    """Raise ValueError for what has a meaning in pairs only."""
    if isinstance(read_token, str) and read_token == "answer":
        raise ValueError("read_token 'answer' is where the two texts of a pair differ; give pairs")
