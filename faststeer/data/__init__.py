"""Pairs and texts to make vectors from, as streams for `faststeer.extract`.

All of them are read again each time they are iterated, and never held in memory as a whole.
"""

from faststeer.data.chat import InChat, TextsInChat, chat_text
from faststeer.data.datasets import PairsIn, TextsIn, hub_rows
from faststeer.data.documents import Documents
from faststeer.data.fetching import fetch
from faststeer.data.jsonl import PairsFile
from faststeer.data.post_instruction import post_instruction
from faststeer.data.questions import QuestionPairs, behaviour
from faststeer.data.trait_files import OpenPrompt, Trait, read_traits

__all__ = [
    "Documents",
    "InChat",
    "OpenPrompt",
    "PairsFile",
    "PairsIn",
    "QuestionPairs",
    "TextsIn",
    "TextsInChat",
    "Trait",
    "behaviour",
    "chat_text",
    "fetch",
    "hub_rows",
    "post_instruction",
    "read_traits",
]
