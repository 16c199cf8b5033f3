"""Import of FAISS with passive OpenMP waits.

By default they spin, which on a machine with other work makes a search many times as slow; asleep
they cost nothing on a quiet one. The variable that says so is read when the library is loaded, and
other libraries of the process must not see it: torch's threads wait as torch's users ask.
"""

from __future__ import annotations

import os

__all__ = ["faiss"]

_POLICY = "OMP_WAIT_POLICY"
_unset = _POLICY not in os.environ
os.environ.setdefault(_POLICY, "PASSIVE")
try:
    import faiss
finally:
    if _unset:
        del os.environ[_POLICY]
