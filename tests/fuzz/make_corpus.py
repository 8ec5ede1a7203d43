"""Makes the seeds of the fuzz corpora that a program has to make: small .npy and .safetensors files, good and bad, and configs.

    python3 tests/fuzz/make_corpus.py        (needs numpy; writes into tests/fuzz/corpus)

Files named found-* were found by fuzzing and are kept as they are. The same call makes the same bytes.
"""
import io
import json
import pathlib
import struct

import numpy

CORPUS = pathlib.Path(__file__).parent / "corpus"


def write(target, name, data):
    folder = CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)


def npy(array, version=None):
    out = io.BytesIO()
    numpy.lib.format.write_array(out, array, version=version)
    return out.getvalue()


def npy_seeds():
    for dtype in ("<f4", "<f8", "<f2", "<i8", "<i4", "<i2", "|i1", "|u1", "|b1", ">f4", "<u4", "<c8"):
        name = dtype.strip("<>|") + ("-big" if dtype[0] == ">" else "")
        write("npy", f"{name}.npy", npy(numpy.arange(6).reshape(2, 3).astype(dtype)))
    write("npy", "scalar.npy", npy(numpy.float32(1.5).reshape(())))
    write("npy", "empty.npy", npy(numpy.zeros((2, 0, 3), numpy.float32)))
    write("npy", "version2.npy", npy(numpy.arange(3.0), (2, 0)))
    write("npy", "version3.npy", npy(numpy.arange(3.0), (3, 0)))
    write("npy", "fortran.npy", npy(numpy.asfortranarray(numpy.arange(6.0).reshape(2, 3))))
    write("npy", "records.npy", npy(numpy.zeros(2, [("a", "<f4"), ("b", "<i4")])))
    write("npy", "text.npy", npy(numpy.array(["ab", "c"])))
    write("npy", "cut.npy", npy(numpy.arange(6.0))[:-3])


def safetensors(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def safetensors_seeds():
    good = {
        "__metadata__": {"format": "pt"},
        "layer1.weight": tensor("F32", [2, 3], 0, 24),
        "layer1.bias": tensor("BF16", [2], 24, 28),
        "ids": tensor("I64", [1, 1], 28, 36),
        "empty": tensor("F16", [0, 4], 36, 36),
        "scalar": tensor("F64", [], 36, 44),
    }
    write("safetensors", "good", safetensors(good, bytes(range(44))))
    write("safetensors", "padded", safetensors(b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}   ', b"x"))
    write("safetensors", "no-tensors", safetensors({}))
    write("safetensors", "other-types", safetensors({
        "a": tensor("F8_E4M3", [3], 0, 3), "b": tensor("F4", [2, 4], 3, 7), "c": tensor("U16", [1], 7, 9)}, bytes(9)))
    write("safetensors", "unsorted", safetensors({"b": tensor("U8", [2], 3, 5), "a": tensor("U8", [3], 0, 3)}, bytes(5)))
    write("safetensors", "overlap", safetensors({"b": tensor("U8", [2], 2, 4), "a": tensor("U8", [3], 0, 3)}, bytes(4)))
    write("safetensors", "hole", safetensors({"b": tensor("U8", [2], 4, 6), "a": tensor("U8", [3], 0, 3)}, bytes(6)))
    write("safetensors", "overflow", safetensors({"a": tensor("F32", [2**32, 2**32], 0, 0)}))
    write("safetensors", "length-overflow", safetensors({}, length=2**64 - 8))
    write("safetensors", "cut", safetensors(good, bytes(40)))
    write("safetensors", "deep", safetensors(b'{"a":' + b"[" * 3000))
    write("safetensors", "lfs", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


def config_seeds():
    configs = {
        "gpt2": {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "vocab_size": 100, "n_inner": None,
                 "layer_norm_epsilon": 1e-05, "activation_function": "gelu_new", "tie_word_embeddings": True},
        "llama": {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
                  "rms_norm_eps": 1e-06, "rope_theta": 500000.0, "torch_dtype": "bfloat16",
                  "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192}},
        "gemma2": {"model_type": "gemma2", "layer_types": ["sliding_attention", "full_attention"], "final_logit_softcapping": 30.0},
        "sequential": {"model_type": "sequential", "layers": [{"name": "layer1", "type": "linear", "in": 5, "out": 10, "bias": True},
                                                              {"name": "norm1", "type": "layernorm", "in": 10, "eps": 1e-5}]},
    }
    for name, config in configs.items():
        write("json_config", name, json.dumps(config, indent=2).encode())
    write("json_config", "duplicate", b'{"n_embd": 1, "n_embd": 2}')
    write("json_config", "deep", b"[" * 3000)
    write("json_config", "escapes", b'{"model_type": "\\u001b[2J\\ud83d\\ude00\\n", "n_layer": 9223372036854775807}')
    write("json_config", "broken", b'{"model_type": "gpt2", "n_layer": 1e999, ')
    write("json_config", "not-utf8", b'{"model_type": "\xff\xfe"}')


if __name__ == "__main__":
    npy_seeds()
    safetensors_seeds()
    config_seeds()
