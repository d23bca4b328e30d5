"""Tables and sentences of the documents, each from one committed result."""

from __future__ import annotations

from typing import Any

MOST_CORES_ELSEWHERE = 0.2  # with more, the two threads would wait for each other


def ops_table(results: dict[str, Any]) -> str:
    """Return the op's times against PyTorch, a line for each number of rows."""
    cases = [
        case
        for case in results["cases"]
        if (case["op"], case["entries"]) == ("steer_add_rms_norm", "per-row")
    ]
    what = cases[0]
    lines = [
        f"One residual add and norm, hidden size {what['hidden']}, {what['dtype']}, "
        f"{what['vectors']} vectors per row. Times faster than PyTorch's *unsteered* add and "
        "LlamaRMSNorm, and than torch.compile of the *steered* expression "
        f"({_hardware(results['machine'])}).",
        "",
        "| rows | faststeer | against stock, unsteered | against torch.compile, steered "
        "| into given tensors | against stock | against torch.compile |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for case in cases:
        cells = [f"{case['rows']:,}"]
        for variant in ("faststeer", "faststeer into"):
            speedup = case["speedup"][variant]
            cells.append(f"{case['microseconds'][variant]:,.1f} µs")
            cells += [f"{speedup['stock']:.1f}×", f"{speedup['torch.compile']:.1f}×"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def backward_table(results: dict[str, Any]) -> str:
    """Return the times of backward passes against PyTorch's formulas, a line each."""
    cases = results["records"]
    spread = max(value for case in cases for value in case["spread"].values())
    busy = max(case["cores_elsewhere"] or 0.0 for case in cases)
    lines = [
        f"Gradients of one residual add and norm, hidden size {results['hidden']}, "
        f"{results['dtype']}, and a step that trains a vector on every layer of SmolLM2-135M, "
        "frozen, in float32: medians of interleaved rounds, against the formulas in PyTorch that "
        f"the kernel replaced. Up to {busy:.1f} cores were busy elsewhere, and the middle half of "
        f"the rounds was up to {spread:.0%} of the median apart ({_hardware(results['machine'])}).",
        "",
        "| | rows | vectors per row | kernel | formulas | times faster |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for case in cases:
        times, shared = case["milliseconds"], case.get("settings") == 1
        what = case["what"] + (", one setting for all rows" if shared else "")
        cells = [what, f"{case.get('rows', case.get('tokens')):,}"]
        cells += [str(case.get("entries", 1)), *(f"{t:,.2f} ms" for t in times.values())]
        lines.append(f"| {' | '.join(cells)} | {case['times_faster']:.2f}× |")
    return "\n".join(lines)


def ops_sentence(results: dict[str, Any]) -> str:
    """Return the op's time against PyTorch's unsteered op, in a sentence."""
    cases = [
        case
        for case in results["cases"]
        if (case["op"], case["entries"]) == ("steer_add_rms_norm", "per-row")
    ]
    speedups = [case["speedup"]["faststeer"]["stock"] for case in cases]
    rows = [case["rows"] for case in cases]
    return (
        f"The op alone, with {cases[0]['vectors']} vectors per row, takes "
        f"{1 / max(speedups):.2f} to {1 / min(speedups):.2f} of the time of PyTorch's unsteered "
        f"add and norm (hidden size "
        f"{cases[0]['hidden']}, {cases[0]['dtype']}, {rows[0]:,} to {rows[-1]:,} rows)."
    )


def model_table(results: dict[str, Any]) -> str:
    """Return the whole model's times with every kind of steering, against stock."""
    settings, model = results["settings"], results["model"]
    rows = {(r["phase"], r["batch_size"], r["variant"]): r for r in results["results"]}
    phases = dict.fromkeys(phase for phase, _, _ in rows)
    cells = [(phase, batch) for phase in phases for batch in settings["batch_sizes"]]
    shown = list(dict.fromkeys(variant for _, _, variant in rows))
    layers = "" if model["layers"] > 2 else f", {model['layers']} layers"
    lines = [
        f"{model['name']}{layers}, {model['dtype']}, vectors on every layer: time against the "
        "stock, unsteered model; under 1 is faster. Prompts of "
        f"{settings['prompt_tokens']} tokens, medians of {settings['rounds']} interleaved rounds "
        f"({_hardware(results['machine'])}).",
        "",
        f"| | {' | '.join(f'{phase}, batch {batch}' for phase, batch in cells)} |",
        f"|---|{'---:|' * len(cells)}",
    ]
    for variant in shown:
        own = [rows[phase, batch, variant] for phase, batch in cells]
        if variant == shown[0]:
            times = [f"{row['milliseconds']:.1f} ms" for row in own]
        else:
            times = [
                f"{row['against_stock']:.3f}× "
                f"({row['lower_quartile']:.3f}–{row['upper_quartile']:.3f})"
                for row in own
            ]
        title = variant.replace(",", "").replace(" a row", " per row")
        lines.append(f"| {title} | {' | '.join(times)} |")
    return "\n".join(lines)


def host_table(results: dict[str, Any]) -> str:
    """Return the host's work per layer of a decode step with every kind of steering."""
    machine, microseconds = results["machine"], results["microseconds"]
    removable = 2 * (microseconds["add and norm"] - microseconds["op"])
    lines = [
        "The host's work in a decode step, Python and dispatch, which an eager step on a GPU waits "
        "for: a LLaMA of 32 layers and hidden size 64, batch 1, medians of "
        f"{results['rounds']} interleaved rounds ({machine['cpu']}, one thread, torch "
        f"{machine['torch']}, transformers {machine['transformers']}). Stock's residual add and "
        f"norm take {microseconds['add and norm']:.1f} µs alone, the op "
        f"{microseconds['op']:.1f} µs: two a layer could save {removable:.1f} µs.",
        "",
        "| | µs per layer | against stock | middle half of the rounds | of what could be saved |",
        "|---|---:|---:|---:|---:|",
    ]
    for variant, own in results["decode"].items():
        title = variant.replace(",", "").replace(" a row", " per row")
        cells = [title, f"{own['microseconds_per_layer']:.0f}"]
        if variant == "stock":
            cells += ["1", "", ""]
        else:
            spread = f"{own['lower_quartile']:.3f} to {own['upper_quartile']:.3f}"
            cells += [f"{own['against_stock']:.3f}×", spread, f"{own['removed']:.0%}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def parity_table(results: dict[str, Any]) -> str:
    """Return whether other libraries steer equally, and their cost if the machine was idle."""
    machine, settings = results["machine"], results["settings"]
    peers = [name for name in ("steering-vectors", "repeng") if name in machine]
    versions = ", ".join(f"{name} {machine[name]}" for name in (*peers, "transformers"))
    equal = sum(each["equal"] for each in results["equality"])
    farthest = max(each["difference"] for each in results["equality"])
    agree = (
        f"Beside other libraries ({versions}): of {len(results['equality'])} comparisons of "
        f"steered logits and of greedy tokens {equal} agree; the logits differ by "
        f"at most {farthest:.0e} of the change that steering makes, in float32. "
    )
    busy = machine["cores_elsewhere"]
    if busy is not None and busy > MOST_CORES_ELSEWHERE:
        return f"{agree}Their cost was timed with {busy:.1f} cores busy elsewhere: not shown."
    rows = {(r["phase"], r["batch_size"], r["library"]): r for r in results["cost"]}
    cells = list(dict.fromkeys((phase, batch) for phase, batch, _ in rows))
    lines = [
        f"{agree}Time against the stock, unsteered {settings['model']}, with one vector on every "
        f"layer; prompts of {settings['prompt_tokens']} tokens, medians of {settings['rounds']} "
        f"interleaved rounds ({_hardware(machine)}).",
        "",
        f"| | {' | '.join(f'{phase}, batch {batch}' for phase, batch in cells)} |",
        f"|---|{'---:|' * len(cells)}",
    ]
    for library in dict.fromkeys(library for _, _, library in rows):
        own = [f"{rows[phase, batch, library]['against_stock']:.3f}×" for phase, batch in cells]
        lines.append(f"| {library} | {' | '.join(own)} |")
    return "\n".join(lines)


def extraction_text(results: dict[str, Any]) -> str:
    """Return the time of a long extraction per library, and memory at two numbers of pairs."""
    once, memory = results["once"], results["memory"]
    title, compared = next(item for item in results.items() if item[0].startswith("extraction"))
    others = [name for name in compared if name in ("output_hidden_states", "steering-vectors")]
    few, many = memory
    peaks = [f"{memory[count]['faststeer']:.0f}" for count in (few, many)]
    kept = [f"{memory[count]['output_hidden_states']:.0f}" for count in (few, many)]
    beside = " and ".join(
        f"{compared[name]['times']:.1f}× the time with {name} (at most "
        f"{compared[name]['peak_mib']:.0f} MiB, faststeer {compared['faststeer']['peak_mib']:.0f})"
        for name in others
    )
    return (
        f"Vectors of all layers of SmolLM2-135M in bfloat16 from {once['pairs']} pairs: "
        f"{once['seconds']:.1f} s, {once['processor_seconds'] / 2:.1f} s of both cores, "
        f"{once['share_of_forwards']:.1%} of it inside the model's own forwards, with "
        f"{once['cores_elsewhere']:.1f} cores busy elsewhere. An {title} takes {beside}. At most "
        f"{peaks[0]} MiB for {few} short pairs and {peaks[1]} for {many}; with every state kept "
        f"{kept[0]} and {kept[1]} ({_hardware(results['machine'])})."
    )


def peers_table(results: dict[str, Any]) -> str:
    """Return other projects' tests with and without `faststeer.install()`, a line per project."""
    versions = results["versions"]
    lines = [
        f"On transformers {versions['transformers']} and torch {versions['torch']}, over tiny "
        "random models. Tests that fail do so in both runs: they need files from the hub, or other "
        "sizes and weights than these models have.",
        "",
        "| tests of | run | pass without | pass with | make a fused decoder | outcome differs |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for suite in results["suites"]:
        counts = (
            suite["tests"],
            suite["without"].get("passed", 0),
            suite["with"].get("passed", 0),
            suite["tests_with_fused_decoders"],
            len(suite["differing"]),
        )
        cells = [f"{suite['package']} {suite['version']}", *(f"{count:,}" for count in counts)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def demo_table(result: dict[str, Any]) -> str:
    """Return the effect as Markdown, a line per coefficient."""
    first = result["behaviours"][0]
    [count] = {behaviour["random_directions"] for behaviour in result["behaviours"]}
    advantages = " and ".join(f"{own['advantage']:.1f}" for own in result["behaviours"])
    lines = [
        f"{result['model']}, {result['dtype']}, {first['pairs']} pairs per vector, "
        f"{first['held_out']} held-out prompts. Over all coefficients the vectors move the margin "
        f"{advantages} times as far as random directions of their norm (mean of {count}).",
        "",
        "| vector | coefficient | margin, nats | shift | random direction's shift "
        "| perplexity of neutral prose | with a random direction |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for behaviour in result["behaviours"]:
        title = f"{behaviour['name']}, layer {behaviour['layer']}"
        for effect in behaviour["effects"]:
            cells = [
                title,
                f"{effect['coefficient']:+g}" if effect["coefficient"] else "0",
                f"{effect['margin']:+.2f}",
                f"{effect['shift']:+.2f}",
                f"{effect['random_shift']:.2f}",
                f"{effect['perplexity']:.1f}",
                f"{effect['random_perplexity']:.1f}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
            title = ""
    return "\n".join(lines)


def _hardware(machine: dict[str, Any]) -> str:
    isa = f", {machine['isa']}" if "isa" in machine else ""
    return f"{machine['cpu']}, {machine['threads']} threads{isa}, torch {machine['torch']}"
