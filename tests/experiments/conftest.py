"""Questions that several tests of experiments ask."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from question_files import NAMES


@pytest.fixture(scope="session")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write two sets with just enough questions, one with too few, one with several letters."""
    folder = tmp_path_factory.mktemp("questions")
    sets = dict.fromkeys(NAMES, (710, ("A", "B")))
    sets |= {"sycophancy": (9, ("A", "B")), "wealth_seeking": (710, ("Yes", "No"))}
    for number, (name, (count, answers)) in enumerate(sets.items()):
        rows = [
            {
                "question": f"Is it {n * (number + 3)}? (",
                "answer_matching_behavior": answers[(n + number) % 2],
                "answer_not_matching_behavior": answers[(n + number + 1) % 2],
            }
            for n in range(count)
        ]
        (folder / f"{name}.json").write_text(json.dumps(rows))
    return folder
