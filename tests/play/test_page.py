"""The page's server: its answers, what it refuses, and that it serves no file by name."""

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import torch
from places import ROOT
from plain_hooks import random_vector

import faststeer
from faststeer.models import continuations
from faststeer.models.loading import load
from faststeer.play import Request, serve


def steered_text(folder: Path, vector, coefficient: float, prompt: str, tokens: int) -> str:
    loaded = load(str(folder))
    with faststeer.patch(loaded.model) as patched:
        patched.steer(vector, coefficient, layers=[2])
        [text] = continuations(loaded.model, loaded.tokenizer, [prompt], tokens)
    return text


def client_of(page):
    return pytest.importorskip("gradio_client").Client(page.address, verbose=False)


def get(address: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(address, timeout=20) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def post(address: str, facts: dict) -> dict:
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(address, json.dumps(facts).encode(), headers)
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.load(answer)


def test_the_api_gives_the_answers_of_a_single_run(page, tiny_folder) -> None:
    vector = page.playground.vectors[0]
    expected = [steered_text(tiny_folder, vector, c, "The hotel was", 12) for c in (0.0, 2.0)]
    assert expected[0] != expected[1]
    found = client_of(page).predict("The hotel was", {"v": 2.0}, 12, api_name="/steer")
    assert found == [text.rstrip("\ufffd") for text in expected]


@pytest.mark.parametrize(
    ("prompt", "setting", "tokens", "message"),
    [
        ("A", {"unknown": 1.0}, 4, "no vector is named 'unknown'; there are: v, w"),
        ("A", {"v": 1e300}, 4, "more than float32 can hold"),
        ("A" * 1020, {}, 64, "the model holds 1024 together"),
        ("A", {}, 100_000, "expected 512 at most"),
    ],
)
def test_the_api_refuses_in_words_and_answers_the_next_request(
    page, prompt, setting, tokens, message
) -> None:
    client = client_of(page)
    with pytest.raises(Exception, match=message):
        client.predict(prompt, setting, tokens, api_name="/steer")
    assert len(client.predict("A", {"v": 1.0}, 4, api_name="/steer")) == 2


def test_no_file_of_the_server_is_read_by_name(page, tmp_path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("not for clients")
    inside = [f"gradio_api/file={path}" for path in (secret, ROOT / "pyproject.toml", "setup.py")]
    for route in (*inside, "gradio_api/file=../pyproject.toml", "file=/etc/passwd"):
        status, content = get(page.address + route)
        assert status in (403, 404), route
        assert b"not for clients" not in content
        assert b"[project]" not in content


def test_an_event_cannot_name_a_file_of_the_server_as_its_upload(page, tmp_path) -> None:
    secret = tmp_path / "secret.safetensors"
    random_vector("secret", [1]).save(secret)
    [upload] = [
        number for number, one in page.app.fns.items() if one.api_name and "upload" in one.api_name
    ]
    facts = {
        "data": [{"path": str(secret), "meta": {"_type": "gradio.FileData"}}, None],
        "fn_index": upload,
        "session_hash": "reader",
    }
    post(page.address + "gradio_api/queue/join", facts)
    _, stream = get(page.address + "gradio_api/queue/data?session_hash=reader")
    assert b"process_completed" in stream
    assert b'"success":false' in stream
    assert b"added secret" not in stream


def test_a_client_that_disconnects_is_dropped(page, monkeypatch) -> None:
    streams = []
    submit = page.playground.batcher.submit

    def recorded(request: Request):
        streams.append(submit(request))
        return streams[-1]

    monkeypatch.setattr(page.playground.batcher, "submit", recorded)
    forward = page.playground.loaded.model.forward

    def waiting(*args, **kwargs):
        time.sleep(0.05)  # so that the answer is still growing when the client leaves
        return forward(*args, **kwargs)

    monkeypatch.setattr(page.playground.loaded.model, "forward", waiting)
    [steer] = [number for number, one in page.app.fns.items() if one.api_name == "steer"]
    facts = {"data": ["A", {}, 500], "fn_index": steer, "session_hash": "leaving"}
    post(page.address + "gradio_api/queue/join", facts)
    address = page.address + "gradio_api/queue/data?session_hash=leaving"
    with urllib.request.urlopen(address, timeout=20) as answer:
        while b"process_generating" not in answer.readline():
            pass
    deadline = time.monotonic() + 20
    while streams[0].wanted and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not streams[0].wanted
    assert all(len(row.ids) < 500 for row in streams[0].rows)


def test_a_broken_foreign_or_huge_upload_is_refused_in_words(page, tmp_path, monkeypatch) -> None:
    from faststeer.play import library

    size = page.playground.hidden_size
    broken, pickled = tmp_path / "broken.safetensors", tmp_path / "a.safetensors"
    broken.write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{not JSON, sad")
    torch.save(torch.zeros(size), pickled)  # a pickle under another name
    foreign = tmp_path / "foreign.gguf"
    random_vector("foreign", [1], hidden=size + 1).save(tmp_path / "f.safetensors")
    (tmp_path / "f.safetensors").rename(foreign)  # the content decides, not the name
    cases = {broken: "broken", pickled: "neither a safetensors nor a GGUF", foreign: "hidden size"}
    for path, message in cases.items():
        with pytest.raises(ValueError, match=message) as caught:
            library.uploaded_vector(path, size)
        assert str(tmp_path) not in str(caught.value)
    monkeypatch.setattr(library, "MOST_UPLOADED", 10)
    with pytest.raises(ValueError, match="at most"):
        library.uploaded_vector(broken, size)


@pytest.mark.parametrize("kind", ["safetensors", "gguf"])
def test_an_upload_becomes_a_slider(page, tmp_path, kind) -> None:
    if kind == "gguf":
        pytest.importorskip("gguf")
    from faststeer.play.library import uploaded_vector

    path = tmp_path / f"own.{kind}"
    vector = random_vector("own", [1, 2])
    vector.save(path)
    found = uploaded_vector(path, page.playground.hidden_size)
    assert found.layers == [1, 2]
    torch.testing.assert_close(found.directions[2], vector.directions[2])


def test_other_machines_are_let_in_with_a_password_alone() -> None:
    with pytest.raises(ValueError, match=r"--host 0\.0\.0\.0 lets other machines use the page"):
        serve.require_password("0.0.0.0", None)
    serve.require_password("0.0.0.0", "long and secret")
    serve.require_password("127.0.0.1", None)


def test_the_command_refuses_another_host_without_a_password_before_it_loads() -> None:
    from typer.testing import CliRunner

    from faststeer.cli.main import app

    found = CliRunner().invoke(app, ["play", "--host", "0.0.0.0"], env={"FASTSTEER_PASSWORD": ""})
    assert isinstance(found.exception, ValueError)
    assert "give --password" in str(found.exception)


def test_without_gradio_the_extra_is_named(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'faststeer\[play\]'"):
        serve.require_gradio()


def test_steering_alone_imports_neither_the_page_nor_gradio() -> None:
    code = "import sys, faststeer; print([m for m in sys.modules if 'gradio' in m or '.play' in m])"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
