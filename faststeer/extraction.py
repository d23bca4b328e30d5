"""Prompts to vectors: read activations while the model runs, keep sums, return directions.

Nothing but running sums is kept, the forward stops after the last layer that is read, and logits
are never computed. The model is read as it stands: vectors that steer it meanwhile are in what is
read (use `Patched.off()` to read the bare model).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from faststeer.patching import find_decoder, model_name
from faststeer.progress import Advance, progress_bar
from faststeer.vectors import SITES, SteeringVector
from faststeer.version import VERSION

METHODS = ("mean_difference",)
_SORTED_BATCHES = 16  # texts of so many batches are sorted by length, so that batches pad little


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
    read_token: int = -1,
    batch_size: int = 8,
    max_length: int | None = None,
    add_special_tokens: bool = True,
    progress: bool = True,
) -> SteeringVector:
    """Make a steering vector by difference of means.

    ``v = mean(h(positive)) - mean(h(negative))`` at each layer, h being the residual stream ``[H]``
    at the read token, not normalised. On pairs this is contrastive activation addition (Rimsky et
    al. 2024, arXiv 2312.06681); on two sets of documents it is van der Weij et al. 2024 (arXiv
    2403.05767).

    Args:
        model: a model that `patch` accepts, patched or not; it is read as it stands.
        tokenizer: its tokenizer. It needs no padding token and is not changed.
        pairs: (positive, negative) texts; any iterable, read once, never held as a whole.
        positive: in place of pairs: texts of one kind, together with `negative`.
        negative: the texts to be subtracted.
        name: the vector's name.
        layers: 0-based decoder layers, or "all".
        method: "mean_difference".
        site: ``resid_pre``, ``resid_mid`` or ``resid_post``.
        read_token: which token of each text is read, -1 for the last (CAA reads -2).
        batch_size: texts a forward; padded on the left.
        max_length: texts are cut after so many tokens.
        add_special_tokens: passed to the tokenizer; False for texts from a chat template.
        progress: show a progress bar.

    Raises:
        ValueError: no pairs, a text too short for the read token, a layer out of range, or an
            unknown method or site.
    """
    if method not in METHODS:
        raise ValueError(f"method {method!r} is unknown; expected one of {', '.join(METHODS)}")
    texts, expected = _labelled_texts(pairs, positive, negative)
    reader = _Reader(model, tokenizer, layers, site, read_token, max_length, add_special_tokens)
    sums = torch.zeros(2, len(reader.layers), reader.hidden_size, dtype=torch.float64)
    counts = [0, 0]
    with progress_bar("extracting", expected, progress) as advance:
        for labels, rows in reader.read(texts, batch_size, advance):
            for label in (0, 1):
                chosen = torch.tensor([i for i, own in enumerate(labels) if own == label])
                if len(chosen):
                    sums[label] += rows[chosen].to(torch.float64).sum(0)
                    counts[label] += len(chosen)
    if not all(counts):
        raise ValueError(
            f"got {counts[0]} positive and {counts[1]} negative texts; at least one of each is "
            "needed"
        )
    difference = (sums[0] / counts[0] - sums[1] / counts[1]).to(torch.float32)
    metadata = {
        "model": model_name(reader.decoder),
        "hidden_size": reader.hidden_size,
        "method": method,
        "read_token": read_token,
        "positives": counts[0],
        "negatives": counts[1],
        "faststeer": VERSION,
    }
    if pairs is not None:
        metadata["pairs"] = counts[0]
    return SteeringVector(name, dict(zip(reader.layers, difference, strict=True)), site, metadata)


def activations(
    model: nn.Module,
    tokenizer: Any,
    texts: Iterable[str],
    *,
    layers: str | int | Sequence[int] = "all",
    site: str = "resid_post",
    read_token: int = -1,
    batch_size: int = 8,
    max_length: int | None = None,
    add_special_tokens: bool = True,
    progress: bool = True,
) -> Tensor:
    """The residual stream at the read token of each text: ``[N, L, H]`` float32 on the CPU.

    In the order of the texts; L counts the chosen layers, ascending. Arguments and errors as for
    `extract`.
    """
    _refuse_a_single_text(texts, "texts")
    reader = _Reader(model, tokenizer, layers, site, read_token, max_length, add_special_tokens)
    expected = len(texts) if isinstance(texts, Sized) else None
    found: dict[int, Tensor] = {}
    with progress_bar("reading", expected, progress) as advance:
        numbered = enumerate(texts)
        for numbers, rows in reader.read(numbered, batch_size, advance):
            found.update(zip(numbers, rows, strict=True))
    if not found:
        raise ValueError("got no texts; at least one is needed")
    return torch.stack([found[i] for i in range(len(found))])


def pairs(
    template: str,
    positives: Sequence[str],
    negatives: Sequence[str],
    suffixes: Sequence[str] = ("",),
) -> list[tuple[str, str]]:
    """Contrast pairs from a template, as repeng's users write them.

    ``{persona}`` in `template` becomes a positive or its negative, ``{suffix}`` a suffix; without
    ``{suffix}`` the suffix is appended. One pair for each persona and suffix.

    Raises:
        ValueError: no ``{persona}``, empty lists, or unequal numbers of positives and negatives.
    """
    if "{persona}" not in template:
        raise ValueError(f"template {template!r} has no {{persona}} to fill in")
    if not positives or len(positives) != len(negatives):
        raise ValueError(
            f"got {len(positives)} positives and {len(negatives)} negatives; expected as many of "
            "each, at least one"
        )
    if not suffixes:
        raise ValueError("suffixes is empty; leave it out for none")
    whole = template if "{suffix}" in template else template + "{suffix}"

    def filled(persona: str, suffix: str) -> str:
        before, _, after = whole.partition("{suffix}")
        return suffix.join(part.replace("{persona}", persona) for part in (before, after))

    return [
        (filled(positive, suffix), filled(negative, suffix))
        for positive, negative in zip(positives, negatives, strict=True)
        for suffix in suffixes
    ]


def _labelled_texts(
    pairs: Iterable[tuple[str, str]] | None,
    positive: Iterable[str] | None,
    negative: Iterable[str] | None,
) -> tuple[Iterator[tuple[int, str]], int | None]:
    """Texts with 0 for positive and 1 for negative, and how many there will be if that is known."""
    if (pairs is None) == (positive is None and negative is None):
        raise ValueError("give either pairs, or positive and negative texts")
    if pairs is not None:
        expected = 2 * len(pairs) if isinstance(pairs, Sized) else None
        return _from_pairs(pairs), expected
    if positive is None or negative is None:
        raise ValueError("positive and negative texts go together; one of them is missing")
    _refuse_a_single_text(positive, "positive")
    _refuse_a_single_text(negative, "negative")
    known = isinstance(positive, Sized) and isinstance(negative, Sized)
    both = ((label, text) for label, side in enumerate((positive, negative)) for text in side)
    return both, len(positive) + len(negative) if known else None  # type: ignore[arg-type]


def _refuse_a_single_text(texts: Iterable[str], what: str) -> None:
    if isinstance(texts, str):  # would be read letter by letter
        raise ValueError(f"{what} is a single text, {texts!r}; expected several, such as a list")


def _from_pairs(pairs: Iterable[tuple[str, str]]) -> Iterator[tuple[int, str]]:
    for number, pair in enumerate(pairs):
        if not (
            isinstance(pair, (tuple, list))  # a dict of two has two texts: its keys
            and len(pair) == 2
            and all(isinstance(text, str) for text in pair)
        ):
            raise ValueError(f"pair {number} is {pair!r}; expected (positive text, negative text)")
        yield from enumerate(pair)


class _Stop(Exception):
    """Ends a forward after the last layer that is read."""


class _Reader:
    """Runs texts through the decoder and reads chosen layers at the read token."""

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        layers: str | int | Sequence[int],
        site: str,
        read_token: int,
        max_length: int | None,
        add_special_tokens: bool,
    ) -> None:
        self.decoder, family = find_decoder(model)
        self.blocks = list(self.decoder.get_submodule(family.layers).children())
        self.norm_after_attention = family.mid_norm
        config: Any = self.decoder.config
        self.hidden_size = int(config.hidden_size)
        self.layers = _chosen_layers(layers, len(self.blocks))
        if site not in SITES:
            raise ValueError(f"site {site!r} is unknown; expected one of {', '.join(SITES)}")
        if read_token >= 0:
            raise ValueError(
                f"read_token is {read_token}; it counts from the end of each text: -1 for the last"
            )
        self.site = site
        self.read_token = read_token
        self.tokenize = partial(
            tokenizer,
            add_special_tokens=add_special_tokens,
            truncation=max_length is not None,
            max_length=max_length,
        )
        pad = tokenizer.pad_token_id
        self.pad = pad if pad is not None else 0  # masked, so any token will do

    def read(
        self, texts: Iterable[tuple[int, str]], batch_size: int, advance: Advance
    ) -> Iterator[tuple[list[int], Tensor]]:
        """For each batch the texts' numbers and their activations ``[B, L, H]`` on the CPU."""
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; expected at least 1")
        stream = iter(texts)
        while window := list(islice(stream, batch_size * _SORTED_BATCHES)):
            tokens = [(number, self._tokens(text)) for number, text in window]
            tokens.sort(key=lambda item: len(item[1]))
            for start in range(0, len(tokens), batch_size):
                batch = tokens[start : start + batch_size]
                yield [number for number, _ in batch], self._forward([ids for _, ids in batch])
                advance(len(batch))

    def _tokens(self, text: str) -> list[int]:
        ids: list[int] = self.tokenize(text)["input_ids"]
        if len(ids) < -self.read_token:
            raise ValueError(
                f"a text has {len(ids)} tokens, too few for read_token {self.read_token}: {text!r}"
            )
        return ids

    def _forward(self, batch: list[list[int]]) -> Tensor:
        device = next(self.decoder.parameters()).device
        if device.type == "meta":  # offloaded: the hooks that load weights move inputs too
            device = torch.device("cpu")
        longest = max(map(len, batch))
        ids = torch.full((len(batch), longest), self.pad)
        mask = torch.zeros_like(ids)
        for row, own in enumerate(batch):
            ids[row, longest - len(own) :] = torch.tensor(own)
            mask[row, longest - len(own) :] = 1
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        found: dict[int, Tensor] = {}
        modes = [(module, module.training) for module in self.decoder.modules()]
        self.decoder.eval()
        try:
            with torch.no_grad(), self._reading(found):
                self.decoder(
                    input_ids=ids.to(device),
                    attention_mask=mask.to(device),
                    position_ids=positions.to(device),
                    use_cache=False,
                )
        except _Stop:
            pass
        finally:
            for module, training in modes:
                module.training = training
        return torch.stack([found[layer] for layer in self.layers], dim=1)

    @contextmanager
    def _reading(self, found: dict[int, Tensor]) -> Iterator[None]:
        """Hooks that put the read token's activations into `found` and end after the last one."""
        last = self.layers[-1]

        def keep(layer: int, hidden: Tensor) -> None:
            found[layer] = hidden[:, self.read_token].float().cpu()
            if layer == last:
                raise _Stop

        def on_output(layer: int, module: nn.Module, args: Any, output: Any) -> None:
            keep(layer, output[0] if isinstance(output, tuple) else output)

        def on_input(layer: int, module: nn.Module, args: Any, kwargs: Any) -> None:
            keep(layer, args[0] if args else kwargs["hidden_states"])

        hooks: list[RemovableHandle] = []
        for layer in self.layers:
            block = self.blocks[layer]
            if self.site == "resid_post":
                hooks.append(block.register_forward_hook(partial(on_output, layer)))
            else:
                target = block
                if self.site == "resid_mid":
                    target = block.get_submodule(self.norm_after_attention)
                hook = partial(on_input, layer)
                hooks.append(target.register_forward_pre_hook(hook, with_kwargs=True))
        try:
            yield
        finally:
            for handle in hooks:
                handle.remove()


def _chosen_layers(layers: str | int | Sequence[int], count: int) -> list[int]:
    if isinstance(layers, str):
        if layers != "all":
            raise ValueError(f"layers is {layers!r}; expected 'all', a number or several")
        return list(range(count))
    chosen = sorted({layers} if isinstance(layers, int) else set(layers))
    if not chosen:
        raise ValueError("layers is empty; expected 'all', a number or several")
    for layer in chosen:
        if not 0 <= layer < count:
            raise ValueError(f"layer {layer} is out of range: the model has 0 to {count - 1}")
    return chosen
