"""Mixtures of experts as inset shows them, for reference.py: transformers has all experts of a layer in one module, joins prompts and positions
in one dimension, and hands over the chosen ones' numbers. Here each is a module of its own, x is [batch, position, d], and what a row has of
its experts is one tensor of weights, 0 for the others: `open_experts` puts such a module in the place of each of the model's."""
import torch
from torch import nn
from torch.nn.functional import linear, silu


class Expert(nn.Module):
    """down(act(gate(x)) * up(x)), from the stacked weights of a layer."""
    def __init__(self, stacked, index, act):
        super().__init__()
        self.acts, take = (act,), lambda name: getattr(stacked, name)[index]
        self.clamped = hasattr(stacked, "limit")
        if self.clamped:                                  # gpt-oss: [in, out], gates and ups in turn, biases
            self.alpha, self.limit = stacked.alpha, stacked.limit
            self.both, self.both_bias = take("gate_up_proj").T, take("gate_up_proj_bias")
            self.down, self.down_bias = take("down_proj").T, take("down_proj_bias")
        else:
            self.both, self.both_bias, self.down, self.down_bias = take("gate_up_proj"), None, take("down_proj"), None

    def forward(self, x):
        both = linear(x, self.both, self.both_bias)
        if self.clamped:
            gate, up = both[..., ::2].clamp(max=self.limit), both[..., 1::2].clamp(-self.limit, self.limit)
            h = (up + 1) * (gate * torch.sigmoid(gate * self.alpha))
        else:
            gate, up = both.chunk(2, -1)
            h = self.acts[0](gate) * up
        return linear(h, self.down, self.down_bias)


class Experts(nn.ModuleList):
    """The sum of weight * expert(x) over the experts whose weight is not 0. show(path, site, tensor) gives back what takes its place."""
    path, show = None, None

    def forward(self, x, weights):
        show, n = self.show, len(self)
        inputs = x.unsqueeze(-2).repeat_interleave(n, -2)
        for i in range(n):
            seen = show(f"{self.path}.{i}", "input", inputs[..., i, :])
            if not same(seen, inputs[..., i, :]):
                inputs = with_part(inputs, i, seen)
        outputs = torch.stack([self[i](inputs[..., i, :]) for i in range(n)], -2)
        for i in range(n):
            seen = show(f"{self.path}.{i}", "output", outputs[..., i, :])
            if not same(seen, outputs[..., i, :]):
                outputs = with_part(outputs, i, seen)
        chosen = weights != 0
        parts = torch.where(chosen[..., None], (weights[..., None] * outputs).to(x.dtype), torch.zeros((), dtype=x.dtype))
        wide = torch.promote_types(x.dtype, torch.float32)
        return parts.to(wide).sum(-2).to(x.dtype)


def with_part(parts, i, part):
    parts = parts.clone()
    parts[..., i, :] = part
    return parts


def same(a, b):
    """One view of one tensor."""
    return a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.stride() == b.stride()


class Mixture(nn.Module):
    path, show = None, None

    def __init__(self, block, config):
        super().__init__()
        name = "router" if hasattr(block, "router") else "gate"
        router = getattr(block, name)
        bias = getattr(router, "bias", None)
        self.name, self.pair = name, name == "router"     # gpt-oss's module returns a pair
        self.chosen, self.over_all = router.top_k, not self.pair and not getattr(router, "norm_topk_prob", True)
        own = nn.Linear(router.hidden_dim, router.num_experts, bias=bias is not None)
        own.weight, own.bias = nn.Parameter(router.weight.detach()), None if bias is None else nn.Parameter(bias.detach())
        self.add_module(name, own)
        self.experts = Experts(Expert(block.experts, i, getattr(block.experts, "act_fn", silu)) for i in range(router.num_experts))

    def route(self, logits):
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        rest = torch.full_like(wide, -float("inf"))
        places = torch.topk(wide, self.chosen, -1).indices
        kept = wide if self.over_all else rest.scatter(-1, places, wide.gather(-1, places))
        p = torch.softmax(kept, -1)
        return torch.zeros_like(p).scatter(-1, places, p.gather(-1, places)).to(logits.dtype)

    def forward(self, x):
        weights = self.show(self.path, "expert_weights", self.route(getattr(self, self.name)(x)))
        y = self.experts(x, weights)
        return (y, None) if self.pair else y


def open_experts(model, show=lambda path, site, x: x):
    for path, module in list(model.named_modules()):
        if not (hasattr(module, "experts") and (hasattr(module, "gate") or hasattr(module, "router"))):
            continue
        own = Mixture(module, model.config)
        own.path, own.show = path, show
        own.experts.path, own.experts.show = path + ".experts", show
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, own.eval())
