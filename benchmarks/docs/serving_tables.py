"""Tables of what serves many requests: vLLM with the plugin, and the page."""

from __future__ import annotations

from typing import Any


def vllm_table(results: dict[str, Any]) -> str:
    """Return what the plugin of vLLM costs, by batch size."""
    machine, own = results["machine"], results["results"]
    batches = list(dict.fromkeys(each["batch"] for each in own))
    absent = "without the plugin"
    lines = [
        f"CPU time of a decode step against the same engine without the plugin: vLLM "
        f"{results['vllm']}, SmolLM2-135M, float32, {'eager' if results['eager'] else 'compiled'}, "
        f"one thread, {results['layers']} steered layers; {_scatter(results)} "
        f"({machine['cpu']}, torch {machine['torch']}).",
        "",
        "| | " + " | ".join(f"batch {batch}" for batch in batches) + " |",
        "|---" * (len(batches) + 1) + "|",
    ]
    variants = list(dict.fromkeys(each["variant"] for each in own))
    rows = {name: [each for each in own if each["variant"] == name] for name in variants}
    cells = [
        f"{1000 * each['batch'] / each['ms'][absent]:.0f} tokens/s, {each['ms'][absent]:.0f} ms"
        for each in rows[variants[0]]
    ]
    lines.append(f"| {absent} | {' | '.join(cells)} |")
    for name, found in rows.items():
        cells = []
        for each in found:
            low, high = each["ratio_range" if "processes" in results else "ratio_interval"]
            cells.append(f"{each['ratio']:.3f}× ({low:.3f} to {high:.3f})")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _scatter(results: dict[str, Any]) -> str:
    """Return what the numbers in brackets are."""
    steps = results["results"][0]["steps"]
    if "processes" not in results:
        return f"medians of {steps} steps, and their 95 % intervals"
    return (
        f"medians over {results['processes']} processes, of {steps} steps each, and the lowest and "
        "highest process"
    )


def play_table(results: dict[str, Any]) -> str:
    """Return the speed of clients at once, beside their requests one after another."""
    machine = results["machine"]
    others = results["other_cores"]
    lines = [
        f"{results['model']}, {results['tokens']} tokens per answer and two answers per client, "
        f"all clients at the same moment; the middle one of {results['rounds']} rounds "
        f"({machine['cpu']}, {results['threads']} threads, torch {machine['torch']}; other "
        f"programs kept {others:.1f} cores busy).",
        "",
        "| clients | tokens/s together | one after another | | first token together | one after "
        "another, last client |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    for line in results["lines"]:
        together, single = line["together"], line["one_after_another"]
        lines.append(
            f"| {line['clients']} | {together['tokens_per_second']:.0f} | "
            f"{single['tokens_per_second']:.0f} | {line['ratio']:.1f}× | "
            f"{together['first_token_last']:.2f} s | {single['first_token_last']:.2f} s |"
        )
    return "\n".join(lines)


def play_start(results: dict[str, Any]) -> str:
    """Return how long the first start of the page takes."""
    machine = results["machine"]
    return (
        f"The first start, with an empty cache folder, has the page open after "
        f"{results['page']:.0f} s and both answers of {results['tokens']} tokens after "
        f"{results['answers']:.0f} s ({machine['cpu']}, two cores, torch {machine['torch']}; other "
        f"programs kept {results['other_cores']:.1f} cores busy)."
    )
