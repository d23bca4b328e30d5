"""ActAdd: one pair of prompts, subtracted token by token, added to the front of another prompt."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from faststeer.extraction.reader import ActivationReader
from faststeer.models.decoders import model_name
from faststeer.models.special_tokens import token_ids
from faststeer.patching.patched import Patched
from faststeer.steering.handles import Handle
from faststeer.utils.version import VERSION
from faststeer.vectors.steering_vector import SteeringVector


@dataclass(frozen=True)
class ActAdd:
    """A steering vector for each of a prompt's first tokens, BOS included where there is one."""

    name: str
    vectors: dict[int, SteeringVector]  # by position; those that are zero are left out

    def apply(self, patched: Patched, coefficient: float = 1.0) -> list[Handle]:
        """Steer the first tokens of every prompt, each with its own vector; nothing generated.

        A prompt that is shorter gets as many as it has tokens. Handles are named ``name[position]``
        and can be changed and removed one by one. Raises as `Patched.steer` does.
        """
        return [
            patched.steer(
                vector,
                coefficient,
                name=f"{self.name}[{position}]",
                positions=partial(_of_prompt, position),
            )
            for position, vector in self.vectors.items()
        ]


def act_add(
    model: nn.Module,
    tokenizer: Any,
    positive: str,
    negative: str,
    *,
    layer: int,
    name: str = "act_add",
    site: str = "resid_pre",
    add_special_tokens: bool = True,
) -> ActAdd:
    """Activation addition (Turner et al. 2023, arXiv 2308.10248, section 3 and algorithm 1).

    ``v_t = h_t(positive) - h_t(negative)`` at every token t of the two prompts, aligned to the
    front; the shorter is filled up with spaces on the right. Added at the same tokens of a prompt,
    in its prefill alone.

    Args:
        model: a model that `patch` accepts, patched or not; it is read as it stands.
        tokenizer: its tokenizer, which has to have a token for a space.
        positive: such as "Love".
        negative: such as "Hate".
        layer: 0-based decoder layer.
        name: the result's name.
        site: ``resid_pre`` in the paper.
        add_special_tokens: passed to the tokenizer.

    Raises:
        ValueError: an empty prompt, prompts of equal tokens, no token for a space, a layer out of
            range, or an unknown site.
    """
    reader = ActivationReader(model, tokenizer, layer, site, -1, None, add_special_tokens)
    ids = []
    for text in (positive, negative):
        if not text:
            raise ValueError("act_add got an empty prompt; a space, ' ', stands for nothing")
        ids.append(token_ids(tokenizer, text, add_special_tokens)[0])
    longest = max(map(len, ids))
    if any(len(own) < longest for own in ids):
        space = tokenizer(" ", add_special_tokens=False)["input_ids"]
        if not space:
            raise ValueError("the tokenizer has no token for a space, to fill up a prompt")
        ids = [own + [space[-1]] * (longest - len(own)) for own in ids]
    if ids[0] == ids[1]:
        raise ValueError(f"{positive!r} and {negative!r} have equal tokens")
    with reader.opened():
        [hidden] = reader.every_token(ids).values()
    reader.encoder.warn()
    metadata = {
        "model": model_name(reader.decoder),
        "hidden_size": reader.hidden_size,
        "num_layers": reader.num_layers,
        "method": "act_add",
        "faststeer": VERSION,
    }
    difference = hidden[0].float() - hidden[1].float()
    return ActAdd(
        name,
        {
            position: SteeringVector(
                f"{name}[{position}]", {layer: own}, site, metadata | {"position": position}
            )
            for position, own in enumerate(difference)
            if own.any()
        },
    )


def _of_prompt(position: int, positions: Tensor, lengths: Tensor) -> Tensor:
    return (positions == position) & (positions < lengths)
