"""What several tests of extraction count."""

from __future__ import annotations

import pytest
from cached_runs import Runs
from transformers import LlamaForCausalLM


@pytest.fixture
def runs(tiny_model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch) -> Runs:
    return Runs(tiny_model, monkeypatch)
