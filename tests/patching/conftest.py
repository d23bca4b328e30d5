"""What tests of `install` share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from transformers import PreTrainedModel

import faststeer


@pytest.fixture
def undone() -> Iterator[None]:
    """Undo every installation after its test."""
    before = PreTrainedModel.__dict__["post_init"]
    yield
    faststeer.uninstall()
    assert PreTrainedModel.__dict__["post_init"] is before
