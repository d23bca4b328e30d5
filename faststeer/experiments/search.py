"""A search for a coefficient per vector where all steer at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from faststeer.experiments.settings import Coefficients

Judge = Callable[[Sequence[Coefficients]], list[float]]


def search(judge: Judge, start: Coefficients, step: float, rounds: int) -> dict[str, float]:
    """Return coefficients that a judge finds at least as good as the start.

    A pattern search (Hooke and Jeeves 1961): each coefficient is moved by a step either way, all
    in one call since settings that are measured together share work; then all of them together by
    what helped each alone. Where nothing helps, the step is halved.

    Args:
        judge: returns the value of each of several choices; larger is better.
        start: coefficients by name.
        step: that of the first round.
        rounds: the number of rounds.
    """
    best = dict(start)
    value = judge([best])[0]
    for _ in range(rounds):
        moves = [{**best, name: best[name] + by} for name in best for by in (step, -step)]
        values = judge(moves)
        helping = {}
        for number, name in enumerate(best):
            up, down = values[2 * number : 2 * number + 2]
            if max(up, down) > value:
                helping[name] = step if up >= down else -step
        if len(helping) > 1:
            together = [
                {name: c + scale * helping.get(name, 0.0) for name, c in best.items()}
                for scale in (0.5, 1.0, 2.0)
            ]
            moves += together
            values += judge(together)
        top = max(values)
        if top > value:
            value, best = top, dict(moves[values.index(top)])
        else:
            step /= 2
    return {name: round(c, 10) for name, c in best.items()}
