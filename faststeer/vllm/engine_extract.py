"""Steering vectors from contrasting texts, read by vLLM's engine."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from faststeer.data.chat import format_of
from faststeer.extraction.vector_from import Source, vector_from
from faststeer.steering.positions import Positions
from faststeer.vectors.other_spelling import refuse_unknown
from faststeer.vectors.steering_vector import SteeringVector
from faststeer.vllm.engine_capture import Steering
from faststeer.vllm.engine_reader import EngineReader


def extract(
    llm: Any,
    pairs: Iterable[tuple[str, str]] | None = None,
    *,
    positive: Iterable[str] | None = None,
    negative: Iterable[str] | None = None,
    name: str = "vector",
    layers: str | int | Sequence[int] = "all",
    method: str = "mean_difference",
    site: str = "resid_post",
    read_token: int | Positions = -1,
    max_length: int | None = None,
    add_special_tokens: bool = True,
    match_endings: bool = False,
    keep_sinks: bool = False,
    progress: bool = True,
    tokenizer: Any = None,
    steering: Steering | None = None,
    **unknown: NoReturn,
) -> SteeringVector:
    """Make a steering vector from the activations of an engine's model on contrasting texts.

    The vector is that of `faststeer.extract` of the same arguments, up to rounding, for all its
    methods, with the same warnings of confounds and attention sinks; its metadata have no
    fingerprint of the weights. Sinks are left out of the same means: since they are known by the
    norms of their whole text, a text with sinks among the tokens of a mean runs twice.

    Args:
        llm: a `vllm.LLM`, started with the layers to read: ``additional_config={"faststeer":
            {"capture": [11, 12]}}``. Its ``capture_groups`` are read at a time.
        pairs: see `faststeer.extract`, as for all that is not named here.
        positive: texts of one kind.
        negative: texts to contrast with them.
        name: the vector's name.
        layers: 0-based decoder layers, "all" that the engine captures.
        method: of `faststeer.extract`.
        site: ``resid_post``, which alone is captured.
        read_token: the token, or the tokens, of each text at which it is read.
        max_length: texts are truncated to this many tokens.
        add_special_tokens: passed to the tokenizer.
        match_endings: trim both texts of a pair to equal last tokens.
        keep_sinks: average all positions.
        progress: show a progress bar.
        tokenizer: of the model; the engine's own by default.
        steering: terms of every request, as ``extra_args={"faststeer": steering}``.
        unknown: nothing; other keywords are refused.

    Raises:
        ValueError: as `faststeer.extract`; another site; a layer that the engine does not capture.
        RuntimeError: the engine counted other tokens than the texts have.
    """
    refuse_unknown("extract", unknown, "layers")
    if site != "resid_post":
        raise ValueError(f"site is {site!r}; an engine captures resid_post alone")
    source = Source.of(method, pairs, positive, negative, read_token, match_endings)
    chat = format_of(pairs, positive, negative)
    reader = EngineReader(
        llm,
        llm.get_tokenizer() if tokenizer is None else tokenizer,
        layers,
        read_token,
        max_length,
        add_special_tokens,
        keep_sinks=keep_sinks,
        match_endings=match_endings,
        chat=chat,
        steering=steering,
    )
    return vector_from(
        reader,
        source,
        {"model": reader.facts.model},
        name=name,
        site=site,
        read_token=read_token,
        batch_size=reader.facts.groups,
        match_endings=match_endings,
        keep_sinks=keep_sinks,
        template=None if chat is None else chat.digest,
        progress=progress,
    )
