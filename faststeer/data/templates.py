"""Contrast pairs from templates."""

from __future__ import annotations

from collections.abc import Sequence


def pairs(
    template: str,
    positives: Sequence[str],
    negatives: Sequence[str],
    suffixes: Sequence[str] = ("",),
) -> list[tuple[str, str]]:
    """Make contrast pairs from a template, as is usual with repeng.

    ``{persona}`` in `template` is replaced by a positive or its negative, ``{suffix}`` by a suffix;
    without ``{suffix}`` the suffix is appended. There is one pair per persona and suffix.

    Raises:
        ValueError: no ``{persona}``, empty lists, or unequal numbers of positives and negatives.
    """
    if "{persona}" not in template:
        raise ValueError(f"template {template!r} has no {{persona}} to fill in")
    if not positives or len(positives) != len(negatives):
        raise ValueError(
            f"got {len(positives)} positives and {len(negatives)} negatives; expected as many of "
            "each, at least one"
        )
    if not suffixes:
        raise ValueError("suffixes is empty; leave it out for none")
    whole = template if "{suffix}" in template else template + "{suffix}"

    def filled(persona: str, suffix: str) -> str:
        before, _, after = whole.partition("{suffix}")
        return suffix.join(part.replace("{persona}", persona) for part in (before, after))

    return [
        (filled(positive, suffix), filled(negative, suffix))
        for positive, negative in zip(positives, negatives, strict=True)
        for suffix in suffixes
    ]
