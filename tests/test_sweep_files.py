"""Sweep files: every mistake is named with its place and remedy; good files expand predictably."""

import itertools
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from db.errors import SpecError
from db.records import Run
from orchestrator import sweep as sweeps
from orchestrator import where, yaml_file
from orchestrator.cli import main
from worker.data import DATASETS
from worker.methods import METHODS
from worker.models import MODELS

FULL_GRID = Path(__file__).parent.parent / "sweeps" / "full_grid.yaml"
BASE = {
    "name": "s",
    "models": "[tiny_vit]",
    "datasets": "[digits]",
    "methods": "[sgd]",
}
BLOCKS = "name: s\nmodels: [tiny_vit]\ndatasets: [digits]\n"
BENCHMARKS = [d.id for d in DATASETS.values() if not d.upstream]
TINY = [m.id for m in MODELS.values() if m.recipe]


def written(**fields: str | None) -> str:
    """A sweep file, one field a line: `BASE` in lines 1 to 4, changed or left out, then others."""
    lines = (f"{k}: {v}" for k, v in {**BASE, **fields}.items() if v is not None)
    return "\n".join(lines) + "\n"


def plan(path: Path, *options: str) -> Result:
    """What `orch plan` does with a file, with no store in sight."""
    store = str(path.parent / "none.db")
    return CliRunner().invoke(main, ["--store", store, "plan", str(path), *options])


def planned(path: Path, *options: str) -> dict[str, Any]:
    """What `orch plan --format json` prints."""
    result = plan(path, "--format", "json", *options)
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.output)
    return found


def refused(result: Result, *said: str) -> None:
    """The command ended with 2, no traceback, and a message that says all of this."""
    assert result.exit_code == 2, (result.output, result.exception)
    assert "Traceback" not in result.output
    for part in said:
        assert part in result.output


def requested(text: str) -> list[Run]:
    """The runs that a text asks for."""
    return sweeps.loads(text, "sweep.yaml").requested


def ids(text: str) -> set[str]:
    """The ids of the runs that a text asks for."""
    return {run.id for run in requested(text)}


# Bad files


class Bad(NamedTuple):
    """A file with a mistake, where the message puts it (`line: field:`), and what it advises."""

    text: str
    place: str
    remedy: str


RATES = "give rates such as 3e-4"
BAD = {
    # names that do not exist
    "unknown field": Bad(
        written(learning_rate="[1e-3]"), "5: learning_rate:", 'did you mean "learning_rates"?'
    ),
    "unknown field in a block": Bad(
        BLOCKS + "grids:\n- methods: [sgd]\n- methods: [adamw]\n  epoch: 3\n",
        "7: grids[1].epoch:",
        'did you mean "epochs"?',
    ),
    "unknown field of resources": Bad(
        written(resources="{gpu: 1}"), "5: resources.gpu:", 'did you mean "gpus"?'
    ),
    "a big model on small images": Bad(
        written(models="[clip_vit_b16]", datasets="[waterbirds, mini_fmow]"),
        "3: datasets[1]:",
        "clip_vit_b16 takes images of 224 pixels and mini_fmow gives 32",
    ),
    "a big model on digits": Bad(
        written(models="[bit_r50_in21k]"), "3: datasets[0]:", "digits gives 16; leave one of them"
    ),
    "tf32 without a GPU": Bad(
        written(precision="tf32"), "5: precision:", "needs a GPU; set `resources: {gpus: 1}`"
    ),
    "unknown precision": Bad(written(precision="fp16"), "5: precision:", "'bf16'"),
    "keep what": Bad(written(keep="worst"), "5: keep:", "'best'"),
    "no images": Bad(written(images_per_split="0"), "5: images_per_split:", "at least 1"),
    "other weights kept for the same run": Bad(
        BLOCKS + "methods: [sgd]\ngrids:\n  - {}\n  - {keep: best}\n",
        "7: grids[1].keep:",
        "other keep; agree",
    ),
    "unknown model": Bad(
        written(models="[tiny_bit, tiny_vti]"), "2: models[1]:", 'did you mean "tiny_vit"?'
    ),
    "unknown model, far from any": Bad(
        written(models="[zzz]"), "2: models[0]:", "known: bit_r101_in21k, bit_r50_adamw, "
    ),
    "unknown dataset": Bad(
        written(datasets="[digit]"), "3: datasets[0]:", 'did you mean "digits"?'
    ),
    "unknown method": Bad(
        written(methods="\n- sgd\n- adamww"), "6: methods[1]:", 'did you mean "adamw"?'
    ),
    "unknown model above the blocks": Bad(
        "name: s\nmodels: [tiny_vt]\ngrids:\n- datasets: [digits]\n  methods: [sgd]\n",
        "2: models[0]:",
        'did you mean "tiny_vit"?',
    ),
    "method for other models": Bad(
        written(methods="[sgd, sgd_freeze_stem]"),
        "4: methods[1]:",
        'model "tiny_vit" has no stem to freeze (it has: embedding); choose another method for it.',
    ),
    # lists
    "empty models": Bad(written(models="[]"), "2: models:", "give at least one"),
    "empty datasets": Bad(written(datasets="[]"), "3: datasets:", "name at least one"),
    "empty methods": Bad(written(methods="[]"), "4: methods:", "name at least one"),
    "empty seeds": Bad(written(seeds="[]"), "5: seeds:", "give at least one"),
    "empty rates": Bad(written(learning_rates="[]"), "5: learning_rates:", "give at least one"),
    "a word for models": Bad(written(models="tiny_vit"), "2: models:", "such as [tiny_vit]"),
    "a word for methods": Bad(written(methods="sgd"), "4: methods:", "such as [sgd]"),
    "a number for seeds": Bad(written(seeds="3"), "5: seeds:", "such as [3]"),
    "a number for rates": Bad(
        written(learning_rates="1e-3"), "5: learning_rates:", "must be a list of rates such as ["
    ),
    "nothing for models": Bad(written(models=""), "2: models:", ""),
    "a number for a model": Bad(written(models="[3]"), "2: models[0]:", "must be a word, not 3"),
    # rates
    "negative rate": Bad(written(learning_rates="[1e-3, -1e-3]"), "5: learning_rates", RATES),
    "zero rate": Bad(written(learning_rates="[0]"), "5: learning_rates", RATES),
    "infinite rate": Bad(written(learning_rates="[.inf]"), "5: learning_rates", RATES),
    "rate that is no number": Bad(written(learning_rates="[.nan]"), "5: learning_rates", RATES),
    "rate past any float": Bad(
        written(learning_rates=f"[1{'0' * 400}]"), "5: learning_rates", RATES
    ),
    "rate below any float": Bad(written(learning_rates="[1e-400]"), "5: learning_rates", RATES),
    "truth as a rate": Bad(written(learning_rates="[true]"), "5: learning_rates", RATES),
    "quoted rate": Bad(written(learning_rates="['1e-3']"), "5: learning_rates", RATES),
    "date as a rate": Bad(written(learning_rates="[2020-01-01]"), "5: learning_rates", RATES),
    "misspelled default": Bad(
        written(learning_rates="defualt"), "5: learning_rates:", "or `default`"
    ),
    # doubles
    "rate twice": Bad(
        written(learning_rates="[1e-3, 1e-3]"), "5: learning_rates:", "keep one of them"
    ),
    "rate twice, spelled differently": Bad(
        written(learning_rates="[1e-3, 1e-2, 0.001]"), "5: learning_rates:", "0.001 is listed twice"
    ),
    "model twice": Bad(
        written(models="[tiny_vit, tiny_bit, tiny_vit]"), "2: models:", "'tiny_vit' is listed twice"
    ),
    "seed twice": Bad(written(seeds="[0, 1, 0]"), "5: seeds:", "keep one of them"),
    "key twice": Bad(written() + "methods: [adamw]\n", "5:", '"methods" is given twice; keep one'),
    "key twice in a block": Bad(
        BLOCKS + "grids:\n- methods: [sgd]\n  seeds: [0]\n  seeds: [1]\n",
        "7:",
        '"seeds" is given twice; keep one',
    ),
    # types
    "epochs as a word": Bad(written(epochs="many"), "5: epochs:", "a whole number, not 'many'"),
    "epochs with a fraction": Bad(written(epochs="2.5"), "5: epochs:", "a whole number, not 2.5"),
    "no epochs": Bad(written(epochs="0"), "5: epochs:", "give at least 1"),
    "quoted batch_size": Bad(
        written(batch_size="'32'"), "5: batch_size:", "a whole number, not '32'"
    ),
    "truth as batch_size": Bad(written(batch_size="yes"), "5: batch_size:", "not True"),
    "word as a seed": Bad(written(seeds="[0, one]"), "5: seeds[1]:", "whole number, not 'one'"),
    "negative seed": Bad(written(seeds="[0, -1]"), "5: seeds[1]:", "give at least 0"),
    "name that is a number": Bad(written(name="3"), "1: name:", "letters, digits"),
    "name with a blank": Bad(written(name="my sweep"), "1: name:", "letters, digits"),
    "name that is a path": Bad(written(name="../s"), "1: name:", "letters, digits"),
    "precision": Bad(written(precision="fp8"), "5: precision:", "'fp32'"),
    "precision as a number": Bad(written(precision="32"), "5: precision:", "'fp32'"),
    "protocol": Bad(written(protocol="mine"), "5: protocol:", "'paper' or 'authors'; choose one"),
    "protocol as a list": Bad(written(protocol="[paper]"), "5: protocol:", "'paper' or 'authors'"),
    "schedule": Bad(written(schedule="cosine"), "5: schedule:", "'cosine_per_epoch'; choose one"),
    "kind": Bad(written(kind="finetun"), "5: kind:", "'finetune' or 'pretrain'; choose one"),
    "no threads": Bad(written(threads="0"), "5: threads:", "give at least 1"),
    "negative weight decay": Bad(
        written(adamw_weight_decay="-1"), "5: adamw_weight_decay:", "give at least 0"
    ),
    "weight decay that is no number": Bad(
        written(adamw_weight_decay=".nan"), "5: adamw_weight_decay:", "a finite number"
    ),
    "resources as a number": Bad(written(resources="2"), "5: resources:", "`field: value` pairs"),
    "negative cpus": Bad(written(resources="{cpus: -1}"), "5: resources.cpus:", "give more than 0"),
    "endless cpus": Bad(written(resources="{cpus: .inf}"), "5: resources.cpus:", "finite number"),
    "cpus as a word": Bad(
        written(resources="{cpus: four}"), "5: resources.cpus:", "must be a number, not 'four'"
    ),
    "two gpus": Bad(written(resources="{gpus: 2}"), "5: resources.gpus:", "give 1 or a fraction"),
    "two gpus, in lines": Bad(
        written(resources="\n  cpus: 4\n  gpus: 2"), "7: resources.gpus:", "give 1 or a fraction"
    ),
    # resources, one for each model
    "resources of an unknown model": Bad(
        written(resources="{tiny_vti: {cpus: 2}}"),
        "5: resources.tiny_vti:",
        'unknown model "tiny_vti"; did you mean "tiny_vit"?',
    ),
    "resources of no model, misspelled": Bad(
        written(resources="\n  defualt: {cpus: 2}\n  tiny_vit: {cpus: 1}"),
        "6: resources.defualt:",
        'did you mean "default"?',
    ),
    "resources of a model that the sweep does not have": Bad(
        written(resources="\n  default: {cpus: 2}\n  tiny_bit: {cpus: 1}"),
        "7: resources.tiny_bit:",
        "is not one of `models` (tiny_vit); leave it out",
    ),
    "resources of a model that the block does not have": Bad(
        BLOCKS + "methods: [sgd]\ngrids:\n- {}\n- models: [tiny_bit]\n"
        "  resources: {tiny_vit: {cpus: 2}}\n",
        "8: grids[1].resources.tiny_vit:",
        "is not one of `models` (tiny_bit)",
    ),
    "resources of a model that no block has": Bad(
        "name: s\ndatasets: [digits]\nmethods: [sgd]\n"
        "resources: {default: {cpus: 2}, bit_r50_in21k: {cpus: 1}}\n"
        "grids:\n- models: [tiny_vit]\n- models: [tiny_bit]\n",
        "4: resources.bit_r50_in21k:",
        "is not one of `models` (tiny_bit, tiny_vit)",
    ),
    "resources of a model, misspelled": Bad(
        written(resources="{tiny_vit: {gpu: 1}}"),
        "5: resources.tiny_vit.gpu:",
        'did you mean "gpus"?',
    ),
    "two gpus for a model": Bad(
        written(resources="\n  tiny_vit:\n    gpus: 2"),
        "7: resources.tiny_vit.gpus:",
        "give 1 or a fraction",
    ),
    "two gpus by default": Bad(
        written(resources="{default: {gpus: 2}, tiny_vit: {gpus: 1}}"),
        "5: resources.default.gpus:",
        "give 1 or a fraction",
    ),
    "a number for a model's resources": Bad(
        written(resources="{tiny_vit: 2}"), "5: resources.tiny_vit:", "`field: value` pairs, not 2"
    ),
    "a field among models": Bad(
        written(resources="{cpus: 2, tiny_vit: {cpus: 1}}"),
        "5: resources.cpus:",
        "stands among models; write `default: {cpus: 2}`",
    ),
    "no resources": Bad(written(resources="{}"), "5: resources:", "is empty; give `cpus`"),
    "no resources of a model": Bad(
        written(resources="{default: {cpus: 2}, tiny_vit: {}}"),
        "5: resources.tiny_vit:",
        "is empty; give `cpus`",
    ),
    "nothing for a model's resources": Bad(
        written(resources="{default: {cpus: 2}, tiny_vit: }"),
        "5: resources.tiny_vit:",
        "is empty; give a value, or leave the line out",
    ),
    "nothing for resources": Bad(
        written(resources=""), "5: resources:", "is empty; give a value, or leave the line out"
    ),
    "tf32 with a model without a GPU": Bad(
        written(
            models="[tiny_bit, tiny_vit]",
            precision="tf32",
            resources="{default: {gpus: 1}, tiny_vit: {gpus: 0}}",
        ),
        "5: precision:",
        'needs a GPU, and "tiny_vit" has none',
    ),
    "two resources for one run, by model": Bad(
        BLOCKS
        + "methods: [sgd]\ngrids:\n- resources: {tiny_vit: {cpus: 1}}\n"
        + "- seeds: [0, 1]\n  resources: {default: {cpus: 2}}\n",
        "8: grids[1].resources:",
        "an earlier block gives tiny_vit digits sgd lr=3e-05 s0 other resources",
    ),
    # fields that do not fit together
    "micro_batch over batch_size": Bad(
        written(batch_size="8", micro_batch="16"), "6: micro_batch:", "at most batch_size"
    ),
    "batch_size under the usual micro_batch": Bad(
        written(batch_size="8"), "5: batch_size:", "micro_batch (16) is larger than batch_size (8)"
    ),
    "name in a block": Bad(
        BLOCKS + "grids:\n- methods: [sgd]\n  name: t\n",
        "6: grids[0].name:",
        "belongs at the top of the file",
    ),
    "nothing for blocks": Bad(written(grids=""), "5: grids:", "must be a list of blocks"),
    "seed past any generator": Bad(
        written(seeds=f"[{2**32}]"), "5: seeds[0]:", f"give at most {2**32 - 1}"
    ),
    "epochs past any number": Bad(written(epochs="9" * 20), "5: epochs:", "is too large"),
    "pretraining with epochs": Bad(
        "name: s\nkind: pretrain\nmodels: [tiny_vit]\nepochs: 9\n", "4: epochs:", "leave it out"
    ),
    "list called a mapping": Bad(written(seeds="!!map [1]"), "5:", "mend the YAML there"),
    "word called truth": Bad(written(seeds="!!bool abc"), "5:", "mend the YAML there"),
    "no name": Bad(written(name=None), "1: name:", "add `name: my_sweep`"),
    "no models": Bad(written(models=None), "1: models:", "add it"),
    "no datasets": Bad(written(datasets=None), "", "is missing or empty; name at least"),
    "no methods": Bad(written(methods=None), "", "is missing or empty; name at least"),
    "rates of an unknown method": Bad(
        written(learning_rates="{sdg: [1e-3]}"), "5: learning_rates", 'did you mean "sgd"?'
    ),
    "no rates for a method": Bad(
        written(methods="[sgd, adamw]", learning_rates="{sgd: [1e-3]}"),
        "5: learning_rates:",
        'no list for "adamw"; add one',
    ),
    "empty rates of a method": Bad(
        written(learning_rates="{sgd: []}"), "5: learning_rates", "give at least one rate"
    ),
    "a number for a method's rates": Bad(
        written(learning_rates="{sgd: 1e-3}"), "5: learning_rates", "must be a list of rates"
    ),
    "rates of no method": Bad(
        written(learning_rates="{}"), "5: learning_rates:", "give a list, `default`, or {method:"
    ),
    "evaluation without the selecting split": Bad(
        written(evaluate="[ood]"), "5: evaluate:", 'leaves out "id", the split that selects; add it'
    ),
    "evaluation on an unknown split": Bad(
        written(evaluate="[id, odd]"),
        "5: evaluate[1]:",
        'digits has no split "odd"; did you mean "ood"?',
    ),
    "evaluation as a word": Bad(
        written(evaluate="tables"), "5: evaluate:", "must be `table`, `all`, or a list of splits"
    ),
    "upstream dataset": Bad(
        written(datasets="[digits, shapes]"),
        "3: datasets[1]:",
        '"shapes" is for pretraining; name another',
    ),
    "pretraining on a dataset": Bad(
        written(kind="pretrain", methods=None), "3: datasets:", "a pretrain block takes only models"
    ),
    "pretraining with rates": Bad(
        "name: s\nkind: pretrain\nmodels: [tiny_vit]\nlearning_rates: [1e-3]\n",
        "4: learning_rates:",
        "a pretrain block takes only models",
    ),
    "pretraining a published model": Bad(
        "name: s\nkind: pretrain\nmodels: [clip_vit_b16]\n",
        "3: models[0]:",
        '"clip_vit_b16" has published weights; leave it out',
    ),
    # blocks
    "hyperparameters of an unknown method": Bad(
        written(methods="[adam_spd]", hyperparameters="{adam_sdp: {lambda: [1]}}"),
        "5: hyperparameters.adam_sdp:",
        'unknown method "adam_sdp"; did you mean "adam_spd"?',
    ),
    "hyperparameters of a method that the sweep does not have": Bad(
        written(hyperparameters="\n  adam_spd:\n    lambda: [1]"),
        "6: hyperparameters.adam_spd:",
        "is not one of `methods` (sgd); leave it out",
    ),
    "hyperparameters of a method that the block does not have": Bad(
        BLOCKS + "grids:\n- methods: [adam_spd]\n- methods: [sgd]\n"
        "  hyperparameters: {adam_spd: {lambda: [1]}}\n",
        "7: grids[1].hyperparameters.adam_spd:",
        "is not one of `methods` (sgd)",
    ),
    "hyperparameters of a method without any": Bad(
        written(hyperparameters="{sgd: {momentum: [0.9]}}"),
        "5: hyperparameters.sgd:",
        "has no hyperparameters; leave it out",
    ),
    "unknown hyperparameter": Bad(
        written(methods="[adam_spd]", hyperparameters="{adam_spd: {lambada: [1]}}"),
        "5: hyperparameters.adam_spd.lambada:",
        'unknown hyperparameter "lambada"; did you mean "lambda"?',
    ),
    "hyperparameter twice": Bad(
        written(methods="[adam_spd]", hyperparameters="{adam_spd: {lambda: [1, 1.0]}}"),
        "5: hyperparameters.adam_spd.lambda:",
        "1.0 is listed twice; keep one of them",
    ),
    "no values of a hyperparameter": Bad(
        written(methods="[adam_spd]", hyperparameters="{adam_spd: {lambda: []}}"),
        "5: hyperparameters.adam_spd.lambda:",
        "is empty; give at least one value",
    ),
    "one value of a hyperparameter without a list": Bad(
        written(methods="[adam_spd]", hyperparameters="{adam_spd: {lambda: 1}}"),
        "5: hyperparameters.adam_spd.lambda:",
        "must be a list such as [0.1, 1], not 1",
    ),
    "negative hyperparameter": Bad(
        written(
            methods="[adam_spd]", hyperparameters="\n  adam_spd:\n    lambda:\n    - 1\n    - -1"
        ),
        "9: hyperparameters.adam_spd.lambda[1]:",
        "-1 is out of range; give numbers from 0 on",
    ),
    "endless hyperparameter": Bad(
        written(methods="[adam_spd]", hyperparameters="{adam_spd: {lambda: [.inf]}}"),
        "5: hyperparameters.adam_spd.lambda[0]:",
        "inf is out of range",
    ),
    "word as a hyperparameter": Bad(
        written(methods="[adam_spd]", hyperparameters="{adam_spd: {lambda: [much]}}"),
        "5: hyperparameters.adam_spd.lambda[0]:",
        "'much' is not a number; give numbers from 0 on",
    ),
    "values without a name": Bad(
        written(methods="[adam_spd]", hyperparameters="{adam_spd: [0.1, 1]}"),
        "5: hyperparameters.adam_spd:",
        "must be {name: list}, such as {lambda: [0.1, 1]}",
    ),
    "hyperparameters as a list": Bad(
        written(methods="[adam_spd]", hyperparameters="[0.1]"),
        "5: hyperparameters:",
        "must be {method: {name: list}}",
    ),
    "block by block without blocks": Bad(
        written(models="[tiny_vit, tiny_bit]", methods="[gradual_unfreezing]"),
        "4: methods[0]:",
        'model "tiny_bit" has no transformer blocks',
    ),
    "other normalisation": Bad(
        written(sup_vit_normalization="clip"), "5: sup_vit_normalization:", "'imagenet'"
    ),
    "no factor of rates": Bad(
        written(lp_ft_rate_factor="0"), "5: lp_ft_rate_factor:", "give more than 0"
    ),
    "form of L2-SP": Bad(written(l2_sp="mine"), "5: l2_sp:", "'paper' or 'authors'; choose one"),
    "one block without a list": Bad(
        written(grids="{seeds: [0]}"), "5: grids:", "must be a list of blocks, each `field: value`"
    ),
    "no block": Bad(written(grids="[]"), "5: grids:", "must be a list of blocks"),
    "blocks that are words": Bad(
        written(grids="[sgd, adamw]"), "5: grids:", "must be a list of blocks"
    ),
    "mistake inside a block": Bad(
        BLOCKS + "grids:\n- methods: [sgd]\n- methods: [adamw]\n  seeds: [x]\n",
        "7: grids[1].seeds[0]:",
        "must be a whole number, not 'x'",
    ),
    "block without methods": Bad(
        BLOCKS + "grids:\n- methods: [sgd]\n- seeds: [1]\n",
        "6: grids[1].methods:",
        "is missing or empty",
    ),
    "two resources for one run": Bad(
        BLOCKS
        + "grids:\n- methods: [sgd]\n  resources: {cpus: 1}\n"
        + "- methods: [adamw, sgd]\n  resources: {cpus: 2}\n",
        "8: grids[1].resources:",
        "an earlier block gives tiny_vit digits sgd lr=3e-05 s0 other resources",
    ),
    # not a sweep file at all
    "tab": Bad(written() + "resources:\n\tcpus: 2\n", "6:", "mend the YAML there"),
    "unclosed bracket": Bad(written() + "seeds: [0, 1\n", "6:", "mend the YAML there"),
    "unknown alias": Bad(written(seeds="*all"), "5:", "mend the YAML there"),
    "two documents": Bad(written() + "---\n" + written(), "5:", "mend the YAML there"),
    "code": Bad(written(seeds="!!python/name:os.system"), "5:", "mend the YAML there"),
    "list as a key": Bad(written() + "? [seeds]\n: [0]\n", "5:", "a key must be a word"),
    "truth as a key": Bad(written() + "on: 3\n", "5:", "a key must be a word"),
    "a month too many": Bad(written(seeds="[2020-13-01]"), "5:", "mend the YAML there"),
    "a thousand brackets": Bad("a: " + "[" * 3000, "", "mend the file"),
    "control character": Bad(written() + "# \x07\n", "", "mend the file"),
    "list at the top": Bad("- name: s\n- models: [tiny_vit]\n", "", "is a list; a sweep file is"),
    "word at the top": Bad("hello\n", "", "a sweep file is `field: value` lines"),
    "empty file": Bad("", "", "is empty; a sweep file is `field: value` lines"),
    "comments only": Bad("# to do\n", "", "is empty; a sweep file is `field: value` lines"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_mistake_is_named_with_its_place_and_remedy(name: str, tmp_path: Path) -> None:
    bad, path = BAD[name], tmp_path / "sweep.yaml"
    path.write_text(bad.text, encoding="utf-8")

    result = plan(path)

    refused(result, f"{path}:{bad.place}" if bad.place else str(path), bad.remedy)
    assert result.output.startswith("orch: ")


def test_there_are_many_kinds_of_mistakes() -> None:
    assert len(BAD) >= 35
    assert len({bad.text for bad in BAD.values()}) == len(BAD)


def test_every_mistake_of_a_file_is_said_at_once(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(written(models="[tiny_vti]", learning_rate="[1]", epochs="0", seeds="[a]"))

    places = ("2: models[0]:", "5: learning_rate:", "6: epochs:", "7: seeds[0]:")
    refused(plan(path), *(f"{path}:{place}" for place in places))


def test_a_mistake_above_the_blocks_is_said_once(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(BLOCKS + "seeds: [x]\ngrids:\n- methods: [sgd]\n- methods: [adamw]\n")

    result = plan(path)

    refused(result, f"{path}:4: seeds[0]:")
    assert result.output.count("seeds[0]") == 1


def test_a_binary_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.yaml"
    path.write_bytes(bytes(range(256)) * 4)

    refused(plan(path), str(path), "is not UTF-8 text; give a YAML sweep file")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    refused(plan(tmp_path), f"{tmp_path} is a folder; give a sweep file")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "none.yaml"

    refused(plan(path), f"{path} does not exist; give the path of a sweep file")


def test_an_unreadable_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(written())
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")

    refused(plan(path), str(path), "cannot be read", "check permissions")


# Good files

SPELLINGS = {"1e-3": 1e-3, "3e-5": 3e-5, "0.01": 1e-2, "2.E-4": 2e-4, "1": 1.0, "+.5e-1": 0.05}


def applicable(models: list[str]) -> list[str]:
    """The methods that fine-tune every one of these models, without a run of another kind first."""
    return [
        m.id
        for m in METHODS.values()
        if (m.kind, m.starts_from) == ("finetune", "pretrained")
        and not any(m.refuses(MODELS[model]) for model in models)
    ]


@st.composite
def products(draw: st.DrawFn) -> dict[str, list[str]]:
    """The lists of a product; each in any order."""

    def some(names: list[str]) -> list[str]:
        return draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True))

    models = some(list(MODELS))
    big = any(MODELS[name].published for name in models)
    fit = [name for name in BENCHMARKS if not big or DATASETS[name].side in (None, 224)]
    return {
        "models": models,
        "datasets": some(fit),
        "methods": some(applicable(models)),
        "learning_rates": some(list(SPELLINGS)),
        "seeds": some([str(seed) for seed in range(5)]),
    }


def as_text(product: dict[str, list[str]], **others: str) -> str:
    """A product as a sweep file."""
    lists = {field: f"[{', '.join(names)}]" for field, names in product.items()}
    return "\n".join(f"{k}: {v}" for k, v in {"name": "s", **lists, **others}.items()) + "\n"


@settings(max_examples=60, deadline=None)
@given(products())
def test_a_product_is_every_combination_once_in_the_order_of_its_lists(
    product: dict[str, list[str]],
) -> None:
    sweep = sweeps.loads(as_text(product), "sweep.yaml")

    rates = sorted(SPELLINGS[text] for text in product["learning_rates"])
    seeds = [int(text) for text in product["seeds"]]
    axes = product["models"], product["datasets"], product["methods"], rates, seeds
    found = [(r.model, r.dataset, r.method, r.learning_rate, r.seed) for r in sweep.requested]
    assert found == list(itertools.product(*axes))
    everything = [p.run.id for p in sweep.planned]
    assert len(everything) == len(set(everything))
    tiny = set(product["models"]) & set(TINY)
    assert len(everything) == len(found) + len(tiny)


@settings(max_examples=40, deadline=None)
@given(products())
def test_the_order_is_the_same_every_time_and_needs_come_first(
    product: dict[str, list[str]],
) -> None:
    once = sweeps.loads(as_text(product), "sweep.yaml").planned

    assert once == sweeps.loads(as_text(product), "sweep.yaml").planned
    before: set[str] = set()
    for one in once:
        assert before.issuperset(one.run.needs), one.run
        before.add(one.run.id)


@settings(max_examples=40, deadline=None)
@given(products(), st.data())
def test_a_run_id_depends_on_neither_the_order_of_the_file_nor_on_resources(
    product: dict[str, list[str]], data: st.DataObject
) -> None:
    fields = data.draw(st.permutations(list(product)))
    shuffled = {field: data.draw(st.permutations(product[field])) for field in fields}

    assert ids(as_text(product)) == ids(as_text(shuffled, resources="{cpus: 3, gpus: 0.25}"))


def resources(text: str) -> dict[str, tuple[float, float]]:
    """(cpus, gpus) of each model's runs, pretraining included, which must agree."""
    found: dict[str, tuple[float, float]] = {}
    for one in sweeps.loads(text, "sweep.yaml").planned:
        own = one.resources.cpus, one.resources.gpus
        assert found.setdefault(one.run.model, own) == own, one.run
    return found


def test_resources_may_differ_by_model() -> None:
    fields = {"models": "[bit_r50_in21k, clip_vit_b16, tiny_vit, tiny_bit]"} | {
        "datasets": "[waterbirds]"
    }
    given = (
        "{default: {gpus: 1, cpus: 4}, bit_r50_in21k: {gpus: 0.25, cpus: 2}, tiny_vit: {gpus: 0}}"
    )

    assert resources(written(**fields, resources=given)) == {
        "bit_r50_in21k": (2, 0.25),
        "clip_vit_b16": (4, 1),
        "tiny_vit": (4, 0),
        "tiny_bit": (4, 1),
    }
    assert resources(written(**fields, resources="{tiny_vit: {cpus: 3}}")) == {
        "bit_r50_in21k": (1, 0),
        "clip_vit_b16": (1, 0),
        "tiny_vit": (3, 0),
        "tiny_bit": (1, 0),
    }


def test_resources_above_the_blocks_hold_for_their_models() -> None:
    text = (
        "name: s\ndatasets: [digits]\nmethods: [sgd]\nprecision: tf32\n"
        "resources: {default: {gpus: 1}, tiny_vit: {gpus: 0.5}, tiny_bit: {gpus: 0.125}}\n"
        "grids:\n- models: [tiny_vit]\n- models: [tiny_bit]\n  seeds: [0, 1]\n"
    )

    assert resources(text) == {"tiny_vit": (1, 0.5), "tiny_bit": (1, 0.125)}


def test_the_same_resources_may_be_said_in_both_ways() -> None:
    text = BLOCKS + "methods: [sgd]\ngrids:\n- resources: {cpus: 2}\n"

    both = text + "- seeds: [0, 1]\n  resources: {default: {gpus: 0}, tiny_vit: {cpus: 2}}\n"

    assert resources(both) == {"tiny_vit": (2, 0)}


def test_blocks_may_stand_in_any_order() -> None:
    blocks = ["- methods: [sgd]\n  seeds: [0, 1]\n", "- methods: [adamw, sgd]\n  epochs: 2\n"]
    text, reverse = ("".join(order) for order in (blocks, blocks[::-1]))

    assert ids(BLOCKS + "grids:\n" + text) == ids(BLOCKS + "grids:\n" + reverse)


@pytest.mark.parametrize(
    "text", ["3e-5", "3E-5", "3.e-5", "3.0e-05", ".3e-4", "+3e-5", "0.00003", "30E-6"]
)
def test_a_number_needs_no_dot(text: str) -> None:
    assert {r.learning_rate for r in requested(written(learning_rates=f"[{text}]"))} == {3e-5}


@pytest.mark.parametrize("text", ["e5", "1e", "3e-", "v1e5", "1e5x", "'3e-5'", "tiny_1e5"])
def test_a_word_stays_a_word(text: str) -> None:
    assert yaml_file.parse(f"a: {text}", "x.yaml").values == {"a": text.strip("'")}


def test_the_defaults_are_the_methods_own_rates_and_the_datasets_own_epochs() -> None:
    runs = requested(written(methods="[sgd, adamw]", datasets="[waterbirds, fmow]"))

    assert requested(written(learning_rates="default")) == requested(written())
    for method in ("sgd", "adamw"):
        rates = {run.learning_rate for run in runs if run.method == method}
        assert rates == set(METHODS[method].learning_rates)
    assert {(run.dataset, run.epochs) for run in runs} == {("waterbirds", 20), ("fmow", 5)}


def test_a_methods_own_list_goes_before_its_familys() -> None:
    runs = requested(
        written(
            methods="[sgd, sgd_freeze_embed, sgd_freeze_embed_no_momentum, adamw_freeze_embed]",
            learning_rates="{sgd: [1e-2], sgd_freeze_embed: [3e-2, 1e-1], adamw: [1e-4]}",
        )
    )

    assert [(run.method, run.learning_rate) for run in runs] == [
        ("sgd", 1e-2),
        ("sgd_freeze_embed", 3e-2),
        ("sgd_freeze_embed", 1e-1),
        ("sgd_freeze_embed_no_momentum", 1e-2),
        ("adamw_freeze_embed", 1e-4),
    ]


def test_rates_are_tried_in_ascending_order() -> None:
    runs = requested(written(learning_rates="[1e-2, 3e-5, 1e-3]"))

    assert [run.learning_rate for run in runs] == [3e-5, 1e-3, 1e-2]


def test_a_block_takes_from_the_top_what_it_does_not_say() -> None:
    runs = requested(
        BLOCKS
        + "learning_rates: [1e-3]\nseeds: [0, 1]\nepochs: 3\n"
        + "grids:\n- methods: [sgd]\n- methods: [adamw]\n  seeds: [5]\n  epochs: 7\n"
    )

    assert [(run.method, run.learning_rate, run.seed, run.epochs) for run in runs] == [
        ("sgd", 1e-3, 0, 3),
        ("sgd", 1e-3, 1, 3),
        ("adamw", 1e-3, 5, 7),
    ]


def test_blocks_share_the_runs_that_both_ask_for() -> None:
    text = BLOCKS + "learning_rates: [1e-3]\ngrids:\n"
    both = text + "- {methods: [sgd], seeds: [0, 1]}\n- {methods: [sgd, adamw], seeds: [1, 2]}\n"

    found = [(run.method, run.seed) for run in requested(both)]
    assert found == [("sgd", 0), ("sgd", 1), ("sgd", 2), ("adamw", 1), ("adamw", 2)]


def test_two_sweeps_share_the_runs_that_both_ask_for() -> None:
    assert ids(written(seeds="[0]")) < ids(written(name="other", seeds="[0, 1]"))


@pytest.mark.parametrize("first", ["pretrain", "finetune"])
def test_a_pretraining_that_is_asked_for_is_also_what_fine_tuning_needs(first: str) -> None:
    blocks = [
        "- {kind: pretrain, models: [tiny_vit]}\n",
        "- {models: [tiny_vit], datasets: [digits], methods: [sgd], learning_rates: [1e-3]}\n",
    ]
    order = blocks if first == "pretrain" else blocks[::-1]

    sweep = sweeps.loads("name: s\ngrids:\n" + "".join(order), "sweep.yaml")

    assert [run.kind for run in sweep.requested] == ["pretrain", "finetune"]
    assert sweep.requested[1].needs == (sweep.requested[0].id,)
    assert len(sweep.planned) == 2


def test_evaluation_follows_the_datasets_splits() -> None:
    def splits(evaluate: str) -> set[tuple[tuple[str, ...], tuple[str, ...]]]:
        runs = requested(written(datasets="[domainnet]", evaluate=evaluate))
        return {(run.evaluate, run.evaluate_on_improvement) for run in runs}

    assert splits("table") == {(("id", "ood"), ("painting", "clipart"))}
    assert splits("all") == {(("id", "ood", "painting", "clipart"), ())}
    assert splits("[clipart, id]") == {(("id", "clipart"), ())}


def test_the_text_is_kept_as_it_was() -> None:
    text = "# Question: does it?\n" + written()

    assert sweeps.loads(text, "sweep.yaml").text == text


def test_the_full_grid_is_the_papers(tmp_path: Path) -> None:
    path = tmp_path / "full_grid.yaml"
    path.write_text(FULL_GRID.read_text(encoding="utf-8"), encoding="utf-8")

    found = planned(path)

    assert (found["sweep"], found["runs"], found["cells"]) == ("full_grid", 1050, 175)
    assert (found["pretraining"], found["to_do"]) == (0, 1050)
    assert found["states"] == {"pending": 1050}
    assert len(found["by_cell"]) == 175
    assert {len(cell["learning_rates"]) for cell in found["by_cell"]} == {6}
    assert {cell["runs"] for cell in found["by_cell"]} == {6}


# --where and --limit


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """2 models × 2 datasets × 2 methods × 2 rates × 2 seeds, of which one model is tiny."""
    path = tmp_path / "small.yaml"
    path.write_text(
        "name: small\nmodels: [clip_vit_b16, tiny_vit]\ndatasets: [waterbirds, fmow]\n"
        "methods: [sgd, adamw]\nlearning_rates: [1e-3, 3e-3]\nseeds: [0, 1]\n"
    )
    return path


@pytest.mark.parametrize(
    ("conditions", "runs", "pretraining"),
    [
        ((), 32, 1),
        (("model=tiny_vit",), 16, 1),
        (("model!=tiny_vit",), 16, 0),
        (("model=tiny_vit,clip_vit_b16",), 32, 1),
        (("dataset=waterbirds method=sgd seed=1",), 4, 1),
        (("dataset=waterbirds", "method=sgd", "seed=1"), 4, 1),
        (("learning_rate=0.001",), 16, 1),
        (("learning_rate=1.0E-3,3e-03",), 32, 1),
        (("learning_rate!=1e-3 model=clip_vit_b16",), 8, 0),
        (("kind=finetune",), 32, 1),
        (("epochs=5",), 16, 1),
        (("",), 32, 1),
    ],
)
def test_where_chooses_runs_and_what_they_need(
    small: Path, conditions: tuple[str, ...], runs: int, pretraining: int
) -> None:
    options = [part for condition in conditions for part in ("--where", condition)]

    found = planned(small, *options)

    assert (found["runs"], found["pretraining"]) == (runs, pretraining)
    assert found["to_do"] == runs + pretraining


def test_limit_counts_requested_runs_after_where(small: Path) -> None:
    for limit in (1, 3, 16, 40):
        found = planned(small, "--where", "model=tiny_vit", "--limit", str(limit))

        assert (found["runs"], found["pretraining"]) == (min(limit, 16), 1)


def test_limit_takes_the_first(small: Path) -> None:
    sweep = sweeps.load(small)

    chosen = sweeps.chosen(sweep.planned, where.parse(("method=adamw",)), 3)

    assert [p.run for p in chosen] == [r for r in sweep.requested if r.method == "adamw"][:3]


@pytest.mark.parametrize("limit", ["0", "-1", "some"])
def test_a_limit_is_a_positive_number(small: Path, limit: str) -> None:
    refused(plan(small, "--limit", limit), "--limit")


@pytest.mark.parametrize(
    ("conditions", "remedy"),
    [
        (("seed",), "write field=value"),
        (("seed=",), "write field=value"),
        (("seed = 0",), "write field=value"),
        (("modle=tiny_vit",), 'did you mean "model"?'),
        (("=0",), "known: "),
        (("lr=0.1",), "known: "),
        (("model=tiny_vti",), 'did you mean "tiny_vit"?'),
        (("dataset!=waterbird",), 'did you mean "waterbirds"?'),
        (("method=sgd,adamww",), 'did you mean "adamw"?'),
        (("seed=0 seed=1",), "write seed=a,b"),
        (("seed=0", "seed!=1"), "seed is given twice"),
    ],
)
def test_a_condition_that_cannot_be_is_refused(
    small: Path, conditions: tuple[str, ...], remedy: str
) -> None:
    with pytest.raises(SpecError) as caught:
        where.parse(conditions)
    assert remedy in str(caught.value)

    refused(plan(small, *(p for c in conditions for p in ("--where", c))), remedy)
