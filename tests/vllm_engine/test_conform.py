"""The plugin in vLLM's OpenAI server passes every probe of `faststeer conform`."""

from __future__ import annotations

from pathlib import Path

import pytest
from engine_server import served
from engines import directions, save_all

from faststeer.diagnostics.conform import PROBES, Verdict, examine
from faststeer.diagnostics.conform.http_subject import HttpSubject
from faststeer.diagnostics.conform.templates import settings_of
from faststeer.models.loading import demo_folder

VECTORS = {
    "one": directions("one", range(10, 20), 576, 8.0, seed=1),
    "two": directions("two", range(10, 20), 576, 8.0, seed=2),
    "last": directions("last", [29], 576, 60.0, seed=3),
}


@pytest.mark.heavy
def test_the_plugin_passes_every_probe(tmp_path: Path) -> None:
    (tmp_path / "vectors").mkdir()
    own = {"faststeer": {"vectors": str(save_all(VECTORS, tmp_path / "vectors"))}}
    options = ("--block-size", "32", "--enable-prompt-tokens-details")
    settings = settings_of("faststeer", {"steered": "one", "other": "two", "last_layer": "last"})
    with (
        served(demo_folder(), tmp_path / "log", *options, additional_config=own) as address,
        HttpSubject(address, settings, preset="faststeer") as subject,
    ):
        report = examine(subject, 2.0)
    assert [own for own in report.findings if own.verdict is not Verdict.PASSED] == []
    assert len(report.findings) == len(PROBES)
    cache = report.findings[list(PROBES).index("prompt cache")]
    assert "cached tokens: up to" in cache.reason
