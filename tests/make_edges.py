#!/usr/bin/env python3
"""Makes fixtures/edges/MODEL.safetensors: scores of edges, edges patched one by one, and circuits, by PyTorch in double precision.

Every reader gets a copy of the stream of its own: a head's q (k, v) is made from its copy alone, an MLP from its copy. A gradient with
respect to the copy is what comes back to that reader, and what is added to it, that reader alone sees. Needs what make_fixtures.py needs.
"""
import pathlib
import sys

import torch

from make_fixtures import write_tensors
from make_gradients import Family

FIXTURES = pathlib.Path(__file__).parent / "fixtures"
# the norm before attention, its projections of q, k, v, the output projection and a norm behind it; before the MLP and behind it
PARTS = {
    "gpt2": ("ln_1", ("attn.c_attn",) * 3, "attn.c_proj", None, "ln_2", "mlp", None),
    "gpt_neo": ("ln_1", ("attn.attention.q_proj", "attn.attention.k_proj", "attn.attention.v_proj"), "attn.attention.out_proj", None, "ln_2", "mlp", None),
    "gpt_neox": ("input_layernorm", ("attention.query_key_value",) * 3, "attention.dense", None, "post_attention_layernorm", "mlp", None),
    "llama": ("input_layernorm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), "self_attn.o_proj", None,
              "post_attention_layernorm", "mlp", None),
    "phi3": ("input_layernorm", ("self_attn.qkv_proj",) * 3, "self_attn.o_proj", None, "post_attention_layernorm", "mlp", None),
    "gemma2": ("input_layernorm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), "self_attn.o_proj",
               "post_attention_layernorm", "pre_feedforward_layernorm", "mlp", "post_feedforward_layernorm"),
    "olmo2": (None, ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), "self_attn.o_proj", "post_attention_layernorm",
              None, "mlp", "post_feedforward_layernorm"),
}
PARTS.update(gemma=PARTS["llama"], smollm3=PARTS["llama"], gemma3=PARTS["gemma2"], olmo3=PARTS["olmo2"], stablelm=PARTS["llama"], starcoder2=PARTS["llama"],
             granite=PARTS["llama"], olmo=PARTS["llama"], mixtral=PARTS["llama"], qwen3_moe=PARTS["llama"], gpt_oss=PARTS["llama"])
PARTS["bloom"] = ("input_layernorm", ("self_attention.query_key_value",) * 3, "self_attention.dense", None, "post_attention_layernorm", "mlp.dense_4h_to_h",
                  None)
PARTS["opt"] = ("self_attn_layer_norm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), "self_attn.out_proj", None, "final_layer_norm", "fc2", None)
SHARED = ("gptj", "phi", "stablelm_parallel", "cohere", "cohere2")
PARTS["gptj"] = ("ln_1", ("attn.q_proj", "attn.k_proj", "attn.v_proj"), "attn.out_proj", None, None, "mlp", None)
PARTS["phi"] = ("input_layernorm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), "self_attn.dense", None, None, "mlp", None)
PARTS.update({name: ("input_layernorm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), "self_attn.o_proj", None, None, "mlp", None)
              for name in ("stablelm_parallel", "cohere", "cohere2")})
# frozen paths; the nodes of a step go together
PATHS = ["m1->logits", "input->a0.h1<v>->logits", "a0.h0->a1.h0<k>->logits", "a0.h1->m1->logits", "input->m0->a1.h0<v>->logits",
         "a0.h0+a0.h1->a1.h0<q>+a1.h0<k>+a1.h0<v>->logits", "input+m0->a1.h0<v>+m1->logits"]
CLEAN, CORRUPT, TOKENS = [[3, 7, 11, 2, 5, 9], [8, 1, 4, 2, 6, 13]], [[3, 7, 20, 2, 8, 9], [8, 5, 4, 2, 6, 13]], (3, 7)


class Graph:
    def __init__(self, name):
        self.f = Family(name)
        self.model, config = self.f.model, self.f.model.config
        self.by_head = name in ("gpt_neox", "bloom")
        self.shared = name in SHARED                          # attention and MLP read one norm
        self.parallel = name == "gpt_neox" or self.shared
        self.norm, self.qkv, self.out, self.out_norm, self.mlp_norm, self.mlp, self.mlp_out_norm = PARTS[name]
        self.layers, self.heads = config.num_hidden_layers, config.num_attention_heads
        self.kv = getattr(config, "num_key_value_heads", None) or self.heads
        self.d = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        self.fused = self.qkv[0] == self.qkv[1]
        self.factor = getattr(config, "residual_multiplier", 1)      # on what attention and MLP add (Granite)
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
        if self.by_head:                                      # a head's q, k and v together
            first = (3 * head + "qkv".index(part)) * d
        else:
            first = {"q": 0, "k": self.heads * d, "v": (self.heads + self.kv) * d}[part] + head * d
        return slice(first, first + d)

    def run(self, tokens, seen=lambda name, x: x, kept=None, given=None):
        """The metric and what was there: z, what writers add, streams that readers read. seen(reader, stream): what it sees; given: what is
        there instead, {"input", "z0", "m0", ...}."""
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
                z = kept[f"z{layer}"] = given[f"z{layer}"] if given else z
                kept[f"o{layer}"] = out_forward(z)
                return kept[f"o{layer}"]
            replace(out, write)

        def mlp(layer):
            first = self.get(layer, self.mlp_norm or self.mlp)
            forward, norm = first.forward, self.get(layer, self.norm) if self.norm else None
            if self.shared:
                replace(first, lambda x: forward(type(norm).forward(norm, seen(f"m{layer}", kept[f"x{layer}"]))))
            else:
                replace(first, lambda x: forward(seen(f"m{layer}", x)))
            last = self.get(layer, self.mlp_out_norm or self.mlp)
            last_forward = last.forward

            def write(x):
                made = last_forward(x)                            # also where it is not wanted: what it reads is noted
                pair = isinstance(made, tuple)                    # gpt-oss
                made = (made[0] if pair else made) * self.factor
                kept[f"m{layer}"] = given[f"m{layer}"] if given else made
                made = kept[f"m{layer}"] / self.factor
                return (made, None) if pair else made
            replace(last, write)

        for layer in range(self.layers):
            attention(layer)
            mlp(layer)
        first = self.model.get_submodule(self.f.block(0))

        def begin(module, args):
            x = args[0]
            if given:                                         # all but the token embeddings stays
                x = x - self.embedding(tokens, x) + given["input"]
            kept["input"] = x
            return (x, *args[1:])
        handle = first.register_forward_pre_hook(begin)
        last = self.model.get_submodule(self.f.norm(-1))
        forward = last.forward
        replace(last, lambda x: forward(seen("logits", x)))
        logits = self.model(torch.tensor([tokens])).logits
        handle.remove()
        for module, forward in reversed(undo):
            module.forward = forward
        return logits[0, -1, TOKENS[0]] - logits[0, -1, TOKENS[1]], kept

    def embedding(self, tokens, stream):
        """The token embeddings: the stream that the first block is given, less positions' embeddings where there are any."""
        if self.f.name == "opt":
            return stream - self.f.model.model.decoder.embed_positions.weight[2:len(tokens) + 2]
        wpe = getattr(getattr(self.f.model, "transformer", None), "wpe", None)
        return stream - wpe.weight[:len(tokens)] if wpe else stream

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
        return self.get(layer, self.out_norm)(made) if self.out_norm else made * self.factor

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
    def path(self, clean, corrupt, text):
        """Each step sees what the step before changed, all else stays; the last change reaches the logits."""
        metric, base = self.run(corrupt)
        _, other = self.run(clean)
        first, *rest = [step.split("+") for step in text.split("->")]
        delta = sum(self.difference(u, other, base) for u in first)
        for step in rest[:-1]:
            parts = []
            for node in dict.fromkeys(v.split(".")[0] for v in step):      # an attention, or an MLP
                here = [v for v in step if v.split(".")[0] == node]
                _, now = self.run(corrupt, lambda name, x: x + delta if name in here else x)
                if node[0] == "m":
                    parts.append(now[node] - base[node])
                    continue
                group = self.heads // self.kv
                heads = {h for v in here for h in range(self.heads)
                         if int(v.split("h")[1].split("<")[0]) == (h if v.endswith("<q>") else h // group)}
                parts += [self.difference(f"{node}.h{h}", now, base) for h in sorted(heads)]
            delta = sum(parts)
        return self.run(corrupt, lambda name, x: x + delta if name == "logits" else x)[0] - metric

    def node_of(self, u, v):
        """Does what reader v reads go into what u writes?"""
        if u == "input" or v == "logits" or u.split(".")[0] != v.split(".")[0]:
            return False
        h = lambda x: int(x.split("h")[1].split("<")[0])
        return u[0] == "m" or h(v) == (h(u) if v.endswith("<q>") else h(u) // (self.heads // self.kv))

    def prune(self, kept):
        """Without edges out of writers that see nothing, and into readers that lead nowhere."""
        while True:
            left = {(u, v) for u, v in kept if (u == "input" or any(self.node_of(u, y) for _, y in kept))
                    and (v == "logits" or any(self.node_of(x, v) for x, _ in kept))}
            if left == kept:
                return kept
            kept = left

    @torch.no_grad()
    def means(self, prompts):
        """Of embeddings, z and MLPs, by position over the prompts that have it."""
        runs = []
        for tokens in prompts:
            kept = self.run(tokens)[1]
            kept["input"] = self.embedding(tokens, kept["input"])
            runs.append({k: v for k, v in kept.items() if k == "input" or k[0] in "zm"})
        longest = max(len(tokens) for tokens in prompts)
        at = lambda k, t: torch.stack([r[k][0, t] for r in runs if r[k].shape[1] > t]).mean(0)
        return {k: torch.stack([at(k, t) for t in range(longest)])[None] for k in runs[0]}

    @torch.no_grad()
    def circuit(self, clean, corrupt, kept, given=None):
        streams = {}
        if given:
            kept = self.prune(kept)
            given = {k: v[:, :len(corrupt)] for k, v in given.items()}
        _, other = self.run(corrupt if given else clean, lambda name, x: streams.setdefault(name, x), given=given)
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
    for name in sys.argv[1:] or PARTS:
        graph = Graph(name)
        pairs = list(zip(CLEAN, CORRUPT))
        scores = mean(graph.scores(*pair) for pair in pairs)
        best = strongest(graph, scores, 12)
        values = {"scores": scores, "exact": torch.tensor([mean(graph.edge(*pair, u, v) for pair in pairs) for u, v in best])}
        sizes = [4, 11, 40]
        values["sizes"] = torch.tensor(sizes)
        values["circuits"] = torch.tensor([mean(graph.circuit(*pair, set(strongest(graph, scores, n))) for pair in pairs) for n in sizes])
        values["paths"] = torch.tensor([mean(graph.path(*pair, text) for pair in pairs) for text in PATHS])
        means = graph.means(CLEAN + CORRUPT + [[1, 2, 3, 4, 5, 6, 7, 8]])
        for what, given in (("zero", {k: 0 * v for k, v in means.items()}), ("mean", means)):
            values[what] = torch.tensor([mean(graph.circuit(*pair, set(strongest(graph, scores, n)), given) for pair in pairs) for n in sizes])
        write_tensors(FIXTURES / "edges" / f"{name}.safetensors",
                      {k: (v if k == "sizes" else v.to(torch.float32)).contiguous() for k, v in values.items()})
        print(name, len(graph.sources), len(graph.destinations))
