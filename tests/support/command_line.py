"""The command `faststeer` in a separate process, and files for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from places import ROOT

FASTSTEER = [sys.executable, "-m", "faststeer"]


def environment(**more: str) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "250"} | more


def run(*arguments: str | Path) -> str:
    """Run `faststeer` with these arguments, which must succeed, and return its standard output."""
    command = [*FASTSTEER, *map(str, arguments)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def write_pairs(file: Path, pairs: list[tuple[str, str]]) -> Path:
    lines = [json.dumps({"positive": good, "negative": bad}) for good, bad in pairs]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file
