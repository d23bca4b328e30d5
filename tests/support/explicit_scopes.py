"""Steering of tokens that are found as a sequence is written, with plain hooks: the reference.

Slow but obvious: models run without a cache, and every forward looks at every token of the whole
sequence again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import LogitsProcessor

import faststeer

EXACT = 1e-6  # of the effect
ROUNDING = 2e-6  # of the logits: sixteen units in the last place of float32
WAYS: dict[str, dict[str, Any]] = {
    "cached": {},
    "uncached": {"use_cache": False},
    "static": {"cache_implementation": "static"},
    "chunked": {"prefill_chunk_size": 3},
}
if int(transformers.__version__.partition(".")[0]) < 5:
    del WAYS["chunked"]  # it misplaces left-padded prompts, of stock models too

# The ids of a sequence without padding, and the length of its prompt -> is each token steered?
Chooses = Callable[[list[int], int], list[bool]]


class Writes(LogitsProcessor):
    """Logits processor that makes each row write given ids at given steps, whatever it would."""

    def __init__(self, rows: Sequence[Mapping[int, int]], prompt_columns: int) -> None:
        self.rows = rows
        self.prompt_columns = prompt_columns

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        step, scores = input_ids.shape[1] - self.prompt_columns, scores.clone()
        for line in range(len(scores)):
            token = self.rows[line * len(self.rows) // len(scores)].get(step)
            if token is not None:
                scores[line] = -torch.inf
                scores[line, token] = 0.0
        return scores


def whole(rows: Sequence[Mapping[int, int]], steps: int = 12) -> list[dict[int, int]]:
    """Let rows write a token at every step: where two are equally likely, rounding would choose."""
    fillers = torch.randint(20, 500, (len(rows), steps), generator=torch.manual_seed(7)).tolist()
    return [dict(enumerate(own)) | dict(row) for own, row in zip(fillers, rows, strict=True)]


def written(
    model: Any, ids: Tensor, mask: Tensor, rows: Sequence[Mapping[int, int]], **how: Any
) -> tuple[Tensor, Tensor]:
    """Return tokens ``[B, T]`` and the model's own logits ``[B, new, V]`` of each new one."""
    settings: dict[str, Any] = {
        "max_new_tokens": 12,
        "do_sample": False,
        "eos_token_id": None,
        "pad_token_id": 0,
    }
    settings |= {"logits_processor": [Writes(rows, ids.shape[1])]}
    found = model.generate(
        ids,
        attention_mask=mask,
        return_dict_in_generate=True,
        output_logits=True,
        **settings | how,
    )
    return found.sequences, torch.stack(found.logits, 1)


def require_equal(
    found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor], unsteered: tuple[Tensor, Tensor]
) -> None:
    """Compare tokens, and logits to `EXACT` of what steering does to them."""
    assert torch.equal(found[0], expected[0])
    effect = float((expected[1] - unsteered[1]).norm())
    allowed = EXACT * effect + ROUNDING * float(expected[1].norm())
    differs = float((found[1] - expected[1]).norm())
    assert allowed < effect / 100, f"the effect {effect:.3g} is too small to see an error"
    assert differs < allowed, f"{differs:.3g} of an effect of {effect:.3g}, {allowed:.3g} allowed"


@contextmanager
def steered_where(
    decoder: Any,
    vector: faststeer.SteeringVector,
    coefficients: Sequence[float],
    chooses: Chooses | None,
    mask: Tensor,
    condition: tuple[faststeer.SteeringVector, float, int] | None = None,
) -> Iterator[None]:
    """Add ``coefficient * direction`` at the chosen tokens, at all of the vector's layers.

    `coefficients`: one per prompt. `mask` ``[B, P]``: of the prompts. `condition`: a vector of one
    layer, the cosine similarity that a token has to exceed, and for how many tokens more.
    """
    lengths = mask.sum(1).tolist()
    chosen: list[Tensor] = []

    def begin(module: nn.Module, args: Any, kwargs: Any) -> None:
        ids = kwargs.get("input_ids", args[0] if args else None)
        chosen[:] = [torch.zeros(ids.shape, dtype=torch.bool)]
        for line in range(len(ids)):
            prompt = line * len(mask) // len(ids)
            start = mask.shape[1] - lengths[prompt]  # behind the padding
            own = ids[line, start:].tolist()
            steered = [True] * len(own) if chooses is None else chooses(own, lengths[prompt])
            chosen[0][line, start:] = torch.tensor(steered)

    def restrict(module: nn.Module, args: Any, output: Any) -> None:
        assert condition is not None
        compared, threshold, longer = condition
        hidden = output[0] if isinstance(output, tuple) else output
        (direction,) = compared.directions.values()
        met = torch.cosine_similarity(hidden.float(), direction, dim=-1) > threshold
        for line in range(len(hidden)):
            start = mask.shape[1] - lengths[line * len(mask) // len(hidden)]
            for at in range(hidden.shape[1]):
                first = max(start, at - longer)
                chosen[0][line, at] &= at >= start and bool(met[line, first : at + 1].any())

    def add(direction: Tensor) -> Callable[..., Any]:
        def after(module: nn.Module, args: Any, output: Any) -> Any:
            hidden = output[0] if isinstance(output, tuple) else output
            each = len(hidden) // len(mask)
            amounts = torch.tensor(coefficients).repeat_interleave(each)[:, None] * chosen[0]
            changed = hidden + amounts[..., None] * direction
            return (changed, *output[1:]) if isinstance(output, tuple) else changed

        return after

    with ExitStack() as stack:
        hooks = [decoder.register_forward_pre_hook(begin, with_kwargs=True)]
        if condition is not None:
            (layer,) = condition[0].directions
            hooks.append(decoder.layers[layer].register_forward_hook(restrict))
        for layer, direction in vector.directions.items():
            hooks.append(decoder.layers[layer].register_forward_hook(add(direction)))
        for hook in hooks:
            stack.callback(hook.remove)
        yield


def enclosed_by(opening: list[int], closing: list[int]) -> Chooses:
    """Choose what is between two markers."""

    def chooses(ids: list[int], length: int) -> list[bool]:
        inside, start, found = False, 0, []
        for at in range(len(ids)):
            found.append(inside)
            marker = closing if inside else opening
            if at + 1 - start >= len(marker) and ids[at + 1 - len(marker) : at + 1] == marker:
                inside, start = not inside, at + 1
        return found

    return chooses


def behind(marker: list[int]) -> Chooses:
    """Choose what is behind a marker's last occurrence in the prompt, or its first behind that."""

    def chooses(ids: list[int], length: int) -> list[bool]:
        size = len(marker)
        ends = [at for at in range(size, len(ids) + 1) if ids[at - size : at] == marker]
        prompt = [end for end in ends if end <= length]
        begin = prompt[-1] if prompt else min(ends, default=len(ids))
        return [at >= begin for at in range(len(ids))]

    return chooses


def at_ids(wanted: list[int]) -> Chooses:
    """Choose tokens of certain ids."""
    return lambda ids, length: [token in wanted for token in ids]


def first_of(count: int) -> Chooses:
    """Choose the first generated tokens."""
    return lambda ids, length: [length <= at < length + count for at in range(len(ids))]


def both(one: Chooses, other: Chooses) -> Chooses:
    """Choose what both choose."""
    return lambda *given: [a and b for a, b in zip(one(*given), other(*given), strict=True)]


def either(one: Chooses, other: Chooses) -> Chooses:
    """Choose what one of the two chooses."""
    return lambda *given: [a or b for a, b in zip(one(*given), other(*given), strict=True)]


def opposite(one: Chooses) -> Chooses:
    """Choose the other tokens."""
    return lambda *given: [not a for a in one(*given)]
