"""`faststeer check` on a model, in this process or a separate one, and its findings."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from command_line import FASTSTEER, environment

from faststeer.cli import main, options
from faststeer.diagnostics.bench.findings import Finding
from faststeer.diagnostics.bench.mode_probes import CAP, CONDITION
from faststeer.diagnostics.bench.probed_scopes import probed_scopes
from faststeer.models.loading import Loaded, load

SCOPES = probed_scopes(torch.zeros(1, 11).long())
PROBED = {f"these tokens and no others (positions={name})" for name in SCOPES}
PROBED |= {
    f"this row and no other (padded batch, positions={name})" for name in ("all", "range(1, 4)")
}


MODES = {CAP, CONDITION}


def tiny(dtype: torch.dtype = torch.float32) -> Loaded:
    return load("random:tiny", dtype=dtype)


def failed(findings: list[Finding]) -> set[str]:
    return {finding.name for finding in findings if finding.passed is False}


def passed(findings: list[Finding]) -> set[str]:
    return {finding.name for finding in findings if finding.passed}


def run_cli(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [*FASTSTEER, *map(str, arguments)]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)


def exit_code(monkeypatch: pytest.MonkeyPatch, loaded: Loaded, command: str) -> int | str | None:
    """Return the exit code of `faststeer COMMAND` when its model is `loaded`."""
    monkeypatch.setattr(options, "load", lambda *_: loaded)
    monkeypatch.setattr(sys, "argv", ["faststeer", *command.split()])
    with pytest.raises(SystemExit) as left:
        main.main()
    return left.value.code
