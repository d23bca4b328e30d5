"""Probes of the forms of a request: chat, streaming, several answers, and wrong settings."""

from __future__ import annotations

from dataclasses import replace

from faststeer.diagnostics.conform.distance import distance, names_one_token
from faststeer.diagnostics.conform.referee import (
    MESSAGE,
    PROMPTS,
    InconclusiveError,
    NotApplicableError,
    Outcome,
    Referee,
)
from faststeer.diagnostics.conform.subject import Ask, RefusedError
from faststeer.diagnostics.conform.token_probes import require_logprobs

_ANSWERS = 3


def chat_ask(referee: Referee) -> Ask:
    """Return the unsteered request of the route for conversations."""
    return Ask(MESSAGE, None, referee.tokens, chat=True)


def chat(referee: Referee) -> Outcome:
    """Does the route for conversations steer, and as the route for completions does?

    The failure: it accepts a setting and ignores it.
    """
    base = referee.require_base_effect()
    unsteered = chat_ask(referee)
    steered = replace(unsteered, setting=referee.setting())
    answers = referee.reference(steered), referee.reference(unsteered)
    effect = distance(*answers)
    measured = {"effect": effect, "effect on completions": base}
    if referee.equal(*answers, "the effect on a conversation"):
        return Outcome(False, "conversations have the unsteered answer", measured)
    rendered = referee.subject.render(MESSAGE)
    if rendered is None:
        return Outcome(True, "conversations are steered", measured)
    plain = Ask(rendered, None, referee.tokens)
    if distance(referee.answer(plain), answers[1]) > referee.limits.same:
        return Outcome(
            True,
            "conversations are steered; the template's text, as a completion, has other tokens",
            measured,
        )
    completion = referee.answer(replace(plain, setting=referee.setting()))
    measured["distance from the completion"] = distance(completion, answers[0])
    if not referee.equal(completion, answers[0], "a conversation and its completion"):
        return Outcome(False, "a conversation is steered unlike its text as a completion", measured)
    return Outcome(True, "a conversation is steered as its text is as a completion", measured)


def streaming(referee: Referee) -> Outcome:
    """Is a streamed answer the one that is not streamed?

    The failure: the steering is lost on the way that streams.
    """
    effect = referee.require_base_effect()
    asks = [referee.ask(setting=referee.setting())]
    if "chat" in referee.passed:
        asks.append(replace(chat_ask(referee), setting=referee.setting()))
    furthest = 0.0
    for ask in asks:
        whole, streamed = referee.reference(ask), referee.answer(replace(ask, stream=True))
        furthest = max(furthest, distance(whole, streamed))
        measured = {"distance": furthest, "effect": effect}
        if not referee.equal(whole, streamed, "a streamed answer"):
            route = "conversation" if ask.chat else "completion"
            return Outcome(False, f"a streamed {route} differs from one at once", measured)
    routes = "completions and conversations" if len(asks) > 1 else "completions"
    return Outcome(True, f"streamed {routes} are those at once", measured)


def several_answers(referee: Referee) -> Outcome:
    """Are all answers steered when one request asks for several?

    The failure: only the first one is. Answers are sampled, so the probabilities from which each
    first token was drawn are compared, and those of a later token with a request that has the
    answer so far as its prompt.
    """
    steered, unsteered = referee.steered(), referee.unsteered()
    require_logprobs(steered)
    effect = referee.require_effect(
        steered.first(1), unsteered.first(1), "the setting, at the first token,"
    )
    ask = replace(referee.ask(setting=referee.setting()), n=_ANSWERS, seed=1)
    [reply] = referee.replies([ask])
    if len(reply.answers) != _ANSWERS:
        raise NotApplicableError(f"{_ANSWERS} answers were asked for, {len(reply.answers)} came")
    furthest = 0.0
    for at, answer in enumerate(reply.answers):
        pairs = [(answer.first(1), steered.first(1))]
        count = min(4, len(answer.tokens) - 1)
        first_tokens = answer.tokens[: max(count, 0)]
        whole = bool(first_tokens) and all(
            map(names_one_token, first_tokens)
        )  # its text is these tokens
        longer = replace(ask, prompt=PROMPTS[0] + "".join(first_tokens), n=1, seed=None)
        if "every token" in referee.passed and whole and reply.prompt_tokens is not None:
            [continued] = referee.replies([longer])
            if continued.prompt_tokens == reply.prompt_tokens + count:
                pairs.append((answer.after(count).first(1), continued.answers[0].first(1)))
        for own, reference in pairs:
            if not (own.tokens and reference.tokens):  # the end of the text, which is not listed
                continue
            furthest = max(furthest, distance(own, reference))
            if not referee.equal(own, reference, f"answer {at}"):
                return Outcome(
                    False,
                    f"answer {at} of {_ANSWERS} is drawn from other probabilities than an answer "
                    "that is asked for alone",
                    {"distance": furthest, "effect on the first token": effect},
                )
    return Outcome(
        True,
        f"all {_ANSWERS} answers are steered",
        {"distance": furthest, "effect on the first token": effect},
    )


def refusal(referee: Referee) -> Outcome:
    """Is a setting refused that cannot be, such as an unknown vector?

    The failure: it is answered, as if nothing had been asked for.
    """
    referee.require_kind("wrong")
    try:
        answer = referee.answer(referee.ask(setting=referee.setting("wrong")))
    except RefusedError as error:
        return Outcome(True, f"it is refused: {error}")
    apart = distance(answer, referee.unsteered())
    how = "with the unsteered answer" if apart <= referee.limits.same else "with some answer"
    return Outcome(False, f"it is accepted {how}", {"distance from the unsteered answer": apart})


def effect(referee: Referee) -> Outcome:
    """Does the steered setting change answers at all? All other probes build on it."""
    apart = referee.require_base_effect()
    if referee.limits.noise >= 1:
        raise InconclusiveError("equal requests have different answers")
    return Outcome(True, "steered answers differ from unsteered ones", {"effect": apart})
