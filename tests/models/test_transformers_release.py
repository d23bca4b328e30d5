"""patch() and install() name the releases of transformers that they run on."""

import os
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator

import pytest
import transformers
from places import ROOT

import faststeer
from faststeer.models import transformers_release


@pytest.fixture(autouse=True)
def first_in_its_process() -> Iterator[None]:
    """Reset the once-only warning before and after each test."""
    transformers_release._warn_of_untested.cache_clear()
    yield
    transformers_release._warn_of_untested.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformers_release.check_transformers()


def patched_and_unpatched(model) -> None:
    faststeer.patch(model).unpatch()


def test_the_newest_tested_release_is_the_pinned_one() -> None:
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert re.findall(r"^transformers==(\S+)", pins, re.MULTILINE) == [
        transformers_release.NEWEST_TESTED
    ]
    oldest = (ROOT / "constraints-oldest.txt").read_text(encoding="utf-8")
    assert f"\ntransformers=={transformers_release.OLDEST_SUPPORTED}." in oldest
    declared = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'"transformers>={transformers_release.OLDEST_SUPPORTED}"' in declared


@pytest.mark.parametrize("release", ["5.25.0", "5.24.1", "5.25.0.dev0", "5.100", "6.0.0rc1"])
def test_a_newer_transformers_is_warned_of_once_with_both_releases(
    tiny_model, monkeypatch, release
) -> None:
    monkeypatch.setattr("transformers.__version__", release)  # as now imported
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        for _ in range(3):
            patched_and_unpatched(tiny_model)
    (one,) = given
    assert one.category is faststeer.FaststeerWarning
    assert f"transformers {release} is newer than {transformers_release.NEWEST_TESTED}" in str(
        one.message
    )
    assert one.filename == __file__


@pytest.mark.parametrize("release", ["5.24.0", "5.24.0.dev0", "5.9.1", "5.24.0+local", "4.57.0"])
def test_a_tested_or_earlier_transformers_is_not_warned_of(
    tiny_model, monkeypatch, release
) -> None:
    monkeypatch.setattr("transformers.__version__", release)  # as now imported
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        patched_and_unpatched(tiny_model)


@pytest.mark.parametrize("release", ["4.56.2", "4.57.0.dev0", "3.5"])
def test_an_older_transformers_is_refused_before_anything_changes(
    tiny_model, monkeypatch, release
) -> None:
    stock = type(tiny_model.model.layers[0])
    made = transformers.PreTrainedModel.post_init
    monkeypatch.setattr("transformers.__version__", release)  # as now imported
    for attempt in (lambda: faststeer.patch(tiny_model), faststeer.install):
        with pytest.raises(ImportError, match=rf"4\.57 or later, and {re.escape(release)} is inst"):
            attempt()
    assert type(tiny_model.model.layers[0]) is stock
    assert transformers.PreTrainedModel.post_init is made


def test_a_missing_transformers_is_named_with_the_way_to_install_it() -> None:
    program = (
        "import sys; sys.modules['transformers'] = None\n"
        "import torch, faststeer\n"
        "try: faststeer.patch(torch.nn.Linear(2, 2))\n"
        "except ImportError as error: print(error)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert "pip install 'transformers>=4.57'" in done.stdout
