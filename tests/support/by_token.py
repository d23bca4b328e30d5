"""Token-by-token steering with plain hooks: the reference for rows and positions.

Slow but obvious. Models run without a cache, so that a token's column is its index in the call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

import faststeer

# (sequence, position, length of its prompt) -> the vector's coefficient at that token
Amount = Callable[[int, int, int], float]
Term = tuple[faststeer.SteeringVector, Amount]


@contextmanager
def steered_by_token(decoder: Any, terms: Sequence[Term], prompts: Tensor) -> Iterator[None]:
    """Add ``amount * direction`` at every token, at all of each vector's layers.

    `prompts` ``[B, P]`` is the mask of the prompts. A batch of more than B has several sequences of
    each prompt, one after the other.
    """
    columns = [numbered(line) for line in prompts.tolist()]
    lengths = [sum(line) for line in prompts.tolist()]

    def addition(hidden: Tensor, direction: Tensor, amount: Amount) -> Tensor:
        batch, count = hidden.shape[:2]
        amounts = torch.zeros(batch, count, 1)
        for line in range(batch):
            sequence = line * len(lengths) // batch
            for column in range(count):
                position = column_to_position(columns[sequence], lengths[sequence], column)
                if position is not None:
                    amounts[line, column] = amount(sequence, position, lengths[sequence])
        return hidden + amounts * direction

    with ExitStack() as stack:
        for vector, amount in terms:
            for layer, direction in vector.directions.items():
                block = decoder.layers[layer]
                hook = _register(block, vector.site, direction, amount, addition)
                stack.callback(hook.remove)
        yield


def numbered(mask: Sequence[int]) -> list[int | None]:
    """Return the position of each column of a prompt; None for padding."""
    numbers: list[int | None] = []
    for real in mask:
        numbers.append(sum(number is not None for number in numbers) if real else None)
    return numbers


def column_to_position(prompt: Sequence[int | None], length: int, column: int) -> int | None:
    """Return the position of a column in or after the prompt."""
    return prompt[column] if column < len(prompt) else length + column - len(prompt)


def _register(
    block: Any, site: str, direction: Tensor, amount: Amount, addition: Callable[..., Tensor]
) -> Any:
    def after(module: nn.Module, args: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (addition(output[0], direction, amount), *output[1:])
        return addition(output, direction, amount)

    if site == "resid_post":
        return block.register_forward_hook(after)
    if site == "resid_pre":
        return block.register_forward_pre_hook(
            lambda module, args: (addition(args[0], direction, amount), *args[1:])
        )

    def attended(module: nn.Module, args: Any, output: Any) -> Any:
        return (addition(output[0], direction, amount), *output[1:])

    return block.self_attn.register_forward_hook(attended)


def padded(lengths: Sequence[int], seed: int = 3) -> tuple[Tensor, Tensor]:
    """Return left-padded prompts of random tokens: ids and mask ``[B, max(lengths)]``."""
    longest = max(lengths)
    ids = torch.randint(
        20, 512, (len(lengths), longest), generator=torch.Generator().manual_seed(seed)
    )
    mask = torch.tensor([[0] * (longest - n) + [1] * n for n in lengths])
    return ids * mask, mask


def greedy(model: Any, ids: Tensor, mask: Tensor, **how: Any) -> tuple[Tensor, Tensor]:
    """Return tokens ``[B, T]`` and the logits ``[B, new, V]`` of each new one."""
    settings = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    found = model.generate(
        ids,
        attention_mask=mask,
        return_dict_in_generate=True,
        output_scores=True,
        **settings | how,
    )
    return found.sequences, torch.stack(found.scores, 1)
