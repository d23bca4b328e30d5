"""A server with OpenAI's routes for completions and conversations, as a subject."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

from faststeer.diagnostics.conform.http_answers import events, reply_of
from faststeer.diagnostics.conform.subject import Ask, BrokenError, RefusedError, Reply
from faststeer.diagnostics.conform.templates import PRESETS, Body, Template, merged

_LIKELIEST = 5  # tokens per position; 5 is the most that completions of the API allow
_SECONDS = 300.0  # for one answer
_OF_REQUESTS = ("prompt cache", "coefficient", "many coefficients", "load", "neighbours", "refusal")
_FIXED = "steering is fixed when a server starts: its requests cannot differ"

_LATER = (408, 429)  # a timeout, a limit of rate: the request itself is not refused


class HttpSubject:
    """A server at an address, and the parts of a request's body that steer.

    Use as a context manager, or `close` it.
    """

    def __init__(
        self,
        url: str,
        settings: Mapping[str, Template],
        *,
        preset: str = "none",
        fresh: str | None = None,
        body: str | None = None,
        model: str | None = None,
        key: str | None = None,
    ) -> None:
        """Connect to the server.

        Args:
            url: the address, without ``/v1``; requests without a setting go there.
            settings: by kind.
            preset: a name of `PRESETS`, for what is not given.
            fresh: JSON of a part of the body that keeps a request from reading the cache.
            body: JSON of a part of the body of every request.
            model: the served name; default: the first of ``/v1/models``.
            key: of the API.

        Raises:
            ValueError: an argument is not possible.
            BrokenError: no server answers.
        """
        known = PRESETS[preset]
        self.name = url
        self.settings = dict(settings)
        self.kinds: Collection[str] = tuple(settings)
        self.coefficients = "steered" in settings and settings["steered"].has_coefficient
        fixed = all(own.address for own in settings.values())
        self.without: Mapping[str, str] = dict.fromkeys(_OF_REQUESTS, _FIXED) if fixed else {}
        self._url = url.rstrip("/").removesuffix("/v1")
        stated = known.fresh if fresh is None else fresh
        self.has_fresh = stated is not None
        self._fresh = _of_bodies("{}" if stated is None else stated, "--fresh")
        self._body = _of_bodies(known.body if body is None else body, "--body").body(0.0)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        # Without the proxies of the environment, which may not reach this machine's own servers.
        self._client = httpx.Client(headers=headers, timeout=_SECONDS, trust_env=False)
        self._model = self._first_model() if model is None else model

    def __enter__(self) -> HttpSubject:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def generate(self, asks: Sequence[Ask]) -> list[Reply]:
        """Answer requests from as many threads. Raises as `Subject.generate`."""
        with ThreadPoolExecutor(max(1, len(asks))) as threads:
            return list(threads.map(self._reply, asks))

    def render(self, message: str) -> str | None:
        """Return the prompt of a message by llama.cpp's route, or vLLM's; None without them."""
        own = {"messages": [{"role": "user", "content": message}]}
        prompt = None
        try:
            prompt = self._post(f"{self._url}/apply-template", own).get("prompt")
            if isinstance(prompt, str):
                return prompt
        except (BrokenError, RefusedError):  # another server
            pass
        try:
            more = {"model": self._model, "add_generation_prompt": True}
            tokens = self._post(f"{self._url}/tokenize", own | more).get("tokens")
            if isinstance(tokens, list):
                text = {"model": self._model, "tokens": tokens}
                prompt = self._post(f"{self._url}/detokenize", text).get("prompt")
        except (BrokenError, RefusedError):
            return None
        return prompt if isinstance(prompt, str) else None

    def request(self, ask: Ask) -> dict[str, Any]:
        """Return a request as it is sent: ``url`` and ``body``.

        Raises:
            RefusedError: the subject has no such setting.
        """
        address, setting = self._url, {}
        if ask.setting is not None:
            template = self.settings.get(ask.setting.kind)
            if template is None:
                raise RefusedError(f"no setting {ask.setting.kind!r} was given")
            address = template.address or address
            setting = template.body(ask.setting.coefficient)
        body: Body = {"model": self._model, "max_tokens": ask.tokens, "n": ask.n}
        body |= {"temperature": 0.0} if ask.seed is None else {"temperature": 1.0, "seed": ask.seed}
        if ask.chat:
            body |= {"messages": [{"role": "user", "content": ask.prompt}]}
            body |= {"logprobs": True, "top_logprobs": _LIKELIEST}
        else:
            body |= {"prompt": ask.prompt, "logprobs": _LIKELIEST}
        if ask.stream:
            body["stream"] = True
        fresh = self._fresh.body(0.0) if ask.fresh else {}
        body = merged(merged(merged(body, self._body), fresh), setting)
        route = "/v1/chat/completions" if ask.chat else "/v1/completions"
        return {"url": address + route, "body": body}

    def _reply(self, ask: Ask) -> Reply:
        request = self.request(ask)
        url, body = request["url"], request["body"]
        if not ask.stream:
            return reply_of([self._post(url, body)], request)
        try:
            with self._client.stream("POST", url, json=body) as response:
                if response.status_code >= 400:
                    response.read()
                _require_success(response)
                return reply_of(events(response.iter_lines()), request)
        except httpx.HTTPError as error:
            raise BrokenError(f"{url}: {error or type(error).__name__}") from error

    def _post(self, url: str, body: Body) -> Mapping[str, Any]:
        try:
            response = self._client.post(url, json=body)
        except httpx.HTTPError as error:
            raise BrokenError(f"{url}: {error or type(error).__name__}") from error
        _require_success(response)
        return _object(response)

    def _first_model(self) -> str:
        url = f"{self._url}/v1/models"
        try:
            response = self._client.get(url)
            _require_success(response)
            return str(_object(response)["data"][0]["id"])
        except httpx.HTTPError as error:
            raise BrokenError(f"no server answers at {url}: {error}") from error
        except (KeyError, IndexError, TypeError, RefusedError) as error:
            raise BrokenError(f"{url} lists no model ({error}); give --model") from error


def _of_bodies(given: str, option: str) -> Template:
    """Return the template of a part of bodies. Raises as `Template.of`, and for an address."""
    template = Template.of(given, option)
    if template.address is not None:
        raise ValueError(f"{option} is an address; expected a JSON object")
    return template


def _object(response: httpx.Response) -> Mapping[str, Any]:
    try:
        content = response.json()
    except ValueError as error:
        raise BrokenError(f"{response.url}: an answer that is not JSON") from error
    if not isinstance(content, dict):
        raise BrokenError(f"{response.url}: an answer that is not a JSON object")
    return content


def _require_success(response: httpx.Response) -> None:
    """Raise RefusedError for what the server calls a wrong request, BrokenError for its faults."""
    if response.status_code < 400:
        return
    try:
        content = response.json()
        error = content.get("error", content)
        reason = error.get("message", error) if isinstance(error, dict) else error
    except (ValueError, AttributeError):
        reason = response.text
    message = f"status {response.status_code}: {str(reason)[:300]}"
    if response.status_code < 500 and response.status_code not in _LATER:
        raise RefusedError(message)
    raise BrokenError(message)
