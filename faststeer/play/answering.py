"""The prompt and the two answers beside each other, streamed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from faststeer.play.asking import Request, Sampling
from faststeer.play.escaped_text import as_text
from faststeer.play.playground import Playground
from faststeer.play.same_in_code import as_command, as_python
from faststeer.play.stream import Answer
from faststeer.play.vector_controls import VectorControls
from faststeer.vectors.steering_vector import SteeringVector

CONTINUE, CHAT = "a text to continue", "a chat"
_EXAMPLES = {CONTINUE: "The food at this hotel was", CHAT: "How was the hotel?"}
MOST_TOKENS = 512
Messages = list[dict[str, str]]


@dataclass
class Conversation:
    """Both histories of a client, as messages of a chat; a text to continue is one user's message.

    Attributes:
        unsteered: with the model's own answers.
        steered: with the steered answers.
        request: the latest, from which the code is made.
        answers: the tokens of its unsteered and its steered answer.
    """

    unsteered: Messages = field(default_factory=list)
    steered: Messages = field(default_factory=list)
    request: Request | None = None
    answers: tuple[list[int], list[int]] | None = None


class Answering:
    """The right side of the first tab.

    Attributes:
        settings: the components of length and sampling, whose values `chosen` takes.
    """

    def __init__(self, playground: Playground, controls: VectorControls) -> None:
        self.playground = playground
        self.controls = controls

    def render(self) -> gr.State:
        """Make the components in the column that is open; return the state of `Conversation`."""
        conversation = gr.State(Conversation())
        kinds = [CONTINUE, CHAT] if self.playground.chats else [CONTINUE]
        kind = gr.Radio(kinds, value=CONTINUE, show_label=False, container=False, elem_id="kind")
        with gr.Row():
            unsteered = self._panel("unsteered")
            steered = self._panel("steered")
        status = gr.Markdown(elem_id="status")
        prompt = gr.Textbox(
            placeholder=_EXAMPLES[CONTINUE],
            show_label=False,
            lines=2,
            max_lines=8,
            elem_id="prompt",
        )
        with gr.Row():
            send = gr.Button("Send", variant="primary", elem_id="send", min_width=80)
            stop = gr.Button("Stop", elem_id="stop", min_width=80)
            clear = gr.Button("Clear", elem_id="clear", min_width=80)
        with gr.Accordion("length and sampling", open=False):
            tokens = gr.Slider(
                1, MOST_TOKENS, value=48, step=1, label="tokens at most", elem_id="tokens"
            )
            temperature = gr.Slider(
                0, 2, value=0, step=0.05, label="temperature", info="0 takes the likeliest token"
            )
            top_p = gr.Slider(0.05, 1, value=1, step=0.05, label="top-p")
            seed = gr.Number(0, label="seed", precision=0)
        with gr.Accordion("the same in code", open=False, elem_id="code"):
            python = gr.Code(label="in Python", language="python", elem_id="python")
            command = gr.Code(
                label="on the command line",
                language="shell",
                lines=2,
                wrap_lines=True,
                elem_id="command",
            )
        self.settings = [tokens, temperature, top_p, seed]
        shown = [unsteered, steered, conversation, status, python, command, prompt]
        event = gr.on(
            [send.click, prompt.submit],
            self._answer,
            [prompt, kind, conversation, self.controls.own, *self.settings, *self.controls.values],
            shown,
            concurrency_limit=32,
            api_visibility="private",
            show_progress="hidden",
        )
        stop.click(None, cancels=[event], api_visibility="private")
        gr.on(
            [clear.click, kind.change, unsteered.clear, steered.clear],
            lambda kind: ([], [], Conversation(), "", gr.update(placeholder=_EXAMPLES[kind])),
            kind,
            [unsteered, steered, conversation, status, prompt],
            cancels=[event],
            api_visibility="private",
        )
        return conversation

    def _panel(self, label: str) -> gr.Chatbot:
        return gr.Chatbot(
            label=label,
            height=380,
            render_markdown=False,
            buttons=["copy"],
            feedback_options=None,
            elem_id=label,
            min_width=220,
        )

    def _answer(
        self,
        prompt: str,
        kind: str,
        before: Conversation,
        own: list[SteeringVector],
        tokens: float,
        temperature: float,
        top_p: float,
        seed: float | None,
        *values: Any,
    ) -> Iterator[list[Any]]:
        unchanged = [gr.update()] * 3
        try:
            asked = {"role": "user", "content": prompt}
            old = before if kind == CHAT else Conversation()
            histories = [[*old.unsteered, asked], [*old.steered, asked]]
            request = Request(
                histories[1] if kind == CHAT else prompt,
                self.controls.uses(own, values),
                *chosen(tokens, temperature, top_p, seed),
                histories[0] if kind == CHAT else None,
            )
            stream = self.playground.batcher.submit(request)
            name = "demo" if self.playground.is_demo else self.playground.loaded.name
            code = [as_python(name, request), as_command(name, request)]
            typed = gr.update(value="") if kind == CHAT else gr.update()
            yield [*histories, gr.update(), "…", *code, typed]
            for answers in stream:
                replies = [
                    [*history, {"role": "assistant", "content": answer.text}]
                    for history, answer in zip(histories, answers, strict=True)
                ]
                ended = all(answer.ended for answer in answers)
                talk = gr.update()
                if ended:
                    ids = list(answers[0].ids), list(answers[1].ids)
                    talk = Conversation(replies[0], replies[1], request, ids)
                yield [*replies, talk, as_text(_status(answers, stream.notes)), *unchanged]
                if not ended:
                    continue
                found = self.playground.absent_markers(request, answers[1].ids)
                found += self._cosines(request)  # after what is waiting
                if found:
                    status = as_text(_status(answers, [*stream.notes, *found]))
                    yield [*unchanged, status, *unchanged]
        except (TypeError, ValueError, OverflowError) as error:
            yield [*unchanged, as_text(f"not answered: {error}"), *unchanged]

    def _cosines(self, request: Request) -> list[str]:
        """Return what the conditions compared, to choose thresholds by, or why it is not known."""
        found = []
        for when in dict.fromkeys(use.when for use in request.uses if use.when is not None):
            whose = f"with {when.vector.name} at layer {when.site.layer}"
            try:
                cosines = self.playground.cosines(request, when)
            except (RuntimeError, ValueError) as error:  # the answers stay
                found.append(f"the prompt's cosine {whose} is not known: {error}")
                continue
            if len(cosines) == 1:
                found.append(f"the unsteered prompt's cosine {whose} is {cosines[0]:+.3f}")
            else:
                reach = f"{min(cosines):+.3f} to {max(cosines):+.3f}"
                found.append(f"cosines of the unsteered prompt's tokens {whose} are {reach}")
        return found


def chosen(
    tokens: float, temperature: float, top_p: float, seed: float | None
) -> tuple[int, Sampling]:
    """Return the most tokens per answer, and the sampling. Raises ValueError in words."""
    return min(int(tokens), MOST_TOKENS), Sampling(temperature, top_p, int(seed or 0))


def _status(answers: Sequence[Answer], notes: Sequence[str]) -> str:
    """Return how long both answers are, where they part, and what to know about the steering."""
    ids = [answer.ids for answer in answers]
    parts = next((n for n, pair in enumerate(zip(*ids, strict=False)) if len(set(pair)) > 1), None)
    where = "equal so far" if parts is None else f"they part at token {parts + 1}"
    if all(answer.ended for answer in answers) and parts is None:
        where = "equal" if ids[0] == ids[1] else "one ends before the other"
    lengths = " and ".join(str(len(own)) for own in ids)
    return "; ".join([f"{lengths} tokens, {where}", *notes])
