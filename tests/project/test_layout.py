"""The layout of the package: fourteen packages and the public face in its root."""

from __future__ import annotations

from places import ROOT

PACKAGES = [
    "cli",
    "data",
    "diagnostics",
    "evaluate",
    "experiments",
    "extraction",
    "models",
    "ops",
    "patching",
    "play",
    "steering",
    "utils",
    "vectors",
    "vllm",
]
FILES = ["__init__.py", "__main__.py", "_C.pyi", "py.typed"]


def test_the_package_root_holds_fourteen_packages_and_the_public_face() -> None:
    built = (".so", "__pycache__")
    found = [path for path in (ROOT / "faststeer").iterdir() if not path.name.endswith(built)]
    holds_code = [path for path in found if path.is_file() or any(path.rglob("*.py"))]
    assert sorted(path.name for path in holds_code) == sorted(PACKAGES + FILES)


def test_every_package_states_its_subject() -> None:
    for package in PACKAGES:
        text = (ROOT / "faststeer" / package / "__init__.py").read_text(encoding="utf-8")
        assert text.startswith('"""'), package
