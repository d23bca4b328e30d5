"""The two greedy answers to a prompt, unsteered and steered, generated as two rows of a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from faststeer.models.inference import device_of
from faststeer.patching.patched import Patched
from faststeer.steering.plan import Row
from faststeer.utils.progress import Advance


def two_answers(
    patched: Patched,
    model: Any,
    prompt: list[int],
    setting: Row,
    max_new_tokens: int,
    pad: int | None,
    advance: Advance = lambda steps: None,
) -> tuple[list[int], list[int]]:
    """Return the token ids of the greedy answers, unsteered first.

    An answer ends with the model's end-of-text token, which it includes, or after `max_new_tokens`.

    Args:
        patched: the handle of `model`.
        model: a causal model.
        prompt: token ids.
        setting: the row of the steered answer, as `Patched.rows` takes it.
        max_new_tokens: the most tokens of an answer.
        pad: the padding token.
        advance: called with 1 after each token.
    """
    from transformers import StoppingCriteriaList

    ids = torch.tensor([prompt, prompt], device=device_of(model))
    with patched.rows([{}, setting]):
        generated: Tensor = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
            pad_token_id=pad or 0,
            stopping_criteria=StoppingCriteriaList([_counter(advance)]),
        )
    ends = _ends(model)
    unsteered, steered = (_until_end(row, ends) for row in generated[:, len(prompt) :].tolist())
    return unsteered, steered


def _counter(advance: Advance) -> Callable[..., Tensor]:
    def count(ids: Tensor, scores: object, **rest: object) -> Tensor:
        advance(1)
        return torch.zeros(len(ids), dtype=torch.bool, device=ids.device)  # stops nothing

    return count


def _ends(model: Any) -> set[int]:
    """Return the tokens at which `generate` stops."""
    given = model.generation_config.eos_token_id
    return set(given if isinstance(given, list) else [given]) - {None}


def _until_end(ids: list[int], ends: set[int]) -> list[int]:
    """Return the ids up to the first end; what follows pads to the other answer's length."""
    end = next((n for n, token in enumerate(ids) if token in ends), len(ids))
    return ids[: end + 1]
