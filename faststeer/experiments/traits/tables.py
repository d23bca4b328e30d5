"""Tables of the experiment on traits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from faststeer.evaluate.bootstrap import mean_interval
from faststeer.evaluate.records import Setting, key_of
from faststeer.experiments.cosines import cosines_at
from faststeer.experiments.estimates import Estimate
from faststeer.experiments.generations import mean_repetition, perplexity
from faststeer.experiments.result import Cell, Table
from faststeer.experiments.settings import ADD, SUBTRACT, UNSTEERED
from faststeer.experiments.traits.equal_tax import estimate_of, mean_of
from faststeer.experiments.traits.prompts import openings
from faststeer.experiments.traits.results import COMBINED, SIMULTANEOUS, Results

_SHOWN_TEXTS = 2


def alone_table(results: Results) -> Table:
    """List what each vector alone does to its trait, beside random directions."""
    rows: list[list[Cell]] = []
    before = results.perplexity(UNSTEERED)
    for trait in results.traits:
        name = trait.name
        added, subtracted = results.alone(name, ADD), results.alone(name, SUBTRACT)
        [[layer, high]], [[_, low]] = (own[name].items() for own in (added, subtracted))
        moved = results.random_gains(name)
        rows.append(
            [
                f"{name}: {trait.positive} / {trait.negative}",
                layer,
                f"{high:+g}, {low:+g}",
                *(results.probability(name, one).shown for one in (subtracted, UNSTEERED, added)),
                estimate_of(results.alone_gain(name)).signed,
                sum(moved) / len(moved),
                f"{results.perplexity(added) - before:+.2f}, "
                f"{results.perplexity(subtracted) - before:+.2f}",
                "yes" if results.is_movable(name) else "no",
            ]
        )
    columns = ["trait", "layer", "coefficients", "subtracted", "unsteered", "added"]
    columns += ["added − subtracted", "random", "perplexity", "movable"]
    title = f"Each vector alone, on the test part (unsteered perplexity {before:.1f})"
    return Table(title, columns, rows)


def cosines_table(results: Results) -> Table:
    """List the cosines between the vectors at the layer of the combined one."""
    return cosines_at(results.vectors, results.chosen.common)


def layers_table(results: Results) -> Table:
    """List the layers of each trait in the assignments, and its best layer."""
    rows: list[list[Cell]] = [
        ["best alone", *(results.chosen.best[name] for name in results.names)],
        ["combined", *(results.chosen.common for _ in results.names)],
    ]
    for number, layers in enumerate(results.chosen.assignments, 1):
        rows.append([f"simultaneous {number}", *(layers[name] for name in results.names)])
    return Table("Layers", ["", *results.names], rows)


def variants_table(results: Results) -> Table:
    """List every trait's probability under the eight combined vectors, and their tax."""
    rows: list[list[Cell]] = [_setting_row(results, "unsteered", UNSTEERED)]
    rows += [_setting_row(results, one.shown, own) for one, own in results.variants.items()]
    title = f"Matching probability under one combined vector at layer {results.chosen.common}"
    return Table(title, ["combined", *results.names, "tax"], rows)


def common_table(results: Results) -> Table:
    """List every trait's probability where all vectors have one coefficient, and its tax."""
    way = results.ways[f"{SIMULTANEOUS}, one coefficient"]
    rows: list[list[Cell]] = []
    for strength, both in zip(way.strengths, way.settings, strict=True):
        for sign, setting in zip((1, -1), both, strict=True):
            rows.append([*_setting_row(results, f"{sign * strength:+g}", setting)])
    rows.append(_setting_row(results, "0", UNSTEERED))
    rows.sort(key=lambda row: float(str(row[0])))
    title = "Matching probability over the global coefficient, each vector at its layer"
    return Table(title, ["coefficient", *results.names, "tax"], rows)


def ways_table(results: Results, tax: float) -> Table:
    """List what every way does to all traits at one tax."""
    rows: list[list[Cell]] = []
    for shown, way in results.ways.items():
        found = results.compared.effects_at(way, tax)
        cost = results.compared.taxes(way)[-1, 0]
        rows.append(
            [
                shown,
                results.compared.strength_at(way, tax),
                float(cost),
                *(float(found[name][0]) for name in results.names),
                estimate_of(mean_of(list(found.values()))).signed,
            ]
        )
    columns = ["steering", "strength", "tax at full strength", *results.names, "mean"]
    return Table(f"Added − subtracted at a tax of {tax:.0%}", columns, rows)


def verdicts_table(results: Results) -> Table:
    """List the differences between ways at equal tax."""
    rows: list[list[Cell]] = []
    for shown, first, second in comparisons(results):
        row: list[Cell] = [shown]
        for tax in results.protocol.taxes:
            row.append(difference(results, first, second, tax).signed)
        rows.append(row)
    columns = ["difference", *(f"at a tax of {tax:.0%}" for tax in results.protocol.taxes)]
    return Table("Differences of the mean effect at equal tax", columns, rows)


def comparisons(results: Results) -> list[tuple[str, Sequence[str], Sequence[str]]]:
    """Return what is compared: the words, and the ways whose mean effects are subtracted."""
    tuned = [SIMULTANEOUS, *_others(results, "")]
    one, searched = ([f"{SIMULTANEOUS}, {kind}"] for kind in ("one coefficient", "searched"))
    return [
        ("simultaneous − combined", [SIMULTANEOUS], [COMBINED]),
        ("the same, all assignments", tuned, [COMBINED]),
        ("the same, coefficients searched for", searched, [f"{COMBINED}, searched"]),
        ("one coefficient − one each, simultaneous", one, [SIMULTANEOUS]),
        ("orthogonal − as they are, combined", [f"{COMBINED}, orthogonal"], [COMBINED]),
        (
            "orthogonal − as they are, simultaneous",
            [f"{SIMULTANEOUS}, orthogonal"],
            [SIMULTANEOUS],
        ),
    ]


def difference(
    results: Results, first: Sequence[str], second: Sequence[str], tax: float
) -> Estimate:
    """Return the difference of the mean effects of two groups of ways at equal tax."""
    high, low = (
        mean_of([results.compared.mean_at(results.ways[name], tax) for name in names])
        for names in (first, second)
    )
    return estimate_of(high - low)


def growth_table(results: Results) -> Table:
    """List what share of their effect alone the traits keep as more of them steer."""
    rows: list[list[Cell]] = []
    for size in results.growth:
        kept = growth_kept(results, size)
        shares = [estimate_of(own).shown for own in kept]
        costs = [_full_tax(results, size, number) for number in (0, 1)]
        rows.append([size, *shares, estimate_of(kept[1] - kept[0]).signed, *costs])
    columns = ["traits", "combined", "simultaneous", "simultaneous − combined"]
    columns += ["tax of combined at full strength", "of simultaneous"]
    title = f"Share of the effect alone that is kept at a tax of {results.budget:.0%}"
    return Table(title, columns, rows)


def growth_kept(results: Results, size: int) -> tuple[Tensor, Tensor]:
    """Return the mean share of the effect alone that is kept: combined and simultaneous, ``[D]``.

    Effects are summed over the traits of a set before they are divided, so that a trait that hardly
    moves in a draw does not rule the mean.
    """
    kept: tuple[list[Tensor], list[Tensor]] = ([], [])
    for both in results.growth[size]:
        for number, way in enumerate(both):
            found = results.compared.effects_at(way, results.budget)
            whole = mean_of([results.alone_gain(name) for name in way.traits])
            kept[number].append(mean_of(list(found.values())) / whole)
    return mean_of(kept[0]), mean_of(kept[1])


def interactions_table(results: Results) -> Table:
    """List the effect of each vector alone on every trait."""
    rows: list[list[Cell]] = [
        [vector, *(estimate_of(results.effect(vector, trait)).signed for trait in results.names)]
        for vector in results.names
    ]
    title = "Added − subtracted of each vector alone (rows) on every trait"
    return Table(title, ["vector", *results.names], rows)


def judge_table(results: Results) -> Table:
    """List the accuracy of the judge on sentences that it was not trained on."""
    row: list[Cell] = ["accuracy", *(results.accuracy[name] for name in results.names)]
    title = "The judge of generated text, on the sentences of the pairs"
    return Table(title, ["", *results.names], [row])


def generations_table(results: Results) -> Table:
    """List how likely generated texts show each trait, their repetition and perplexity."""
    rows: list[list[Cell]] = []
    for shown, setting in results.shown.items():
        record = results.generations[key_of(setting)]
        again, odd = mean_repetition(record), perplexity(record)
        rows.append(
            [
                shown,
                *(
                    None if own is None else own.shown
                    for own in (judged(results, setting, name) for name in results.names)
                ),
                None if again is None else again.shown,
                None if odd is None else f"{odd.value:.1f} [{odd.low:.1f}, {odd.high:.1f}]",
            ]
        )
    count, tokens = results.protocol.prompts, results.protocol.new_tokens
    title = f"How the judge reads {count} continuations of {tokens} tokens"
    return Table(title, ["steering", *results.names, "repetition", "perplexity"], rows)


def judged(results: Results, setting: Setting, trait: str) -> Estimate | None:
    """Return how likely texts under a setting show a trait; None where none can be judged."""
    found = results.judged[key_of(setting)][trait]
    values = torch.tensor([own for own in found if own is not None], dtype=torch.float64)
    if not len(values):
        return None
    return Estimate(float(values.mean()), *mean_interval(values))


def texts_table(results: Results) -> Table:
    """List two generated texts per setting."""
    rows: list[list[Cell]] = []
    for shown, setting in results.shown.items():
        texts = results.generations[key_of(setting)]["items"]["texts"]
        for opening, text in list(zip(openings(len(texts)), texts, strict=True))[:_SHOWN_TEXTS]:
            rows.append([shown, opening, " ".join(text.split())])
    return Table("Two texts per setting", ["steering", "opening", "continuation"], rows)


def _others(results: Results, ending: str) -> list[str]:
    count = len(results.chosen.assignments)
    return [f"{SIMULTANEOUS}, assignment {number}{ending}" for number in range(2, count + 1)]


def _full_tax(results: Results, size: int, number: int) -> float:
    taxes = [float(results.compared.taxes(both[number])[-1, 0]) for both in results.growth[size]]
    return sum(taxes) / len(taxes)


def _setting_row(results: Results, shown: str, setting: Setting) -> list[Cell]:
    cells = [results.probability(name, setting).shown for name in results.names]
    return [shown, *cells, results.tax(setting)]
