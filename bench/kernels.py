#!/usr/bin/env python3
"""Registers, shared memory, spills and occupancy of every CUDA kernel, as nvcc reports them; needs nvcc and no GPU.

    bench/kernels.py [--nvcc NVCC] [--output bench/results/kernels.md]

Compiles every kernels/*.cu with the product's options for each architecture and reads what ptxas says. Occupancy is reckoned from registers,
shared memory and the block size that host/device/cuda/cuda.c launches with. Ends with exit status 1 when a kernel spills, or when one that
kernels/kernels.h names is missing for an architecture."""
import argparse
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
OPTIONS = ["-std=c++17", "-O3", "--fmad=false", "-DKERNEL_NAMESPACE=kernels_cuda", f"-I{ROOT}/host", f"-I{ROOT}"]
SHARED_BYTES = {"sm_80": 164 << 10, "sm_90": 228 << 10, "sm_100": 228 << 10}      # of a multiprocessor; 1 KiB a block is the system's
WARPS, REGISTERS, BLOCKS = 64, 65536, 32                                          # of a multiprocessor, on all three
NOT_COMPILED = {"COUNT", "ALL", "WHOLE_ATTENTION"}                                # of kernel_id: numbers of kernels; a library's
TYPES = {"f": "f32", "13__nv_bfloat16": "bf16", "6__half": "f16"}


def block_sizes():
    """What threads_of in cuda.c says: {kernel: threads}, and the default under None."""
    source = (ROOT / "host/device/cuda/cuda.c").read_text()
    body = re.search(r"static unsigned threads_of.*?\n}", source, re.S).group(0)
    sizes = {name.lower(): int(threads) for name, threads in re.findall(r"case KERNEL_(\w+): return (\d+);", body)}
    table = (ROOT / "kernels/table.h").read_text()
    tiles = re.search(r"TILE_THREADS = (\d+)", (ROOT / "kernels/tile_shapes.h").read_text())
    sizes.update({f"tile_attention_{width}": int(tiles.group(1)) for width in (64, 128, 256)})
    sizes[None] = int(re.search(r"KERNEL_THREADS = (\d+)", table).group(1))      # the default
    return sizes


def dynamic_shared():
    """What tile_shapes.h says: {(kernel, type): bytes of dynamic shared memory}."""
    program = """#include <stdio.h>
    #include "kernels/tile_shapes.h"
    int main(void)
    {
        for (int width = 64; width <= 256; width *= 2)
            for (int type = 0; type < 3; type++) printf("%d %d %d\\n", width, type, tile_attention_shared_bytes(type, width));
    }"""
    with tempfile.TemporaryDirectory() as folder:
        source, binary = pathlib.Path(folder, "shapes.c"), pathlib.Path(folder, "shapes")
        source.write_text(program)
        subprocess.run(["cc", f"-I{ROOT}", str(source), "-o", str(binary)], check=True)
        lines = subprocess.run([str(binary)], text=True, capture_output=True, check=True).stdout.split("\n")
    numbers = [[int(word) for word in line.split()] for line in lines if line]
    return {(f"tile_attention_{width}", ("f32", "bf16", "f16")[kind]): size for width, kind, size in numbers}


def missing(rows):
    """Kernels of kernels.h that the compiler did not report for each architecture."""
    listed = re.search(r"typedef enum kernel_id \{(.*?)\} kernel_id;", (ROOT / "kernels/kernels.h").read_text(), re.S).group(1)
    names = [name.lower() for name in re.findall(r"KERNEL_(\w+)", listed) if name not in NOT_COMPILED]
    return [name for name in names if not any(row[1] == name and len(found) == len(SHARED_BYTES) for row, found in rows.items())]


def readable(mangled):
    """("layernorm", "bf16") of _ZN12kernels_cuda9layernormI13__nv_bfloat16EEv..."""
    rest = mangled[len("_ZN12kernels_cuda"):]
    length = re.match(r"\d+", rest).group(0)
    name, rest = rest[len(length):][:int(length)], rest[len(length) + int(length):]
    kind = re.match(r"I(f|13__nv_bfloat16|6__half)(?:Li(\d+)E)?E", rest)
    if kind and kind.group(2):
        name += f"_{kind.group(2)}"
    return name, TYPES[kind.group(1)] if kind else "all"


def compile_kernels(nvcc, source):
    architectures = [option for a in SHARED_BYTES for option in ("-gencode", f"arch=compute_{a[3:]},code={a}")]
    with tempfile.NamedTemporaryFile(suffix=".o") as out:
        done = subprocess.run([nvcc, *OPTIONS, *architectures, "--resource-usage", "-c", source, "-o", out.name], text=True,
                              capture_output=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return done.stdout + done.stderr


def read_report(report):
    """(kernel, type, architecture, registers, shared, stack, spilled) of each entry."""
    entry = re.compile(r"Compiling entry function '(\w+)' for '(\w+)'")
    frame = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
    current, stack, spilled = None, 0, 0
    for line in report.splitlines():
        if found := entry.search(line):
            current, stack, spilled = found.groups(), 0, 0
        elif current and (found := frame.search(line)):
            stack, spilled = int(found[1]), int(found[2]) + int(found[3])
        elif current and (found := re.search(r"Used (\d+) registers", line)):
            shared = re.search(r"(\d+) bytes smem", line)
            yield (*readable(current[0]), current[1], int(found[1]), int(shared[1]) if shared else 0, stack, spilled)
            current = None


def occupancy(architecture, threads, registers, shared):
    """Of a multiprocessor's warps, how many can be there at once, in percent."""
    warps = -(-threads // 32)
    a_warp = -(-registers * 32 // 256) * 256
    a_block = -(-(shared + 1024) // 128) * 128
    blocks = min(REGISTERS // a_warp // warps, SHARED_BYTES[architecture] // a_block, WARPS // warps, BLOCKS)
    return 100 * blocks * warps // WARPS


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--nvcc", default="nvcc")
    arguments.add_argument("--output", default=str(ROOT / "bench/results/kernels.md"))
    given = arguments.parse_args()
    sizes, rows = block_sizes(), {}
    for source in sorted((ROOT / "kernels").glob("*.cu")):
        for name, kind, architecture, *numbers in read_report(compile_kernels(given.nvcc, str(source))):
            rows.setdefault((source.stem, name, kind), {})[architecture] = numbers
    if lacking := missing(rows):
        sys.exit(f"no report for every architecture of: {', '.join(lacking)}")
    version = re.search(r"release .*", subprocess.run([given.nvcc, "--version"], text=True, capture_output=True, check=True).stdout)[0]
    names = list(SHARED_BYTES)
    lines = ["# Kernels as the compiler made them", "",
             f"`bench/kernels.py`, nvcc {version}, options `{' '.join(OPTIONS[:3])}`. No GPU took part: occupancy is what registers, shared memory",
             "and block size allow. A cell: registers a thread / bytes of shared memory a block / occupancy.", "",
             "| file | kernel | type | threads | " + " | ".join(names) + " | stack | spills |", "|---" * (6 + len(names)) + "|"]
    bad = 0
    for (file, name, kind), found in sorted(rows.items()):
        threads = sizes.get(name.removesuffix("_with_records"), sizes[None])
        cells = [f"{found[a][0]} / {found[a][1]} / {occupancy(a, threads, found[a][0], found[a][1])} %" for a in names]
        stack, spilled = max(found[a][2] for a in names), max(found[a][3] for a in names)
        bad += spilled > 0
        lines.append(f"| {file} | {name} | {kind} | {threads} | " + " | ".join(cells) + f" | {stack} | {spilled} |")
    lines += ["", f"{len(rows)} kernels for each of {', '.join(names)}: " + (f"{bad} with spills (bytes, the worst of the three)." if bad else "no spills.")]
    pathlib.Path(given.output).write_text("\n".join(lines) + "\n")
    print(lines[-1])
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
