"""What several processes measured is one record, and its table states what its numbers are."""

from typing import Any

import pytest
from serving_cost import combined
from serving_tables import vllm_table


def record(*ratios: float) -> dict[str, Any]:
    return {
        "vllm": "0",
        "eager": False,
        "layers": 30,
        "machine": {"cpu": "a CPU", "torch": "2"},
        "results": [
            {
                "variant": "not steered",
                "batch": batch,
                "steps": 24,
                "ms": {"without the plugin": 50.0 * ratio, "compiled first": 51.0},
                "ratio": ratio,
                "ratio_interval": [0.1, 9.0],
            }
            for batch, ratio in zip((1, 8), ratios, strict=True)
        ],
    }


def test_medians_over_processes_are_shown_with_the_lowest_and_the_highest() -> None:
    found = combined([record(1.25, 2), record(1.0, 2), record(1.5, 4)])
    assert found["processes"] == 3
    first, second = found["results"]
    assert (first["ratio"], first["ratio_range"]) == (1.25, [1.0, 1.5])
    assert (second["ratio"], second["ratios"]) == (2, [2, 2, 4])
    assert first["ms"]["without the plugin"] == 62.5
    table = vllm_table(found)
    assert "medians over 3 processes, of 24 steps each, and the lowest and highest" in table
    assert "| not steered | 1.250× (1.000 to 1.500) | 2.000× (2.000 to 4.000) |" in table
    alone = vllm_table(record(1.25, 2))
    assert "medians of 24 steps, and their 95 % intervals" in alone
    assert "1.250× (0.100 to 9.000)" in alone


def test_records_of_different_cells_are_not_combined() -> None:
    other = record(1, 1)
    other["results"][1]["batch"] = 32
    with pytest.raises(ValueError, match="different cells"):
        combined([record(1, 1), other])
