"""Generate one batch whose rows are streamed, sampled and ended each on its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from faststeer.data.batches import left_padded
from faststeer.models.inference import device_of
from faststeer.play.stream import Row, Stream


def generate_rows(
    model: Any, pad: int | None, streams: Sequence[Stream], prompts_ran: Callable[[], None]
) -> None:
    """Generate the answers of all streams in one batch, which ends with its last row.

    Args:
        model: a causal model; its steering per row, in the order of the streams' rows, is active.
        pad: the padding token; None where the tokenizer has none.
        streams: each of two rows.
        prompts_ran: called once, before the first tokens are delivered.
    """
    from transformers import LogitsProcessorList, StoppingCriteriaList

    rows = [row for stream in streams for row in stream.rows]
    batch = left_padded([row.prompt for row in rows], pad, device_of(model))
    deliver = _Deliver(streams, end_tokens(model), prompts_ran)
    model.generate(
        input_ids=batch.ids,
        attention_mask=batch.mask,
        max_new_tokens=max(row.limit for row in rows),
        do_sample=False,
        # Those of the model's own configuration are for sampling, which rows do for themselves.
        temperature=None,
        top_p=None,
        top_k=None,
        pad_token_id=pad or 0,
        logits_processor=LogitsProcessorList([_Choose(rows)]),
        stopping_criteria=StoppingCriteriaList([deliver]),
    )


def end_tokens(model: Any) -> set[int]:
    """Return the tokens at which `generate` ends a text."""
    given = model.generation_config.eos_token_id
    if given is None:
        return set()
    return set(given) if isinstance(given, (list, tuple)) else {int(given)}


class _Deliver:
    """A stopping criterion that hands every step's tokens to the clients.

    Streamers of transformers receive tokens only after the criteria have decided, on GPUs some
    steps later. Here both happen at once, so that a row ends exactly at its own last token.
    """

    def __init__(
        self, streams: Sequence[Stream], ends: set[int], prompts_ran: Callable[[], None]
    ) -> None:
        self.streams = streams
        self.ends = ends
        self.prompts_ran: Callable[[], None] | None = prompts_ran

    def __call__(self, ids: Tensor, scores: object, **rest: object) -> Tensor:
        """Return which rows are done, ``[B]`` bool, after the newest of `ids` ``[B, T]``."""
        if self.prompts_ran is not None:
            self.prompts_ran()
            self.prompts_ran = None
        tokens = ids[:, -1].tolist()
        done = []
        for number, stream in enumerate(self.streams):
            if any(row.running for row in stream.rows):
                stream.extend(tokens[2 * number : 2 * number + 2], self.ends)
            done += [not row.running for row in stream.rows]
        return torch.tensor(done, device=ids.device)


class _Choose:
    """A logits processor after which the likeliest token is the one that each row chose.

    To a row that samples, noise of its own generator is added (the Gumbel-max trick: the argmax is
    then a draw from the softmax). Rows whose logits are not numbers end with an error.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows

    def __call__(self, ids: object, scores: Tensor) -> Tensor:
        """Return the scores ``[B, V]`` with noise where a row samples."""
        broken = scores.isnan().any(-1).tolist()
        scores = scores.clone()
        for number, row in enumerate(self.rows):
            if row.running and broken[number]:
                row.stream.fail(
                    "the model's next-token scores are not numbers: the steering is far too "
                    "strong; take smaller coefficients"
                )
            elif row.running and row.sampling.temperature:
                scores[number] = _with_noise(scores[number : number + 1], row)[0]
        return scores


def _with_noise(scores: Tensor, row: Row) -> Tensor:
    from transformers import TopPLogitsWarper

    scores = scores / row.sampling.temperature
    if row.sampling.top_p < 1:
        scores = TopPLogitsWarper(row.sampling.top_p)(None, scores)
    # drawn on the CPU, so that a seed means the same on every device
    uniform = torch.rand(scores.shape, generator=row.generator).clamp_(min=1e-30)
    noise: Tensor = -(-uniform.log()).log()
    return scores + noise.to(scores.device)
