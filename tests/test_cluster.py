"""Two Ray nodes on one machine, one killed in the middle: the sweep completes, identical."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from db.reading import Reader
from db.store import Store
from kills import command, everything, launch, left_over

SWEEP = """
name: nodes
models: [toy_long]
datasets: [toy]
methods: [sgd]
weights: random
epochs: 20
learning_rates: [0.01, 0.03, 0.1]
keep: last
"""


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A head without cores and two nodes with one each: real raylets."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    made.nodes = [made.add_node(num_cpus=1) for _ in range(2)]
    made.wait_for_nodes()
    yield made
    made.shutdown()


def in_training(store: str) -> dict[str, str]:
    """The node of each run that trains and has an epoch, by run id."""
    reader = Reader.open(store)
    running = [s for s in reader.runs() if s.state == "running"]
    reached = reader.latest_epochs([s.key for s in running])
    return {
        s.id: reader.attempts(s.key)[-1].node or "" for s in running if reached.get(s.key, 0) >= 1
    }


@pytest.mark.slow
def test_a_node_dies_in_mid_run(tmp_path: Path, cluster: Any) -> None:
    sweep = tmp_path / "nodes.yaml"
    sweep.write_text(SWEEP)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        folder.mkdir()
    stores = [str(folder / "orch.db") for folder in (whole, cut)]
    launch(whole, stores[0], sweep)
    Store.open(stores[1], create=True).engine.dispose()

    words = ("launch", str(sweep), "--address", cluster.address)
    with subprocess.Popen(
        command(cut, stores[1], *words), cwd=cut, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True,
    ) as driver:  # fmt: skip
        training: dict[str, str] = {}
        while len(set(training.values())) < 2 and driver.poll() is None:
            time.sleep(0.2)
            training = in_training(stores[1])
        victim = cluster.nodes[0]
        lost = [run for run, node in training.items() if victim.node_id.startswith(node)]
        killed = time.time()
        cluster.remove_node(victim, allow_graceful=False)
        output, _ = driver.communicate(timeout=240)
    assert driver.returncode == 0, output
    assert len(lost) == 1, training
    one, other = (everything(f, s) for f, s in zip((whole, cut), stores, strict=True))
    assert one == other
    assert left_over(cut) == []

    reader = Reader.open(stores[1])
    attempts = reader.attempts(reader.find_run(lost[0]).key)
    assert [a.outcome for a in attempts] == ["died", "done"]
    assert [a.cause for a in attempts] == ["process_death", None]
    assert attempts[0].node != attempts[1].node, "it went on elsewhere"
    assert attempts[1].resumed_from, "and from its checkpoint"
    noticed, again = attempts[0].ended, attempts[1].started
    assert noticed is not None
    assert again is not None
    print(f"noticed after {noticed - killed:.1f} s, trained again after {again - killed:.1f} s")
    nodes = {reader.attempts(s.key)[-1].node for s in reader.runs()}
    assert victim.node_id[:8] not in nodes - {attempts[0].node}
