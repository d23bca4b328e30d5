"""vLLM's OpenAI server with faststeer's routes, on the loopback, through the `openai` client."""

from __future__ import annotations

import importlib.util
import json
import logging
import pickle
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from engine_server import served
from small_engine import ENVIRONMENT, HIDDEN, expected_tokens, make_model, make_vector, prompt

from faststeer import SteeringVector

if importlib.util.find_spec("vllm.v1") is None:
    pytest.skip("vLLM is not installed", allow_module_level=True)

TOKEN = "a long random text"
A, B, C = (make_vector(seed) for seed in (1, 2, 3))


@dataclass
class Server:
    """A server: its address, its model in transformers, and what it logs."""

    url: str
    model: Any
    log: Path

    def ask(
        self,
        method: str,
        name: str = "",
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, Any]:
        """Return the status and the content of an answer about vectors."""
        sent = {"Authorization": f"Bearer {TOKEN}"} if headers is None else headers
        url = f"{self.url}/v1/steering/vectors{f'/{name}' if name else ''}"
        request = urllib.request.Request(url, data=body, method=method, headers=sent)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                status, content = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            status, content = error.code, error.read()
        return status, json.loads(content) if content else None

    def complete(self, tokens: list[int], name: str | None, most: int = 8, **more: Any) -> Any:
        """Return the completion of the `openai` client, steered with that vector."""
        from openai import OpenAI

        client = OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0)
        xargs = {"faststeer": json.dumps([{"vector": name}])} if name else {}
        return client.completions.create(
            model="model",
            prompt=tokens,
            max_tokens=most,
            temperature=0,
            extra_body={"vllm_xargs": xargs, "return_token_ids": True, "ignore_eos": True},
            **more,
        )

    def tokens(self, tokens: list[int], name: str | None) -> list[int]:
        """Return the tokens of a completion."""
        return list(self.complete(tokens, name).choices[0].token_ids)


pytestmark = pytest.mark.heavy  # a server of its own


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder, vectors = tmp_path_factory.mktemp("model"), tmp_path_factory.mktemp("vectors")
    model = make_model(folder)
    A.save(vectors / "a.safetensors")
    configured = {"faststeer": {"vectors": str(vectors), "capacity": 4}}
    environment = {**ENVIRONMENT, "VLLM_PLUGINS": "faststeer", "FASTSTEER_TOKEN": TOKEN}
    environment["VLLM_ENABLE_V1_MULTIPROCESSING"] = "1"
    log = folder / "log.txt"
    shorter = ("--max-model-len", "256")  # as long as this model's positions
    with served(folder, log, *shorter, additional_config=configured, **environment) as address:
        yield Server(address, model, log)


@pytest.fixture
def only_a(server: Server) -> Iterator[Server]:
    """The server, which serves A as "a" and nothing else at the start of a test."""
    _, found = server.ask("GET")
    for own in found["data"]:
        assert own["name"] == "a" or server.ask("DELETE", own["name"]) == (204, None)
    assert server.ask("PUT", "a", A.to_bytes())[0] in (200, 201)
    yield server
    with urllib.request.urlopen(f"{server.url}/health", timeout=30) as answer:
        assert answer.status == 200


def test_without_the_token_nothing_is_told_or_changed(only_a: Server) -> None:
    wrong: list[dict[str, str]] = [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": "Bearer "},
        {"X-Faststeer-Token": ""},
    ]
    for headers in wrong:
        for method, name, body in (
            ("GET", "", None),
            ("PUT", "b", B.to_bytes()),
            ("DELETE", "a", None),
        ):
            status, found = only_a.ask(method, name, body, headers)
            assert status == 401, (headers, method)
            assert "the token is missing or wrong" in found["error"]["message"]
    status, found = only_a.ask("GET", headers={"X-Faststeer-Token": TOKEN})
    assert status == 200
    assert [own["name"] for own in found["data"]] == ["a"]


def test_a_vector_is_added_steers_is_replaced_and_removed(only_a: Server) -> None:
    from openai import BadRequestError

    tokens, model = prompt(0), only_a.model
    answers = [expected_tokens(model, tokens, own) for own in (None, A, B, C)]
    assert len({tuple(own) for own in answers}) == 4
    plain, _, with_b, with_c = answers
    status, added = only_a.ask("PUT", "my%20vector", B.for_use(positions="all").to_bytes())
    assert status == 201
    assert added["name"] == "my vector"
    assert added["layers"] == [0, 1]
    assert added["stated"] == {"positions": "all"}
    assert added["norms"] == pytest.approx([float(B[layer].norm()) for layer in (0, 1)])
    assert only_a.tokens(tokens, "my vector") == with_b
    status, replaced = only_a.ask("PUT", "my%20vector", C.to_bytes())
    assert status == 200
    assert replaced["digest"] != added["digest"]
    assert only_a.tokens(tokens, "my vector") == with_c
    assert only_a.tokens(tokens, None) == plain
    _, listed = only_a.ask("GET")
    assert [own["digest"] for own in listed["data"] if own["name"] != "a"] == [replaced["digest"]]
    assert only_a.ask("DELETE", "my%20vector") == (204, None)
    with pytest.raises(BadRequestError, match="'my vector' is unknown; this engine serves a"):
        only_a.tokens(tokens, "my vector")
    status, found = only_a.ask("DELETE", "my%20vector")
    assert status == 404
    assert "'my vector' is unknown; this engine serves a" in found["error"]["message"]


def test_a_streamed_answer_keeps_the_content_that_it_began_with(only_a: Server) -> None:
    tokens, most = prompt(0), 200
    expected = expected_tokens(only_a.model, tokens, A, most)
    found: list[int] = []
    for chunk in only_a.complete(tokens, "a", most, stream=True):
        if not found:
            assert only_a.ask("PUT", "a", B.to_bytes())[0] == 200
            during = only_a.tokens(tokens, "a")
        found += chunk.choices[0].token_ids or []
        if len(found) == 20:
            assert only_a.ask("DELETE", "a")[0] == 204
    assert found == expected
    assert during == expected_tokens(only_a.model, tokens, B)
    assert during != expected[:8]


def test_hostile_and_unfitting_files_are_refused_with_the_reason(
    only_a: Server, tmp_path: Path
) -> None:
    before = only_a.ask("GET")
    (tmp_path / "target.safetensors").write_bytes(B.to_bytes())
    content = B.to_bytes()
    B.select(0).save(tmp_path / "vec_layer_0.pt")
    not_finite = SteeringVector("n", B.directions, metadata={"coefficient": float("inf")})
    for body, reason in (
        (b"", "neither a safetensors nor a GGUF file"),
        (str(tmp_path / "target.safetensors").encode(), "neither a safetensors nor a GGUF"),
        (pickle.dumps({"direction": 1}), "neither a safetensors nor a GGUF"),
        ((tmp_path / "vec_layer_0.pt").read_bytes(), "neither a safetensors nor a GGUF"),
        (b'{"directions": {}}', "neither a safetensors nor a GGUF"),
        (content[:-1], "not a readable safetensors file"),
        (b"\xff" * 8 + content[8:], "not a readable safetensors file"),
        (content.replace(b"resid_post", b"resid_past"), "resid_past"),
        (b"GGUF" + b"\0" * 40, "GGUF"),
        (make_vector(1, hidden=HIDDEN * 2).to_bytes(), "hidden size 128, but the model's is 64"),
        (make_vector(1, layers=[7]).to_bytes(), "layer 7 is out of range"),
        (SteeringVector("m", B.directions, "resid_mid").to_bytes(), "does not steer"),
        (not_finite.to_bytes(), "JSON cannot hold"),
    ):
        status, found = only_a.ask("PUT", "b", body)
        assert status == 400, (body[:40], found)
        assert reason in found["error"]["message"], found
    status, found = only_a.ask("PUT", "x" * 129, content)
    assert status == 400
    assert "1 to 128 printable characters" in found["error"]["message"]
    status, found = only_a.ask("PUT", "b", content + b"\0" * (2 << 20))
    assert status == 413
    assert "no vector of this model has" in found["error"]["message"]
    assert only_a.ask("GET") == before


def test_a_control_vector_of_llama_cpp_is_taken(only_a: Server, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    vector = make_vector(5, layers=[1])
    vector.save(tmp_path / "v.gguf")
    assert only_a.ask("PUT", "g", (tmp_path / "v.gguf").read_bytes())[0] == 201
    assert only_a.tokens(prompt(2), "g") == expected_tokens(only_a.model, prompt(2), vector)


def test_a_fifth_vector_has_no_place_among_four(only_a: Server) -> None:
    for seed, name in enumerate("bcd"):
        assert only_a.ask("PUT", name, make_vector(30 + seed).to_bytes())[0] == 201
    before = only_a.ask("GET")
    status, found = only_a.ask("PUT", "e", make_vector(40).to_bytes())
    assert status == 409
    assert "all 4 vectors that this engine can hold are in use" in found["error"]["message"]
    assert only_a.ask("GET") == before


def test_changes_at_the_same_time_come_one_after_another(only_a: Server) -> None:
    contents = [make_vector(50 + seed) for seed in range(12)]
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda own: only_a.ask("PUT", "b", own.to_bytes()), contents))
    assert sorted(status for status, _ in answers) == [200] * 11 + [201]
    _, listed = only_a.ask("GET")
    digest = next(own["digest"] for own in listed["data"] if own["name"] == "b")
    last = contents[[own["digest"] for _, own in answers].index(digest)]
    assert only_a.tokens(prompt(0), "b") == expected_tokens(only_a.model, prompt(0), last)


def test_without_a_token_in_the_environment_no_route_is_added(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from fastapi import FastAPI

    from faststeer.vllm.endpoint import SteeringEndpoint

    logger = logging.getLogger("vllm.faststeer")
    monkeypatch.setattr(logger, "propagate", False)
    logger.addHandler(caplog.handler)
    try:
        for token in (None, "", "  "):
            monkeypatch.delenv("FASTSTEER_TOKEN", raising=False)
            if token is not None:
                monkeypatch.setenv("FASTSTEER_TOKEN", token)
            caplog.clear()
            app = FastAPI()
            before = len(app.routes)
            SteeringEndpoint().attach_router(app)
            assert len(app.routes) == before
            assert "FASTSTEER_TOKEN is not set" in caplog.text
        monkeypatch.setenv("FASTSTEER_TOKEN", TOKEN)
        SteeringEndpoint().attach_router(app)
        assert len(app.routes) > before
    finally:
        logger.removeHandler(caplog.handler)
