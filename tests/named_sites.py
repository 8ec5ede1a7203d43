"""The named sites of transformers' models, for reference.py: what lies between a module's calls, shown to a driver as PyTorch's own tensors.

The wrapped modules give their inputs and outputs; here are the places that no module call has: q, k and v behind their projections, what the
rotary embedding made of them, scores and pattern (transformers' eager attention, step by step, in its own arithmetic), z and the MLP's
pre, up and post, and what a norm divides by. A view is PyTorch's view, so that an in-place set shows wherever it would; a tensor that takes a
site's place is what the next operation gets.
"""
import re
import sys

import torch

# what a family calls the parts: attention, its fused projection, its output projection; first, second and last linear of the MLP
PARTS = {
    "gpt2": ("attn", "c_attn", "c_proj", "c_fc", None, "c_proj"),
    "gpt_neo": ("attention", None, "out_proj", "c_fc", None, "c_proj"),
    "gptj": ("attn", None, "out_proj", "fc_in", None, "fc_out"),
    "bloom": ("self_attention", "query_key_value", "dense", "dense_h_to_4h", None, "dense_4h_to_h"),
    "gpt_neox": ("attention", "query_key_value", "dense", "dense_h_to_4h", None, "dense_4h_to_h"),
    "phi": ("self_attn", None, "dense", "fc1", None, "fc2"),
    "opt": ("self_attn", None, "out_proj", "fc1", None, "fc2"),
    "bert": ("self", None, "output", "dense", None, None),
    "starcoder2": ("self_attn", None, "o_proj", "c_fc", None, "c_proj"),
    "phi3": ("self_attn", "qkv_proj", "o_proj", "gate_up_proj", "gate_up_proj", "down_proj"),
}
USUAL = ("self_attn", None, "o_proj", "gate_proj", "up_proj", "down_proj")


def flat(value, like):
    """A replacement with heads as the tensor of all columns that it stands for, the same memory."""
    try:
        return value.view(like.shape)
    except RuntimeError:
        from reference import Unsupported
        raise Unsupported


def with_eager_attention(source):
    """Gives transformers' GPT-Neo what the other families have: an eager_attention_forward that its attention calls."""
    def eager(module, query, key, value, mask, scaling=None, **kwargs):
        pattern = torch.softmax(query @ key.transpose(2, 3) * scaling + mask, -1).to(value.dtype)
        return (pattern @ value).transpose(1, 2).contiguous(), pattern

    def attend(module, query, key, value, attention_mask=None):
        wide = torch.promote_types(query.dtype, torch.float32)      # transformers says float32; these files also run in double
        seen = module.bias[:, :, :query.shape[2], :key.shape[2]]
        mask = torch.zeros(seen.shape, dtype=wide).masked_fill(~seen, torch.finfo(wide).min)
        out, pattern = source.eager_attention_forward(module, query.to(wide), key.to(wide), value, mask, scaling=1.0)
        return out.transpose(1, 2), pattern

    if not hasattr(source, "eager_attention_forward"):
        source.eager_attention_forward = eager
        source.GPTNeoSelfAttention._attn = attend


def with_eager_alibi(source):
    """The same for BLOOM, whose scores grow with a key's position."""
    def eager(module, query, key, value, mask, scaling=None, alibi=None, **kwargs):
        scores = query @ key.transpose(2, 3) * scaling + alibi
        pattern = torch.softmax(scores if mask is None else scores + mask, -1, dtype=torch.promote_types(query.dtype, torch.float32)).to(value.dtype)
        return (pattern @ value).transpose(1, 2).contiguous(), pattern

    def forward(module, hidden_states, residual, alibi, attention_mask, **kwargs):
        query, key, value = module._reshape(module.query_key_value(hidden_states))
        alibi = alibi.view(len(query), module.num_heads, 1, -1)
        out, pattern = source.eager_attention_forward(module, query, key, value, attention_mask, scaling=module.inv_norm_factor, alibi=alibi)
        return residual + module.dense(out.reshape(hidden_states.shape)), pattern

    if not hasattr(source, "eager_attention_forward"):
        source.eager_attention_forward = eager
        source.BloomAttention.forward = forward


def with_positions_apart(model):
    """OPT's blocks join the positions of all prompts in one dimension for their MLP; here they stay apart."""
    def without(layer):
        def forward(hidden_states, **kwargs):
            x = hidden_states + layer.self_attn(hidden_states=layer.self_attn_layer_norm(hidden_states), **kwargs)[0]
            return x + layer.fc2(layer.activation_fn(layer.fc1(layer.final_layer_norm(x))))
        return forward
    for layer in model.model.decoder.layers:
        layer.forward = without(layer)


class NamedSites:
    def __init__(self, runner):
        self.runner, self.kind, config = runner, runner.model.config.model_type, runner.model.config
        self.attention, self.fused, self.out, self.first, self.second, self.last = PARTS.get(self.kind, USUAL)
        self.by_head = self.kind in ("gpt_neox", "bloom")    # each head's q, k and v together
        self.n_heads = config.num_attention_heads
        self.n_kv = getattr(config, "num_key_value_heads", None) or self.n_heads
        self.head_dim = getattr(config, "head_dim", None) or config.hidden_size // self.n_heads
        self.held, self.paths, self.here = {}, {}, None
        for path, module in runner.modules.items():
            if path.split(".")[-1] == self.attention:
                self.paths[module] = path
                self.source = sys.modules[type(module).__module__]
                if self.kind == "gpt_neo":
                    with_eager_attention(self.source)
                if self.kind == "bloom":
                    with_eager_alibi(self.source)
            if self.kind == "phi3" and path.endswith(".mlp"):
                module.forward = self.fused_mlp(path, module)
            if self.kind == "granite" and re.search(r"layers\.\d+$", path):
                module.forward = self.scaled_block(path, module)
        if self.kind == "opt":
            with_positions_apart(runner.model)
        self.rotates = hasattr(self.source, "apply_rotary_pos_emb")
        if not hasattr(self.source, "inset_original"):
            self.source.inset_original = (self.source.eager_attention_forward, getattr(self.source, "apply_rotary_pos_emb", None))
        self.eager, self.rope = self.source.inset_original

    def install(self):
        """The functions of the modeling module are global: the runner that runs now has them."""
        self.source.eager_attention_forward = self.attend
        if self.rotates and self.kind != "gptj":             # whose function takes q and k one by one, with nothing held for them
            self.source.apply_rotary_pos_emb = self.rotate

    def returns_tuple(self, path, module):
        """Does a module that is skipped owe its caller a pair?"""
        return module in self.paths or (self.kind in ("gpt_neo", "bloom") and re.search(r"\.h\.\d+(\.attn)?$", path) is not None)

    def holds_mlp(self, path):
        return path.endswith(".intermediate" if self.kind == "bert" else ".mlp") or (self.kind == "opt" and re.search(r"layers\.\d+$", path) is not None)

    # ---- linears and what is beside them
    def heads(self, path, column, n, x, stride=None):
        h = self.head_dim
        if stride:                                       # NeoX: each head's q, k and v together
            return x.view(*x.shape[:2], self.n_heads, 3 * h)[..., column:column + h]
        return x[..., column:column + n * h].view(*x.shape[:2], n, h)

    def beside_input(self, path):
        """(site, view) at a module's input: replaced with it."""
        parent, _, name = path.rpartition(".")
        if parent.endswith(".attention" if self.kind == "bert" else "." + self.attention) and name == self.out:
            return [((parent, "z"), lambda x: x.view(*x.shape[:2], self.n_heads, self.head_dim))]
        if self.holds_mlp(parent) and name == self.last:
            return [((parent, "post"), lambda x: x)]
        return []

    def beside_output(self, path):
        """(site, view) at a module's output, in either order with it."""
        parent, _, name = path.rpartition(".")
        if not self.holds_mlp(parent):
            return []
        if name == "intermediate_act_fn":                # BERT: what the last linear reads
            return [((parent, "post"), lambda x: x)]
        if (parent + ".experts") in self.runner.modules and name in ("gate", "router"):
            return [((parent, "router"), lambda x: x)]
        if self.first == self.second and name == self.first:
            return [((parent, "pre"), lambda x: x.chunk(2, -1)[0]), ((parent, "up"), lambda x: x.chunk(2, -1)[1])]
        return [((parent, site), lambda x: x) for site, linear in (("pre", self.first), ("up", self.second)) if name == linear]

    def after_output(self, path, x, others):
        """What a linear gives the model, after the named sites that follow it."""
        parent, _, name = path.rpartition(".")
        if others and self.first == self.second:
            self.held[parent] = {key[1]: value for key, value in others.items()}
        elif others:
            return next(iter(others.values()))
        if not parent.endswith("." + self.attention):
            return x
        driver, h, kv = self.runner.driver, self.head_dim, self.n_kv * self.head_dim
        if name == self.fused:
            held = self.held[parent] = {}
            for i, (site, n) in enumerate((("q", self.n_heads), ("k", self.n_kv), ("v", self.n_kv))):
                column = i * h if self.by_head else (0, self.n_heads * h, self.n_heads * h + kv)[i]
                view = self.heads(path, column, n, x, self.by_head)
                shown = driver.event((parent, site), view)
                if shown is not view:
                    held[site] = shown
            return x
        if name in ("q_proj", "k_proj", "v_proj", "query", "key", "value"):
            view = self.heads(path, 0, self.n_heads if name[0] == "q" else self.n_kv, x)
            shown = driver.event((parent, name[0]), view)
            return x if shown is view else flat(shown, x)
        return x

    def fused_mlp(self, path, module):
        def forward(x):
            gate, up = module.gate_up_proj(x).chunk(2, dim=-1)
            held = self.held.pop(path, {})
            return module.down_proj(held.get("up", up) * module.activation_fn(held.get("pre", gate)))
        return forward

    def scaled_block(self, path, layer):
        """Granite: what is added to the stream is a module's output times a factor."""
        def forward(x, **kwargs):
            show = self.runner.driver.event if self.runner.driver else lambda key, tensor: tensor
            x = x + show((path, "attn_out"), layer.self_attn(hidden_states=layer.input_layernorm(x), **kwargs)[0] * layer.residual_multiplier)
            return x + show((path, "mlp_out"), layer.mlp(layer.post_attention_layernorm(x)) * layer.residual_multiplier)
        return forward

    # ---- attention
    def rotate(self, q, k, *args, **kwargs):
        held = self.held.get(self.here, {}) if self.runner.driver else {}
        q, k = (held[s].transpose(1, 2) if s in held else x for s, x in (("q", q), ("k", k)))
        return self.rope(q, k, *args, **kwargs)

    def beyond(self, scores):
        """Keys behind a sequence's end, which only padding has: what is set there is nothing's."""
        driver, n = self.runner.driver, scores.shape[-1]
        if not getattr(driver, "ragged", False):
            return None
        lengths = torch.tensor(driver.lengths)[:, None, None, None]
        queries, keys = torch.arange(n)[:, None], torch.arange(n)
        return (keys >= lengths) & (queries < lengths)

    def attend(self, module, query, key, value, mask, scaling=None, softcap=None, alibi=None, **kwargs):
        if self.runner.driver is None:
            more = {name: x for name, x in (("softcap", softcap), ("alibi", alibi)) if x is not None}
            return self.eager(module, query, key, value, mask, scaling=scaling, **more, **kwargs)
        path = self.paths[module]
        held, show = self.held.pop(path, {}), lambda site, x: self.runner.driver.event((path, site), x)
        if "v" in held:
            value = held["v"].transpose(1, 2)
        if self.rotates:
            query, key = (show(s, x.transpose(1, 2)).transpose(1, 2) for s, x in (("rot_q", query), ("rot_k", key)))
        else:
            query, key = (held[s].transpose(1, 2) if s in held else x for s, x in (("q", query), ("k", key)))
        copies = query.shape[1] // key.shape[1]
        scores = torch.matmul(query, key.repeat_interleave(copies, 1).transpose(2, 3)) * (scaling or query.shape[-1] ** -0.5)
        if softcap:
            scores = torch.tanh(scores / softcap) * softcap
        if alibi is not None:
            scores = scores + alibi
        if mask is not None:
            scores = scores + mask[..., :key.shape[2]]
            scores = scores.masked_fill(mask[..., :key.shape[2]] < -1, -float("inf"))    # eager adds the least number; what softmax makes is one
        beyond = self.beyond(scores)
        if beyond is not None and self.kind == "bert":   # no mask hides them
            scores = scores.masked_fill(beyond, -float("inf"))
        scores = show("scores", scores)
        scores = scores if beyond is None else scores.masked_fill(beyond, -float("inf"))
        pattern = with_sinks(module, scores, torch.float32).to(value.dtype)
        pattern = show("pattern", pattern)
        pattern = pattern if beyond is None else pattern.masked_fill(beyond, 0)
        out = torch.matmul(pattern, value.repeat_interleave(copies, 1)).transpose(1, 2).contiguous()
        return out, pattern


def with_sinks(module, scores, dtype):
    """The softmax of a row; where heads have sinks (gpt-oss), with a score more, whose part is left out."""
    sinks = getattr(module, "sinks", None)
    if sinks is not None:
        scores = torch.cat([scores, sinks.reshape(1, -1, 1, 1).expand(*scores.shape[:3], 1)], -1)
    pattern = torch.nn.functional.softmax(scores, dim=-1, dtype=dtype)
    return pattern if sinks is None else pattern[..., :-1]


def is_norm(module):
    return re.search(r"(LayerNorm|RMSNorm)$", type(module).__name__) is not None


def is_centred(module):
    return type(module).__name__.endswith("LayerNorm")


def norm_with_scale(module, forward, x, show):
    """A norm that shows what it divides by; `show` gives back what takes its place."""
    centred = is_centred(module)
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", 1e-5))      # OLMo's has none of its own

    def natural():
        wide = x.float()
        wide = wide - wide.mean(-1, keepdim=True) if centred else wide
        return wide, (wide.pow(2).mean(-1, keepdim=True) + eps).sqrt().to(x.dtype)
    scale = show(natural()[1])
    wide, own = natural()
    if scale.shape == own.shape and torch.equal(scale, own):
        return forward(x)
    y = wide / scale.float()
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    weight = None if weight is None else weight.float()
    if centred:
        y = y if weight is None else y * weight
        return (y if bias is None else y + bias.float()).to(x.dtype)
    if type(module).__name__.startswith("Gemma"):
        return (y * (1 + weight)).to(x.dtype)
    if type(module).__name__.startswith(("Olmo2", "GptOss")):
        return (weight * y).to(x.dtype)
    return module.weight * y.to(x.dtype)
