"""The code of the documents runs: Python page by page, commands by their names and options."""

import ast
import re
import shlex
from pathlib import Path

import pytest
import typer.main
from huggingface_hub import constants
from places import ROOT

import faststeer
from faststeer.cli.main import app
from faststeer.models.loading import demo_folder

DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs" / "api").glob("*.md")),
]
LANGUAGES = {"python", "bash", "json", "mermaid", "{include}", "{toctree}", "{eval-rst}"}
FRAGMENT = "# Fragment: "  # the first line of a block that cannot run
FENCE = re.compile(r"^```(\S*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HUB_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"


def blocks(language: str) -> dict[str, list[str]]:
    """Return each document's blocks of that language, by its path; only documents that have any."""
    found = {}
    for path in DOCUMENTS:
        fences = FENCE.findall(path.read_text(encoding="utf-8"))
        found[str(path.relative_to(ROOT))] = [code for name, code in fences if name == language]
    return {name: own for name, own in found.items() if own}


CODE = blocks("python")
RUN = [name for name, own in CODE.items() if any(not code.startswith(FRAGMENT) for code in own)]


@pytest.fixture
def hub_with_the_demo_s_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill the hub's cache, as a download of `HUB_NAME` would, with the demo's model."""
    cache = tmp_path / "hub"
    place = cache / f"models--{HUB_NAME.replace('/', '--')}"
    revision = "0" * 40
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(revision)
    (place / "snapshots").mkdir()
    (place / "snapshots" / revision).symlink_to(demo_folder(), target_is_directory=True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))


@pytest.mark.usefixtures("hub_with_the_demo_s_model")
@pytest.mark.filterwarnings("ignore::faststeer.FaststeerWarning")
@pytest.mark.parametrize("page", RUN)
def test_the_python_blocks_of_a_page_run(page: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {}
    try:
        for number, block in enumerate(CODE[page], 1):
            if not block.startswith(FRAGMENT):
                exec(compile(block, f"{page}, block {number}", "exec"), namespace)
    finally:
        faststeer.uninstall()


@pytest.mark.parametrize("page", CODE)
def test_a_block_that_does_not_run_is_marked_and_valid_python(page: str) -> None:
    fragments = [code for code in CODE[page] if code.startswith(FRAGMENT)]
    for code in fragments:
        assert ast.parse(code).body
    assert len(fragments) < len(CODE[page]) or page == "docs/coming-from-elsewhere.md"


def test_no_block_escapes_by_another_language() -> None:
    for path in DOCUMENTS:
        fences = FENCE.findall(path.read_text(encoding="utf-8"))
        assert {language for language, _ in fences} <= LANGUAGES, path.name


def commands(block: str) -> list[list[str]]:
    """Return the words of each `faststeer` command of a block."""
    lines = block.replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    return [own[1:] for own in words if own[:1] == ["faststeer"]]


def options_of(words: list[str]) -> tuple[set[str], set[str]]:
    """Return the options that a command uses, and those that it takes."""
    command, rest = typer.main.get_command(app), list(words)
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        command = command.commands[rest.pop(0)]
    used = {word.partition("=")[0] for word in rest if word.startswith("--")}
    return used, {opt for one in command.params for opt in one.opts} | {"--help", "--version"}


def test_the_commands_of_the_documents_exist_and_take_their_options() -> None:
    found = [words for own in blocks("bash").values() for code in own for words in commands(code)]
    assert len(found) > 20
    for words in found:
        used, taken = options_of(words)
        assert used <= taken, words
    used, taken = options_of(["inspect", "v.safetensors", "--no-such-option"])
    assert used - taken == {"--no-such-option"}
