"""Every example runs, on the demo's model, and shows what it says."""

import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name: str) -> str:
    command = [sys.executable, str(EXAMPLES / name)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def test_quickstart_says_three_different_things() -> None:
    lines = [line for line in run("quickstart.py").splitlines() if line[:2] in {"-2", "+0", "+2"}]
    assert len({line[3:] for line in lines}) == 3


def test_a_learned_vector_beats_the_difference_of_means_on_completions_it_never_saw() -> None:
    scores = [float(line.split()[-1]) for line in run("learn_a_vector.py").splitlines()[-3:]]
    unsteered, mean, learned = scores
    assert learned > mean > unsteered
