"""Functions of whole rows, where(), products and transposition on PyTorch's tensors, for reference.py: what a script means by x.sum(-1),
softmax(x, dim=-1), x @ W. Prompts of different lengths (Ragged) are taken part by part.
"""
import torch

SUMS = ("sum", "mean", "amax", "amin", "norm")
ALONG = ("argmax", "softmax", "log_softmax", "topk")
NAMES = (*SUMS, *ALONG, "where", "transpose", "detach")


def of_one(name, x, dims, keep, k):
    """dims: a tuple of dimensions; None: all of them."""
    every = tuple(range(x.dim()))
    if name == "norm":
        return torch.linalg.vector_norm(x, dim=dims or every, keepdim=keep)
    if name in SUMS:
        return getattr(x, name)(dim=dims if dims is not None else every, keepdim=keep) if x.dim() else getattr(x, name)()
    if name == "topk":
        return x.topk(k, dims[0])
    return getattr(x, name)(dim=dims[0]).clone()


class Rows:
    """The same with refusals and ragged values; `error(name, text)` makes a refusal, `Ragged` is reference.py's."""
    def __init__(self, error, ragged, unsupported):
        self.error, self.Ragged, self.Unsupported = error, ragged, unsupported

    def equal_or_ragged(self, value):
        if isinstance(value, self.Ragged) and len(set(value.lengths)) == 1:
            return value.fresh(value.parts).base if value.parts[0].dim() else torch.stack(value.parts)
        return value

    def check(self, name, dtype, dims, rank):
        if name in ALONG and dims is None and rank == 1:
            dims = (0,)
        if name in ALONG and (dims is None or len(dims) != 1 or not rank):
            raise self.error("ValueError", f"{name} goes along one dimension")
        if dims is not None:
            if any(not -rank <= d < rank for d in dims):
                raise self.error("IndexError", f"{name} over {dims} of {rank}")
            dims = tuple(d % rank for d in dims)
            if len(set(dims)) < len(dims):
                raise self.error("ValueError", "a dimension twice")
        if dtype == torch.float64 or (not dtype.is_floating_point and name not in ("sum", "amax", "amin")):
            raise self.error("TypeError", f"{name} of {dtype}")
        return dims

    def function(self, name, value, dims, keep=False, k=None):
        if isinstance(value, (int, float)):
            raise self.error("TypeError", f"{name} of a number")
        value = self.equal_or_ragged(value)
        ragged = isinstance(value, self.Ragged)
        one = value.parts[0] if ragged else value
        dims = self.check(name, one.dtype, dims, one.dim() + ragged)
        if not ragged:
            self.check_extents(name, value, dims, k)
            return of_one(name, value, dims, keep, k)
        return self.of_ragged(name, value, dims, keep, k)

    def check_extents(self, name, x, dims, k):
        extents = [x.shape[d] for d in (dims if dims is not None else range(x.dim()))]
        if 0 in extents:
            raise self.error("ValueError", f"{name} of nothing")
        if name == "topk" and not 1 <= k <= extents[0]:
            raise self.error("ValueError", f"topk({k})")

    def of_ragged(self, name, value, dims, keep, k):
        rank, place = value.parts[0].dim() + 1, value.axis + 1           # positions are dimension `place`
        over = dims if dims is not None else tuple(range(rank))
        if 0 in over:
            if place not in over or name in ALONG:
                raise self.error("ShapeError", "over sequences of prompts of different lengths")
            joined = torch.cat(value.parts, value.axis)[None]
            return of_one(name, joined, over, keep, k)
        inner = tuple(d - 1 for d in over)
        for p in value.parts:
            self.check_extents(name, p, inner, k)
        made = [of_one(name, p, inner, keep, k) for p in value.parts]
        if name == "topk":
            return tuple(self.together(value, [m[i] for m in made], place in over, value.axis) for i in range(2))
        gone = name in SUMS and not keep or name == "argmax"
        axis = value.axis - (sum(d < value.axis for d in inner) if gone else 0)
        return self.together(value, made, place in over and name not in ("softmax", "log_softmax"), axis)

    def together(self, value, parts, dense, axis):
        return torch.stack(parts) if dense else self.Ragged(parts, None, axis).fresh(parts)

    def where(self, condition, a, b):
        if not isinstance(condition, (torch.Tensor, self.Ragged)):
            raise self.error("TypeError", "where() by a number")
        if (condition.parts[0] if isinstance(condition, self.Ragged) else condition).dtype != torch.bool:
            raise self.error("TypeError", "where() by no bools")
        all_of = [condition, a, b]
        if not any(isinstance(x, self.Ragged) for x in all_of):
            return torch.where(*all_of)
        like = max((x for x in all_of if isinstance(x, self.Ragged)), key=lambda x: x.parts[0].dim())
        parts = [like.beside(x) for x in all_of]
        made = [torch.where(*p) for p in zip(*parts)]
        if made[0].dim() != like.parts[0].dim():
            raise self.Unsupported
        return like.fresh(made)

    def product(self, a, b):
        if isinstance(a, (int, float)) or isinstance(b, (int, float)):
            raise self.error("TypeError", "@ of a number")
        a = self.equal_or_ragged(a)
        if isinstance(b, self.Ragged):
            b = self.equal_or_ragged(b)
            if isinstance(b, self.Ragged):
                raise self.error("ShapeError", "a ragged tensor at the right of @")
        one = a.parts[0] if isinstance(a, self.Ragged) else a
        if not one.dim() or not b.dim() or one.shape[-1] != b.shape[-2 if b.dim() > 1 else 0]:
            raise self.error("ShapeError", "@")
        if one.dtype != b.dtype or not one.dtype.is_floating_point or one.dtype == torch.float64:
            raise self.error("TypeError", "@ of other types")
        if not isinstance(a, self.Ragged):
            return a @ b
        if a.axis == one.dim() - 1:
            raise self.error("ShapeError", "@ of ragged positions")
        if b.dim() > 2:
            raise self.Unsupported
        return self.Ragged(a.parts, None, a.axis).fresh([p @ b for p in a.parts])

    def transpose(self, value, first, second):
        if isinstance(value, (int, float)):
            raise self.error("TypeError", "transpose of a number")
        if not isinstance(value, self.Ragged):
            if not all(-value.dim() <= d < value.dim() for d in (first, second)):
                raise self.error("IndexError", "transpose")
            return value.transpose(first, second)
        rank = value.parts[0].dim() + 1
        if not all(-rank <= d < rank for d in (first, second)):
            raise self.error("IndexError", "transpose")
        first, second = first % rank, second % rank
        if first == second:
            return value
        if 0 in (first, second):
            if len(set(value.lengths)) == 1:
                raise self.Unsupported
            raise self.error("ShapeError", "prompts of different lengths stay first")
        place = {first: second, second: first}.get(value.axis + 1, value.axis + 1) - 1
        return self.Ragged([p.transpose(first - 1, second - 1) for p in value.parts], None, place)
