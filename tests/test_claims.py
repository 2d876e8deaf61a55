"""The paper's claims over stores: its own figures, others, too few, and what must not count."""

import csv
import io
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import a_run
from db.store import Store
from orchestrator.cli import main
from paper_numbers import Numbers, as_published, shifted, stored
from reports import claims, statistics
from reports.claims import CLAIMS, Judged
from reports.claims.declared import MARGIN, Claim
from reports.claims.judging import MINIMUM, family_of, place
from reports.claims.output import LONG, region, statistic
from reports.declared import FIVE, PRETRAINED, SEVEN
from reports.select import Key
from reports.statistics import Contrast, agreement, bootstrap, mean
from reports.study import Study

# What the paper's own figures do not settle at 90%: on Table 9 the stem alone is 0.3 above the
# middle of the gap, with one dataset far below it; in Table 13 the gap follows the optimizer of
# pretraining on Waterbirds by far more than elsewhere, and on Camelyon17 not at all.
UNSETTLED = {"freeze-stem", "pretraining-decides"}
UPSTREAM = a_run(kind="pretrain", model="bit_r50_sgd", dataset="shapes", method="pretrain")
OTHER_KINDS = {claim.id for claim in CLAIMS if claim.kind != "finetune"}


def by_id(judged: list[Judged]) -> dict[str, Judged]:
    """What was found, by the claim's id."""
    return {one.claim.id: one for one in judged}


def only(numbers: Numbers, *models: str) -> Numbers:
    """The cells of some models."""
    return {key: cell for key, cell in numbers.items() if key[0] in models}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The paper's figures, one run a cell."""
    return stored(tmp_path_factory.mktemp("claims") / "orch.db", as_published())


# On the paper's own figures


def test_the_published_figures_support_the_claims_but_for_two(published: Study) -> None:
    verdicts = {one.claim.id: one.verdict for one in claims.judge(published)}

    assert {i for i, v in verdicts.items() if v == "not enough runs"} == OTHER_KINDS
    assert {i for i, v in verdicts.items() if v == "inconclusive"} == UNSETTLED
    assert {i for i, v in verdicts.items() if v == "supported"} == (
        verdicts.keys() - OTHER_KINDS - UNSETTLED
    )


def test_the_effect_of_the_published_figures_is_the_published_effect(published: Study) -> None:
    for one in claims.judge(published):
        if one.claim.kind == "finetune":
            assert one.effect == pytest.approx(one.claim.published, abs=1e-9)
            assert one.found == one.expected > 0
            assert one.missing == one.notes == ()


def test_published_effects_are_what_the_paper_says_in_words() -> None:
    effects = {claim.id: claim.published for claim in CLAIMS}

    assert effects["freeze-embed-beats-sgd"] == pytest.approx(76.7 - 72.0, abs=0.1)
    assert effects["freeze-embed-closes-gap"] == pytest.approx(76.7 - 76.0, abs=0.1)
    assert effects["no-momentum-closes-gap"] == pytest.approx(76.9 - 76.0, abs=0.1)
    assert effects["adamw-freeze-embed"] == pytest.approx(76.5 - 76.0, abs=0.1)
    assert effects["id-differs-little"] == pytest.approx(91.5 - 90.3, abs=0.1)
    assert effects["memory-adamw"] is None
    sizes = {c.id: len(c.units()) for c in CLAIMS}
    assert (sizes["adamw-beats-sgd"], sizes["no-gap-on-bit"], sizes["gap-is-modern"]) == (25, 10, 5)
    assert (sizes["id-differs-little"], sizes["pretraining-decides"]) == (35, 10)


def test_every_claim_is_one_of_the_papers() -> None:
    assert len({claim.id for claim in CLAIMS}) == len(CLAIMS)
    for claim in CLAIMS:
        assert claim.source
        assert claim.command.startswith("orch launch ")
        assert claim.sentence.endswith(".")
        for unit in claim.units():
            assert {key[0] for _, key, _ in unit.terms} <= {*SEVEN, *PRETRAINED}
            assert {key[1] for _, key, _ in unit.terms} <= {*FIVE}
            if not claim.prior:  # of a constant added to all accuracies nothing remains
                assert math.fsum(weight for weight, _, _ in unit.terms) == pytest.approx(0)


def test_a_statistic_is_told_in_words() -> None:
    told = {claim.id: (statistic(claim), region(claim)) for claim in CLAIMS if claim.units()}

    assert told["adamw-beats-sgd"] == ("AdamW − SGD, OOD", "> 0")
    assert told["id-differs-little"] == ("AdamW − SGD, ID", "within ±2")
    assert told["gap-is-ood"] == ("(AdamW − SGD, OOD) − (AdamW − SGD, ID)", "> 0")
    assert told["gap-is-modern"][0] == "(AdamW − SGD, OOD, modern) − (AdamW − SGD, OOD, BiT)"
    assert told["pretraining-decides"][0] == "(AdamW − SGD, OOD, AdamW) − (AdamW − SGD, OOD, SGD)"
    assert told["patchify-does-not"] == (
        "(AdamW − SGD, OOD, patchify) − (AdamW − SGD, OOD, without patchify)",
        "< +2",
    )
    assert told["no-momentum-alone"] == ("SGD (no momentum) − ½ SGD − ½ AdamW, OOD", "< 0")
    assert told["freeze-embed-closes-gap"][1] == "> −2"


# On other figures


def test_an_adamw_that_is_worse_contradicts(tmp_path: Path) -> None:
    def worse(key: Key, split: str) -> float:
        return -12.0 if key[2] == "adamw" and split == "ood" else 0.0

    found = by_id(claims.judge(stored(tmp_path / "s.db", shifted(as_published(), worse))))

    for name in ("adamw-beats-sgd", "no-gap-on-bit", "adamw-freeze-embed", "gap-is-ood"):
        wanted = "supported" if name == "adamw-freeze-embed" else "contradicted"
        assert found[name].verdict == wanted, name
    assert found["freeze-embed-closes-gap"].verdict == "supported"
    assert found["freeze-embed-beats-sgd"].verdict == "supported"
    assert found["id-differs-little"].verdict == "supported"


def test_without_every_cell_there_is_no_verdict_but_with_partial(tmp_path: Path) -> None:
    numbers = {key: cell for key, cell in as_published().items() if key[1] != "fmow"}
    study = stored(tmp_path / "s.db", numbers)

    (strict, *_) = claims.judge(study)
    partial = by_id(claims.judge(Study(study.reader, partial=True)))

    assert strict.verdict == "not enough runs"
    assert (strict.found, strict.expected) == (20, 25)
    assert strict.missing == tuple(f"{model} fmow" for model in SEVEN[:5])
    assert strict.effect == partial["adamw-beats-sgd"].effect
    assert partial["adamw-beats-sgd"].verdict == "supported"
    assert partial["lamb-leaves-gap"].found == 4 < MINIMUM
    assert partial["lamb-leaves-gap"].verdict == "not enough runs"


def test_a_cell_with_runs_missing_is_left_out(tmp_path: Path) -> None:
    waits = ("clip_vit_b16", "fmow", "lamb")
    study = stored(tmp_path / "s.db", only(as_published(), "clip_vit_b16"), pending=[waits])

    left = by_id(claims.judge(study))["lamb-leaves-gap"]
    taken = by_id(claims.judge(Study(study.reader, partial=True)))["lamb-leaves-gap"]

    assert (left.found, left.verdict) == (4, "not enough runs")
    assert left.notes == ("left out: 1 with runs missing",)
    assert (taken.found, taken.verdict) == (5, "supported")
    assert taken.notes == ("1 number with runs missing",)


@pytest.mark.parametrize(
    ("changes", "fingerprint", "why"),
    [
        ({}, "miniature-0f", "miniature data, not the real one"),
        ({"weights": "random"}, "d", "random weights, not pretrained ones"),
        (
            {"weights": f"run:{UPSTREAM.id}"},
            "d",
            f"weights of run:{UPSTREAM.id}, not the published ones",
        ),
        ({"images_per_split": 64}, "d", "at most 64 images of each split"),
    ],
)
def test_what_is_not_the_papers_never_counts(
    tmp_path: Path, changes: Mapping[str, object], fingerprint: str, why: str
) -> None:
    study = stored(
        tmp_path / "s.db",
        only(as_published(), "bit_r50_in21k", "bit_r101_in21k"),
        changes=lambda key: changes,
        fingerprint=lambda key: fingerprint,
        needs=UPSTREAM,
    )

    found = by_id(claims.judge(study))["no-gap-on-bit"]

    assert (found.found, found.effect, found.verdict) == (0, None, "not enough runs")
    assert found.notes == (f"left out: 20 with {why}",)
    assert by_id(claims.judge(study, rehearse=True))["no-gap-on-bit"].verdict == "as in the paper"


def test_weights_of_the_appendix_are_our_own(tmp_path: Path) -> None:
    study = stored(
        tmp_path / "s.db",
        only(as_published(), *PRETRAINED),
        changes=lambda key: {"weights": f"run:{UPSTREAM.id}"},
        needs=UPSTREAM,
    )

    assert by_id(claims.judge(study))["patchify-does-not"].verdict == "supported"


def test_imported_numbers_count_and_are_named(tmp_path: Path) -> None:
    numbers = only(as_published(), "clip_vit_b16")
    study = stored(tmp_path / "s.db", numbers, changes=lambda key: {"source": "import:paper"})

    found = by_id(claims.judge(study))["lars-leaves-gap"]

    assert found.verdict == "supported"
    assert found.notes == ("10 numbers imported, not measured here",)


def test_an_oracle_is_named(published: Study) -> None:
    (first, *_) = claims.judge(Study(published.reader, rule="ood-oracle"))

    assert first.notes == ("rates and epochs chosen by ood-oracle, not by the protocol",)


def test_seeds_that_differ_widen_the_interval(tmp_path: Path) -> None:
    numbers = only(as_published(), "clip_vit_b16")
    noisy = {
        key: {split: (v[0] - 9, v[0], v[0] + 9) for split, v in cell.items()}
        for key, cell in numbers.items()
    }
    one, three = (
        by_id(claims.judge(stored(tmp_path / name, those)))["lamb-leaves-gap"]
        for name, those in (("one.db", numbers), ("three.db", noisy))
    )

    assert three.effect == pytest.approx(one.effect)
    assert None not in (one.low, three.low, one.high, three.high)
    assert three.low < one.low < one.high < three.high  # type: ignore[operator]
    assert (one.verdict, three.verdict) == ("supported", "inconclusive")


def test_the_same_numbers_print_the_same_digits(published: Study, tmp_path: Path) -> None:
    backwards = dict(reversed(as_published().items()))
    again = stored(tmp_path / "s.db", backwards)

    for style in claims.FORMATS:
        first, second = (claims.render(claims.judge(s), style) for s in (published, again))
        assert first == second


# Rehearsals


def rehearsed(path: Path, models: Mapping[str, str], datasets: tuple[str, ...]) -> Study:
    """The published numbers under other names."""
    numbers = as_published()
    named = dict(zip(FIVE, datasets, strict=False))
    return stored(
        path,
        {
            (models[m], named[d], method): cell
            for (m, d, method), cell in numbers.items()
            if m in models and d in named
        },
        fingerprint=lambda key: "miniature-0",
    )


def test_a_rehearsal_takes_what_there_is_and_never_says_supported(tmp_path: Path) -> None:
    models = {"clip_vit_l14": "tiny_vit", "bit_r50_in21k": "tiny_bit"}
    study = rehearsed(tmp_path / "s.db", models, tuple(f"mini_{d}" for d in FIVE))

    real, tried = claims.judge(study), claims.judge(study, rehearse=True)

    assert all(one.found == 0 and one.notes == () for one in real)
    found = by_id(tried)
    assert found["adamw-beats-sgd"].verdict == "as in the paper"
    assert (found["adamw-beats-sgd"].found, found["no-gap-on-bit"].found) == (5, 5)
    assert found["freeze-embed-closes-gap"].found == 10
    assert found["gap-is-modern"].expected == 5
    assert not found.keys() & {"state-of-the-art", "lamb-leaves-gap", "pretraining-decides"}
    assert {one.verdict for one in tried}.isdisjoint({"supported", "contradicted"})
    text = claims.render(tried, "text")
    assert text.startswith("NOT A TEST OF THE PAPER.")
    assert "supported" not in text
    assert claims.render(tried, "markdown").startswith("**NOT A TEST OF THE PAPER.")
    assert {
        row["rehearsal"] for row in csv.DictReader(io.StringIO(claims.render(tried, "csv")))
    } == {"yes"}


def test_too_few_cells_rehearse_nothing(tmp_path: Path) -> None:
    study = rehearsed(tmp_path / "s.db", {"clip_vit_l14": "tiny_vit"}, ("digits", "mini_fmow"))

    found = by_id(claims.judge(study, rehearse=True))["adamw-beats-sgd"]

    assert (found.found, found.expected, found.verdict) == (2, 2, "not enough runs")
    assert found.low is not None


def test_pairs_of_a_rehearsal_differ_by_what_the_claim_is_about(tmp_path: Path) -> None:
    models = {
        "bit_r50_adamw": "tiny_bit_adamw",
        "bit_r50_sgd": "tiny_bit_sgd",
        "bit_r50_patchify_sgd": "tiny_bit_patchify_sgd",
    }
    study = rehearsed(tmp_path / "s.db", models, FIVE)

    found = by_id(claims.judge(study, rehearse=True))

    assert found["pretraining-decides"].found == found["patchify-does-not"].found == 5


@pytest.mark.parametrize(
    ("model", "family"),
    [("tiny_bit", "bit"), ("bit_r50_sgd", "bit"), ("tiny_vit", "modern"), ("rabbit", "modern")],
)
def test_the_family_is_read_from_the_id(model: str, family: str) -> None:
    assert family_of(model) == family


# The bootstrap and the verdict

VALUES = st.floats(-50, 50, allow_nan=False).map(lambda v: round(v, 1))
TERMS = st.tuples(
    st.sampled_from([1.0, -1.0, 0.5]), st.lists(VALUES, min_size=1, max_size=4).map(tuple)
)
CONTRASTS = st.lists(
    st.builds(Contrast, st.lists(TERMS, min_size=1, max_size=3).map(tuple), VALUES),
    min_size=2,
    max_size=12,
)
FEW = 1_000


@settings(max_examples=100, deadline=None)
@given(CONTRASTS)
def test_the_interval_holds_the_mean(contrasts: list[Contrast]) -> None:
    low, high = bootstrap(contrasts, "x", FEW)

    assert low - 1e-9 <= mean(contrasts) <= high + 1e-9


@settings(max_examples=50, deadline=None)
@given(CONTRASTS, VALUES)
def test_the_interval_moves_with_the_values(contrasts: list[Contrast], by: float) -> None:
    moved = [Contrast(one.terms, one.shift + by) for one in contrasts]

    wanted = [end + by for end in bootstrap(contrasts, "x", FEW)]
    assert bootstrap(moved, "x", FEW) == pytest.approx(wanted, abs=1e-9)


@settings(max_examples=50, deadline=None)
@given(CONTRASTS)
def test_the_interval_of_the_opposite_is_its_mirror_image(contrasts: list[Contrast]) -> None:
    opposite = [
        Contrast(tuple((-weight, seeds) for weight, seeds in one.terms), -one.shift)
        for one in contrasts
    ]

    low, high = bootstrap(contrasts, "x", FEW)
    assert bootstrap(opposite, "x", FEW) == pytest.approx((-high, -low), abs=1e-9)


def test_cells_that_agree_leave_no_interval() -> None:
    assert bootstrap([Contrast(((1.0, (3.0,)),))] * 6, "x") == pytest.approx((3.0, 3.0))


def test_the_interval_covers_the_mean_about_as_often_as_it_says() -> None:
    draws = statistics.np.random.RandomState(1)
    covered = 0
    for number in range(300):
        sample = draws.normal(5.0, 2.0, 30)
        low, high = bootstrap([Contrast((), float(v)) for v in sample], str(number), FEW)
        covered += low <= 5.0 <= high
    assert 0.82 < covered / 300 < 0.95


REGIONS = [claim for claim in CLAIMS if claim.units()]
ORDER = ("contradicted", "inconclusive", "supported")


@given(st.sampled_from(REGIONS), VALUES, st.floats(0, 5), st.floats(0, 20))
def test_a_verdict_never_falls_as_the_effect_moves_into_the_region(
    claim: Claim, low: float, width: float, by: float
) -> None:
    """Of one-sided claims: shifted the claim's way, the interval's verdict only improves."""
    if math.isfinite(claim.low) and math.isfinite(claim.high):
        return
    way = by if math.isinf(claim.high) else -by

    before = place(claim, low, low + width)
    after = place(claim, low + way, low + way + width)

    assert ORDER.index(after) >= ORDER.index(before)


@given(st.sampled_from(REGIONS), VALUES, st.floats(0, 5), st.floats(0.001, 2))
def test_a_narrower_interval_keeps_what_a_wider_one_says(
    claim: Claim, low: float, width: float, by: float
) -> None:
    wide = place(claim, low - by, low + width + by)

    assert wide in ("inconclusive", place(claim, low, low + width))


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (-1.9, 1.9, "supported"),
        (-2.0, 1.0, "inconclusive"),
        (1.0, 3.0, "inconclusive"),
        (-9.0, 9.0, "inconclusive"),
        (2.0, 3.0, "contradicted"),
        (-5.0, -2.5, "contradicted"),
    ],
)
def test_alike_means_inside_of_the_margin(low: float, high: float, verdict: str) -> None:
    claim = next(c for c in CLAIMS if c.id == "no-gap-on-bit")
    assert claim.high == MARGIN == 2.0

    assert place(claim, low, high) == verdict


@given(st.lists(st.tuples(VALUES, VALUES), max_size=8))
def test_agreement_counts_the_pairs_that_the_other_list_orders(
    pairs: list[tuple[float, float]],
) -> None:
    ours, theirs = [a for a, _ in pairs], [b for _, b in pairs]
    found = agreement(ours, theirs)

    n = len(pairs)
    ties = sum(theirs[i] == theirs[j] for i in range(n) for j in range(i))
    assert found.pairs == n * (n - 1) // 2 - ties
    assert found.same + found.opposite <= found.pairs
    assert agreement(theirs, theirs).same == found.pairs
    mirrored = agreement([-v for v in ours], theirs)
    assert (mirrored.same, mirrored.opposite) == (found.opposite, found.same)
    assert found.tau is None or -1 <= found.tau <= 1


# What is printed


def test_text_reads_without_colour_and_with(
    published: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    judged = claims.judge(published)
    plain, painted = (claims.render(judged, "text", colour=colour) for colour in (False, True))

    assert "\x1b" not in plain
    assert re.sub(r"\x1b\[[\d;]*m", "", painted) == plain
    assert "\x1b[32msupported" in painted
    assert "+5.6 [+3.1, +8.4]" in plain
    assert "22 supported, 2 inconclusive, 3 not enough runs." in plain
    assert "10,000 resamples" in plain
    assert max(map(len, plain.splitlines())) < 130
    monkeypatch.setenv("COLUMNS", "100")
    narrow = re.sub(r"\x1b\[[\d;]*m", "", claims.render(judged, "text", colour=True))
    assert "●" in plain
    assert "●" not in narrow
    assert re.search(r"\+5\.6 \[\+3\.1, \+8\.4\] +expects > 0 +paper \+5\.6 +25/25 cells", narrow)


def test_what_is_missing_is_said_with_its_command(store: Store) -> None:
    judged = claims.judge(Study(store))
    text = claims.render(judged, "text")

    assert {one.verdict for one in judged} == {"not enough runs"}
    assert "orch launch sweeps/full_grid.yaml\n      adamw-beats-sgd, no-gap-on-bit" in text
    assert "sweeps/memory.yaml" in text
    assert "`orch claims --rehearse`" in text


def test_csv_and_json_hold_the_same(published: Study) -> None:
    judged = claims.judge(published)
    rows = [*csv.DictReader(io.StringIO(claims.render(judged, "csv")))]
    objects = json.loads(claims.render(judged, "json"))

    assert [*rows[0]] == [*objects[0]] == [*LONG]
    assert [row["id"] for row in rows] == [one["id"] for one in objects] == [c.id for c in CLAIMS]
    for row, one in zip(rows, objects, strict=True):
        assert row["effect"] == ("" if one["effect"] is None else repr(one["effect"]))
        assert row["verdict"] == one["verdict"]


def test_markdown_is_a_table(published: Study) -> None:
    lines = claims.render(claims.judge(published), "markdown").splitlines()
    rows = [line for line in lines if line.startswith("|")]

    assert len(rows) == len(CLAIMS) + 2
    assert {row.count(" | ") for row in rows[2:]} == {6}


# The command


def test_the_command_judges_a_sweep(published: Study, tmp_path: Path) -> None:
    store = str(published.reader.engine.url)
    call = ["--store", store, "claims"]

    found = CliRunner().invoke(main, [*call, "--format", "json", "--sweep", "s"])
    some = CliRunner().invoke(main, [*call, "--where", "model=clip_vit_b16", "--partial"])
    none = CliRunner().invoke(main, [*call, "--where", "model=tiny_vit", "--rehearse"])

    assert [one["verdict"] for one in json.loads(found.output)].count("supported") == 22
    assert (found.exit_code, some.exit_code, none.exit_code) == (0, 0, 0)
    assert "5/25 cells" in some.output
    assert none.output.startswith("There is no run that a claim could be rehearsed on")


def test_the_command_names_what_it_cannot_do(store: Store, store_url: str) -> None:
    runs = [a_run(model="bit_r50_in21k", dataset="fmow", batch_size=size) for size in (32, 64)]
    store.register("s", "name: s", runs, {run.id for run in runs})
    call = ["--store", store_url, "claims"]

    unknown = CliRunner().invoke(main, [*call, "--sweep", "nothing"])
    mixed = CliRunner().invoke(main, call)

    assert (unknown.exit_code, mixed.exit_code) == (2, 2)
    assert 'no sweep "nothing"; it has: s' in unknown.output
    assert "batch_size: 32 / 64" in mixed.output
