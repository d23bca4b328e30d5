"""Name generated text that is no text: blank, newlines, or repetition."""

from __future__ import annotations

import re

# A unit of up to 60 characters, at least four times in a row.
_RUN = re.compile(r"(.{1,60}?)\1{3,}", re.DOTALL)
_SHARE_OF_RUN = 0.5  # of the text; an ordinary list or row of dots covers less
_SHORTEST_RUN = 12  # characters
_FEWEST_WORDS = 16  # from which words are counted
_LEAST_DIFFERENT = 1 / 3  # of the words; prose of 40 tokens has 0.6 and more


def fault_of(text: str) -> str | None:
    """Return what is wrong with a generated text, in words; None for what may be text."""
    if not text:
        return "nothing: it ends at once"
    if not text.strip():
        return "only newlines" if set(text) <= set("\r\n") else "blank: only white space"
    runs = [found for found in _RUN.finditer(text) if len(found[0]) >= _SHORTEST_RUN]
    longest = max(runs, key=lambda found: len(found[0]), default=None)
    if longest is not None and len(longest[0]) >= _SHARE_OF_RUN * len(text):
        return f"repeats {longest[1]!r} {len(longest[0]) // len(longest[1])} times"
    words = re.findall(r"\w+", text.lower())
    different = len(set(words))
    if len(words) >= _FEWEST_WORDS and different <= _LEAST_DIFFERENT * len(words):
        return f"repeats itself: {different} different words of {len(words)}"
    return None
