"""Which tests of which project are run, and what is left out of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

# Families that install() leaves stock: with and without it nothing would differ.
STOCK = ("OPT", "opt-125m", "GPT2", "gpt2", "GPTJ", "random-bert", "random-Bert", "random-Roberta")


@dataclass(frozen=True)
class Suite:
    """Tests of one package.

    Attributes:
        package: whose source distribution carries the tests.
        files: below the distribution's folder, or absolute.
        without: parts of names; tests that have one in theirs are left out.
        share: of these tests --quick runs one in this many.
    """

    package: str
    files: tuple[str, ...]
    without: tuple[str, ...] = ()
    share: int = 40


_OF_PEFT = """decoder_models adaption_prompt trainable_tokens lora_variants low_level_api helpers
lora_intruders other shadow multitask_prompt_tuning tuners_utils xlora seq_classifier"""

SUITES = (
    Suite("peft", tuple(f"tests/test_{name}.py" for name in _OF_PEFT.split()), STOCK),
    # Half of the time, and about the name of an argument of from_pretrained.
    Suite(
        "transformers",
        (str(Path(__file__).with_name("test_transformers.py")),),
        ("test_bc_torch_dtype",),
    ),
)
