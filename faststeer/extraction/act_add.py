"""ActAdd: the token-wise difference of two prompts, added to the first tokens of a prompt."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn

from torch import Tensor, nn

from faststeer.data.encoding import token_ids
from faststeer.extraction.reader import ActivationReader
from faststeer.models.vector_origin import origin_facts
from faststeer.patching.patched import Patched
from faststeer.steering.handles import Handle
from faststeer.utils.version import VERSION
from faststeer.vectors.other_spelling import refuse_unknown
from faststeer.vectors.steering_vector import SteeringVector


@dataclass(frozen=True)
class ActAdd:
    """A steering vector for each of a prompt's first tokens, including the BOS if there is one.

    `vectors` maps positions to vectors; positions whose difference is zero are left out.
    """

    name: str
    vectors: dict[int, SteeringVector]

    def apply(self, patched: Patched, coefficient: float = 1.0) -> list[Handle]:
        """Steer the first tokens of every prompt, each with its own vector.

        Generated tokens are not steered, and of a shorter prompt only its tokens are. Returns a
        handle per position, named ``name[position]``. Raises as `Patched.steer`.
        """
        return [
            patched.steer(
                vector,
                coefficient,
                name=f"{self.name}[{position}]",
                positions=partial(_at_prompt_position, position),
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
    **unknown: NoReturn,
) -> ActAdd:
    """Make the vectors of activation addition from two prompts.

    ``v_t = h_t(positive) - h_t(negative)`` ``[H]`` at every token t of the two prompts, which are
    aligned at their first token; the shorter is padded with spaces on the right. The vectors are
    added at the same tokens of another prompt, in its prefill alone (Turner et al. 2023, arXiv
    2308.10248, section 3 and algorithm 1).

    Args:
        model: a model that `patch` accepts, patched or not; active steering is included.
        tokenizer: its tokenizer, which needs a token for a space.
        positive: such as "Love".
        negative: such as "Hate".
        layer: 0-based decoder layer.
        name: the result's name.
        site: ``resid_pre`` in the paper.
        add_special_tokens: passed to the tokenizer.
        unknown: nothing; other keywords are refused.

    Raises:
        ValueError: an empty prompt, prompts of equal tokens, no token for a space, a layer out of
            range, or an unknown site.
    """
    refuse_unknown("act_add", unknown, "layer")
    reader = ActivationReader(model, tokenizer, layer, site, -1, None, add_special_tokens)
    ids = []
    for text in (positive, negative):
        if not text:
            raise ValueError("act_add got an empty prompt; use a space, ' ', as a neutral prompt")
        ids.append(token_ids(tokenizer, text, add_special_tokens)[0])
    longest = max(map(len, ids))
    if any(len(row) < longest for row in ids):
        space = tokenizer(" ", add_special_tokens=False)["input_ids"]
        if not space:
            raise ValueError("the tokenizer has no space token to pad the shorter prompt")
        ids = [row + [space[-1]] * (longest - len(row)) for row in ids]
    if ids[0] == ids[1]:
        raise ValueError(f"{positive!r} and {negative!r} have equal tokens")
    with reader.keep_patched():
        [hidden] = reader.read_all_tokens(ids).values()
    reader.report()
    metadata = {
        **origin_facts(reader.decoder),
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
                f"{name}[{position}]", {layer: direction}, site, metadata | {"position": position}
            )
            for position, direction in enumerate(difference)
            if direction.any()
        },
    )


def _at_prompt_position(position: int, positions: Tensor, lengths: Tensor) -> Tensor:
    return (positions == position) & (positions < lengths)
