"""All vectors at once, each at a layer of its own: one coefficient for all, or one each."""

from __future__ import annotations

from faststeer.evaluate.records import Setting
from faststeer.experiments.outcome import Cell, Figure, Section, Table
from faststeer.experiments.several.choosing import DEAREST
from faststeer.experiments.several.pictures import curve
from faststeer.experiments.several.protocol import LAYERS_AT_ONCE, SHOWN
from faststeer.experiments.several.published import AT_ONCE, MODEL
from faststeer.experiments.several.results import Results
from faststeer.experiments.several.scored import (
    PROBABILITY,
    SCORE,
    accuracy,
    change,
    estimate,
    flags,
    tax,
)
from faststeer.experiments.several.settings import UNSTEERED
from faststeer.experiments.several.words import AXES

_EQUAL = 0.005  # of right next tokens: taxes that differ by less count as equal


def at_once(results: Results) -> Section:
    """The scores over the global coefficient, and the tax."""
    tables = [_scores(results), _probabilities(results)]
    text = (
        "Each vector steers at a layer of its own, all at the same time and with one global "
        "coefficient. The tax is what that costs elsewhere: top-1 accuracy on general text. The "
        f"best global coefficient, {results.whole:+g}, has the highest mean probability on "
        f"questions kept for choosing, among those that cost at most {DEAREST:.0%} of the right "
        "next tokens."
    )
    return Section("All at once, each at its layer", text, tables, [_curves(results)])


def simultaneous_works(results: Results) -> str:
    """What the best global coefficient does on the test part, and what it costs."""
    setting = results.wholly(results.whole)
    own, before = results.every(setting), results.every(UNSTEERED)
    moved = change(own, before, PROBABILITY)
    by_score = change(own, before, SCORE)
    verdict = {1: "works", 0: "does nothing certain", -1: "works against itself"}[moved.sign]
    return (
        f"Steering with all vectors at once, each at its layer, {verdict}: with the global "
        f"coefficient {results.whole:+g} the mean matching probability changes by {moved.signed} "
        f"and the mean score by {by_score.signed}, at a tax of {_tax(results, setting):.1%} of the "
        "right next tokens on general text."
    )


def a_coefficient_each(results: Results) -> Section:
    """The coefficients that were searched for, beside the global one."""
    rows: list[list[Cell]] = []
    for kind, setting in _kinds(results).items():
        for name in results.names:
            record = results.of(name, setting)
            amount = setting.get(name, {}).get(results.layers.at_once[name], 0.0)
            rows.append(
                [
                    kind,
                    SHOWN[name],
                    f"{amount:+g}",
                    f"{estimate([record], SCORE).shown} {flags(record)}".strip(),
                    estimate([record], PROBABILITY).shown,
                ]
            )
        every = results.every(setting)
        means = [estimate(every, measure).shown for measure in (SCORE, PROBABILITY)]
        rows.append([kind, "all", f"tax {_tax(results, setting):.1%}", *means])
    columns = ["steering", "behaviour", "coefficient", "matching score", "matching probability"]
    text = (
        "The same with a coefficient a behaviour. They are searched for on the questions and texts "
        "on which the global coefficient was chosen, from that one on, for the highest mean "
        "probability; what costs more on general text than the global coefficient has to bring "
        "five times as much."
    )
    table = Table("A coefficient each, on the test part", columns, rows)
    return Section("A coefficient a behaviour", text, [table])


def coefficients_beat_one(results: Results) -> str:
    """Whether a coefficient each does more than one for all, at a tax that is no higher."""
    whole, joint = results.wholly(results.whole), results.joint
    own, before = results.every(joint), results.every(whole)
    gain = change(own, before, PROBABILITY)
    by_score = change(own, before, SCORE)
    dearer = _tax(results, joint) - _tax(results, whole)
    if gain.sign > 0 and dearer <= _EQUAL:
        verdict = "A coefficient a behaviour beats the one global coefficient at equal tax"
    elif gain.sign > 0:
        verdict = (
            "A coefficient a behaviour does more than the one global coefficient, but costs more"
        )
    elif gain.value > 0:
        verdict = (
            "A coefficient a behaviour does not beat the one global coefficient for certain: the "
            "interval of the gain holds 0"
        )
    else:
        verdict = "A coefficient a behaviour does not beat the one global coefficient"
    return (
        f"{verdict}. On the test part the mean probability changes by {gain.signed}, the mean "
        f"score by {by_score.signed}, and the tax from {_tax(results, whole):.1%} to "
        f"{_tax(results, joint):.1%}."
    )


def _kinds(results: Results) -> dict[str, Setting]:
    whole = results.wholly(results.whole)
    return {"unsteered": UNSTEERED, "one for all": whole, "one each": results.joint}


def _tax(results: Results, setting: Setting) -> float:
    return tax(results.text_of(setting), results.text_of(UNSTEERED))


def _scores(results: Results) -> Table:
    rows: list[list[Cell]] = []
    for c in results.protocol.at_once:
        setting = results.wholly(c)
        row: list[Cell] = [f"{c:+g}" if c else "0"]
        for record in results.every(setting):
            row.append(f"{estimate([record], SCORE).shown} {flags(record)}".strip())
        rows.append([*row, accuracy(results.text_of(setting)).shown, _tax(results, setting)])
    places = {name: at for at, name in enumerate(LAYERS_AT_ONCE)}
    unsteered = AT_ONCE[0.0][1]
    for c, (scores, text) in AT_ONCE.items():
        own = [f"{scores[places[name]]:.3f}" for name in results.names]
        shown = f"paper: {c:+g}" if c else "paper: 0"
        rows.append([shown, *own, f"{text:.3f}", 1 - text / unsteered])
    columns = ["global coefficient", *results.shown, "top-1 on text", "tax"]
    return Table(f"Matching score; the paper's, of {MODEL}, below it", columns, rows)


def _probabilities(results: Results) -> Table:
    rows: list[list[Cell]] = []
    for c in results.protocol.at_once:
        every = results.every(results.wholly(c))
        own = [estimate([record], PROBABILITY).shown for record in every]
        moved = change(every, results.every(UNSTEERED), PROBABILITY)
        rows.append([f"{c:+g}" if c else "0", *own, moved.signed])
    columns = ["global coefficient", *results.shown, "mean change"]
    return Table("Matching probability", columns, rows)


def _curves(results: Results) -> Figure:
    amounts = sorted(results.protocol.at_once)
    panels = []
    for measure in (SCORE, PROBABILITY):
        series = []
        for name, shown in zip(results.names, results.shown, strict=True):
            found = [estimate([results.of(name, results.wholly(c))], measure) for c in amounts]
            at = results.layers.at_once[name]
            series.append(curve(f"{shown} (layer {at})", amounts, found))
        panels.append({"y": AXES[measure], "series": series})
    found = [accuracy(results.text_of(results.wholly(c))) for c in amounts]
    text = curve("general text", amounts, found)
    panels.append({"y": "top-1 accuracy", "series": [text]})
    caption = (
        "All vectors at once, each at its layer, over the one coefficient that they share. Above "
        "the scores of the behaviours, in the middle the probabilities, below the accuracy on "
        "general text, whose fall is the tax. Bands are 95 % intervals. Where this works, curves "
        "rise to the right of 0 while the lowest stays level."
    )
    data = {
        "title": "All vectors at once, each at its layer",
        "x": "global coefficient",
        "panels": panels,
    }
    return Figure("simultaneous_steering", "curves", caption, data)
