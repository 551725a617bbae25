"""The reward to play with in a notebook: typed responses compared, and the pairs that it gets wrong to browse."""

from realm_lib.report.explorer.comparing import Comparison, ExplorerError, WrongPairs, compare
from realm_lib.report.explorer.panel import Explorer

__all__ = ["Comparison", "Explorer", "ExplorerError", "WrongPairs", "compare"]
