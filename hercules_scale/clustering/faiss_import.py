"""Import of FAISS with passive OpenMP waits.

By default, waiting threads spin, which makes a search many times slower on a machine with other
work. Passive threads sleep, which costs nothing on an idle machine. FAISS reads OMP_WAIT_POLICY
when it is loaded. If the user had not set the variable, it is removed afterwards, so that it does
not change how the threads of other libraries, such as torch, wait.
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
