"""The test suites of other projects, and the tests excluded from them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

# Families that install() leaves stock: their outcomes cannot differ.
STOCK = ("OPT", "opt-125m", "GPT2", "gpt2", "GPTJ", "random-bert", "random-Bert", "random-Roberta")


@dataclass(frozen=True)
class Suite:
    """The tests of one package.

    Attributes:
        package: the package whose source distribution carries the tests.
        files: paths of test files, relative to the distribution's folder or absolute.
        without: substrings of names; tests whose name contains one are excluded.
        share: with --quick, one test in this many is run.
    """

    package: str
    files: tuple[str, ...]
    without: tuple[str, ...] = ()
    share: int = 40


_OF_PEFT = """decoder_models adaption_prompt trainable_tokens lora_variants low_level_api helpers
lora_intruders other shadow multitask_prompt_tuning tuners_utils xlora seq_classifier"""

SUITES = (
    Suite("peft", tuple(f"tests/test_{name}.py" for name in _OF_PEFT.split()), STOCK),
    # Takes half of the time, and only checks an argument name of from_pretrained.
    Suite(
        "transformers",
        (str(Path(__file__).with_name("test_transformers.py")),),
        ("test_bc_torch_dtype",),
    ),
)
