"""Linear layers with weights in the layout of oneDNN's bfloat16 kernels.

PyTorch's eager ``Linear`` reorders its weights at every call. Packing them once, and letting the
same kernel apply the GELU that follows, made all-MiniLM-L6-v2 16-20% faster on a CPU with
AVX512-BF16 (``docs/benchmarks.md``); the kernels are those that PyTorch's own compiler emits.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

TYPICAL_ROWS = 1024


class PackedLinear(nn.Module):
    """A ``Linear`` for inference, with packed weights.

    Args:
        linear: The layer to replace; bfloat16, on the CPU.
        activation: ``gelu`` to apply the exact (erf) GELU in the same kernel.
    """

    def __init__(self, linear: nn.Linear, activation: str = "none") -> None:
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), TYPICAL_ROWS)
        self.bias = linear.bias
        self.activation = activation
        self.algorithm = "none" if activation == "gelu" else ""

    def forward(self, inputs: torch.Tensor) -> Any:
        """Return ``inputs @ weight.T + bias``, then the activation."""
        return torch.ops.mkldnn._linear_pointwise(
            inputs, self.weight, self.bias, self.activation, [], self.algorithm
        )


def pack_linear_layers(model: nn.Module) -> None:
    """Replace every ``Linear`` of a bfloat16 CPU model, where PyTorch has the kernels."""
    if torch._C._has_mkldnn and hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        _pack(model)


def _pack(module: nn.Module) -> None:
    for name, child in list(module.named_children()):
        if isinstance(child, nn.Linear):
            gelu = name == "dense" and _is_exact_gelu(getattr(module, "intermediate_act_fn", None))
            setattr(module, name, PackedLinear(child, "gelu" if gelu else "none"))
            if gelu:
                module.intermediate_act_fn = nn.Identity()
        else:
            _pack(child)


def _is_exact_gelu(activation: object) -> bool:
    """Return whether a layer of the BERT family computes the erf form of GELU."""
    if isinstance(activation, nn.GELU):
        return activation.approximate == "none"
    return type(activation).__name__ == "GELUActivation" and not getattr(
        activation, "use_gelu_python", False
    )
