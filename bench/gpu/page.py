#!/usr/bin/env python3
"""The page of a GPU's day: what gpu_day wrote into a folder, as bench/results/NAME.md has it.

    bench/gpu/page.py RESULTS NAME > bench/results/NAME.md

A number is the median of its samples; steps that did not run leave their tables out."""
import collections
import pathlib
import re
import statistics
import sys

SCORES = {"nodes": "nodes (`resid_pre`, `z`)", "edges": "edges (EAP)", "ig5": "edges, 5 steps (EAP-IG)"}


def read(folder, step):
    path = pathlib.Path(folder, f"{step}.txt")
    return path.read_text(errors="replace") if path.exists() else ""


def samples(folder):
    """{(benchmark, who, case): median} of all lines "BENCHMARK WHO CASE NUMBER"."""
    found = collections.defaultdict(list)
    for step in ("forward", "sweep", "streamed", "attribute", "peers", "compiled"):
        for line in read(folder, step).splitlines():
            words = line.split()
            if len(words) == 4 and words[0] in ("forward", "sweep", "plan", "rows", "flops", "records", "product", "check", *SCORES):
                found[tuple(words[:3])].append(float(words[3]))
    return {key: statistics.median(values) for key, values in found.items()}


def ratio(numbers, peer, own):
    return f"{1e3 * numbers[peer]:.2f} ({numbers[peer] / numbers[own]:.2f})" if peer in numbers else "-"


def forwards(numbers):
    cases = sorted({case for kind, who, case in numbers if (kind, who) == ("forward", "inset")}, key=lambda c: (c.rsplit("-", 1)[0], int(c.rsplit("-", 1)[1])))
    if not cases:
        return []
    lines = ["## Forwards", "", "Milliseconds until the last position's logits are on the host; in brackets the time over inset's. PyTorch: transformers with SDPA,",
             "eager, and `torch.compile(mode=\"reduce-overhead\")`, which replays a CUDA graph.", "", "| shape, type, tokens | inset | PyTorch | compiled |", "|---|---|---|---|"]
    for case in cases:
        own = ("forward", "inset", case)
        lines.append(f"| {case} | {1e3 * numbers[own]:.2f} | {ratio(numbers, ('forward', 'sdpa', case), own)} | {ratio(numbers, ('forward', 'graph', case), own)} |")
    return lines + [""]


def sweeps(numbers):
    cases = sorted(case for kind, who, case in numbers if (kind, who) == ("sweep", "inset"))
    if not cases:
        return []
    rate = numbers.get(("product", "flops", "llama8b-32768"), 0) / numbers.get(("product", "torch", "llama8b-32768"), 1)
    lines = ["## Sweeps", "", "Every layer and position (`z`: layer and head) of a pair of prompts that differ from the first token on, logit difference; milliseconds from",
             "the options to the numbers, planning included. Hooks: PyTorch, a batch of all points of a layer, in brackets its time over inset's."]
    if rate:
        lines.append(f"PyTorch's own products of the 8B shape at 32,768 rows run at {rate / 1e12:.0f} TFLOP/s in bf16 on this card.")
    lines += ["", "| shape, type, site, tokens | inset | planning | hooks | TFLOP | TFLOP/s |", "|---|---|---|---|---|---|"]
    for case in cases:
        own, flops = ("sweep", "inset", case), numbers[("flops", "inset", case)]
        lines.append(f"| {case} | {1e3 * numbers[own]:.2f} | {1e3 * numbers[('plan', 'inset', case)]:.2f} | {ratio(numbers, ('sweep', 'hooks-sdpa', case), own)} |"
                     f" {flops / 1e12:.2f} | {flops / numbers[own] / 1e12:.0f} |")
    for case in cases:                                       # -w: some weights copied in each pass
        resident = numbers.get(("sweep", "inset", case.replace("-streamed", "")))
        if "-streamed" in case and resident:
            lines += ["", f"With a third of its weights on the card, {case.replace('-streamed', '')} runs at {100 * resident / numbers['sweep', 'inset', case]:.0f} % of"
                          " the speed it has with all of them there."]
    return lines + [""]


def attributions(numbers):
    cases = sorted({case for kind, who, case in numbers if kind in SCORES})
    lines = ["## Attribution", "", "Scores of a pair of prompts that differ from the first token on, logit difference; milliseconds from the options to the scores.", "",
             "| shape, type, tokens | " + " | ".join(SCORES.values()) + " |", "|---" * (1 + len(SCORES)) + "|"]
    for case in cases:
        times = [numbers.get((kind, "inset", case)) for kind in SCORES]
        lines.append(f"| {case} | " + " | ".join("-" if t is None else f"{1e3 * t:.2f}" for t in times) + " |")
    return lines + [""] if cases else []


def records(numbers):
    cases = sorted({case for kind, who, case in numbers if kind == "records"})
    lines = ["## A hundred sets in a forward", "", "64 columns at each of 10 positions of 10 layers, milliseconds.", "", "| shape, type, tokens | none | 100 | more |", "|---|---|---|---|"]
    for case in cases:
        none, many = numbers[("records", "none", case)], numbers[("records", "100", case)]
        lines.append(f"| {case} | {1e3 * none:.3f} | {1e3 * many:.3f} | {100 * (many / none - 1):.1f} % |")
    return lines + [""] if cases else []


def tables(text):
    """What is a table in a step's output, and the sentences before each."""
    return [line for line in text.splitlines() if not re.match(r"(forward|sweep|plan|rows|flops|check|phase|records|nodes|edges|ig5) ", line)]


def main():
    folder, name = sys.argv[1], sys.argv[2]
    numbers, lines = samples(folder), [f"# {name}", ""]
    versions = [line for line in read(folder, "describe").splitlines() if re.match(r"(inset|cuda:|cpu:|torch) ?", line)]
    lines += [f"- {line}" for line in versions] + ["", "Made by `bench/gpu_bundle`, `bench/gpu_day` and `bench/gpu/page.py`; weights from a seed.", ""]
    lines += ["| step | |", "|---|---|"] + [f"| {line.split(':', 1)[0]} | {line.split(':', 1)[1].strip()} |" for line in read(folder, "day").splitlines()] + [""]
    lines += forwards(numbers) + sweeps(numbers) + attributions(numbers) + records(numbers)
    for title, step in (("Kernels, alone", "kernels"), ("Opening a model, and what its products chose", "open"), ("Where the time goes: forwards", "forward"),
                        ("Where the time goes: sweeps", "sweep"), ("Where the time goes: attribution", "attribute")):
        if text := tables(read(folder, step)):
            lines += [f"## {title}", ""] + text + [""]
    if text := read(folder, "sanitize"):
        kept = [line for line in text.splitlines() if re.match(r"====|========= (ERROR SUMMARY|RACECHECK SUMMARY|Error)", line)]
        lines += ["## compute-sanitizer", ""] + [f"    {line}" for line in kept] + [""]
    print(re.sub(r"\n{3,}", "\n\n", "\n".join(lines)))


if __name__ == "__main__":
    main()
