"""Choosing attention heads by probes, and the directions to add to them.

Inference-time intervention, Li et al. 2023 (arXiv 2306.03341), sections 3 and 4.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from faststeer.extraction.examples import POSITIVE, labelled_examples
from faststeer.extraction.head_reader import HeadReader
from faststeer.utils.progress import progress_bar
from faststeer.vectors.other_spelling import refuse_unknown

Head = tuple[int, int]  # layer and head, from 0
DIRECTIONS = ("mean_difference", "probe")


@dataclass(frozen=True)
class HeadProbes:
    """What probes of a model's attention heads found.

    `accuracies`: of every head that was probed, best first, on the texts held out. `directions`:
    those of the best heads ``[d]`` float32, for `SteeringVector.from_heads`.
    """

    accuracies: dict[Head, float]
    directions: dict[Head, Tensor]


def probe_heads(
    model: nn.Module,
    tokenizer: Any,
    pairs: Iterable[tuple[str, str]] | None = None,
    *,
    positive: Iterable[str] | None = None,
    negative: Iterable[str] | None = None,
    top: int = 48,
    direction: str = "mean_difference",
    layers: str | int | Sequence[int] = "all",
    read_token: int = -1,
    held_out: float = 0.2,
    seed: int = 0,
    batch_size: int = 16,
    max_length: int | None = None,
    add_special_tokens: bool = True,
    progress: bool = True,
    **unknown: NoReturn,
) -> HeadProbes:
    """Choose the attention heads that separate positive from negative texts best.

    A logistic regression per head is fitted to the head's output ``[d]`` at a text's last token,
    and heads are ranked by their accuracy on the texts held out. A chosen head's direction points
    from negative to positive, and its norm is the standard deviation of all outputs along it, so
    that the coefficient of `steer` is the paper's α: of its order is 15, for LLaMA-7B.

    Args:
        model: of a family that is fused, other than Gemma 2 and 3. Active steering is included.
        tokenizer: its tokenizer.
        pairs: (positive, negative) texts; both texts of a pair are held out or neither.
        positive: instead of pairs, texts of one kind, together with `negative`.
        negative: texts to contrast with `positive`.
        top: how many heads to choose, K in the paper.
        direction: "mean_difference" for the difference of the means (mass mean shift, the paper's
            best), or "probe" for the normal of the regression.
        layers: 0-based decoder layers, or "all".
        read_token: the token that is read, -1 for the last.
        held_out: the share of the pairs, or of either side's texts, that ranks the heads.
        seed: of the choice of those.
        batch_size: texts per forward pass.
        max_length: texts are truncated to this many tokens.
        add_special_tokens: passed to the tokenizer.
        progress: show a progress bar.
        unknown: nothing; other keywords are refused.

    All outputs are kept, float32 on the CPU. Probes are scikit-learn's with its default penalty, on
    outputs that are centred and divided by one number per head, their root mean square.

    Raises:
        TypeError: a read token that is not a number.
        ValueError: too few texts to hold some out, more heads than there are, an unknown direction,
            a share outside of 0 to 1, a model without heads that can be read, scikit-learn missing,
            and as `extract`.
    """
    refuse_unknown("probe_heads", unknown, "layers")
    if direction not in DIRECTIONS:
        raise ValueError(
            f"direction {direction!r} is unknown; expected one of {', '.join(DIRECTIONS)}"
        )
    if isinstance(read_token, bool) or not isinstance(read_token, int):
        raise TypeError(f"read_token is a {type(read_token).__name__}; heads are read at one token")
    if not 0 < held_out < 1:
        raise ValueError(f"held_out is {held_out}; expected a share between 0 and 1")
    if find_spec("sklearn") is None:  # raise before the model runs
        raise ValueError("probe_heads() needs scikit-learn: pip install 'faststeer[probes]'")
    examples, expected = labelled_examples(pairs, positive, negative)
    reader = HeadReader(model, tokenizer, layers, read_token, max_length, add_special_tokens)
    available = sum(shape.heads for shape in reader.shapes.values())
    if not 1 <= top <= available:
        raise ValueError(f"top is {top}; these layers have {available} heads")
    parts: dict[int, list[Tensor]] = {layer: [] for layer in reader.layers}
    sides: list[int] = []
    groups: list[int] = []
    with progress_bar("reading heads", expected, progress) as advance, reader.keep_patched():
        for batch in reader.read(examples, batch_size, advance):
            each = len(batch.sides) // max(1, len(batch.indices))
            sides += batch.sides
            groups += [index for index in batch.indices for _ in range(each)]
            for layer, own in batch.by_layer.items():
                parts[layer].append(own.to("cpu", torch.float32))
    reader.report()
    labels = torch.tensor(sides) == POSITIVE
    kept_out = _held_out(torch.tensor(groups), labels, pairs is not None, held_out, seed)
    found: dict[Head, tuple[float, Tensor]] = {}
    for layer, rows in parts.items():
        heads = reader.shapes[layer].heads
        outputs = torch.cat(rows).double()
        outputs = outputs.view(len(outputs), heads, -1)
        for head in range(heads):
            output = outputs[:, head]
            accuracy, normal = _probe(output, labels, kept_out, f"layer {layer}, head {head}")
            if direction == "mean_difference":
                normal = normalize(output[labels].mean(0) - output[~labels].mean(0), dim=0)
            scale = (output @ normal).std(correction=0)
            found[layer, head] = accuracy, (scale * normal).float()
    ranked = sorted(found, key=lambda head: (-found[head][0], head))
    return HeadProbes(
        {head: found[head][0] for head in ranked}, {head: found[head][1] for head in ranked[:top]}
    )


def _held_out(groups: Tensor, labels: Tensor, paired: bool, share: float, seed: int) -> Tensor:
    """Return which texts are held out, ``[N]`` bool: whole pairs, or a share of either side.

    Raises:
        ValueError: too few of them.
    """
    draw = torch.Generator().manual_seed(seed)
    chosen = torch.zeros(len(groups), dtype=torch.bool)
    everything = torch.ones_like(labels)
    for own in [everything] if paired else [labels, ~labels]:
        # Ascending, whatever the order of the batches.
        numbers = torch.tensor(sorted(set(groups[own].tolist())))
        if len(numbers) < 2:
            what = "pairs" if paired else "texts of either side"
            raise ValueError(f"got {len(numbers)} {what}; at least 2 are needed, to hold one out")
        count = min(len(numbers) - 1, max(1, round(share * len(numbers))))
        drawn = numbers[torch.randperm(len(numbers), generator=draw)[:count]]
        chosen |= own & torch.isin(groups, drawn)
    return chosen


def _probe(rows: Tensor, labels: Tensor, held_out: Tensor, where: str) -> tuple[float, Tensor]:
    """Return the accuracy ``held_out`` of a head's probe, and its normal ``[d]`` of norm 1."""
    from sklearn.linear_model import LogisticRegression

    fitted = rows[~held_out]
    mean = fitted.mean(0)
    scale = (fitted - mean).square().mean().sqrt()
    if not scale > 0:
        raise ValueError(f"{where}: the outputs of all texts are equal; nothing separates them")
    scaled = ((rows - mean) / scale).numpy()
    classifier = LogisticRegression(max_iter=1000)
    classifier.fit(scaled[~held_out.numpy()], labels[~held_out].numpy())
    accuracy = float(classifier.score(scaled[held_out.numpy()], labels[held_out].numpy()))
    return accuracy, normalize(torch.from_numpy(classifier.coef_[0]), dim=0)
