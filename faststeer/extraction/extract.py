"""Steering vectors from contrasting texts, and activations of texts.

Forward passes stop after the last layer that is read, and logits are never computed. Activations
include the model's active steering; read inside `Patched.off()` for those of the unsteered model.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Sized
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor, nn

from faststeer.data.chat import format_of
from faststeer.extraction.cache_files import Cache
from faststeer.extraction.cached_reader import CachedReader
from faststeer.extraction.examples import POSITIVE, Example, reject_single_text
from faststeer.extraction.read_token import reject_answer
from faststeer.extraction.vector_from import Source, vector_from
from faststeer.models.vector_origin import origin_facts
from faststeer.steering.positions import Positions
from faststeer.utils.progress import progress_bar
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
    cache: Cache = False,
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
            differ; "post_instruction", the chat template's tokens after a text's last instruction
            (Arditi et al. 2024, arXiv 2406.11717); or the positions of `Patched.steer`, for which
            a text is a prompt: "all", a range, ...
        batch_size: texts per forward pass, padded on the left; a pair is never split.
        max_length: texts are truncated to this many tokens.
        add_special_tokens: passed to the tokenizer; False for texts from a chat template.
        match_endings: trim both texts of a pair to equal last tokens, by as few tokens as possible.
            Pairs that would lose more than half of what follows their common beginning are dropped
            and counted.
        keep_sinks: read and average all positions. By default those of a norm over 5 times the
            median of their text, attention sinks, are left out of means at the layers where they
            are, and so are pairs of which nothing else is read, where these are less than half.
        progress: show a progress bar.
        process_group: processes that share the work, each called with the same arguments: batch i
            is computed by rank i mod W, and all return the same vector. torch's
            ``dist.group.WORLD`` is the group of all processes.
        cache: keep the activations in faststeer's cache folder (True), or in a folder; where they
            are there, the model does not run. FASTSTEER_CACHE_LIMIT limits it, to 4 GiB by default.
        unknown: nothing; other keywords are refused.

    A `FaststeerWarning` names attention sinks and confounds: how the sides differ in their last
    tokens, their lengths or the embeddings of what is read, and a read token of the chat template;
    and what could not be cached.

    Raises:
        TypeError: a model that is not a transformers model; a cache that is no folder.
        OSError: the cache's folder cannot be created.
        ValueError: no pairs, or fewer than the method needs; texts that are empty, longer than the
            model's context or too short for the read token; activations that are not finite; a
            layer out of range, or an unknown method or site.
    """
    refuse_unknown("extract", unknown, "layers")
    source = Source.of(method, pairs, positive, negative, read_token, match_endings)
    chat = format_of(pairs, positive, negative)
    reader = CachedReader(
        model,
        tokenizer,
        layers,
        site,
        read_token,
        max_length,
        add_special_tokens,
        keep_sinks=keep_sinks,
        match_endings=match_endings,
        chat=chat,
        cache=cache,
    )
    return vector_from(
        reader,
        source,
        origin_facts(reader.decoder),
        name=name,
        site=site,
        read_token=read_token,
        batch_size=batch_size,
        match_endings=match_endings,
        keep_sinks=keep_sinks,
        template=None if chat is None else chat.digest,
        progress=progress,
        process_group=process_group,
    )


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
    cache: Cache = False,
    **unknown: NoReturn,
) -> Tensor:
    """Return the residual stream at the read token of each text, ``[N, L, H]`` float32 on the CPU.

    N counts the texts in their order, L the chosen layers, ascending. Arguments and errors are
    those of `extract`.
    """
    refuse_unknown("activations", unknown, "layers")
    reject_single_text(texts, "texts")
    reject_answer(read_token)
    reader = CachedReader(
        model,
        tokenizer,
        layers,
        site,
        read_token,
        max_length,
        add_special_tokens,
        keep_sinks=keep_sinks,
        cache=cache,
    )
    expected = len(texts) if isinstance(texts, Sized) else None
    examples = (Example(index, (text,), (POSITIVE,)) for index, text in enumerate(texts))
    with progress_bar("reading", expected, progress) as advance:
        rows = reader.read_all(examples, batch_size, advance)
    if not rows:
        raise ValueError("got no texts; at least one is needed")
    reader.report()
    return torch.cat(rows)
