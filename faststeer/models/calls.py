"""How a decoder is called: which arguments carry its tokens, past, mask and positions.

These names belong to transformers, and change: 5.24 renamed `past_key_values` to `cache`. They are
looked up in signatures when a model is patched, here and nowhere else. A name that is not found
never counts as "not given": what depends on it is refused.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_TOKENS = ("input_ids", "inputs_embeds")
# Pasts that count the tokens they hold, and pasts of Mamba, RWKV, XLNet and Reformer, which do not.
_COUNTED = ("cache", "past_key_values", "past_key_value", "layer_past")
_UNCOUNTED = ("cache_params", "state", "mems", "past_buckets_states")
_PASTS = (*_COUNTED, *_UNCOUNTED)
# What a decoder without any past may take: GPT-1, encoders. `use_cache` is missing on purpose.
_WITHOUT_PAST = frozenset(
    {
        *_TOKENS,
        *("attention_mask", "position_ids", "token_type_ids", "head_mask", "labels"),
        *("encoder_hidden_states", "encoder_attention_mask", "logits_to_keep"),
        *("output_attentions", "output_hidden_states", "return_dict", "args", "kwargs"),
    }
)


@dataclass(frozen=True)
class DecoderSignature:
    """The names of a decoder's arguments, read once.

    `order`: arguments by position, which differs between families. `past`: the one that carries the
    past, None where there is none. `unknown`: arguments that may carry it, where none of them is
    known to; whatever depends on positions is refused then.
    """

    decoder: str
    order: tuple[str, ...]
    past: str | None
    unknown: tuple[str, ...]

    @classmethod
    def of(cls, decoder: nn.Module) -> DecoderSignature:
        """Read the signature of a decoder's class."""
        names = tuple(inspect.signature(type(decoder).forward).parameters)[1:]
        past = next((name for name in _PASTS if name in names), None)
        unknown: tuple[str, ...] = ()
        if past is None:
            unknown = tuple(name for name in names if name not in _WITHOUT_PAST)
        return cls(type(decoder).__name__, names, past, unknown)

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> DecoderCall:
        """Name the arguments of one call."""
        return DecoderCall(self, {**dict(zip(self.order, args, strict=False)), **kwargs})

    def takes(self, name: str) -> bool:
        """Return whether the decoder has an argument of that name."""
        return name in self.order

    def require_past(self, what: str) -> None:
        """Raise ValueError where the decoder's past is not known, which `what` depends on."""
        if self.unknown:
            raise ValueError(
                f"{what} depends on how many tokens a {self.decoder} has seen, and none of its "
                f"arguments is known to carry its past ({', '.join(self.unknown)} may); steer all "
                "positions instead"
            )


@dataclass(frozen=True)
class DecoderCall:
    """The arguments of one forward of a decoder, by name."""

    signature: DecoderSignature
    named: Mapping[str, Any]

    @property
    def given(self) -> Tensor | None:
        """The first input, ids ``[B, T]`` or embeddings ``[B, T, H]``; None where neither came."""
        for name in _TOKENS:
            given: Tensor | None = self.named.get(name)
            if given is not None:
                return given
        return None

    @property
    def attention_mask(self) -> Any:
        """The mask as given: ``[B, past + T]``, one that is prepared already, or None."""
        if self.named.get("input_mask") is not None:
            raise ValueError(
                f"a {self.signature.decoder} got input_mask, whose 1 is padding; give the "
                "attention_mask, whose 1 is a token"
            )
        return self.named.get("attention_mask")

    @property
    def position_ids(self) -> Any:
        """The position ids as given."""
        return self.named.get("position_ids")

    @property
    def sequence_ends(self) -> Any:
        """Where the sequences end that are packed into one, as flash attention is given them."""
        return self.named.get("cu_seq_lens_q")

    @property
    def has_past(self) -> bool:
        """Whether a past was given, be it empty."""
        return any(self.named.get(name) is not None for name in _PASTS)

    @property
    def _past(self) -> tuple[str, Any] | None:
        """The past that was given, with its name."""
        given = ((name, self.named.get(name)) for name in _PASTS)
        return next((pair for pair in given if pair[1] is not None), None)

    @property
    def cache(self) -> object | None:
        """The past as given; None where none was."""
        return None if self._past is None else self._past[1]

    @property
    def _columns(self) -> Tensor | None:
        """`cache_position`, which transformers 4 passes, where it is one number per token: Mamba's
        counts something else.
        """
        columns, given = self.named.get("cache_position"), self.given
        if columns is None or given is None or columns.shape != given.shape[1:2]:
            return None
        if self._past is not None and self._past[0] in _UNCOUNTED:
            return None
        found: Tensor = columns
        return found

    def _known_past(self) -> int | Tensor | None:
        if self._past is None and not self.signature.unknown:
            return 0
        past = None if self._past is None else self._past[1]
        # Caches of a class of their own may count otherwise: Jamba's of transformers 4, while it is
        # empty, counts sequences.
        if any(base.__name__ == "Cache" for base in type(past).__mro__):
            return _counted(past)
        return _counted(past) if self._columns is None else self._columns[0]

    @property
    def counts_past(self) -> bool:
        """Whether `past_length` is known."""
        return self._known_past() is not None

    def past_length(self) -> int | Tensor:
        """Return how many tokens the past holds; a tensor on the device for a static cache.

        Raises:
            ValueError: it is not known.
        """
        length = self._known_past()
        if length is not None:
            return length
        if self._past is None:
            self.signature.require_past("what is asked for")
        assert self._past is not None
        name, past = self._past
        raise ValueError(
            f"a {self.signature.decoder} got a past, {name}= (a {type(past).__name__}), that does "
            "not count its tokens, so their positions are not known: steer all positions, or "
            "generate with use_cache=False"
        )

    def columns(self, count: int, past: int | Tensor, device: torch.device) -> Tensor:
        """Return the columns ``[T]`` of `count` tokens after `past`, padding included."""
        columns = self._columns
        return torch.arange(count, device=device) + past if columns is None else columns


def hidden_argument(layer: nn.Module) -> tuple[int, str]:
    """Return the place and name of the argument in which a layer gets the hidden states.

    It is mostly the first, whatever its name; Reformer's first is another stream.
    """
    names = tuple(inspect.signature(type(layer).forward).parameters)[1:]
    place = names.index("hidden_states") if "hidden_states" in names else 0
    return place, names[place]


def require_same_names(layer: nn.Module, attention: nn.Module) -> None:
    """Raise ValueError where a layer's attention names the past, mask or rotary embeddings
    otherwise than the layer does, whose arguments are handed on by name.
    """
    given, taken = (set(inspect.signature(type(m).forward).parameters) for m in (layer, attention))
    if other := (given & {*_PASTS, "attention_mask", "position_embeddings"}) - taken:
        raise ValueError(
            f"a {type(layer).__name__} takes {', '.join(sorted(other))}, and its "
            f"{type(attention).__name__} does not: how this version of transformers hands them on "
            "is not known"
        )


def _counted(past: Any) -> int | Tensor | None:
    """Return the number of tokens that a past holds, None where it does not count them."""
    count = getattr(past, "get_seq_length", None)
    if count is None:
        return None
    try:
        length: int | Tensor = count()
    except ValueError:  # of a cache that holds nothing but states of linear attention
        return None
    return length


def past_argument(model: nn.Module) -> str:
    """Return the name under which `model` takes a cache that counts its tokens.

    Raises:
        ValueError: it takes none.
    """
    signature = DecoderSignature.of(model)
    if signature.past not in _COUNTED:
        raise ValueError(f"a {signature.decoder} takes no cache that counts its tokens")
    return signature.past


def made_past(output: Any) -> Any:
    """Return the cache that a model's output carries; None where it shows none."""
    if not hasattr(output, "get"):
        return None
    return next((past for name in _COUNTED if (past := output.get(name)) is not None), None)


def past_of(output: Any) -> Any:
    """Return the cache that a model's output carries. Raises ValueError where it carries none."""
    if (past := made_past(output)) is not None:
        return past
    raise ValueError(f"a {type(output).__name__} carries no cache")
