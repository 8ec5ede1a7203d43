#!/usr/bin/env python3
"""Makes fixtures/edges/MODEL.safetensors: scores of edges, edges patched one by one, and circuits, by PyTorch in double precision.

Every reader gets a copy of the stream of its own: a head's q (k, v) is made from its copy alone, an MLP from its copy. A gradient with
respect to the copy is what comes back to that reader, and what is added to it, that reader alone sees. Needs what make_fixtures.py needs.
"""
import pathlib

import torch

from make_fixtures import write_tensors
from make_gradients import Family

FIXTURES = pathlib.Path(__file__).parent / "fixtures"
# the norm before attention, its projections of q, k, v, the output projection and a norm behind it; before the MLP and behind it
PARTS = {
    "gpt2": ("ln_1", ("attn.c_attn",) * 3, "attn.c_proj", None, "ln_2", "mlp", None),
    "gpt_neox": ("input_layernorm", ("attention.query_key_value",) * 3, "attention.dense", None, "post_attention_layernorm", "mlp", None),
    "llama": ("input_layernorm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), "self_attn.o_proj", None,
              "post_attention_layernorm", "mlp", None),
    "phi3": ("input_layernorm", ("self_attn.qkv_proj",) * 3, "self_attn.o_proj", None, "post_attention_layernorm", "mlp", None),
    "gemma2": ("input_layernorm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), "self_attn.o_proj",
               "post_attention_layernorm", "pre_feedforward_layernorm", "mlp", "post_feedforward_layernorm"),
    "olmo2": (None, ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), "self_attn.o_proj", "post_attention_layernorm",
              None, "mlp", "post_feedforward_layernorm"),
}
CLEAN, CORRUPT, TOKENS = [[3, 7, 11, 2, 5, 9], [8, 1, 4, 2, 6, 13]], [[3, 7, 20, 2, 8, 9], [8, 5, 4, 2, 6, 13]], (3, 7)


class Graph:
    def __init__(self, name):
        self.f = Family(name)
        self.model, config = self.f.model, self.f.model.config
        self.parallel = name == "gpt_neox"
        self.norm, self.qkv, self.out, self.out_norm, self.mlp_norm, self.mlp, self.mlp_out_norm = PARTS[name]
        self.layers, self.heads = config.num_hidden_layers, config.num_attention_heads
        self.kv = getattr(config, "num_key_value_heads", None) or self.heads
        self.d = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        self.fused = self.qkv[0] == self.qkv[1]
        self.sources = ["input"] + [n for l in range(self.layers) for n in [f"a{l}.h{h}" for h in range(self.heads)] + [f"m{l}"]]
        self.destinations = [n for l in range(self.layers) for n in
                             [f"a{l}.h{h}<{p}>" for p in "qkv" for h in range(self.heads if p == "q" else self.kv)] + [f"m{l}"]] + ["logits"]

    def get(self, layer, path):
        return self.model.get_submodule(self.f.block(layer, path))

    def exists(self, u, v):
        at = lambda n: -1 if n == "input" else self.layers if n == "logits" else int(n[1:].split(".")[0])
        if at(u) != at(v):
            return at(u) < at(v)
        return u[0] == "a" and v[0] == "m" and not self.parallel

    def columns(self, part, head):
        """Of q, k or v of a head, in its projection's output."""
        d = self.d
        if not self.fused:
            return slice(head * d, (head + 1) * d)
        if self.parallel:                                     # NeoX: a head's q, k and v together
            first = (3 * head + "qkv".index(part)) * d
        else:
            first = {"q": 0, "k": self.heads * d, "v": (self.heads + self.kv) * d}[part] + head * d
        return slice(first, first + d)

    def run(self, tokens, seen=lambda name, x: x, kept=None):
        """The metric and what was there: z, what writers add, streams that readers read. seen(reader, stream): what it sees."""
        kept, undo = {} if kept is None else kept, []

        def replace(module, forward):
            undo.append((module, module.forward))
            module.forward = forward
            return undo[-1][1]

        def attention(layer):
            raw = [self.get(layer, path) for path in dict.fromkeys(self.qkv)]
            norm = self.get(layer, self.norm) if self.norm else None
            norm_forward = norm.forward if norm else None
            if norm:
                def note(x):
                    kept[f"x{layer}"] = x
                    return norm_forward(x)
                replace(norm, note)
            for i, module in enumerate(raw):
                parts = "qkv" if self.fused else "qkv"[i]
                original = module.forward

                def project(x, parts=parts, original=original):
                    stream = kept.setdefault(f"x{layer}", x) if norm is None else kept[f"x{layer}"]
                    out = original(x).clone()
                    for part in parts:
                        for h in range(self.heads if part == "q" else self.kv):
                            copy = seen(f"a{layer}.h{h}<{part}>", stream)
                            own = original(norm_forward(copy) if norm else copy)
                            where = self.columns(part, h)
                            out[..., where] = own[..., where]
                    return out
                replace(module, project)
            out = self.get(layer, self.out)
            out_forward = out.forward

            def write(z):
                kept[f"z{layer}"] = z
                kept[f"o{layer}"] = out_forward(z)
                return kept[f"o{layer}"]
            replace(out, write)

        def mlp(layer):
            first = self.get(layer, self.mlp_norm or self.mlp)
            forward = first.forward
            replace(first, lambda x: forward(seen(f"m{layer}", x)))
            last = self.get(layer, self.mlp_out_norm or self.mlp)
            last_forward = last.forward

            def write(x):
                kept[f"m{layer}"] = last_forward(x)
                return kept[f"m{layer}"]
            replace(last, write)

        for layer in range(self.layers):
            attention(layer)
            mlp(layer)
        first = self.model.get_submodule(self.f.block(0))
        handle = first.register_forward_pre_hook(lambda m, args: kept.__setitem__("input", args[0]))
        last = self.model.get_submodule(self.f.norm(-1))
        forward = last.forward
        replace(last, lambda x: forward(seen("logits", x)))
        logits = self.model(torch.tensor([tokens])).logits
        handle.remove()
        for module, forward in reversed(undo):
            module.forward = forward
        return logits[0, -1, TOKENS[0]] - logits[0, -1, TOKENS[1]], kept

    def difference(self, u, of, less):
        """What a writer's output is in one run less another's: a head's z among the other's."""
        if u[0] in "im":
            return of[u] - less[u]
        layer, head = int(u[1:].split(".")[0]), int(u.split("h")[1])
        z = less[f"z{layer}"].clone()
        where = slice(head * self.d, (head + 1) * self.d)
        z[..., where] = of[f"z{layer}"][..., where]
        return self.write(layer, z) - self.write(layer, less[f"z{layer}"])

    def write(self, layer, z):
        """What a z adds to the stream; by the weights, since the module notes what it is given during a run."""
        out = self.get(layer, self.out)
        made = type(out).forward(out, z)
        return self.get(layer, self.out_norm)(made) if self.out_norm else made

    def delta(self, u, other, base):
        """The same, through a norm behind attention linearised at the base."""
        if u[0] in "im" or not self.out_norm:
            return self.difference(u, other, base)
        layer, head = int(u[1:].split(".")[0]), int(u.split("h")[1])
        where = slice(head * self.d, (head + 1) * self.d)
        change = torch.zeros_like(base[f"z{layer}"])
        change[..., where] = (other[f"z{layer}"] - base[f"z{layer}"])[..., where]
        out = self.get(layer, self.out)
        step = type(out).forward(out, change) - type(out).forward(out, 0 * change)
        return torch.func.jvp(self.get(layer, self.out_norm), (base[f"o{layer}"].detach(),), (step,))[1].detach()

    def scores(self, clean, corrupt):
        copies = {}

        def seen(name, x):
            copies[name] = x.clone()
            copies[name].retain_grad()
            return copies[name]
        metric, base = self.run(corrupt, seen)
        metric.backward()
        _, other = self.run(clean)
        with torch.no_grad():
            return torch.tensor([[(self.delta(u, other, base) * copies[v].grad).sum() if self.exists(u, v) else 0. for v in self.destinations]
                                 for u in self.sources])

    @torch.no_grad()
    def edge(self, clean, corrupt, u, v):
        metric, base = self.run(corrupt)
        _, other = self.run(clean)
        delta = self.difference(u, other, base)
        return self.run(corrupt, lambda name, x: x + delta if name == v else x)[0] - metric

    @torch.no_grad()
    def circuit(self, clean, corrupt, kept):
        streams = {}
        _, other = self.run(clean, lambda name, x: streams.setdefault(name, x))
        now = {}

        def seen(name, x):
            gone = [u for u in self.sources if self.exists(u, name) and (u, name) not in kept]
            if not any((u, name) in kept for u in self.sources):
                return streams[name]
            for u in gone:
                x = x - self.difference(u, now, other)
            return x
        return self.run(corrupt, seen, now)[0]


def strongest(graph, scores, n):
    order = sorted(((u, v) for u in range(len(graph.sources)) for v in range(len(graph.destinations))
                    if graph.exists(graph.sources[u], graph.destinations[v])), key=lambda e: -abs(scores[e]))
    return [(graph.sources[u], graph.destinations[v]) for u, v in order[:n]]


def mean(values):
    return torch.stack(list(values)).mean(0)


if __name__ == "__main__":
    (FIXTURES / "edges").mkdir(exist_ok=True)
    for name in PARTS:
        graph = Graph(name)
        pairs = list(zip(CLEAN, CORRUPT))
        scores = mean(graph.scores(*pair) for pair in pairs)
        best = strongest(graph, scores, 12)
        values = {"scores": scores, "exact": torch.tensor([mean(graph.edge(*pair, u, v) for pair in pairs) for u, v in best])}
        sizes = [4, 11, 40]
        values["sizes"] = torch.tensor(sizes)
        values["circuits"] = torch.tensor([mean(graph.circuit(*pair, set(strongest(graph, scores, n))) for pair in pairs) for n in sizes])
        write_tensors(FIXTURES / "edges" / f"{name}.safetensors",
                      {k: (v if k == "sizes" else v.to(torch.float32)).contiguous() for k, v in values.items()})
        print(name, len(graph.sources), len(graph.destinations))
