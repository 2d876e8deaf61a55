"""Splits as the authors' code has them, where the paper says otherwise: PROTOCOL section 6."""

from __future__ import annotations

import dataclasses

import torch

from worker.data.images import Loaded, joined

VALIDATION = "validation"
"""The name of the group that the whole validation set becomes."""


def waterbirds(data: Loaded) -> Loaded:
    """Epochs and rates are chosen on the test images, and validation is one more group to be worst.

    `id`: the accuracies of the test groups, weighted by the groups' frequencies in training (on the
    real data 3498, 184, 56 and 1057 of 4795). `ood`: the least of those accuracies and the accuracy
    on the validation set.
    """
    validation, test = data.splits["id"], data.splits["ood"]
    group = torch.full_like(validation.groups, len(data.groups))
    worst = joined(test, dataclasses.replace(validation, groups=group))
    return dataclasses.replace(
        data, splits={**data.splits, "id": test, "ood": worst}, groups=(*data.groups, VALIDATION)
    )
