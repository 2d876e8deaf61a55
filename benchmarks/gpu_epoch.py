"""Images per second of one fine-tuning epoch, beside a plain loop over the same model and images.

    orch --data smoke data make-mini waterbirds --train 2048 --val 64 --test 64 --size 224
    python benchmarks/gpu_epoch.py --data smoke/mini

`orch` is `worker.run`: its cache and loader threads, deterministic kernels, without the checkpoint.
`plain` is what one writes first: PIL and torchvision in a torch DataLoader with as many workers,
the same optimizer, batches and micro-batches, torch's default kernels. Both train from random
weights. Each figure is of the last of two epochs, so that loading and filling caches are over.
Rounds alternate; printed are medians, and the median of a round's ratios.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
MODELS = ("clip_vit_b16", "convnext_b_in22k")
PRECISIONS = ("fp32", "tf32", "bf16")
EPOCHS = 2


def a_run(model: str, precision: str, images: int | None) -> Any:
    """SGD with the embedding layer frozen, as the sweeps do it."""
    from db.records import Run

    return Run(
        kind="finetune", model=model, dataset="waterbirds", method="sgd_freeze_embed",
        learning_rate=1e-3, seed=0, epochs=EPOCHS, batch_size=32, micro_batch=16, weight_decay=0.0,
        schedule="cosine_per_step", clip_norm=None, weights="random", precision=precision,
        threads=1, evaluate=("id",), images_per_split=images,
    )  # fmt: skip


def ours(run: Any, data: Path, cache: Path, device: str, workers: int) -> float:
    """Images per second of training in the last epoch."""
    import worker

    with tempfile.TemporaryDirectory() as runs:
        context = worker.Context(
            data=data, runs=Path(runs), cache=cache, device=device, loaders=workers
        )
        *_, end = worker.run(run, context)
    assert isinstance(end, worker.Finished), end
    return end.history[-1].images_per_second


def plain(run: Any, data: Path, device: str, workers: int) -> float:
    """The same epoch as one writes it without orch."""
    import torch
    from torch.nn import functional
    from torch.utils.data import DataLoader, Dataset
    from torchvision import transforms
    from torchvision.transforms import InterpolationMode

    from worker.data import DATASETS
    from worker.data.images import source
    from worker.determinism import arithmetic
    from worker.models import MODELS
    from worker.models.weights import new_model
    from worker.optim import freeze, optimizer

    torch.use_deterministic_algorithms(False)
    torch.backends.cuda.matmul.allow_tf32 = run.precision == "tf32"
    torch.backends.cudnn.allow_tf32 = run.precision == "tf32"
    part = source(run.dataset, data).train
    rows = range(min(len(part), run.images_per_split or len(part)))
    shown = transforms.Compose(
        [
            transforms.Resize(224, InterpolationMode.BICUBIC),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
        ]
    )

    class Files(Dataset):  # type: ignore[type-arg,misc]
        def __len__(self) -> int:
            return len(rows)

        def __getitem__(self, index: int) -> Any:
            return shown(part.pool.read(int(part.rows[index]))), int(part.labels[index])

    model = new_model(MODELS[run.model], DATASETS[run.dataset].classes).to(device).train()
    freeze(model, run)
    optim = optimizer(model, run)
    loader: Any = DataLoader(
        Files(), run.batch_size, shuffle=True, num_workers=workers, pin_memory=device != "cpu",
        persistent_workers=workers > 0,
    )  # fmt: skip
    seconds = 0.0
    for _ in range(EPOCHS):
        began = time.perf_counter()
        for images, labels in loader:
            optim.zero_grad(set_to_none=True)
            for pixels, wanted in zip(
                images.split(run.micro_batch), labels.split(run.micro_batch), strict=True
            ):
                with arithmetic(device, run.precision):
                    logits = model(pixels.to(device, non_blocking=True))
                loss = functional.cross_entropy(
                    logits.float(), wanted.to(device, non_blocking=True), reduction="sum"
                )
                (loss / len(labels)).backward()
            optim.step()
        if device != "cpu":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - began
    return len(rows) / seconds


def main() -> None:
    """Measure every model in every precision that the device has."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, required=True, help="holds waterbirds_v1.0")
    parser.add_argument("--cache", type=Path, default=Path("cache"))
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--images", type=int, help="at most so many training images")
    parser.add_argument("--workers", type=int, default=3, help="loader threads, or processes")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()

    precisions = [p for p in PRECISIONS if p != "tf32" or options.device != "cpu"]
    for model in options.models:
        for precision in precisions:
            run = a_run(model, precision, options.images)
            found: dict[str, list[float]] = {"orch": [], "plain": []}
            for _ in range(options.rounds):
                found["orch"].append(
                    ours(run, options.data, options.cache, options.device, options.workers)
                )
                found["plain"].append(plain(run, options.data, options.device, options.workers))
            ratio = statistics.median(
                a / b for a, b in zip(found["orch"], found["plain"], strict=True)
            )
            images = {name: round(statistics.median(v), 1) for name, v in found.items()}
            line = {"model": model, "precision": precision, "images_per_second": images}
            print(json.dumps({**line, "orch_over_plain": round(ratio, 2)}), flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent))
    main()
