"""A coefficient for each of several vectors that steer at once: a search by measuring."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from faststeer.experiments.several.settings import Coefficients

Judge = Callable[[Sequence[Coefficients]], list[float]]


def searched(judge: Judge, start: Coefficients, step: float, rounds: int) -> dict[str, float]:
    """Coefficients that a judge finds at least as good as where it starts.

    A pattern search (Hooke and Jeeves 1961): each coefficient is moved by a step either way, all
    of these at once, since settings that are measured together share their work; then all of them
    together by what helped each alone. Where nothing helps, the step is halved.

    Args:
        judge: how good each of several choices is, larger being better.
        start: by name.
        step: of the first round.
        rounds: how often.
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
