"""The selection of PROTOCOL section 4, plainly, over frames: what `reports.select` is held to.

It reads what a test wrote down, not a store, and shares nothing with the SQL but the words of the
protocol. And the random studies that both are asked about.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import strategies as st

from db.records import State
from shelf import METRIC, RUN, Made

CELL = ["model", "dataset", "method"]
RATE = ["lr", "hp"]
SCORED_BY = {"id_val": "id", "last": "id", "ood-oracle": "ood", "id_test": "id_test"}


def frames(stored: Sequence[Made]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A row for each run, and one for each headline value."""
    runs = pd.DataFrame(
        {
            "run": made.run.id,
            "model": made.run.model,
            "dataset": made.run.dataset,
            "method": made.run.method,
            "lr": made.run.learning_rate,
            "hp": made.run.spelled_hyperparameters,
            "seed": made.run.seed,
            "state": made.state,
        }
        for made in stored
    )
    values = pd.DataFrame(
        [
            (made.run.id, split, epoch, value / 64)
            for made in stored
            for split, listed in made.splits.items()
            for epoch, value in enumerate(listed)
            if value is not None and math.isfinite(value)
        ],
        columns=["run", "split", "epoch", "value"],
    )
    return runs, values


def scored(stored: Sequence[Made], rule: str) -> pd.DataFrame:
    """The runs, each with the epoch that stands for it and its score, or NaN."""
    runs, values = frames(stored)
    final = runs.loc[runs["state"].isin(["done", "diverged"]), "run"]
    usable = values[
        (values["split"] == SCORED_BY[rule]) & (values["epoch"] > 0) & values["run"].isin(final)
    ]
    if rule == "last":
        picked = usable.sort_values("epoch").groupby("run").tail(1)
    else:
        best_first = usable.sort_values(["value", "epoch"], ascending=[False, True])
        picked = best_first.groupby("run").head(1)
    picked = picked[["run", "epoch", "value"]].rename(columns={"value": "score"})
    return runs.merge(picked, on="run", how="left")


def rates(stored: Sequence[Made], rule: str, *, partial: bool) -> pd.DataFrame:
    """Each rate of each cell: its seeds, those with a score, their mean, and whether it won."""
    grouped = scored(stored, rule).groupby([*CELL, *RATE])
    found = grouped.agg(
        seeds=("run", "size"), scores=("score", "count"), mean=("score", "mean")
    ).reset_index()
    found["competes"] = (found["scores"] > 0) if partial else (found["scores"] == found["seeds"])
    order = found[found["competes"]].sort_values(
        ["mean", *RATE], ascending=[False, True, True], kind="stable"
    )
    found["chosen"] = found.index.isin(order.groupby(CELL).head(1).index)
    return found


def cells(
    stored: Sequence[Made], splits: Sequence[str], rule: str, *, partial: bool
) -> dict[str, dict[Any, Any]]:
    """What every field of every cell must be, by split, but for the words of its reason."""
    runs, (_, values) = scored(stored, rule), frames(stored)
    found: dict[str, dict[Any, Any]] = {split: {} for split in splits}
    for key, listed in rates(stored, rule, partial=partial).groupby(CELL):
        members = runs[(runs[CELL] == list(key)).all(axis=1)]
        cell: dict[str, object] = {
            "n": int(members["state"].isin(["done", "diverged"]).sum()),
            "expected": len(members),
            "rule": rule,
            "rates": int(listed["competes"].sum()),
            "rates_expected": len(listed),
            "seeds_expected": listed["seeds"].max(),
            **dict.fromkeys(("value", "ci90", "learning_rate", "score")),
            **dict.fromkeys(("runs", "epochs", "values"), ()),
            "edge": "",
            "diverged": False,
            "hyperparameters": "{}",
            "seeds": 0,
            "metric": "",
        }
        for split in splits:
            found[split][key] = cell
            if listed["chosen"].any():
                rate, shown = listed[listed["chosen"]].iloc[0], values[values["split"] == split]
                found[split][key] = cell | _chosen(rate, members, shown, split)
    return found


def _chosen(
    rate: pd.Series[Any], members: pd.DataFrame, at_split: pd.DataFrame, split: str
) -> dict[str, object]:
    own = members[(members["lr"] == rate["lr"]) & (members["hp"] == rate["hp"])]
    own = own[own["score"].notna()].sort_values("seed")
    shown = own.merge(at_split, on=["run", "epoch"], how="left")["value"] * 100
    tried = members["lr"]
    edge = {tried.max(): "high"} | {tried.min(): "low"} if tried.nunique() > 1 else {}
    cell = {
        "learning_rate": rate["lr"],
        "hyperparameters": rate["hp"],
        "score": pytest.approx(100 * rate["mean"], abs=1e-9),
        "runs": tuple(own["run"]),
        "epochs": tuple(own["epoch"]),
        "edge": edge.get(rate["lr"], ""),
        "diverged": bool((own["state"] == "diverged").any()),
        "seeds_expected": rate["seeds"],
        "metric": METRIC[split] if shown.notna().any() else "",
    }
    if shown.notna().all():
        cell |= {
            "value": pytest.approx(shown.mean(), abs=1e-9),
            "values": pytest.approx(tuple(shown), abs=1e-9),
            "seeds": len(shown),
        }
        if len(shown) > 1:
            half = 1.645 * shown.std(ddof=1) / np.sqrt(len(shown))
            cell["ci90"] = pytest.approx(half, abs=1e-9)
    return cell


# Random studies

STATES: tuple[State, ...] = (
    *("done",) * 8, "diverged", "diverged", "failed", "pending", "running", "voided", "cancelled",
)  # fmt: skip
TUNED = ((), (("lambda", 0.1),), (("lambda", 1.0),), (("lambda", 10.0),), (("beta", 1.0),))
FEW, MANY = (16, 32, 48), tuple(range(65))
"""Values in 64ths: a few make many ties."""
ODD = (None, math.nan, math.inf, -math.inf)


@st.composite
def studies(draw: st.DrawFn) -> list[Made]:
    """One to four cells with their rates, tuned values, seeds and epochs.

    Hypothesis draws the shape; the numbers come from a generator that it seeds, because there are
    hundreds of them. Any run may be missing, of another state, or lack some of its values.
    """
    dice = random.Random(draw(st.integers(0, 2**32)))
    axes = list(itertools.product(("tiny_vit", "tiny_bit"), ("digits", "fmow"), ("sgd", "adamw")))
    made: list[Made] = []
    grid = draw(st.sampled_from([FEW, FEW, MANY]))
    oddity = draw(st.sampled_from([0.0, 0.0, 0.05, 0.5]))
    states = draw(st.sampled_from([STATES, STATES[:10], STATES[:1], STATES[10:]]))
    missing = draw(st.sampled_from([0.0, 0.0, 0.2]))

    def measured(epochs: int) -> tuple[float | None, ...]:
        return tuple(
            dice.choice(ODD) if dice.random() < oddity else dice.choice(grid)
            for _ in range(epochs + 1)
        )

    for model, dataset, method in draw(
        st.lists(st.sampled_from(axes), min_size=1, max_size=4, unique=True)
    ):
        rates = draw(st.lists(st.sampled_from((1e-4, 3e-4, 1e-3)), min_size=1, unique=True))
        tuned = draw(st.lists(st.sampled_from(TUNED), min_size=1, max_size=2, unique=True))
        seeds, epochs = draw(st.integers(1, 3)), draw(st.integers(1, 3))
        for rate, hyperparameters, seed in itertools.product(rates, tuned, range(seeds)):
            if dice.random() < missing and made:
                continue
            state = dice.choice(states)
            # A run that diverged in its first epoch has only the evaluation before training.
            reached = epochs if state == "done" else dice.randint(0, epochs)
            run = dataclasses.replace(
                RUN,
                model=model,
                dataset=dataset,
                method=method,
                epochs=epochs,
                learning_rate=rate,
                hyperparameters=hyperparameters,
                seed=seed,
            )
            tested = measured(reached) if dice.random() < 0.8 else ()
            made.append(Made(run, state, measured(reached), measured(reached), tested))
    dice.shuffle(made)
    return list({one.run.id: one for one in made}.values())
