"""The sections of the result on traits, and the verdict in words."""

from __future__ import annotations

from faststeer.experiments.generations import WORDS
from faststeer.experiments.result import FINDINGS, Section
from faststeer.experiments.traits import figures, tables
from faststeer.experiments.traits.choosing import PENALTY
from faststeer.experiments.traits.results import Results


def sections(results: Results) -> list[Section]:
    """Return the tables and figures under their headings."""
    taxes, budget = results.protocol.taxes, results.budget
    return [
        Section(FINDINGS, verdict(results), [tables.verdicts_table(results)]),
        Section(
            "One vector alone",
            "A trait is told by how a held-out prompt is continued: two sets of continuations, "
            "one for either side. The matching probability is the probability of the one set over "
            "that of both. Each vector is added and subtracted at the layer and with the "
            "coefficients that moved its trait furthest on other prompts, where perplexity on "
            f"general text rose by at most {results.protocol.perplexity:g}. A trait is movable if "
            "added − subtracted is at least 0.5 and four times that of random directions, at a "
            "perplexity within 1.5 of unsteered. In brackets: 95 % bootstrap intervals.",
            [tables.alone_table(results), tables.layers_table(results)],
            [figures.alone_bars(results), figures.random_bars(results)],
        ),
        Section(
            "All at once",
            "Combined: all vectors at one layer, which is one vector. Simultaneous: each at a "
            "layer of its own. Strengths multiply the coefficients of each vector alone. The tax "
            "is the share of correct next tokens that is lost on general text, the mean of adding "
            f"and subtracting. Searched: a coefficient each, chosen on other prompts; one point "
            f"more of tax than {budget:.0%} had to gain {PENALTY:g} points of probability. "
            "Orthogonal: the vectors without what they share.",
            [
                *(tables.ways_table(results, tax) for tax in taxes),
                tables.variants_table(results),
                tables.common_table(results),
            ],
            [figures.tax_curves(results)],
        ),
        Section(
            "One, two, … traits",
            "Sets of traits, each by both ways, as strong as the tax permits and at most "
            f"{max(results.protocol.growth):g} times as strong as alone.",
            [tables.growth_table(results)],
            [figures.growth_curves(results)],
        ),
        Section(
            "Effects on the other traits",
            "Each vector alone, on the prompts of every trait; and what directions they share.",
            [tables.interactions_table(results), tables.cosines_table(results)],
            [figures.interactions_matrix(results)],
        ),
        Section(
            "Generated text",
            "Beginnings of sentences, continued greedily; several vectors at the strength that "
            f"costs {budget:.0%} on the texts kept for choosing. The judge reads each text with "
            "the unsteered model: a logistic classifier per trait of the mean of a middle layer, "
            "trained on labelled sentences that no vector was made from. Repetition is the share "
            f"of {WORDS} words in a row that occurred before in the text, perplexity is under the "
            "unsteered model.",
            [
                tables.judge_table(results),
                tables.generations_table(results),
                tables.texts_table(results),
            ],
            [figures.generated_bars(results)],
        ),
    ]


def verdict(results: Results) -> str:
    """Return in words which way does more at equal tax, with the interval of the difference."""
    names = results.names
    (_, first, second), (_, every, _), *_ = tables.comparisons(results)
    own = tables.difference(results, first, second, results.budget)
    all_of_them = tables.difference(results, every, second, results.budget)
    if own.low > 0:
        words = "Simultaneous steering, each vector at its layer, does more than one combined one"
    elif own.high < 0:
        words = "One combined vector does more than simultaneous steering, each at its layer"
    else:
        words = "One combined vector and simultaneous steering cannot be told apart"
    movable = sum(map(results.is_movable, names))
    return (
        f"{words}: over {len(names)} traits at a tax of {results.budget:.0%}, the mean effect "
        f"(added − subtracted, in matching probability) differs by {own.signed}, simultaneous − "
        f"combined; over {len(results.chosen.assignments)} assignments of traits to layers, by "
        f"{all_of_them.signed}. Alone, {movable} of the {len(names)} traits are movable."
    )
