"""Probes of what is steered: the first token, every token, the last layer, a cached prompt."""

from __future__ import annotations

from faststeer.diagnostics.conform.distance import Limits, distance, names_one_token
from faststeer.diagnostics.conform.referee import (
    PROMPTS,
    InconclusiveError,
    NotApplicableError,
    Outcome,
    Referee,
)
from faststeer.diagnostics.conform.subject import Answer, Ask, Setting

_STRONGER = (1.0, 10.0, 100.0)


def first_token(referee: Referee) -> Outcome:
    """Is the first token steered, which comes from the pass over the prompt?

    The failure: a steered answer whose first log probabilities are the unsteered ones, while later
    ones differ.
    """
    effect = referee.require_base_effect()
    first = []
    for prompt in PROMPTS:
        steered, unsteered = referee.steered(prompt), referee.unsteered(prompt)
        require_logprobs(steered)
        first.append(distance(steered.first(1), unsteered.first(1)))
        if referee.equal(steered.first(1), unsteered.first(1), "the first token's effect"):
            return Outcome(
                False,
                f"the first token of {prompt!r} has the log probabilities of the unsteered answer",
                {"effect on the answer": effect, "effect on the first token": first[-1]},
            )
    return Outcome(True, "the first token is steered", {"effect on the first token": min(first)})


def every_token(referee: Referee) -> Outcome:
    """Are prompt and generated tokens steered alike?

    An answer has to continue as it does when its own first tokens are part of the prompt. The
    failure: a token that is steered in a prompt and not in an answer, or the other way round.
    """
    referee.require_passed("first token")
    compared, furthest = 0, 0.0
    for prompt in PROMPTS:
        answer = referee.steered(prompt)
        for count in (1, referee.tokens // 2):
            longer = referee.ask(prompt + "".join(answer.tokens[:count]), referee.setting())
            if len(answer.tokens) <= count or not all(map(names_one_token, answer.tokens[:count])):
                continue
            if not _splits_alike(referee, prompt, longer, count):
                continue
            continued = referee.reference(longer)
            compared += 1
            furthest = max(furthest, distance(answer.after(count), continued))
            if not referee.equal(answer.after(count), continued, "a continuation"):
                return Outcome(
                    False,
                    f"the answer to {prompt!r} continues differently when its first {count} "
                    "generated tokens are part of the prompt",
                    {"distance": furthest},
                )
    if not compared:
        raise InconclusiveError(
            "no answer could be continued as a prompt: its text splits into other tokens"
        )
    effect = _effect_of_generated_tokens(referee)
    return Outcome(
        True,
        f"{compared} answers continue as their own prompts do",
        {"distance": furthest, "effect of generated tokens": effect},
    )


def last_layer(referee: Referee) -> Outcome:
    """Does a vector at the last layer act, with only the final norm after it?

    The failure: it is ignored, at a hundred times the coefficient too.
    """
    referee.require_kind("last_layer")
    referee.require_base_effect()
    factors = _STRONGER if referee.subject.coefficients else _STRONGER[:1]
    for factor in factors:
        answer = referee.steered(setting=referee.setting("last_layer", factor))
        apart = distance(answer, referee.unsteered())
        if apart >= referee.limits.visible:
            return Outcome(True, f"it acts, at {factor:g} times the coefficient", {"effect": apart})
    return Outcome(
        False,
        f"it changes nothing, not even at {factors[-1]:g} times the coefficient",
        {"effect": apart},
    )


def prompt_cache(referee: Referee) -> Outcome:
    """Is an answer the same when its prompt is cached, by requests that were steered differently?

    The failure: what one request computed for its prompt is reused by another one with another
    setting, so that the prompt's steering is lost, or reaches a request that did not ask for it.
    """
    if not referee.subject.has_fresh:
        raise NotApplicableError("no way was given to ask for an answer without the cache")
    base = referee.setting()
    scoped = [Setting(own, base.coefficient) for own in _scopes(referee)]
    references = {
        (prompt, setting): referee.reference(Ask(prompt, setting, referee.tokens))
        for prompt in referee.long_prompts
        for setting in (None, base, *scoped)
    }
    first, second = referee.long_prompts
    plain = references[first, None]
    effect = referee.require_effect(references[first, base], plain, "the steered setting")
    effects = [distance(references[first, own], plain) for own in scoped]
    settings = [None, None, base, None, *scoped, base, *scoped[::-1], None]
    order: list[tuple[str, Setting | None]] = [(first, own) for own in settings]
    order += [(second, own) for own in (base, None, *scoped, base, None)]
    limits, cached = referee.limits, []
    for at, (prompt, setting) in enumerate(order):
        [reply] = referee.replies([Ask(prompt, setting, referee.tokens, fresh=False)])
        cached.append(reply.cached_tokens)
        answer, reference = reply.answers[0], references[prompt, setting]
        if at < 2:  # nothing has been steered since the prompt was first seen
            limits = Limits(max(limits.noise, distance(answer, reference)))
            if limits.visible > effect:
                raise InconclusiveError(
                    f"without any steering a cached answer is {limits.noise:.2g} nats apart"
                )
        elif not referee.equal(answer, reference, "an answer with the cache", limits):
            before = [own for asked, own in order[:at] if asked == prompt]
            own = Ask(prompt, setting, referee.tokens)
            return _lost(referee, own, before, reference, answer)
    if cached[1] == 0 and not any(cached):
        raise NotApplicableError("the cache is off: no cached tokens are reported")
    if not any(own >= limits.visible for own in effects):
        raise InconclusiveError(
            "all answers were right, and whether a wrong one would show needs a visible setting "
            "'prompt' or 'early'"
        )
    reported = "not reported" if cached[1] is None else f"up to {max(own or 0 for own in cached)}"
    return Outcome(
        True,
        f"{len(order)} answers to two prompts are right; cached tokens: {reported}",
        {"effect": effect, "least effect of prompt scopes": min(effects)},
    )


def _lost(
    referee: Referee,
    ask: Ask,
    before: list[Setting | None],
    reference: Answer,
    answer: Answer,
) -> Outcome:
    if distance(referee.answer(ask), reference) > referee.limits.same:
        raise InconclusiveError("answers without the cache have changed as well")
    names = ["unsteered" if own is None else str(own) for own in (*before, ask.setting)]
    unsteered = referee.reference(Ask(ask.prompt, None, ask.tokens))
    return Outcome(
        False,
        f"the request {names[-1]!r} has another answer where its prompt is cached, after "
        f"{', '.join(dict.fromkeys(names[:-1]))}",
        {
            "distance from the right answer": distance(answer, reference),
            "distance from the unsteered answer": distance(answer, unsteered),
        },
    )


def _scopes(referee: Referee) -> list[str]:
    return [kind for kind in ("early", "prompt") if kind in referee.subject.kinds]


def _effect_of_generated_tokens(referee: Referee) -> float:
    """Return how far an answer is from one whose generated tokens are unsteered.

    That is the answer to a setting of the prompt alone. Without such a setting: the whole effect.
    """
    if "prompt" not in referee.subject.kinds:
        return referee.require_base_effect()
    without, steered = referee.steered(setting=referee.setting("prompt")), referee.steered()
    if without.tokens[:1] != steered.tokens[:1]:
        raise InconclusiveError("the setting 'prompt' has another first token than 'steered'")
    return referee.require_effect(
        steered.after(1), without.after(1), "steering the generated tokens"
    )


def _splits_alike(referee: Referee, prompt: str, longer: Ask, count: int) -> bool:
    """Return whether a prompt followed by generated tokens splits into just these tokens."""
    alone = referee.reference_reply(referee.ask(prompt, longer.setting)).prompt_tokens
    together = referee.reference_reply(longer).prompt_tokens
    return alone is None or together is None or together == alone + count


def require_logprobs(answer: Answer) -> None:
    """Raise InconclusiveError for an answer without log probabilities."""
    if not answer.logprobs:
        raise InconclusiveError("answers have no log probabilities, so one token shows nothing")
