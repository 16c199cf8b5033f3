"""Hierarchies of clusters over millions of texts, with titles and descriptions.

Source: HERCULES, Hierarchical Embedding-based Recursive Clustering Using LLMs for
Efficient Summarization (2025).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hercules_scale.api import Hercules
    from hercules_scale.hierarchy import Hierarchy

__version__ = "0.1.0"
__all__ = ["Hercules", "Hierarchy", "__version__"]


def __getattr__(name: str) -> object:
    # pyarrow and pandas load on first use, so that the command line answers at once.
    if name == "Hierarchy":
        from hercules_scale.hierarchy import Hierarchy

        return Hierarchy
    if name == "Hercules":
        from hercules_scale.api import Hercules

        return Hercules
    raise AttributeError(f"module 'hercules_scale' has no attribute {name!r}")
