"""The matching score: the share of questions that a model answers with the matching option.

As in van der Weij et al. 2024 (arXiv 2403.05767), section 4, the answer is one greedy token.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from faststeer.data.batches import Batch
from faststeer.data.encoding import token_ids
from faststeer.data.questions import Choice
from faststeer.evaluate.lm_head import LMHead
from faststeer.evaluate.setting_runs import CurrentSteering, ManySettings, SettingRunner
from faststeer.evaluate.texts import batches_by_length, encode_texts, warn_of_missing_bos
from faststeer.models.text_calls import context_of, decoder_of
from faststeer.patching.patched import Patched
from faststeer.steering.plan import Row
from faststeer.utils.progress import Advance

COLLAPSED = 0.95  # a model collapsed that gives one answer in more than this share of questions


@dataclass(frozen=True)
class Matching:
    """A model's answers to N choices.

    `answers` are the greedy tokens as text, stripped of spaces. `matched` ``[N]`` bool marks the
    answers that match the behaviour, `valid` ``[N]`` bool those that are one of the two options.
    `log_matching` and `log_other` ``[N]`` float64 are the log-probabilities of the options' tokens
    in nats.
    """

    answers: list[str]
    matched: Tensor
    valid: Tensor
    log_matching: Tensor
    log_other: Tensor

    @property
    def score(self) -> float:
        """The share of matching answers; an answer that is not an option counts as a miss."""
        return float(self.matched.double().mean())

    @property
    def faulty(self) -> int:
        """The number of answers that are not one of the two options."""
        return int((~self.valid).sum())

    @property
    def collapsed(self) -> bool:
        """Whether more than 95 % of the answers are the same."""
        (_, most), *_ = Counter(self.answers).most_common(1)
        return most > COLLAPSED * len(self.answers)

    @property
    def probability(self) -> float:
        """The mean probability of the matching option, renormalised over the two options."""
        return float((self.log_matching - self.log_other).sigmoid().mean())

    @property
    def preferred(self) -> float:
        """The share of choices where the matching option is likelier than the other one."""
        return float((self.log_matching > self.log_other).double().mean())

    @property
    def mass(self) -> float:
        """The mean probability that the next token is one of the two."""
        return float(torch.logaddexp(self.log_matching, self.log_other).exp().mean())

    def chosen(self, items: Sequence[int]) -> Matching:
        """Return the answers to the choices of these indices, which may repeat."""
        at = torch.as_tensor(items)
        values = (self.matched, self.valid, self.log_matching, self.log_other)
        return Matching([self.answers[n] for n in at.tolist()], *(field[at] for field in values))

    def items(self) -> dict[str, list[Any]]:
        """Return each field as a list for JSON; a value that is not finite becomes None."""
        return {
            "answers": self.answers,
            "matched": self.matched.int().tolist(),
            "valid": self.valid.int().tolist(),
            "log_matching": _finite(self.log_matching),
            "log_other": _finite(self.log_other),
        }

    @classmethod
    def from_items(cls, items: dict[str, list[Any]]) -> Matching:
        """Restore the answers from the result of `items`."""
        flags = [torch.tensor(items[name]).bool() for name in ("matched", "valid")]
        logs = [
            torch.tensor([math.nan if v is None else v for v in items[name]], dtype=torch.float64)
            for name in ("log_matching", "log_other")
        ]
        return cls(list(items["answers"]), *flags, *logs)


def matching_scores(
    model: nn.Module, tokenizer: Any, choices: Sequence[Choice], *, batch_size: int = 8
) -> Matching:
    """Return a model's answers to choices, under its active steering.

    Args:
        model: a causal model, patched or not.
        tokenizer: its tokenizer; the side on which it pads does not matter.
        choices: questions that end where the answer's token begins.
        batch_size: questions per forward pass.

    Raises:
        ValueError: no choices, an option that is not a single token after its question, two options
            that are the same token, a question longer than the model's context, or a model whose
            logits are not those of a plain output embedding.
    """
    return Questions(model, tokenizer, choices).scores(CurrentSteering(model), batch_size)[0]


def matching_scores_by_setting(
    patched: Patched,
    model: nn.Module,
    tokenizer: Any,
    choices: Sequence[Choice],
    settings: Sequence[Row],
    *,
    batch_size: int = 8,
    at_once: int = 8,
    advance: Advance = lambda steps: None,
) -> tuple[Matching, list[Matching]]:
    """Return the unsteered answers, and those under each setting.

    The layers below the first steered one run once for all settings.

    Args:
        patched: the patched model, whose handles the settings name.
        model: as for `matching_scores`.
        tokenizer: as for `matching_scores`.
        choices: as for `matching_scores`.
        settings: as `Patched.rows` accepts them.
        batch_size: questions per forward pass and setting.
        at_once: settings per forward pass.
        advance: called with the number of (question, setting) pairs completed.

    Raises:
        TypeError: as `Patched.rows`.
        ValueError: as `matching_scores` and `Patched.rows`.
    """
    runner = ManySettings(patched, settings, at_once)
    questions = Questions(model, tokenizer, choices)
    *steered, unsteered = questions.scores(runner, batch_size, advance)
    return unsteered, steered


class Questions:
    """Encoded questions and the tokens of their options, to be answered under settings."""

    def __init__(self, model: nn.Module, tokenizer: Any, choices: Sequence[Choice]) -> None:
        """Encode the choices; arguments and errors are those of `matching_scores`."""
        self.choices = list(choices)
        if not self.choices:
            raise ValueError("got no choices; at least one is needed")
        context = context_of(decoder_of(model))
        self.rows = encode_texts(
            tokenizer, [choice.question for choice in self.choices], None, context
        )
        both = zip(self.choices, self.rows, strict=True)
        options = [_options(tokenizer, n, choice, row) for n, (choice, row) in enumerate(both)]
        self.options = torch.tensor(options)
        self.tokenizer = tokenizer
        self.head = LMHead(model)
        warn_of_missing_bos(model, tokenizer, self.rows)

    def scores(
        self, runner: SettingRunner, batch_size: int, advance: Advance = lambda steps: None
    ) -> list[Matching]:
        """Return the answers under each setting, the unsteered ones last if the runner has them."""
        greedy = torch.zeros(runner.num_results, len(self.rows), dtype=torch.int64)
        logprobs = torch.zeros(2, runner.num_results, len(self.rows), dtype=torch.float64)
        settings = runner.num_results - runner.compares_with_unsteered
        batches = batches_by_length(self.rows, self.tokenizer, batch_size, runner.calls)
        for questions, batch in batches:
            options = self.options[questions].to(runner.calls.device)
            for states in runner.run(batch, _last_tokens(batch)):
                tokens, of_options = _answers(self.head, states.hidden, options)
                at = torch.tensor(states.indices)[:, None], torch.tensor(questions)
                greedy[at] = tokens
                logprobs[0][at], logprobs[1][at] = of_options.unbind(-1)
            advance(settings * len(questions))
        return [self._matching(*result) for result in zip(greedy, *logprobs, strict=True)]

    def _matching(self, greedy: Tensor, log_matching: Tensor, log_other: Tensor) -> Matching:
        texts = {token: self.tokenizer.decode([token]).strip() for token in set(greedy.tolist())}
        answers = [texts[token] for token in greedy.tolist()]
        both = list(zip(answers, self.choices, strict=True))
        matched = torch.tensor([answer == choice.matching.strip() for answer, choice in both])
        other = torch.tensor([answer == choice.other.strip() for answer, choice in both])
        return Matching(answers, matched, matched | other, log_matching, log_other)


def _finite(values: Tensor) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values.tolist()]


def _options(tokenizer: Any, number: int, choice: Choice, question: list[int]) -> list[int]:
    """Return the tokens of the two options after the question."""
    found = []
    for option in (choice.matching, choice.other):
        ids, _ = token_ids(tokenizer, choice.question + option)
        if ids[: len(question)] != question or len(ids) != len(question) + 1:
            raise ValueError(
                f"choice {number}: after {choice.question[-12:]!r} the option {option!r} is not a "
                "single token of this model's tokenizer, and the answer is a single token"
            )
        found.append(ids[-1])
    if found[0] == found[1] or choice.matching.strip() == choice.other.strip():
        raise ValueError(f"choice {number}: both options are {choice.other!r} for this model")
    return found


def _last_tokens(batch: Batch) -> Tensor:
    """Return a mask ``[B, T]`` bool of each text's last token, for padding on either side."""
    columns = torch.arange(batch.ids.shape[1], device=batch.ids.device)
    last = torch.where(batch.real, columns, -1).amax(1, keepdim=True)
    return columns == last


@torch.inference_mode()
def _answers(head: LMHead, hidden: Tensor, options: Tensor) -> tuple[Tensor, Tensor]:
    """Return greedy tokens ``[S, P]`` and log-probabilities of the options ``[S, P, 2]`` (CPU).

    `hidden` is ``[S, P, H]``, `options` ``[P, 2]``.
    """
    flat = hidden.flatten(0, 1)
    repeated = options.repeat(len(hidden), 1)
    greedy, of_options = [], []
    for chunk in head.chunks(len(flat)):
        logits = head.logits(flat[chunk]).float()
        greedy.append(logits.argmax(-1).cpu())
        logprobs = logits.double().log_softmax(-1)
        of_options.append(logprobs.gather(1, repeated[chunk].to(logits.device)).cpu())
    shape = hidden.shape[:2]
    return torch.cat(greedy).view(shape), torch.cat(of_options).view(*shape, 2)
