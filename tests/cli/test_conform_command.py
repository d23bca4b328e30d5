"""The command `faststeer conform`: verdicts, exit codes, the report, and mistakes in words."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from steering_server import FRESH, SETTINGS, StandIn, steering_server
from typer.testing import CliRunner

from faststeer.cli.main import app

STEERED = SETTINGS["steered"]


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["conform", *arguments], env={"COLUMNS": "200"})


@pytest.mark.parametrize(("fault", "code"), [("", 0), ("chat unsteered", 1), ("all ignored", 1)])
def test_the_exit_code_is_1_where_a_probe_fails_or_nothing_is_seen(
    fault: str, code: int, tmp_path: Path
) -> None:
    # Without a second setting and coefficients, no requests are made at the same time but unsteered
    # and steered ones, which the stand-in answers one by one.
    setting = STEERED.replace("{coefficient}", "2.0")
    (tmp_path / "steered.json").write_text(setting)
    output = tmp_path / "report.json"
    with steering_server(StandIn(fault)) as server:
        result = run(
            *("--url", server.address, "--steered", f"@{tmp_path / 'steered.json'}"),
            *("--fresh", FRESH, "--prompt", SETTINGS["prompt"], "--output", str(output)),
        )
    assert result.exit_code == code, result.output
    report = json.loads(output.read_text())
    verdicts = {own["probe"]: own["verdict"] for own in report["findings"]}
    assert (verdicts["chat"] == "failed") == (fault == "chat unsteered")
    assert report["settings"]["steered"] == setting
    for probe, verdict in verdicts.items():
        assert any(probe in line and verdict in line for line in result.output.splitlines())


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "give either --url or --module"),
        (["--url", "http://127.0.0.1:9", "--module", "a:b"], "give either"),
        (["--url", "http://127.0.0.1:9"], "--url needs --steered"),
        (["--url", "http://127.0.0.1:9", "--steered", "{"], "--steered is not a JSON object"),
        (["--url", "http://127.0.0.1:9", "--steered", "[1]"], "it is a list"),
        (["--url", "http://127.0.0.1:9", "--steered", STEERED], "no server answers"),
        (["--url", "http://127.0.0.1:9", "--steered", "{}", "--preset", "x"], "--preset is 'x'"),
        (["--module", "nothing"], "expected MODULE:FUNCTION"),
        (["--module", "no_such_module:f"], "no_such_module"),
        (["--module", "json:no_such_function"], "no_such_function"),
        (["--module", "tempfile:gettempdir"], "returns a str without name, kinds"),
        (["--module", "json:dumps", "--steered", "{}"], "leave out steered"),
    ],
)
def test_a_mistake_is_reported_in_words(arguments: list[str], reason: str) -> None:
    result = run(*arguments)
    assert isinstance(result.exception, ValueError), result.output
    assert reason in str(result.exception)


def test_a_module_is_probed_by_its_function(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_subject.py").write_text(
        "from faststeer.diagnostics.conform import Answer, Reply\n"
        "class Own:\n"
        "    name, kinds, coefficients, has_fresh, without = 'own', ['steered'], False, True, {}\n"
        "    def render(self, message): return None\n"
        "    def generate(self, asks):\n"
        "        texts = ['steered' if own.setting else 'plain' for own in asks]\n"
        "        return [Reply((Answer(text),), {}, 5, 0) for text in texts]\n"
        "def make(): return Own()\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    result = run("--module", "own_subject:make")
    assert result.exit_code == 0, result.output
    assert "streamed completions" in result.output
