"""Traces, for editors."""
from typing import Any, Callable, ContextManager, Dict, Iterator, Mapping, Optional

from .value import Value

class Tracer:
    plan: Any
    statistics: Dict[str, Any]
    def __enter__(self) -> "Tracer": ...
    def __exit__(self, kind: Any, error: Any, traceback: Any) -> bool: ...
    def invoke(self, inputs: Any) -> ContextManager["Tracer"]:
        """IndexError, ValueError, TypeError, ShapeError: inputs that the model does not take."""
    def cache(self, modules: Any = None, include_output: bool = True, include_inputs: bool = False) -> "Cache":
        """UnknownSiteError: a path that is no module's."""
    def stop(self) -> None: ...
    def barrier(self, n: Optional[int] = None) -> Callable[[], None]: ...
    def zeros(self, *shape: Any) -> Value:
        """float32, of this shape."""
    def tensor(self, array: Any) -> Value: ...
    def script(self) -> str: ...

class Cached:
    output: Value
    input: Value
    inputs: Value

class Cache(Mapping[str, Cached]):
    def __getitem__(self, path: str) -> Cached: ...
    def __iter__(self) -> Iterator[str]: ...
    def __len__(self) -> int: ...
