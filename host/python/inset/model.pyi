"""Models and their modules, for editors."""
import pathlib
from typing import Any, Callable, ContextManager, Dict, List, Optional, Sequence, Tuple, Union

from .result import EdgeResult, Result
from .trace import Tracer

Prompts = Any
"""A text, a list of texts, token ids, a list of lists of ids, integers of numpy or PyTorch, what a tokenizer of transformers gives."""
Metric = Union[str, Tuple[Any, ...]]
Range = Union[None, int, str, slice, range]

class Module:
    """A module of the model; its sites (`.output`, `.input`, ...) are Values inside a trace, its children attributes."""

    output: Any
    input: Any
    inputs: Any
    weight: Any
    """Inside a trace: the module's weight as a value, of transformers' shape; so is bias. It can be read, indexed and multiplied by, not set.
    UnknownSiteError where there is none."""
    bias: Any
    def __call__(self, x: Any) -> Any:
        """What it makes of a value's rows, [.., in] -> [.., out]. TypeError: a module that does more than that; ShapeError."""
    def skip(self, output: Any) -> None:
        """The module does not run; its output is this. ShapeError, TypeError, OutOfOrderError."""
    def __getattr__(self, name: str) -> Any: ...
    def __setattr__(self, name: str, source: Any) -> None: ...

class ModuleList(List[Module]): ...

class Model:
    text: Any
    device: str
    kind: str
    dtype: str
    sites: Dict[str, Tuple[Any, ...]]
    """Paths of all that can be read or set, in execution order, with their shapes."""
    edits: List[str]
    """What each edit does, the oldest first."""

    def __init__(self, source: Any, *, device: Optional[str] = None, dtype: Optional[str] = None, fast: bool = False, ungroup: bool = False,
                 weight_memory: int = 0, tokenizer: Any = None) -> None:
        """FileError, DeviceError, UsageError, MemoryError."""
    def trace(self, inputs: Prompts = None, *, memory: int = 0, no_share: bool = False, explain: bool = False, checkpoint: bool = False) -> Tracer: ...
    def scan(self, inputs: Prompts = None) -> Tracer: ...
    def edit(self, *, inplace: bool = True) -> ContextManager["Model"]:
        """UsageError: inplace=False."""
    def clear_edits(self) -> None: ...
    def session(self) -> ContextManager["Model"]: ...
    def watch(self, progress: Optional[Callable[[str, int, int], Any]]) -> ContextManager[None]: ...
    def tokens(self, text: str) -> Tuple[List[int], List[str]]: ...
    def sweep(self, clean: Prompts, corrupt: Prompts = None, *, patch: Union[str, Sequence[str]], metric: Union[Metric, List[Metric]],
              by: Union[None, str, Sequence[str]] = None, layers: Range = None, positions: Range = None, heads: Range = None,
              features: Range = None, source: Optional[str] = None,
              direction: Optional[str] = None, seed: int = 0, memory: int = 0, no_share: bool = False, state: Any = None, resume: bool = False,
              helpers: Sequence["Model"] = (), progress: bool = True) -> Union[Result, List[Result]]:
        """ValueError, IndexError, UnknownSiteError, SyntaxError, FileError, ShapeError, MemoryError."""
    def attribute(self, clean: Prompts, corrupt: Prompts = None, *, metric: Union[Metric, List[Metric]], patch: Union[None, str, Sequence[str]] = None,
                  edges: bool = False, by: Union[None, str, Sequence[str]] = None, layers: Range = None, positions: Range = None, heads: Range = None,
                  features: Range = None,
                  source: Optional[str] = None, direction: Optional[str] = None, steps: int = 0, ends: bool = False, star: bool = False, qk: bool = False,
                  graddrop: bool = False, relp: bool = False, rules: Optional[str] = None, per_pair: bool = False, seed: int = 0, memory: int = 0,
                  no_share: bool = False, state: Any = None, resume: bool = False, helpers: Sequence["Model"] = (),
                  progress: bool = True) -> Union[Result, EdgeResult, List[Any]]:
        """As sweep; UsageError for methods that do not go together."""
    def cache(self, prompts: Prompts, *, sites: Union[str, Sequence[str]], out: Any, layers: Any = None, positions: Any = None, dtype: Optional[str] = None,
              shard_bytes: int = 0, batch: int = 0, memory: int = 0, no_share: bool = False, progress: bool = True) -> pathlib.Path:
        """FileError, ValueError (also: the folder was begun with other settings), UnknownSiteError, IndexError, UsageError, MemoryError."""
    def __getattr__(self, name: str) -> Any: ...
    def __setattr__(self, name: str, source: Any) -> None: ...
