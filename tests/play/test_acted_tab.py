"""Where steering acted: the latest answers and a text, compared in the model's own thread."""

from __future__ import annotations

from typing import Any

import pytest

import faststeer
from faststeer import diagnostics
from faststeer.models.loading import load
from faststeer.play import Request, Use

PROMPT = "The hotel was"


def answered(page: Any, prompt: Any, coefficient: float, when: Any = None, **more: Any) -> Any:
    """Return the conversation after one request."""
    from faststeer.play.answering import Conversation

    vector = page.playground.vectors[0]
    request = Request(prompt, [Use(vector, coefficient, (2,), "all", "add", when)], 8, **more)
    found = page.playground.batcher.submit(request).result()
    ids = list(found[0].ids), list(found[1].ids)
    return Conversation(request=request, answers=ids)


def alone(folder: Any, vector: Any, coefficient: float, ids: Any, texts: list[str]) -> list[Any]:
    """Return the records of `compare` on a model that nothing else uses."""
    loaded = load(str(folder))
    with faststeer.patch(loaded.model) as patched:
        patched.steer(vector, coefficient, layers=[2])
        found = diagnostics.compare(
            loaded.model, loaded.tokenizer, PROMPT, texts=texts, answers=ids
        )
    return found.to_records()


def test_the_answers_and_a_text_are_compared_as_on_a_model_of_ones_own(page, tiny_folder) -> None:
    from faststeer.play.acted_tab import acted

    vector = page.playground.vectors[0]
    conversation = answered(page, PROMPT, 2.0)
    found = acted(page.playground, conversation, "More text.").to_records()
    ids, texts = conversation.answers, ["More text."]
    assert found == alone(tiny_folder, vector, 2.0, ids, texts)
    assert found != alone(tiny_folder, vector, 1.0, ids, texts)
    again = answered(page, PROMPT, 2.0)  # the model answers as before
    assert again.answers == conversation.answers
    assert page.playground.batcher.run(lambda patched: list(patched.handles)) == []


def test_a_condition_that_a_text_fails_changes_nothing_there(page) -> None:
    from faststeer.play.acted_tab import acted

    other = page.playground.vectors[1]
    kl = {}
    for limit in (-1.0, 1.0):
        only = faststeer.when(other, layer=1, above=limit)
        found = acted(page.playground, answered(page, PROMPT, 2.0, only), "More text.")
        kl[limit] = [max(own.kl) for own in (*found.answers, *found.texts)]
    assert min(kl[-1.0]) > 0.001
    assert max(kl[1.0]) == 0


def test_the_projection_is_on_the_chosen_vector(page) -> None:
    from faststeer.play.acted_tab import acted

    conversation, values = answered(page, PROMPT, 2.0), []
    for vector in page.playground.vectors:
        found = acted(page.playground, conversation, vector=vector)
        assert found.vector == vector.name
        values.append(found.prompt.steered_projection)
    assert values[0] != values[1]
    assert values[0] == acted(page.playground, conversation).prompt.steered_projection


def test_a_chat_whose_histories_have_parted_is_answered_anew(page, monkeypatch) -> None:
    from faststeer.play.acted_tab import acted

    template = "{% for m in messages %}{{ m.content }}. {% endfor %}"
    monkeypatch.setattr(page.playground.loaded.tokenizer, "chat_template", template)

    def chat(*texts: str) -> list[dict[str, str]]:
        return [
            {"role": role, "content": own}
            for role, own in zip(("user", "assistant", "user"), texts, strict=False)
        ]

    same = answered(page, chat("Hello"), 2.0, unsteered_prompt=chat("Hello"))
    kept = acted(page.playground, same)
    assert "".join(kept.prompt.pieces) == "Hello. "
    parted = answered(
        page, chat("Hello", "yes", "and"), 2.0, unsteered_prompt=chat("Hello", "no", "and")
    )
    repeated = acted(page.playground, parted)
    assert "".join(repeated.prompt.pieces) == "Hello. yes. and. "


@pytest.mark.parametrize(
    ("coefficient", "text", "layer", "reason"),
    [
        (0.0, "", None, "nothing was steered: move a slider"),
        (2.0, "word " * 600, None, "tokens; 512 are compared at most"),
        (2.0, "", 99, "layer 99"),
    ],
)
def test_what_cannot_be_shown_is_said(page, coefficient, text, layer, reason) -> None:
    from faststeer.play.acted_tab import acted

    with pytest.raises(ValueError, match=reason):
        acted(page.playground, answered(page, PROMPT, coefficient), text, layer)


def test_without_an_answer_the_first_tab_is_named(page) -> None:
    from faststeer.play.acted_tab import acted
    from faststeer.play.answering import Conversation

    with pytest.raises(ValueError, match="send a prompt in the first tab"):
        acted(page.playground, Conversation())
