"""What sites hold in the runs of many prompts, kept in files: `inset cache` as a method."""
import hashlib
import os
import pathlib

from . import _inset
from .sweep import _range, follow


def _list(given):
    """[0, 3, range(5, 8)], "0,3,5-7", slice(4, 9), -1 -> as the command line has it."""
    return ",".join(_range(x) for x in given) if isinstance(given, (list, tuple)) else _range(given)


def _version(folder):
    """What tells the weights in a folder from others: the config, and the sizes and times of the weights' files. None: they are in memory."""
    if not folder:
        return None
    found = hashlib.sha256(pathlib.Path(folder, "config.json").read_bytes())
    for path in sorted(pathlib.Path(folder).glob("*.safetensors")):
        found.update(f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}".encode())
    return found.hexdigest()[:16]


class Caching:
    """What a Model has of caches in files; see Model."""

    def cache(self, prompts, *, sites, out, layers=None, positions=None, dtype=None, shard_bytes=0, batch=0, memory=0, no_share=False, progress=True):
        """Runs all prompts and keeps what sites hold: a folder of safetensors shards, each with the rows of consecutive prompts in their order.

        prompts: texts, lists of ids, or a file ("prompts.npy", "prompts.safetensors:NAME", "prompts.json", "prompts.jsonl"). sites: "resid_post,z" or a list
        of names, which stand for all layers, and of paths with `*` ("transformer.h[*].mlp.output"). out: the folder. layers, positions: a list, ranges
        ("0,3,5-7", [0, 3], slice(4, 9), -1 from each prompt's end). dtype: "f32", "bf16", "f16"; None: the model's.

        A shard has the tensors resid_post.0, resid_post.1, ..., [row, ...], and prompt, position and token [row]. cache.json says which shards there are.
        The same call goes on with what was begun in the folder, Ctrl-C and worse included. Returns the folder's path.
        """
        folder = os.fspath(out)
        made = _inset.cache(self._m, self._prompts(prompts, "prompts"), ",".join(sites) if isinstance(sites, (list, tuple)) else sites, folder, _list(layers),
                            _list(positions), dtype, int(shard_bytes), int(batch), int(memory), bool(no_share), self._name, _version(self._folder))
        follow(made, "prompts", "prompt", progress)
        return pathlib.Path(folder)
