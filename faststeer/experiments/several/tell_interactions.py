"""What steering one behaviour does to the others."""

from __future__ import annotations

from faststeer.experiments.outcome import Cell, Figure, Section, Table
from faststeer.experiments.several.protocol import SHOWN
from faststeer.experiments.several.results import Results
from faststeer.experiments.several.scored import MEASURES, PROBABILITY, Estimate, change
from faststeer.experiments.several.settings import ADD, DIRECTIONS
from faststeer.experiments.several.words import AXES, on_two_lines

Matrix = dict[str, dict[str, Estimate]]  # steered -> asked

_FULL = 0.1  # the smallest change that is drawn in the strongest colour


def interactions(results: Results) -> Section:
    """Tables and matrices of the changes."""
    layer = results.layers.all_at_one
    tables, figures = [], []
    for direction in DIRECTIONS:
        for measure in MEASURES:
            matrix = _matrix(results, direction, measure)
            tables.append(_table(results, matrix, direction, measure))
            if direction == ADD:
                figures.append(_picture(results, matrix, measure))
    text = (
        f"Each vector alone at layer {layer}, with the coefficient that was chosen for its own "
        "behaviour: how far it moves every behaviour's answers from the unsteered ones."
    )
    return Section("What steering one behaviour does to the others", text, tables, figures)


def strongest(results: Results) -> str:
    """A vector's own behaviour beside the others, and the largest effect on another."""
    matrix = _matrix(results, ADD, PROBABILITY)
    own = [abs(matrix[name][name].value) for name in results.names]
    others = {
        (steered, asked): moved
        for steered, row in matrix.items()
        for asked, moved in row.items()
        if steered != asked
    }
    mean_own = sum(own) / len(own)
    mean_other = sum(abs(moved.value) for moved in others.values()) / len(others)
    certain = sum(moved.sign != 0 for moved in others.values())
    (steered, asked), largest = max(others.items(), key=lambda item: abs(item[1].value))
    return (
        f"Added at layer {results.layers.all_at_one}, a vector moves its own behaviour's matching "
        f"probability by {mean_own:.3f} on average, and that of another by {mean_other:.3f}; "
        f"{certain} of {len(others)} such side effects are clear of 0. The largest: "
        f"{SHOWN[steered]} moves {SHOWN[asked]} by {largest.signed}."
    )


def _matrix(results: Results, direction: str, measure: str) -> Matrix:
    layer = results.layers.all_at_one
    return {
        steered: {
            asked: change(
                [results.of(asked, results.alone(steered, layer, direction))],
                [results.unsteered(asked)],
                measure,
            )
            for asked in results.names
        }
        for steered in results.names
    }


def _table(results: Results, matrix: Matrix, direction: str, measure: str) -> Table:
    rows: list[list[Cell]] = [
        [SHOWN[steered], *(moved.signed for moved in row.values())]
        for steered, row in matrix.items()
    ]
    title = f"Change of the {AXES[measure]}: {direction} the vector of the row"
    return Table(title, ["vector", *results.shown], rows)


def _picture(results: Results, matrix: Matrix, measure: str) -> Figure:
    layer = results.layers.all_at_one
    values = [[moved.value for moved in row.values()] for row in matrix.values()]
    reach = max(_FULL, *(abs(value) for row in values for value in row))
    caption = (
        "How far adding the vector of the row moves the behaviour of the column. Red is up, blue "
        "is down; off the diagonal are side effects."
    )
    data = {
        "title": f"What adding a vector does to each behaviour, layer {layer}",
        "rows": results.shown,
        "columns": on_two_lines(results.shown),
        "values": values,
        "label": f"change of the {AXES[measure]}",
        "reach": reach,
        "x": "behaviour that is asked for",
        "y": "vector that is added",
    }
    name = "interactions" if measure == PROBABILITY else f"interactions_{measure}"
    return Figure(name, "matrix", caption, data)
