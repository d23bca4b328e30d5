"""Tables of scores under all ways to steer, with intervals, beside the paper's."""

from __future__ import annotations

from faststeer.evaluate.records import Setting, key_of
from faststeer.experiments.cosines import cosines_at
from faststeer.experiments.estimates import accuracy
from faststeer.experiments.generations import (
    mean_repetition,
    open_prompts,
    perplexity,
)
from faststeer.experiments.result import Cell, Table
from faststeer.experiments.settings import (
    ADD,
    DIRECTIONS,
    SUBTRACT,
    UNSTEERED,
    Place,
)
from faststeer.experiments.several_behaviours.paper_values import ALONE, AT_ONCE, COMBINED, MODEL
from faststeer.experiments.several_behaviours.protocol import LAYERS_AT_ONCE, SHOWN
from faststeer.experiments.several_behaviours.results import DEFAULT, Results, Way
from faststeer.experiments.several_behaviours.scores import (
    MEASURES,
    PROBABILITY,
    SCORE,
    change,
    estimate,
    shown_with_flags,
)

_SHOWN_TEXTS = 2
_PAPER_COMBINED = "paper: sum, weighted, add"


def unsteered_table(results: Results) -> Table:
    """List the unsteered model's answers."""
    rows: list[list[Cell]] = []
    for name in results.names:
        record = results.record(name, UNSTEERED)
        scores = record["scores"]
        rows.append(
            [
                SHOWN[name],
                len(record["items"]["answers"]),
                estimate([record], SCORE).shown,
                scores["faulty"],
                "yes" if scores["collapsed"] else "no",
                estimate([record], PROBABILITY).shown,
                scores["mass"],
                ALONE[15][name][0],
            ]
        )
    columns = ["behaviour", "questions", "matching score", "faulty", "collapsed"]
    columns += ["matching probability", "mass on options", "paper: score"]
    title = f"Unsteered, on the test part; the paper's, of {MODEL}, beside it"
    return Table(title, columns, rows)


def vectors_table(results: Results) -> Table:
    """List the vectors' pairs and norms."""
    columns = ["behaviour", "pairs", "matching answer is"]
    columns += [f"norm at layer {layer}" for layer in results.layers.tested]
    columns += ["its layer among all", "norm there"]
    rows: list[list[Cell]] = []
    for own in results.questions:
        option, share = own.first_option
        norms, at = results.vectors[own.name].norms(), results.layers.at_once[own.name]
        row: list[Cell] = [SHOWN[own.name], len(own.train), f"{option!r} for {share:.0%}"]
        rows.append([*row, *(norms[layer] for layer in results.layers.tested), at, norms[at]])
    return Table("Mean differences of the pairs' last tokens", columns, rows)


def cosines_table(results: Results, layer: int) -> Table:
    """List the cosines between the vectors at a layer."""
    return cosines_at({SHOWN[name]: results.vectors[name] for name in results.names}, layer)


def tuned_table(results: Results) -> Table:
    """List the coefficients of each vector alone."""
    columns, places = ["behaviour"], []
    for layer in results.layers.alone:
        for direction in (SUBTRACT, ADD):
            columns.append(f"layer {layer}: {direction}")
            places.append((layer, direction))
    rows: list[list[Cell]] = [
        [SHOWN[name], *(f"{results.tuned[Place(name, *place)]:+g}" for place in places)]
        for name in results.names
    ]
    return Table("Coefficients chosen on the validation part", columns, rows)


def layer_table(results: Results, layer: int, measure: str) -> Table:
    """List a measure for each vector alone and for the combined vectors at a layer."""
    alone = results.alone_at(layer)
    rows = [_row(results, shown, way, measure) for shown, way in alone.items()]
    rows.append(["add − subtract", *_moved(results, alone[ADD], alone[SUBTRACT], measure)])
    for shown, way in results.combined_at(layer).items():
        rows.append(_row(results, f"combined: {shown}", way, measure))
    title = f"{MEASURES[measure].capitalize()} at layer {layer}"
    papers = results.layers.tested[layer]
    if papers is not None and measure == SCORE:
        title += f"; the paper's, of {MODEL} at layer {papers}, beside it"
        for at, kind in enumerate((DEFAULT, SUBTRACT, ADD)):
            values = [f"{ALONE[papers][name][at]:.3f}" for name in results.names]
            rows.append([f"paper: {kind}", *values, None])
        if papers in COMBINED:
            known = [COMBINED[papers][name] for name in results.names]
            scores = ["collapsed" if value is None else f"{value:.3f}" for value in known]
            rows.append([_PAPER_COMBINED, *scores, None])
    return Table(title, ["steering", *results.shown, "mean change"], rows)


def global_table(results: Results, measure: str) -> Table:
    """List a measure and the tax for all vectors at once, per global coefficient."""
    rows: list[list[Cell]] = []
    for c in results.protocol.at_once:
        setting = results.globally(c)
        text = accuracy(results.text[key_of(setting)]).shown
        row = _row(results, f"{c:+g}" if c else "0", results.every(setting), measure)
        rows.append([*row, text, results.tax(setting)])
    title = f"{MEASURES[measure].capitalize()} over the global coefficient"
    if measure == SCORE:
        title += f"; the paper's, of {MODEL}, below it"
        places = {name: at for at, name in enumerate(LAYERS_AT_ONCE)}
        for c, (scores, top1) in AT_ONCE.items():
            own = [f"{scores[places[name]]:.3f}" for name in results.names]
            tax = 1 - top1 / AT_ONCE[0.0][1]
            rows.append([f"paper: {c:+g}" if c else "paper: 0", *own, None, f"{top1:.3f}", tax])
    columns = ["global coefficient", *results.shown, "mean change", "top-1 on text", "tax"]
    return Table(title, columns, rows)


def joint_table(results: Results) -> Table:
    """List coefficients, measures and tax for one coefficient for all and for one each."""
    rows: list[list[Cell]] = []
    settings = {"one for all": results.globally(results.whole), "one each": results.joint}
    for shown, setting in settings.items():
        at = results.layers.at_once
        coefficients = [setting.get(name, {}).get(at[name], 0.0) for name in results.names]
        tax = results.tax(setting)
        rows.append([shown, "coefficient", *(f"{c:+g}" for c in coefficients), None, tax])
        for measure, name in MEASURES.items():
            _, *cells = _row(results, "", results.every(setting), measure)
            rows.append([shown, name, *cells, None])
    for measure, name in MEASURES.items():
        one, each = map(results.every, settings.values())
        rows.append(["one each − one for all", name, *_moved(results, each, one, measure), None])
    columns = ["steering", "", *results.shown, "mean change", "tax"]
    return Table("A coefficient each and one for all, on the test part", columns, rows)


def interactions_table(results: Results, direction: str, measure: str) -> Table:
    """List the effect of each vector on each behaviour."""
    rows: list[list[Cell]] = [
        [shown, *(moved.signed for moved in row)]
        for shown, row in zip(results.shown, results.effects(direction, measure), strict=True)
    ]
    title = f"Change of the {MEASURES[measure]}: {direction} the vector of the row"
    return Table(title, ["vector", *results.shown], rows)


def generation_tables(results: Results) -> list[Table]:
    """List repetition and perplexity of generated texts, and two texts per setting."""
    prompts = open_prompts(results.protocol.prompts)
    rows: list[list[Cell]] = []
    texts: list[list[Cell]] = []
    for shown, setting in _generated(results).items():
        record = results.generations[key_of(setting)]
        again, odd = mean_repetition(record), perplexity(record)
        rows.append(
            [
                shown,
                None if again is None else again.shown,
                None if odd is None else f"{odd.value:.1f} [{odd.low:.1f}, {odd.high:.1f}]",
            ]
        )
        for prompt, text in list(zip(prompts, record["items"]["texts"], strict=True)):
            if len(texts) < _SHOWN_TEXTS * len(rows):
                question = prompt.removeprefix("Human:\n").partition("\n")[0]
                texts.append([shown, question, " ".join(text.split())])
    title = f"{len(prompts)} continuations of at most {results.protocol.new_tokens} tokens"
    return [
        Table(title, ["steering", "repetition", "perplexity"], rows),
        Table("Two texts per setting", ["steering", "question", "text"], texts),
    ]


def _generated(results: Results) -> dict[str, Setting]:
    settings: dict[str, Setting] = {"unsteered": UNSTEERED}
    for name in results.names:
        for direction in DIRECTIONS:
            own = results.alone(name, results.layers.latest, direction)
            settings[f"{direction} {SHOWN[name]}"] = own
    settings["all at once, one coefficient"] = results.globally(results.whole)
    settings["all at once, a coefficient each"] = results.joint
    return settings


def _row(results: Results, shown: str, way: Way, measure: str) -> list[Cell]:
    """Return a row of every behaviour's measure, and its mean change from the unsteered model."""
    records, before = results.records(way), results.records(results.every(UNSTEERED))
    cells = [shown_with_flags(record, measure) for record in records]
    return [shown, *cells, change(records, before, measure).signed]


def _moved(results: Results, way: Way, before: Way, measure: str) -> list[Cell]:
    """Return the change of every behaviour's measure between two ways, and the mean change."""
    after, first = results.records(way), results.records(before)
    each = [change([a], [b], measure).signed for a, b in zip(after, first, strict=True)]
    return [*each, change(after, first, measure).signed]
