"""The matching score: how often a model's answer to a question with options shows a behaviour.

As in van der Weij et al. 2024 (arXiv 2403.05767), section 4: the answer is one greedy token.
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
from faststeer.data.questions import Choice
from faststeer.evaluate.lm_head import LMHead
from faststeer.evaluate.setting_runs import CurrentSteering, ManySettings, Runs
from faststeer.evaluate.texts import encode, in_batches, warn_of_missing_bos
from faststeer.models.special_tokens import token_ids
from faststeer.models.text_calls import context_of, decoder_of
from faststeer.patching.patched import Patched
from faststeer.steering.plan import Row
from faststeer.utils.progress import Advance

COLLAPSED = 0.95  # one answer in more than this share of all


@dataclass(frozen=True)
class Matching:
    """What a model answered to N choices.

    `answers`: the greedy tokens as text, without spaces around them; `matched` and `valid` ``[N]``
    bool: those that match the behaviour, and those that are one of the two options.
    `log_matching` and `log_other` ``[N]`` float64: log-probabilities of the options' tokens in
    nats.
    """

    answers: list[str]
    matched: Tensor
    valid: Tensor
    log_matching: Tensor
    log_other: Tensor

    @property
    def score(self) -> float:
        """Matching answers over all; an answer that is no option counts as a miss."""
        return float(self.matched.double().mean())

    @property
    def faulty(self) -> int:
        """How many answers are no option."""
        return int((~self.valid).sum())

    @property
    def collapsed(self) -> bool:
        """Whether one answer is more than 95 % of all."""
        (_, most), *_ = Counter(self.answers).most_common(1)
        return most > COLLAPSED * len(self.answers)

    @property
    def probability(self) -> float:
        """The mean probability of the matching option, given that it is one of the two."""
        return float((self.log_matching - self.log_other).sigmoid().mean())

    @property
    def preferred(self) -> float:
        """How often the matching option is likelier than the other, whatever the model says."""
        return float((self.log_matching > self.log_other).double().mean())

    @property
    def mass(self) -> float:
        """The mean probability that the next token is one of the two."""
        return float(torch.logaddexp(self.log_matching, self.log_other).exp().mean())

    def chosen(self, items: Sequence[int]) -> Matching:
        """Of some of the choices; one may be there several times."""
        at = torch.as_tensor(items)
        rest = (self.matched, self.valid, self.log_matching, self.log_other)
        return Matching([self.answers[n] for n in at.tolist()], *(values[at] for values in rest))

    def items(self) -> dict[str, list[Any]]:
        """What was found of each choice, for files; None for what is not finite."""
        return {
            "answers": self.answers,
            "matched": self.matched.int().tolist(),
            "valid": self.valid.int().tolist(),
            "log_matching": _finite(self.log_matching),
            "log_other": _finite(self.log_other),
        }

    @classmethod
    def from_items(cls, items: dict[str, list[Any]]) -> Matching:
        """What `items` gave."""
        flags = [torch.tensor(items[name]).bool() for name in ("matched", "valid")]
        logs = [
            torch.tensor([math.nan if v is None else v for v in items[name]], dtype=torch.float64)
            for name in ("log_matching", "log_other")
        ]
        return cls(list(items["answers"]), *flags, *logs)


def matching_scores(
    model: nn.Module, tokenizer: Any, choices: Sequence[Choice], *, batch_size: int = 8
) -> Matching:
    """What a model answers as it stands, steered or not.

    Args:
        model: a causal model.
        tokenizer: its tokenizer; questions are padded on its side, which changes nothing.
        choices: questions that end where the answer's token begins.
        batch_size: questions a forward.

    Raises:
        ValueError: no choices, an option that is not one token of the model's behind its question,
            two options that are the same token, a question longer than the model's context, or a
            model that does not end in a plain output embedding.
    """
    return Questions(model, tokenizer, choices).asked(CurrentSteering(model), batch_size)[0]


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
    """The unsteered answers, and those under each setting, as `Patched.rows` takes them.

    What lies below the first steered layer is computed once for all settings. Arguments and errors
    are those of `matching_scores`; `at_once` settings share a forward; `advance` is told how many
    pairs of a question and a setting are done.
    """
    runs = ManySettings(patched, settings, at_once)
    *steered, unsteered = Questions(model, tokenizer, choices).asked(runs, batch_size, advance)
    return unsteered, steered


class Questions:
    """Encoded questions and their options' tokens, to be asked under several kinds of runs."""

    def __init__(self, model: nn.Module, tokenizer: Any, choices: Sequence[Choice]) -> None:
        """Arguments and errors as for `matching_scores`."""
        self.choices = list(choices)
        if not self.choices:
            raise ValueError("got no choices; at least one is needed")
        context = context_of(decoder_of(model))
        self.rows = encode(tokenizer, [choice.question for choice in self.choices], None, context)
        both = zip(self.choices, self.rows, strict=True)
        options = [_options(tokenizer, n, choice, row) for n, (choice, row) in enumerate(both)]
        self.options = torch.tensor(options)
        self.tokenizer = tokenizer
        self.head = LMHead(model)
        warn_of_missing_bos(model, tokenizer, self.rows)

    def asked(
        self, runs: Runs, batch_size: int, advance: Advance = lambda steps: None
    ) -> list[Matching]:
        """Of each setting, and last of the unsteered run, where there is one."""
        greedy = torch.zeros(runs.lines, len(self.rows), dtype=torch.int64)
        logs = torch.zeros(2, runs.lines, len(self.rows), dtype=torch.float64)
        for numbers, batch in in_batches(self.rows, self.tokenizer, batch_size, runs.calls):
            options = self.options[numbers].to(runs.calls.device)
            for run in runs.over(batch, _last_of_each(batch)):
                found, own = _answered(self.head, run.hidden, options)
                at = torch.tensor(run.numbers)[:, None], torch.tensor(numbers)
                greedy[at] = found
                logs[0][at], logs[1][at] = own.unbind(-1)
            advance((runs.lines - runs.beside_unsteered) * len(numbers))
        return [self._judged(*line) for line in zip(greedy, *logs, strict=True)]

    def _judged(self, greedy: Tensor, log_matching: Tensor, log_other: Tensor) -> Matching:
        known = {token: self.tokenizer.decode([token]).strip() for token in set(greedy.tolist())}
        answers = [known[token] for token in greedy.tolist()]
        both = list(zip(answers, self.choices, strict=True))
        matched = torch.tensor([answer == choice.matching.strip() for answer, choice in both])
        other = torch.tensor([answer == choice.other.strip() for answer, choice in both])
        return Matching(answers, matched, matched | other, log_matching, log_other)


def _finite(values: Tensor) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values.tolist()]


def _options(tokenizer: Any, number: int, choice: Choice, question: list[int]) -> list[int]:
    """The tokens of the two options, as they follow the question."""
    found = []
    for option in (choice.matching, choice.other):
        whole, _ = token_ids(tokenizer, choice.question + option)
        if whole[: len(question)] != question or len(whole) != len(question) + 1:
            raise ValueError(
                f"choice {number}: behind {choice.question[-12:]!r} the option {option!r} is not "
                "one token of this model's, and its answer is one token"
            )
        found.append(whole[-1])
    if found[0] == found[1] or choice.matching.strip() == choice.other.strip():
        raise ValueError(f"choice {number}: both options are {choice.other!r} to this model")
    return found


def _last_of_each(batch: Batch) -> Tensor:
    """Each text's last token ``[B, T]``, on whichever side the padding is."""
    columns = torch.arange(batch.ids.shape[1], device=batch.ids.device)
    last = torch.where(batch.real, columns, -1).amax(1, keepdim=True)
    return columns == last


@torch.inference_mode()
def _answered(head: LMHead, hidden: Tensor, options: Tensor) -> tuple[Tensor, Tensor]:
    """Greedy tokens ``[S, P]``, and the options' log-probabilities ``[S, P, 2]``, on the CPU."""
    flat = hidden.flatten(0, 1)
    wanted = options.repeat(len(hidden), 1)
    greedy, logs = [], []
    for piece in head.pieces(len(flat)):
        logits = head.logits(flat[piece]).float()
        greedy.append(logits.argmax(-1).cpu())
        logprobs = logits.double().log_softmax(-1)
        logs.append(logprobs.gather(1, wanted[piece].to(logits.device)).cpu())
    shape = hidden.shape[:2]
    return torch.cat(greedy).view(shape), torch.cat(logs).view(*shape, 2)
