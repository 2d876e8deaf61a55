"""Figures: that they show the study's numbers, in files that are what they say, or one sentence."""

import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

import studies
from conftest import a_run
from db.errors import EnvironmentProblem, OrchError, ReportError
from db.records import Run, State
from db.store import Store
from orchestrator.cli import main
from reports import figures, tables
from reports.figures import FIGURES
from reports.figures.sheets import ACROSS, DOWN, sheets
from reports.figures.style import ID, OOD, WIDEST, by_place, percent_limits, spell_rate
from reports.select import Key
from reports.study import Study
from reports.tables import Labels

LABELS = Labels()
DRAWN = [name for name, declared in FIGURES.items() if declared.module]


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store in which everything happens."""
    url = str(tmp_path_factory.mktemp("odd") / "orch.db")
    store = studies.fill(url, studies.odd_runs(), state=studies.odd_state)
    store.engine.dispose()
    return url


@pytest.fixture
def study(odd: str) -> Study:
    """Its runs, of all sweeps."""
    return Study(Store.open(odd))


def of(path: Path, *runs: Run, state: State = "done") -> Study:
    """A study of some runs, all in one state."""
    return Study(studies.fill(str(path / "some.db"), runs, state=lambda run: state))


def panels(figures: list[Figure], study: Study, each: int = 1) -> Iterator[tuple[Key, list[Axes]]]:
    """The axes of every cell: `each`, but one where the cell has no number."""
    for figure, sheet in zip(figures, sheets(study.members, LABELS), strict=True):
        axes = iter(figure.axes)
        for key in sheet.places:
            first = next(axes)
            silent = not first.lines
            yield key, [first, *(next(axes) for _ in range(0 if silent else each - 1))]
        assert next(axes, None) is None


def drawn(axes: Axes, label: str) -> list[list[tuple[float, float]]]:
    """The (x, y) of each line with a label."""
    return [
        [(float(x), float(y)) for x, y in line.get_xydata()]
        for line in axes.lines
        if line.get_label() == label
    ]


def marked(axes: Axes, gid: str) -> list[tuple[float, float]]:
    """Where the marks of a sort are."""
    return [(*map(float, line.get_xydata()[0]),) for line in axes.lines if line.get_gid() == gid]


# What they show


def test_learning_rate_shows_the_means_of_every_rate(study: Study) -> None:
    by_split = {"ID": study.rates("id"), "OOD": study.rates("ood")}
    seen = set()
    for key, (axes,) in panels(figures.draw("learning-rate", study, LABELS), study):
        seen.add(key)
        cell = study.cells("id")[key]
        for label, points in by_split.items():
            shown = [
                (p.learning_rate, p.mean)
                for p in points[key]
                if p.mean is not None and cell.hyperparameters in ("{}", p.hyperparameters)
            ]
            found = [point for line in drawn(axes, label) for point in line]
            assert sorted(found) == sorted(shown)
            if any(p.seeds for p in points[key]):
                assert axes.get_xscale() == "log"
        chosen = [(p.learning_rate, p.mean) for t in by_split.values() for p in t[key] if p.chosen]
        assert sorted(marked(axes, "chosen")) == sorted(chosen)
        assert len(marked(axes, "edge")) == bool(cell.edge)
        if cell.value is None and not any(p.seeds for p in by_split["ID"][key]):
            assert any("no run is finished" in text.get_text().replace("\n", " ") for text in
                       axes.texts)  # fmt: skip
    assert seen == set(study.members)


def test_intervals_over_seeds_are_whiskers(study: Study) -> None:
    key = ("clip_vit_b16", "living17", "sgd")
    axes = next(a for k, (a,) in panels(figures.draw("learning-rate", study, LABELS), study)
                if k == key)  # fmt: skip
    ends = [
        sorted(float(y) for _, y in segment)
        for bar in axes.collections
        for segment in bar.get_segments()  # type: ignore[attr-defined]
    ]
    expected = [
        [p.mean - p.ci90, p.mean + p.ci90]
        for split in ("id", "ood")
        for p in study.rates(split)[key]
        if p.mean is not None and p.ci90 is not None
    ]
    assert len(expected) == 6
    assert sorted(ends) == [pytest.approx(pair) for pair in sorted(expected)]


def test_curves_show_the_runs_of_the_chosen_rate(study: Study) -> None:
    cells = study.cells("id")
    briefs = {run.id: run for run in study.runs}
    for key, axes in panels(figures.draw("curves", study, LABELS), study, each=2):
        cell = cells[key]
        if not cell.runs:
            assert len(axes) == 1
            continue
        upper, lower = axes
        histories = study.curves([briefs[run].key for run in cell.runs], ("id", "ood"))
        after = {k: [p for p in points if p[0] > 0] for k, points in histories.items()}
        for label, split in (("ID", "id"), ("OOD", "ood")):
            expected = [[(e, values[split]) for e, values, _ in points] for points in
                        after.values()]  # fmt: skip
            assert sorted(drawn(upper, label)) == sorted(expected)
        losses = [[(e, loss) for e, _, loss in points] for points in after.values()]
        assert sorted(drawn(lower, "training loss")) == sorted(losses)
        expected_marks = [
            (epoch, histories[briefs[run].key][epoch][1][split])
            for run, epoch in zip(cell.runs, cell.epochs, strict=True)
            for split in ("id", "ood")
        ]
        assert sorted(marked(upper, "chosen")) == sorted(expected_marks)


def test_id_vs_ood_has_a_point_a_cell(study: Study) -> None:
    (figure,) = figures.draw("id-vs-ood", study, LABELS)
    inside, outside = study.cells("id"), study.cells("ood")
    assert [a.get_title() for a in figure.axes] == ["Living-17", "Waterbirds", "FMoW"]
    for axes, dataset in zip(figure.axes, ("living17", "waterbirds", "fmow"), strict=True):
        for method in ("sgd", "adamw", "adam_spd"):
            keys = [k for k in inside if k[1:] == (dataset, method)]
            expected = [
                (inside[k].value, outside[k].value) for k in keys if inside[k].value is not None
            ]
            found = [point for line in drawn(axes, method) for point in line]
            assert sorted(found) == sorted(expected)  # type: ignore[type-var]


def test_summary_has_the_bars_of_its_table(study: Study) -> None:
    (figure,) = figures.draw("summary", study, LABELS)
    table = tables.build(tables.find("summary"), study, LABELS)
    expected = {f"{e.method} {e.split}": e.cell.value for e in table.entries}
    (axes,) = figure.axes
    found = {bars.get_label(): bars.patches[0].get_width() for bars in axes.containers}  # type: ignore[attr-defined]
    assert found == pytest.approx(expected)
    assert axes.get_xlim()[0] == 0  # a bar that does not begin at zero lies
    printed = {text.get_text().split(" ")[0] for text in axes.texts}
    assert printed == {e.shown for e in table.entries}


@pytest.mark.parametrize("name", DRAWN)
def test_a_figure_says_that_an_oracle_chose(odd: str, name: str) -> None:
    oracle = Study(Store.open(odd), rule="ood-oracle")
    for figure in figures.draw(name, oracle, LABELS):
        assert any("oracle" in text.get_text().replace("\n", " ") for text in figure.texts)


def test_one_run_is_a_figure_too(tmp_path: Path) -> None:
    study = of(tmp_path, a_run(epochs=1))
    for name in DRAWN:
        (figure,) = figures.draw(name, study, LABELS)
        figure.canvas.draw()


def test_a_dataset_without_ood_has_its_id_line(tmp_path: Path) -> None:
    store = studies.fill(str(tmp_path / "x.db"), [a_run()], splits=("id",))
    study = Study(store)
    for name in ("learning-rate", "curves"):
        axes = figures.draw(name, study, LABELS)[0].axes[0]
        assert drawn(axes, "ID")
        assert not drawn(axes, "OOD")
    with pytest.raises(ReportError, match="both an ID and an OOD accuracy"):
        figures.draw("id-vs-ood", study, LABELS)


# How they look


@pytest.mark.parametrize("name", DRAWN)
def test_text_can_be_read_in_print(study: Study, name: str) -> None:
    for figure in figures.draw(name, study, LABELS):
        assert figure.get_figwidth() <= WIDEST
        assert figure.get_figheight() <= 11
        texts = [text for text in figure.findobj(Text) if text.get_text()]
        assert len(texts) > 5
        assert min(text.get_fontsize() for text in texts) >= 7


def test_the_whole_grid_is_a_page_a_model(tmp_path: Path) -> None:
    store = studies.fill(str(tmp_path / "grid.db"), studies.grid_runs(), epochs=2)
    study = Study(store)
    pages = figures.draw("learning-rate", study, LABELS)
    assert len(pages) == 7
    assert all(len(page.axes) == 25 and page.get_figheight() <= 9.5 for page in pages)
    assert {key for key, _ in panels(pages, study)} == set(study.members)


NAMES = st.integers(1, 14).map(lambda n: [f"n{i}" for i in range(n)])


@given(st.sampled_from([1, 2]), NAMES, NAMES, st.randoms(use_true_random=False))
def test_every_cell_is_on_one_page(models: int, datasets: list[str], methods: list[str],
                                   dice: object) -> None:  # fmt: skip
    keys = [(f"m{i}", d, m) for i in range(models) for d in datasets for m in methods]
    kept = [key for key in keys if dice.random() < 0.8] or keys[:1]  # type: ignore[attr-defined]
    made = list(sheets(kept, LABELS))
    assert sorted(key for sheet in made for key in sheet.places) == sorted(kept)
    for sheet in made:
        assert sheet.columns <= ACROSS
        assert sheet.rows <= DOWN
        assert len(set(sheet.places.values())) == len(sheet.places)


def test_series_differ_without_colour() -> None:
    assert (ID.marker, ID.line, ID.filled) != (OOD.marker, OOD.line, OOD.filled)
    assert ID.marker != OOD.marker
    assert ID.line != OOD.line
    looks = [by_place(place) for place in range(66)]
    assert len(set(looks)) == 66
    assert len({marker for _, marker in looks[:11]}) == 11


@pytest.mark.parametrize(
    ("rate", "spelled"), [(3e-5, "3e-5"), (1e-4, "1e-4"), (0.01, "1e-2"), (0.3, "3e-1"),
                          (1.5e-3, "1.5e-3"), (1.0, "1e0"), (0.0, "0")],
)  # fmt: skip
def test_rates_are_spelled_as_in_sweep_files(rate: float, spelled: str) -> None:
    assert spell_rate(rate) == spelled
    assert float(spelled) == rate


@given(st.lists(st.floats(0, 100), min_size=1))
def test_limits_hold_every_value(values: list[float]) -> None:
    low, high = percent_limits(values)
    assert low < min(values)
    assert high > max(values)


# Files


@pytest.mark.parametrize(
    ("name", "ending"),
    [*((name, "svg") for name in DRAWN), ("summary", "png"), ("curves", "png"), ("summary", "pdf"),
     ("learning-rate", "pdf")],
)  # fmt: skip
def test_files_are_what_they_say_and_the_same_every_time(
    study: Study, tmp_path: Path, name: str, ending: str
) -> None:
    made = figures.save(figures.draw(name, study, LABELS), tmp_path / f"a.{ending}")
    with mpl.rc_context({"font.size": 30, "svg.hashsalt": None, "savefig.dpi": 50}):
        again = figures.save(figures.draw(name, study, LABELS), tmp_path / f"b.{ending}")
    assert [p.read_bytes() for p in made] == [p.read_bytes() for p in again]
    paged = name in ("learning-rate", "curves") and ending != "pdf"
    names = [f"a-1.{ending}", f"a-2.{ending}"] if paged else [f"a.{ending}"]
    assert [path.name for path in made] == names
    for path in made:
        start = path.read_bytes()[:8]
        if ending == "svg":
            assert ET.parse(path).getroot().tag == "{http://www.w3.org/2000/svg}svg"
        else:
            assert start.startswith(b"\x89PNG" if ending == "png" else b"%PDF")
    if ending == "pdf":
        pages = re.findall(rb"/Type /Page\b", made[0].read_bytes())
        assert len(pages) == (2 if name in ("learning-rate", "curves") else 1)


def test_neither_pyplot_nor_torch_is_needed(odd: str, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom db.reading import Reader\n"
        "from reports import figures\n"
        "assert 'matplotlib' not in sys.modules\n"
        "from reports.study import Study\nfrom reports.tables import Labels\n"
        f"made = figures.draw('curves', Study(Reader.open({odd!r})), Labels())\n"
        f"figures.save(made, Path({str(tmp_path / 'x.svg')!r}))\n"
        "assert not {'matplotlib.pyplot', 'torch', 'pandas', 'ray'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=studies.GRID.parent.parent)


def test_drawing_leaves_the_settings_alone(study: Study, tmp_path: Path) -> None:
    before = dict(mpl.rcParams)
    figures.save(figures.draw("summary", study, LABELS), tmp_path / "a.png")
    assert dict(mpl.rcParams) == before


def test_a_file_that_cannot_be_written_leaves_nothing(study: Study, tmp_path: Path) -> None:
    made = figures.draw("summary", study, LABELS)
    (tmp_path / "a.png").mkdir()
    for path in (tmp_path / "no" / "a.png", tmp_path / "a.png"):
        with pytest.raises(EnvironmentProblem, match=r"cannot be written .*; name another file\."):
            figures.save(made, path)
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


# What cannot be drawn


def sentence(error: OrchError) -> str:
    """Its text, which is one sentence."""
    text = str(error)
    assert text.endswith(".")
    assert "\n" not in text
    return text


def test_an_unknown_figure_names_the_nearest(study: Study) -> None:
    with pytest.raises(ReportError) as caught:
        figures.draw("lerning-rate", study, LABELS)
    assert 'did you mean "learning-rate"?' in sentence(caught.value)


def test_gradients_say_what_would_make_them(study: Study) -> None:
    with pytest.raises(ReportError) as caught:
        figures.draw("gradients", study, LABELS)
    text = sentence(caught.value)
    assert "no runs yet" in text
    assert "`orch launch sweeps/grad_norms.yaml`" in text
    assert "this one has not" in text


def test_an_unknown_ending_names_the_known(study: Study, tmp_path: Path) -> None:
    with pytest.raises(ReportError, match=r"ends in \.png, \.pdf or \.svg\."):
        figures.save(figures.draw("summary", study, LABELS), tmp_path / "a.gif")


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.parametrize("state", [None, "pending", "failed", "voided"])
def test_no_number_is_one_sentence(tmp_path: Path, name: str, state: State | None) -> None:
    runs = [a_run(learning_rate=rate) for rate in (0.1, 0.2)] if state else []
    study = of(tmp_path, *runs, state=state or "pending")
    with pytest.raises(ReportError) as caught:
        figures.draw(name, study, LABELS)
    assert sentence(caught.value)


# The command


def test_the_command_draws(odd: str, tmp_path: Path) -> None:
    out = tmp_path / "rates.png"
    words = ["--store", odd, "report", "--figure", "learning-rate", "-o", str(out)]
    done = CliRunner().invoke(main, [*words, "--where", "model=clip_vit_b16"])
    assert done.exit_code == 0, done.output
    assert str(out) in done.output
    assert out.read_bytes().startswith(b"\x89PNG")
    assert (
        CliRunner().invoke(main, [*words[:3], "--figure", "gradients", "-o", "x.png"]).exit_code
        == 2
    )
