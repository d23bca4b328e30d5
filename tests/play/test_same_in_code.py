"""The copied code gives the tokens of the page."""

import shlex

import pytest
from plain_hooks import random_vector

import faststeer
from faststeer.cli import options
from faststeer.cli.main import app
from faststeer.data.shipped import Behaviour
from faststeer.extraction.extract import extract
from faststeer.play import Batcher, Request, Sampling, Use
from faststeer.play.same_in_code import as_command, as_python, file_name

V = random_vector("v", [0, 2])
CHAT = [
    {"role": "user", "content": "How was the hotel?"},
    {"role": "assistant", "content": "It was"},
    {"role": "user", "content": 'And "the" food\'s taste?'},
]


@pytest.fixture(scope="module")
def vector(demo):
    pairs = Behaviour.shipped("sentiment").pairs[:8]
    return extract(demo.model, demo.tokenizer, pairs, name="mood: a/b", layers=[20, 23])


@pytest.fixture
def saved(vector, tmp_path, monkeypatch):
    vector.save(tmp_path / file_name(vector.name))
    monkeypatch.chdir(tmp_path)
    return vector


def answers(demo, request: Request) -> tuple[str, str]:
    with Batcher(demo.model, demo.tokenizer) as batcher:
        unsteered, steered = batcher.submit(request).result()
    assert unsteered.text != steered.text
    return unsteered.text, steered.text


@pytest.mark.parametrize("prompt", ["The food at this hotel was", CHAT], ids=["text", "chat"])
def test_the_python_prints_the_steered_answer(demo, saved, prompt, capsys, monkeypatch) -> None:
    always = faststeer.when(saved, layer=20, above=-1.0)
    never = faststeer.when(saved, layer=20, below=-1.0)
    each = faststeer.when(saved, layer=20, above=-1.0, each="token", hysteresis=1)
    uses = [Use(saved, 2.0, (23,), "from_last_prompt", "add", always)]
    uses.append(Use(saved, -8.0, (23,), "all", "add", never))
    uses.append(Use(saved, 1.0, (23,), '~after("</none>") & "generated"', "add", each))
    request = Request(prompt, uses, max_new_tokens=10)
    _, steered = answers(demo, request)
    monkeypatch.setattr("faststeer.models.load", lambda name: demo)
    exec(compile(as_python("demo", request), "copied", "exec"), {})
    assert capsys.readouterr().out == steered + "\n"


@pytest.mark.parametrize("prompt", ["The food's taste was", CHAT[:1]], ids=["text", "chat"])
def test_the_command_prints_both_answers(demo, saved, prompt, monkeypatch) -> None:
    from typer.testing import CliRunner

    request = Request(prompt, [Use(saved, 2.0, (23,), "all", "add")], max_new_tokens=8)
    expected = answers(demo, request)
    monkeypatch.setattr(options, "load", lambda *given: demo)
    program, *words = shlex.split(as_command("demo", request))
    assert program == "faststeer"
    found = CliRunner().invoke(app, words, env={"COLUMNS": "400"})
    assert found.exit_code == 0, found.output
    for text in expected:
        for line in text.strip().splitlines():
            assert line.strip() in found.output


def test_what_the_code_does_not_do_is_stated() -> None:
    sampled = Request("A", sampling=Sampling(0.7))
    assert as_python("demo", sampled).startswith("# the page drew tokens at temperature 0.7")
    assert "# no slider is moved" in as_command("demo", sampled)
    assert "# the command takes one message" in as_command("demo", Request(CHAT))
    only = faststeer.when(V, layer=0, above=0.1)
    conditional = as_command("demo", Request("A", [Use(V, 1.0, (2,), when=only)]))
    assert "# the command has no conditions: 'v' steers without one here" in conditional
    ranged = as_command("demo", Request("A", [Use(V, 1.0, (2,), range(-3, 0))]))
    assert "# the command takes names of positions, and not range(-3, 0)" in ranged
    written = as_command("demo", Request("A", [Use(V, 1.0, (2,), 'after("b")')]))
    assert '# the command takes names of positions, and not after("b")' in written
    assert "positions=" not in ranged


@pytest.mark.parametrize("name", ["../../etc/passwd", "a b", ".hidden", "", "déjà"])
def test_a_name_stays_within_its_folder(name) -> None:
    assert "/" not in file_name(name)
    assert not file_name(name).startswith(".")
