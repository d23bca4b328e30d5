"""Pairs trimmed to equal last tokens, so that how the texts end tells nothing of their side."""

from __future__ import annotations


def matched_ends(ids: list[list[int]], shared: int) -> list[list[int]] | None:
    """Return a pair's token ids without the tokens behind the last one that both sides can end in.

    Of all ways to end in the same token, the one that cuts the fewest tokens is taken. At least
    half of what follows the common beginning stays of each text: behind a long question the whole
    of both answers would be cut otherwise.

    Args:
        ids: of both texts.
        shared: the length of their common beginning, which is never cut into.

    Returns:
        None where no such token exists.
    """
    first, second = ids
    if first[-1:] == second[-1:]:
        return ids
    most = [(len(row) - shared) // 2 for row in ids]  # tokens that may be cut
    if min(len(row) for row in ids) == shared:
        return None  # one text is the other's beginning
    nearest: dict[int, int] = {}  # token -> how many of the second text's are behind it
    for behind in range(most[1] + 1):
        nearest.setdefault(second[-1 - behind], behind)
    cuts = [
        (behind + nearest[token], behind, nearest[token])
        for behind, token in enumerate(reversed(first[-1 - most[0] :]))
        if token in nearest
    ]
    if not cuts:
        return None
    _, from_first, from_second = min(cuts)
    return [first[: len(first) - from_first], second[: len(second) - from_second]]
