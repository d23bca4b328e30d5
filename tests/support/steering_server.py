"""A stand-in of a steering server on the loopback, right or wrong in exactly one way.

Requests steer by ``{"steer": {"vector": "one", "coefficient": 2.0}}``, and read no cache with
``{"fresh": true}``. Requests that a test makes at the same time are one batch.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import steering_model as model
from steering_model import Generated, Steer

from faststeer.diagnostics.conform.http_subject import HttpSubject
from faststeer.diagnostics.conform.subject import Ask, Reply
from faststeer.diagnostics.conform.templates import settings_of

SLOTS = 16  # of a table that is full one day
FRESH = '{"fresh": true}'


def term(**more: Any) -> str:
    """Return the template of a setting."""
    text = json.dumps({"steer": {"vector": "one", "coefficient": "{coefficient}"} | more})
    return text.replace('"{coefficient}"', "{coefficient}")


SETTINGS = {
    "steered": term(),
    "other": term(vector="two"),
    "prompt": term(positions="prompt"),
    "early": term(positions="early"),
    "last_layer": term(layer="last"),
    "wrong": term(vector="none such"),
}


@dataclass
class _Batch:
    requests: list[tuple[dict[str, Any], bool]] = field(default_factory=list)
    answers: list[tuple[int, Any]] = field(default_factory=list)
    ready: threading.Event = field(default_factory=threading.Event)


class StandIn:
    """What the server computes. `fault`: the one way in which it is wrong; empty for none.

    `noise`: of logits, by chance. `tokens`: whether answers list tokens and log probabilities.
    `always`: the steering of all requests, whatever they ask for.
    """

    def __init__(
        self, fault: str = "", noise: float = 0.0, tokens: bool = True, always: Steer | None = None
    ) -> None:
        self.fault, self.noise, self.tokens, self.always = fault, noise, tokens, always
        self.address = ""
        self.expected = 1  # requests that are made at the same time
        self._lock = threading.Lock()
        self._batch = _Batch()
        self._cache: dict[str, list[model.Array]] = {}
        self._first: dict[str, float] = {}  # coefficients by vector
        self._last = 1.0  # coefficient
        self._slots: set[str] = set()
        self._on: Steer | None = None
        self._random = np.random.RandomState(0)

    def handle(self, body: dict[str, Any], chat: bool) -> tuple[int, Any]:
        """Answer a request together with those that are expected beside it."""
        with self._lock:
            batch = self._batch
            at = len(batch.requests)
            batch.requests.append((body, chat))
            if len(batch.requests) == self.expected:
                self._batch = _Batch()
                batch.answers = self._answer(batch.requests)
                batch.ready.set()
        if not batch.ready.wait(60):
            return 500, {"error": "the rest of the batch did not come"}
        return batch.answers[at]

    def _answer(self, requests: list[tuple[dict[str, Any], bool]]) -> list[tuple[int, Any]]:
        steers = [self._steer(*own) for own in requests]
        steered = [at for at, own in enumerate(steers) if own]
        if self.fault == "rows exchanged":
            moved = [steers[at] for at in steered[1:] + steered[:1]]
            for at, own in zip(steered, moved, strict=True):
                steers[at] = own
        if self.fault == "batchmates steered" and steered:
            steers = [own or steers[steered[0]] for own in steers]
        if self.fault == "stays on":
            for at, own in enumerate(steers):
                self._on = steers[at] = own or self._on
        return [
            self._reply(body, chat, steer)
            for (body, chat), steer in zip(requests, steers, strict=True)
        ]

    def _steer(self, body: dict[str, Any], chat: bool) -> Steer | None:
        """Return the steering of a request, after the faults that forget it."""
        steer = dict(body.get("steer", {})) or self.always
        if not steer or self.fault == "all ignored":
            return None
        steer = dict(steer)
        if self.fault == "first coefficient stays":
            steer["coefficient"] = self._first.setdefault(steer["vector"], steer["coefficient"])
        if self.fault == "coefficient one late":
            self._last, steer["coefficient"] = steer["coefficient"], self._last
        if self.fault == "table full":
            key = json.dumps(steer)
            if key not in self._slots and len(self._slots) == SLOTS:
                return None
            self._slots.add(key)
        if self.fault == "last layer ignored" and steer.get("layer") == "last":
            return None
        if chat and self.fault in ("chat unsteered", "chat half steered"):
            steer["coefficient"] *= 0.5 * (self.fault == "chat half steered")
        if body.get("stream") and self.fault == "streams unsteered":
            return None
        return steer

    def _reply(self, body: dict[str, Any], chat: bool, steer: Steer | None) -> tuple[int, Any]:
        asked = body.get("steer", {}).get("vector", model.VECTORS[0])
        if asked not in model.VECTORS:
            if self.fault not in ("unknown vector ignored", "all ignored"):
                return 400, {"error": {"message": f"vector {asked!r} is unknown"}}
            steer = None
        prompt = model.rendered(body["messages"][0]["content"]) if chat else body["prompt"]
        tokens = model.split(prompt)
        cached, states = self._prompt_states(prompt, tokens, steer, bool(body.get("fresh")))
        answers = []
        for at in range(body.get("n", 1)):
            own = None if at and self.fault == "only the first answer" else steer
            if own is not steer:
                states = self._prompt_states(prompt, tokens, own, True)[1]
            seed = body["seed"] + at if body["temperature"] else None
            answers.append(self._generate(list(states), own, body["max_tokens"], seed))
        usage = {"prompt_tokens": len(tokens), "prompt_tokens_details": {"cached_tokens": cached}}
        choices = [self._choice(own, at, chat) for at, own in enumerate(answers)]
        return 200, {"choices": choices, "usage": usage}

    def _prompt_states(
        self, prompt: str, tokens: list[str], steer: Steer | None, fresh: bool
    ) -> tuple[int, list[model.Array]]:
        """Return how many states came from the cache, and all of them."""
        length = len(tokens)
        added = [model.at_token(steer, at, length, "first") for at in range(length)]
        if self.fault == "first token unsteered":
            added = [np.zeros(model.HIDDEN)] * length
        if self.fault == "last prompt token unsteered":
            added[-1] = np.zeros(model.HIDDEN)
        shared = ("cache without settings", "steered prompts cached")
        key = prompt if self.fault in shared else prompt + json.dumps(steer)
        unread = fresh or (steer is not None and self.fault == "steered prompts cached")
        known = [] if unread else self._cache.get(key, [])[:-1]
        rest = range(len(known), length)
        states = known + [model.state_of(tokens[at], added[at]) for at in rest]
        if not fresh and (self.fault != "steered prompts cached" or key not in self._cache):
            self._cache[key] = states
        return len(known), states

    def _generate(
        self, states: list[model.Array], steer: Steer | None, count: int, seed: int | None
    ) -> Generated:
        answer, prompt_length = Generated(), len(states)
        draw = np.random.RandomState(seed)
        for step in range(count):
            position = len(states) - 1
            added = model.at_token(steer, position, prompt_length, "last")
            if step == 0 and self.fault == "first token unsteered":
                added = np.zeros(model.HIDDEN)
            logprobs = model.logprobs_after(states, added)
            if self.noise:
                logprobs = logprobs + self.noise * self._random.standard_normal(len(logprobs))
            likely = np.exp(logprobs) / np.exp(logprobs).sum()
            chosen = int(logprobs.argmax() if seed is None else draw.choice(len(likely), p=likely))
            answer.tokens.append(model.WORDS[chosen])
            answer.logprobs.append(model.listed(logprobs, chosen))
            added = model.at_token(steer, position + 1, prompt_length, "first")
            if self.fault == "generated tokens unsteered":
                added = np.zeros(model.HIDDEN)
            states.append(model.state_of(model.WORDS[chosen], added))
        return answer

    def _choice(self, answer: Generated, index: int, chat: bool) -> dict[str, Any]:
        text = "".join(answer.tokens)
        choice: dict[str, Any] = {"index": index}
        choice |= {"message": {"content": text}} if chat else {"text": text}
        pairs = list(zip(answer.tokens, answer.logprobs, strict=True))
        if not self.tokens:
            return choice
        if not chat:
            values = [own[token] for token, own in pairs]
            tops = answer.logprobs
            listed = {"tokens": answer.tokens, "token_logprobs": values, "top_logprobs": tops}
            return choice | {"logprobs": listed}
        content = [
            {
                "token": token,
                "logprob": own[token],
                "top_logprobs": [{"token": name, "logprob": own[name]} for name in own],
            }
            for token, own in pairs
        ]
        return choice | {"logprobs": {"content": content}}


@contextmanager
def steering_server(stand_in: StandIn) -> Iterator[StandIn]:
    """Serve a stand-in on the loopback, at its `address`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            self._send(200, {"data": [{"id": "stand-in"}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path == "/apply-template":
                self._send(200, {"prompt": model.rendered(body["messages"][0]["content"])})
                return
            chat = self.path == "/v1/chat/completions"
            status, answer = stand_in.handle(body, chat)
            if status == 200 and body.get("stream"):
                lines = [f"data: {json.dumps(own)}\n\n" for own in model.streamed(answer, chat)]
                content = "".join([*lines, "data: [DONE]\n\n"]).encode()
                self._send_bytes(200, "text/event-stream", content)
            else:
                self._send(status, answer)

        def _send(self, status: int, content: Any) -> None:
            self._send_bytes(status, "application/json", json.dumps(content).encode())

        def _send_bytes(self, status: int, kind: str, content: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        stand_in.address = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield stand_in
        server.shutdown()
        thread.join()


class Announced(HttpSubject):
    """A subject that lets stand-ins know how many requests come at the same time.

    `others`: stand-ins that a setting's requests go to instead.
    """

    def __init__(
        self,
        stand_in: StandIn,
        settings: dict[str, str] | None = None,
        fresh: str | None = FRESH,
        others: Sequence[StandIn] = (),
    ) -> None:
        templates = settings_of("none", SETTINGS if settings is None else settings)
        super().__init__(stand_in.address, templates, fresh=fresh)
        self._stand_ins = {own.address: own for own in (stand_in, *others)}

    def generate(self, asks: Sequence[Ask]) -> list[Reply]:
        for address, own in self._stand_ins.items():
            urls = [self.request(ask)["url"] for ask in asks]
            own.expected = sum(url.startswith(address) for url in urls)
        return super().generate(asks)
