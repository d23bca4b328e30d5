"""Extras add nothing to those who do not ask for them."""

import subprocess
import sys
from pathlib import Path

import tomllib

ROOT = Path(__file__).parents[2]
OF_EXTRAS = {"gradio", "gradio_client", "httpx", "matplotlib", "vllm", "pandas"}
PROGRAM = "import sys, torch, transformers; before = set(sys.modules); import faststeer; "
PROGRAM += "print(*{name.partition('.')[0] for name in set(sys.modules) - before})"


def test_the_package_is_imported_without_the_packages_of_its_extras() -> None:
    command = [sys.executable, "-c", PROGRAM]
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    imported = set(found.stdout.split())
    assert "faststeer" in imported
    assert not imported & OF_EXTRAS


def test_the_page_is_an_extra_alone() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert any(own.startswith("gradio") for own in project["optional-dependencies"]["play"])
    assert not any(own.startswith("gradio") for own in project["dependencies"])
