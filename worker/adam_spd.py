"""Adam with selective projection decay (*Rethinking Weight Decay for Robust Fine-Tuning*).

Source: PROTOCOL section 3. After Adam's own step from θ to θ̃, a tensor whose gradient points away
from where training started, ⟨g, θ − θ₀⟩ > 0, is drawn back:
θ ← θ̃ − λ·r·(θ̃ − θ₀) with r = clip(1 − ‖θ − θ₀‖/‖θ̃ − θ₀‖, 0, 1). λ is not multiplied by the rate.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class AdamSPD(torch.optim.Adam):
    """Torch's Adam, and the projection. The anchors θ₀ are no part of its state dict."""

    def __init__(
        self,
        groups: list[dict[str, Any]],
        lr: float,
        *,
        anchors: Mapping[nn.Parameter, Tensor],
        strength: float,
        **arguments: Any,
    ) -> None:
        """`anchors` has θ₀ of every parameter, on its device; `strength` is λ."""
        super().__init__(groups, lr, **arguments)
        self.anchors = anchors
        self.strength = strength

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step; parameters without a gradient stay. On top of Adam's: a copy of the weights."""
        moving = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        anchors = [self.anchors[p] for p in moving]
        before, outward = _distances(moving, anchors)
        super().step()
        away = list(torch._foreach_sub(moving, anchors))
        after = torch.stack(torch._foreach_norm(away))
        ratio = torch.where(after > before, 1 - before / after, 0.0)  # 0/0: no distance at all
        factors = torch.where(outward > 0, self.strength * ratio, 0.0).tolist()
        drawn = [index for index, factor in enumerate(factors) if factor > 0]
        if drawn:
            back = [away[index] for index in drawn]
            torch._foreach_mul_(back, [factors[index] for index in drawn])
            torch._foreach_sub_([moving[index] for index in drawn], back)


def _distances(moving: list[Tensor], anchors: list[Tensor]) -> tuple[Tensor, Tensor]:
    """‖θ − θ₀‖ and ⟨g, θ − θ₀⟩ of each tensor, (tensors,) both."""
    away = torch._foreach_sub(moving, anchors)
    norms = torch.stack(torch._foreach_norm(away))
    torch._foreach_mul_(away, [p.grad for p in moving if p.grad is not None])
    return norms, torch.stack([product.sum() for product in away])
