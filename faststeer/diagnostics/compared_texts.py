"""`compare`: where steering acts, token by token, in two answers and in given texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NoReturn

from torch import Tensor, nn

from faststeer.data.encoding import token_ids
from faststeer.diagnostics.answers import two_answers
from faststeer.diagnostics.comparison import ComparedText, Comparison, NextToken
from faststeer.diagnostics.paired_runs import PairedRuns, TokenChanges
from faststeer.diagnostics.token_text import token_pieces, token_text
from faststeer.evaluate.texts import warn_of_missing_bos
from faststeer.models.text_calls import context_of, evaluating
from faststeer.models.vector_origin import warn_of_other_model
from faststeer.patching.patch import temporarily_patched
from faststeer.patching.patched import Patched
from faststeer.steering.described import part_in_words
from faststeer.steering.plan import Row
from faststeer.utils.progress import progress_bar
from faststeer.vectors.arguments import require_fitting
from faststeer.vectors.other_spelling import refuse_unknown
from faststeer.vectors.sites import Site
from faststeer.vectors.steering_vector import SteeringVector

Answers = tuple[Sequence[int], Sequence[int]]


def compare(
    model: nn.Module,
    tokenizer: Any,
    prompt: str | None = None,
    *,
    texts: Sequence[str] = (),
    setting: Row | None = None,
    max_new_tokens: int = 40,
    answers: Answers | None = None,
    vector: SteeringVector | None = None,
    layer: int | None = None,
    add_special_tokens: bool = True,
    progress: bool = False,
    **unknown: NoReturn,
) -> Comparison:
    """Compare the steered with the unsteered model at every token of answers and texts.

    Both greedy answers to the prompt are generated as two rows of one batch. Each answer, and each
    text, is then run unsteered and steered; layers below the first steered one run once for both.

    Args:
        model: a causal model with active vectors (`faststeer.patch(model).steer(...)`).
        tokenizer: its tokenizer.
        prompt: the prompt of the two answers; none are generated without one.
        texts: further texts, each a prompt as a whole for `positions=` and conditions.
        setting: the steering, as a row of `Patched.rows`: {name: coefficient}. Default: every
            active vector with its coefficient.
        max_new_tokens: the most tokens of an answer.
        answers: token ids of the unsteered and the steered answer where they are known; nothing is
            generated then.
        vector: what the residual stream is projected on. Default: the vector of `setting`, if it is
            one; there are no projections where it has several.
        layer: 0-based layer whose residual stream is read, for the change at its end and for the
            projection at the vector's site. Default: the last layer for the change, and for the
            projection the last layer that the vector steers, or its only one.
        add_special_tokens: passed to the tokenizer; False for prompts from a chat template.
        progress: show a progress bar while answers are generated.
        unknown: nothing; other keywords are refused.

    Raises:
        TypeError: `texts` is one text, or as `Patched.rows`.
        ValueError: nothing steers, neither prompt nor texts, an empty one, one that is longer than
            the model's context (the prompt with its answer), a layer out of range, a vector with
            several layers to choose from, and as `Patched.rows`.
    """
    refuse_unknown("compare", unknown, "layer")
    if isinstance(texts, str):
        raise TypeError(f"texts is a single text, {texts!r}; expected several, such as a list")
    if prompt is None and not texts:
        raise ValueError("got neither a prompt nor texts; there is nothing to compare")
    if prompt is None and answers is not None:
        raise ValueError("answers= needs the prompt that they answer")
    with temporarily_patched(model) as patched, evaluating(model):
        return _Comparer(model, tokenizer, patched, setting, vector, layer).compare(
            prompt, texts, max_new_tokens, answers, add_special_tokens, progress
        )


class _Comparer:
    """What all texts of a comparison share."""

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        patched: Patched,
        setting: Row | None,
        vector: SteeringVector | None,
        layer: int | None,
    ) -> None:
        """Check the arguments, which are those of `compare`, as are the errors."""
        if setting is None:
            setting = {handle.name: handle.coefficient for handle in patched.handles}
            if not setting:
                raise ValueError(
                    "no vector is active, so steering changes nothing; first "
                    "faststeer.patch(model).steer(vector), and keep the model patched"
                )
        patched.rows([setting])  # checks it
        last = patched.num_layers - 1
        if layer is not None and not 0 <= layer <= last:
            raise ValueError(f"layer {layer} is out of range: the model has 0 to {last}")
        self.model, self.tokenizer, self.patched, self.setting = model, tokenizer, patched, setting
        self.changed_at = Site(last if layer is None else layer, "resid_post")
        if vector is not None:
            require_fitting(vector, patched.hidden_size, "compare")
            warn_of_other_model(vector, patched.decoder)
        self.vector = vector
        if vector is None and len(setting) == 1:
            self.vector = patched[next(iter(setting))].vector
        self.projection = self._projection(layer)
        self.runs = PairedRuns(patched, model, setting, self.changed_at, self.projection)
        self.context = context_of(patched.decoder)
        self.text_of: Callable[[int], str] = cache(lambda token: token_text(tokenizer, token))

    def compare(
        self,
        prompt: str | None,
        texts: Sequence[str],
        max_new_tokens: int,
        answers: Answers | None,
        add_special_tokens: bool,
        progress: bool,
    ) -> Comparison:
        """Return the result; arguments and errors are those of `compare`."""
        encoded = [
            self._encode(text, f"text {number}", add_special_tokens)
            for number, text in enumerate(texts)
        ]
        asked = None if prompt is None else self._encode(prompt, "the prompt", add_special_tokens)
        all_ids = [*encoded, *([] if asked is None else [asked])]
        warn_of_missing_bos(self.model, self.tokenizer, all_ids)
        compared_prompt = both = None
        if asked is not None:
            if answers is None:
                answers = self._generate(asked, max_new_tokens, progress)
            compared_prompt, *both = self._compare_answers(asked, answers)
        others = []
        for number, ids in enumerate(encoded):
            [changes] = self.runs.run([ids], len(ids), self.tokenizer.pad_token_id)
            pieces = token_pieces(self.tokenizer, ids)
            others.append(self._compared(f"text {number}", ids, pieces, changes, 0))
        return Comparison(
            steering=self._described(),
            prompt=compared_prompt,
            answers=None if both is None else (both[0], both[1]),
            texts=others,
            changed_at=self.changed_at,
            projected_at=None if self.projection is None else self.projection[0],
            vector=None if self.vector is None else self.vector.name,
        )

    def _encode(self, text: str, name: str, add_special_tokens: bool) -> list[int]:
        """Return token ids. Raises ValueError for none, and for more than the model's context."""
        if not isinstance(text, str):
            raise TypeError(f"{name} is a {type(text).__name__}; expected a text")
        ids, _ = token_ids(self.tokenizer, text, add_special_tokens)
        if not text or not ids:
            raise ValueError(f"{name} is empty; expected at least one token")
        if self.context is not None and len(ids) > self.context:
            raise ValueError(
                f"{name} has {len(ids)} tokens, and the model's context is {self.context}; shorten "
                "it"
            )
        return ids

    def _generate(self, prompt: list[int], most: int, progress: bool) -> Answers:
        if most < 1:
            raise ValueError(f"max_new_tokens is {most}; expected at least 1")
        self._require_room(prompt, most, f"max_new_tokens={most}")
        pad = self.tokenizer.pad_token_id
        with progress_bar("generating", most, progress) as advance:
            return two_answers(self.patched, self.model, prompt, self.setting, most, pad, advance)

    def _require_room(self, prompt: list[int], answer: int, named: str) -> None:
        if self.context is not None and len(prompt) + answer > self.context:
            raise ValueError(
                f"the prompt has {len(prompt)} tokens, and with {named} that is more than the "
                f"model's context of {self.context}; at most {self.context - len(prompt)} new "
                "tokens have room"
            )

    def _compare_answers(self, prompt: list[int], answers: Answers) -> list[ComparedText]:
        """Return the prompt, the unsteered answer and the steered answer."""
        given = [list(answer) for answer in answers]
        if len(given) != 2:
            raise ValueError(f"answers has {len(given)} answers; expected (unsteered, steered)")
        for answer in given:
            self._require_room(prompt, len(answer), f"an answer of {len(answer)} tokens")
        rows, start = [[*prompt, *answer] for answer in given], len(prompt)
        changes = self.runs.run(rows, start, self.tokenizer.pad_token_id)
        pieces = [token_pieces(self.tokenizer, row) for row in rows]
        whole = slice(start)
        found = [self._compared("prompt", prompt, pieces[0][whole], changes[0].tokens(whole), 0)]
        for name, row, own, changed in zip(
            ("unsteered answer", "steered answer"), rows, pieces, changes, strict=True
        ):
            rest = slice(start, len(row))
            found.append(self._compared(name, row[rest], own[rest], changed.tokens(rest), start))
        return found

    def _compared(
        self, name: str, ids: list[int], pieces: list[str], changes: TokenChanges, start: int
    ) -> ComparedText:
        projections = changes.projections
        before, after = ([], []) if projections is None else projections.tolist()
        next_of = [
            self._next_tokens(*both)
            for both in zip(changes.next_ids, changes.next_probabilities, strict=True)
        ]
        kl, change = changes.kl.tolist(), changes.change.tolist()
        return ComparedText(name, start, ids, pieces, kl, change, before, after, *next_of)

    def _next_tokens(self, ids: Tensor, probabilities: Tensor) -> list[list[NextToken]]:
        """Return the likeliest next tokens, from ``[P, 5]`` each."""
        return [
            [NextToken(token, self.text_of(token), p) for token, p in zip(*row, strict=True)]
            for row in zip(ids.tolist(), probabilities.tolist(), strict=True)
        ]

    def _projection(self, layer: int | None) -> tuple[Site, Tensor] | None:
        """Return where the residual stream is projected and the unit direction, for a vector."""
        vector = self.vector
        if vector is None:
            return None
        steered = [
            max(handle.layers)
            for handle in self.patched.handles
            if handle.name in self.setting and handle.vector is vector
        ]
        if layer is not None and layer in vector.layers:
            own = layer
        elif steered:
            own = steered[0]
        elif len(vector.layers) == 1:
            own = vector.layers[0]
        else:
            raise ValueError(
                f"{vector.name!r} has layers {vector.layers}; choose one of them with layer="
            )
        read_at = own if layer is None else layer
        if read_at >= self.patched.num_layers:
            raise ValueError(
                f"{vector.name!r} has layer {read_at}, and the model has layers 0 to "
                f"{self.patched.num_layers - 1}; choose one with layer="
            )
        direction = vector.at(own).normalized().directions[own]
        return Site.of(read_at, vector.site), direction.float()

    def _described(self) -> str:
        """Return the setting in words: "praise +2 at layer 15"."""
        active = self.patched.plan.interventions
        found = [f"{n} {part_in_words(active[n], given)}" for n, given in self.setting.items()]
        return ", ".join(found) or "no steering"
