#!/usr/bin/env python3
"""attribution_quality.py INSET [MODEL]: how near each estimate comes to the exact sweep, as a table: the correlation of the means over
pairs, all points of a site, and seconds. Without MODEL the trained model of the tests, on pairs made by a seed. Needs numpy, safetensors."""
import json
import pathlib
import random
import subprocess
import sys
import tempfile

import numpy
from safetensors.numpy import load_file

INSET = sys.argv[1]
MODEL = sys.argv[2] if len(sys.argv) > 2 else str(pathlib.Path(__file__).parent.parent / "tests/fixtures/induction")
METHODS = {"exact": None, "AtP": [], "RelP": ["--relp"], "IG(5)": ["--steps", "5"], "IG(10)": ["--steps", "10"],
           "both ends": ["--ends"], "AtP*": ["--star"]}
SITES = {"resid_pre": "layer,position", "attn_out": "layer,position", "mlp_out": "layer,position", "z": "layer,head",
         "q": "layer,head", "k": "layer,head"}


def pairs(count, length=9, vocabulary=60):
    """'... A B ... A' and the same with another token in the place of the first A: the answer is B."""
    random.seed(7)
    clean, corrupt, answers, others = [], [], [], []
    for _ in range(count):
        tokens = random.sample(range(1, vocabulary), length)
        prompt = tokens[: length - 1] + [tokens[1]]
        spoilt = prompt[:1] + [tokens[-1]] + prompt[2:]
        clean.append(prompt), corrupt.append(spoilt), answers.append(tokens[2]), others.append(tokens[4])
    return clean, corrupt, answers, others


def run(method, site, axes, prompts, folder):
    clean, corrupt, answers, others = prompts
    numpy.save(f"{folder}/a.npy", numpy.array(answers)), numpy.save(f"{folder}/b.npy", numpy.array(others))
    out = f"{folder}/out.safetensors"
    command = [INSET, "sweep" if method is None else "attribute", "-m", MODEL, "--clean", json.dumps(clean), "--corrupt",
               json.dumps(corrupt), "--metric", f"logit_diff:{folder}/a.npy,{folder}/b.npy", "--patch", site, "--by", axes,
               "-o", out, "--force", "--json", *(method or [])]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return None, done.stderr.strip().split("\n")[-1]
    values = load_file(out)
    key = next(k for k in values if k.endswith(".mean") and "normalised" not in k)
    mean = values[key].ravel().astype(float)
    base = next(v for k, v in values.items() if k.endswith(".corrupt")).mean()
    return (mean - base if method is None else mean), json.loads(done.stdout)["seconds"]


def main():
    prompts = pairs(32)
    print("| | " + " | ".join(SITES) + " | seconds |\n|---|" + "---|" * (len(SITES) + 1))
    with tempfile.TemporaryDirectory() as folder:
        exact = {site: run(None, site, axes, prompts, folder) for site, axes in SITES.items()}
        for name, method in METHODS.items():
            cells, seconds = [], 0
            for site, axes in SITES.items():
                got, took = exact[site] if method is None else run(method, site, axes, prompts, folder)
                if got is None:
                    cells.append("-")
                    continue
                seconds += took
                want = numpy.abs(exact[site][0]) if name == "AtP*" else exact[site][0]        # whose scores are sizes
                cells.append("1" if method is None else f"{numpy.corrcoef(got, want)[0, 1]:.3f}")
            print(f"| {name} | " + " | ".join(cells) + f" | {seconds:.3f} |", flush=True)


main()
