"""Results of sweeps and attributions, for editors."""
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy

class Result:
    site: str
    metric: str
    dims: Tuple[str, ...]
    """("layer", "position")"""
    coords: Dict[str, List[Any]]
    """{axis: labels}"""
    values: numpy.ndarray
    """[pair, axes...]: the metric of each patched run, or an attribution's score; NaN where a prompt has no such place."""
    mean: numpy.ndarray
    normalised: numpy.ndarray
    """(value - corrupt) / (clean - corrupt), as values."""
    normalised_mean: numpy.ndarray
    clean: numpy.ndarray
    corrupt: numpy.ndarray
    shape: Tuple[int, ...]
    def __array__(self, dtype: Any = None, copy: Any = None) -> numpy.ndarray: ...
    def labels(self, dim: str) -> List[str]: ...
    def to_pandas(self) -> Any: ...
    def to_xarray(self) -> Any: ...
    def plot(self, normalised: Optional[bool] = None, ax: Any = None) -> Any: ...
    def verify(self, count: int = 20) -> Any:
        """UsageError: a sweep's result."""
    def save(self, path: Any) -> None:
        """FileError."""

class EdgeResult:
    metric: str
    sources: List[str]
    destinations: List[str]
    values: numpy.ndarray
    """[source, destination], or [position, source, destination]; 0 where there is no edge."""
    per_pair: Optional[numpy.ndarray]
    def top(self, count: int = 10) -> List[Tuple[str, str, float]]: ...
    def to_pandas(self) -> Any: ...
    def verify(self, count: int = 20) -> Any: ...
    def patch(self, paths: Any, freeze: bool = False) -> Any:
        """ValueError: what is no node or no edge; UsageError: a longer path without freeze."""
    def circuit(self, size: Any, by: str = "abs", ablation: Optional[str] = None) -> Any: ...
    def save(self, path: Any) -> None: ...
