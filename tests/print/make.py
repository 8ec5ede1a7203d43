"""Writes cases.txt beside this file: tensors and what PyTorch prints for them, for tests/test_print_tensor.c.

A case is a line `TYPE EXTENT ...`, a line of the numbers (as Python writes floats in hexadecimal, or `linear A B` for A + B i), a line `--`,
what print() wrote, and a line `==`. Run: python tests/print/make.py (PyTorch only)."""
import os, random, torch

random.seed(7)
TYPES = dict(f32=torch.float32, bf16=torch.bfloat16, f16=torch.float16, f64=torch.float64, i64=torch.int64, i32=torch.int32,
             i16=torch.int16, i8=torch.int8, u8=torch.uint8, bool=torch.bool)
out = []


def case(type_name, shape, numbers):
    n = 1
    for extent in shape:
        n *= extent
    if isinstance(numbers, str):
        a, b = (float(x) for x in numbers.split())
        line, values = "linear " + numbers, [a + b * i for i in range(n)]
    else:
        values = [float(x) for x in numbers]
        assert len(values) == n, (shape, len(values))
        line = " ".join(x.hex() for x in values)
    floating = TYPES[type_name].is_floating_point
    t = torch.tensor(values if floating else [int(x) for x in values], dtype=TYPES[type_name]).reshape(shape)
    out.append(f"{type_name} {' '.join(map(str, shape))}\n{line}\n--\n{t!s}\n==\n")


def uniform(n, scale=1.0):
    return [random.uniform(-scale, scale) for _ in range(n)]


inf, nan = float("inf"), float("nan")
case("f32", [2, 3], uniform(6))
case("f32", [1, 5], [0.1, -0.25, 3, 0, -0.0])
case("f32", [1, 10], [0.0] * 10)
case("f32", [], [3.14159])
case("f32", [], [0])
case("f32", [], [nan])
case("f32", [], [-2])
case("f32", [1], [1e10])
case("f32", [3], [1, 2, 3])
case("f32", [3], [1, 2, 3000])
case("f32", [4], [1, -0.0, nan, -inf])
case("f32", [3], [nan, inf, -inf])
case("f32", [4], [0.5, inf, nan, 0])
case("f32", [3], [1e-5, 2e-5, 0])
case("f32", [3], [0.001, 2, 3])
case("f32", [3], [0.001, 0.9, 1])
case("f32", [3], [0.001, 1.0000001, 1])
case("f32", [3], [1e8, 1.5e8, 1])
case("f32", [3], [1e8, 1.5e8, 3e8])
case("f32", [2], [123456.789, 1234.5])
case("f32", [2], [3.4e38, -3.4e38])
case("f32", [2], [1e-40, 1e-39])
case("f32", [40], uniform(40, 10))
case("f32", [3, 17], uniform(51, 100))
case("f32", [2, 2, 12], uniform(48))
case("f32", [2, 1, 2, 3], uniform(12))
case("f32", [1, 2, 1, 2, 2], uniform(8))
case("f32", [1000], "0.125 0.5")
case("f32", [1001], "0.125 0.5")
case("f32", [1200], "1 1")
case("f32", [30, 40], "-3 0.01")
case("f32", [2, 600], "-3 0.01")
case("f32", [600, 2], "-3 0.01")
case("f32", [7, 6, 30], "0.5 1")
case("f32", [10, 10, 11], "0 0.25")
case("f32", [2, 3, 4, 5, 10], "0 0.25")
case("f32", [1, 1, 50257], "-100 0.004")
case("f32", [0], [])
case("f32", [2, 0, 3], [])
case("i64", [0], [])
case("i64", [0, 2], [])
case("f16", [0, 2], [])
case("bf16", [2, 3], uniform(6))
case("f16", [2, 3], uniform(6))
case("f64", [2, 3], uniform(6))
case("bf16", [10], uniform(10))
case("bf16", [8], uniform(8))
case("bf16", [5], uniform(5))
case("bf16", [6], uniform(6, 0.9))
case("f64", [6], uniform(6, 99))
case("f16", [7], [0.5] * 7)
case("f16", [8], [65504, -65504, 1, 2, 3, 4, 5, 6])
case("f16", [1200], "0 0.5")
case("i64", [2, 3], [1, -20, 300, 4, 5, 6])
case("i64", [], [7])
case("i64", [2], [2 ** 62, -5])
case("i64", [40], range(40))
case("i64", [2000], "0 3")
case("i32", [2, 2], [1, -2, 3, 4])
case("i16", [3], [1, -2, 3])
case("i8", [3], [-128, -2, 127])
case("u8", [3], [0, 200, 3])
case("bool", [2, 2], [1, 0, 0, 1])
case("bool", [1], [0])
case("bool", [3], [1, 1, 1])
case("bool", [], [1])
open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "cases.txt"), "w").write("".join(out))
