"""The page: whole, of one piece, safe, and every number down to its runs, in a real browser too."""

import datetime
import html
import re
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import CliRunner

import studies
from browser import CHROMIUM, Tab, browser
from conftest import ROOT, PostgresServer, a_run
from db.errors import EnvironmentProblem, ReportError
from db.records import State
from db.store import Store
from orchestrator.cli import main
from reports import figures, page, tables
from reports.page import cells
from reports.study import Study
from reports.tables import Labels

NOW = datetime.datetime(2026, 1, 2, 3, 4, tzinfo=datetime.UTC)
LABELS = Labels()
VOID = {"meta", "input", "br", "img", "link", "hr"}
# What SVG may leave unclosed is closed by `/>`, which the parser tells apart.


class Parsed(HTMLParser):
    """A page taken apart; an element that is closed out of order is an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.ids: list[str] = []
        self.words: list[str] = []
        self.within: dict[str, list[str]] = {}
        """Text of each section that is a cell."""
        self._cell = ""
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Remember it."""
        self._seen(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)
        values = dict(attrs)
        if tag == "section" and values.get("class") == "cell":
            self._cell = values["id"] or ""
            self.within[self._cell] = []

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Closed at once."""
        self._seen(tag, attrs)

    def _seen(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        for name, value in attrs:
            self.attributes.append((tag, name, value or ""))
            if name == "id":
                self.ids.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        """It must be what was opened last."""
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> at {self.getpos()}"
        if tag == "section":
            self._cell = ""

    def handle_data(self, data: str) -> None:
        """Remember it."""
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)
            if self._cell:
                self.within[self._cell].append(data)

    @property
    def text(self) -> str:
        """What is read, with single spaces."""
        return re.sub(r"\s+", " ", " ".join(self.words))


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store in which everything happens, with a nasty name."""
    url = str(tmp_path_factory.mktemp("odd") / "orch.db")
    store = studies.fill(url, studies.odd_runs(), state=studies.odd_state, name=studies.NASTY)
    store.engine.dispose()
    return url


@pytest.fixture(scope="module")
def study(odd: str) -> Study:
    """Its one sweep."""
    return Study(Store.open(odd), studies.NASTY)


@pytest.fixture(scope="module")
def written(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its page."""
    return page.write(study, LABELS, tmp_path_factory.mktemp("page") / "new" / "folder", now=NOW)


@pytest.fixture(scope="module")
def parsed(written: Path) -> Parsed:
    """Its page, taken apart."""
    return Parsed(written.read_text(encoding="utf-8"))


# Of one piece


def test_it_is_whole_and_its_ids_are_its_own(parsed: Parsed) -> None:
    assert parsed.tags["html"] == parsed.tags["body"] == parsed.tags["main"] == 1
    twice = [name for name, count in Counter(parsed.ids).items() if count > 1]
    assert not twice


def test_every_link_leads_somewhere_in_it(parsed: Parsed, written: Path) -> None:
    links = [v for _, name, v in parsed.attributes if name == "href"]
    assert len(links) > 100
    labelled = [v for _, name, v in parsed.attributes if name == "aria-labelledby"]
    clips = re.findall(r"url\(([^)]*)\)", written.read_text(encoding="utf-8"))
    for target in [*links, *clips, *("#" + name for name in labelled)]:
        assert target.startswith("#")
        assert target[1:] in parsed.ids, target


def test_it_needs_nothing_else(parsed: Parsed, written: Path) -> None:
    text = written.read_text(encoding="utf-8")
    assert not re.findall(r"https?:|@import|//[a-z0-9-]+\.[a-z]", text)
    assert not {tag for tag, name, _ in parsed.attributes if name in ("src", "srcset", "data")}
    assert not parsed.tags["link"]
    assert not parsed.tags["iframe"]


def test_names_and_errors_are_text(parsed: Parsed) -> None:
    assert parsed.tags["script"] == 1
    assert parsed.tags["b"] == 0
    assert f"Sweep {studies.NASTY}" in parsed.text
    assert "ValueError: <b>bad</b> label" in parsed.text
    assert "<made up> & quick" in parsed.text
    assert not [name for _, name, _ in parsed.attributes if name.startswith("on")]


def test_models_datasets_and_methods_are_text(tmp_path: Path) -> None:
    nasty = """x"><img src=x onerror=alert(1)>"""
    run = a_run(model=nasty, dataset=nasty + "d", method=nasty + "m")
    study = Study(studies.fill(str(tmp_path / "x.db"), [run]))
    labels = Labels(models={nasty: nasty + " & co"})
    found = Parsed(page.write(study, labels, tmp_path).read_text(encoding="utf-8"))
    assert found.tags["img"] == 0
    assert nasty + " & co" in found.text
    (anchor,) = found.within
    assert re.fullmatch(r"cell-[\w-]+", anchor)


def test_cells_of_like_names_have_ids_of_their_own() -> None:
    keys = [("a", "b.c", "d"), ("a", "b/c", "d"), ("a", "b_c", "d"), ("a-b", "c", "d")]
    ids = cells.anchors(keys)
    assert len(set(ids.values())) == len(keys)


# What it says


def test_every_run_of_every_cell_is_there(parsed: Parsed, study: Study) -> None:
    anchors = cells.anchors([*study.members])
    assert set(parsed.within) == set(anchors.values())
    for key, anchor in anchors.items():
        words = [word.strip() for word in parsed.within[anchor]]
        scores = study.scores(key, ("id", "ood"))
        ids = [s.run.id for s in scores]
        assert [word for word in words if word in ids] == ids
        assert words.count("chosen") == sum(score.chosen for score in scores)
        for score in scores:
            place = words.index(score.run.id)
            row = [word for word in words[:place] if word][-9:]
            numbers = [score.values.get("id"), score.values.get("ood"), score.last.get("id"),
                       score.last.get("ood")]  # fmt: skip
            assert row[-4:] == ["–" if n is None else f"{n:.1f}" for n in numbers]
            assert score.run.state in row
        commit = any(run.state not in ("pending",) for run in study.members[key])
        assert ("0123456789ab" in words) == commit


def test_every_number_of_a_table_leads_to_its_cell(written: Path, study: Study) -> None:
    text = written.read_text(encoding="utf-8")
    anchors = cells.anchors([*study.members])
    table = tables.build(tables.find("ood"), study, LABELS)
    for entry in table.entries:
        key = (entry.model, entry.column, entry.method)
        if key in anchors and entry.cell.value is not None:
            value = f"<strong>{entry.shown}</strong>" if entry.bold else entry.shown
            assert f'<a href="#{anchors[key]}">{value}</a>' in text


def test_it_says_what_it_is_about(parsed: Parsed, study: Study) -> None:
    assert "144 runs in 18 cells" in parsed.text
    for state, count in Counter(run.state for run in study.runs).items():
        assert f"{count} {state}" in parsed.text
    assert "Written 2026-01-02 03:04 UTC" in parsed.text
    assert "No OOD number is looked at." in parsed.text
    assert "orch explain clip_vit_b16 living17 sgd --sweep" in parsed.text


def test_tables_and_figures_without_numbers_have_a_line(parsed: Parsed) -> None:
    for title in ("Table 4: Peak GPU memory", "Table 13", "Gradient norms by layer"):
        assert title in parsed.text
    assert "`orch launch sweeps/memory.yaml`" in parsed.text
    assert "`orch launch sweeps/grad_norms.yaml`" in parsed.text
    for title in ("Out-of-distribution accuracy (%)", "Figure 1b: average accuracy (%)"):
        assert title in parsed.text


def test_it_shows_every_figure(parsed: Parsed, study: Study) -> None:
    named = [f"figure-{name}" for name, one in figures.FIGURES.items() if one.module]
    assert set(named) <= set(parsed.ids)
    drawn = {i for i in parsed.ids if i.startswith("r-cell-")}
    with_rates = {k for k, points in study.rates("id").items() if any(p.seeds for p in points)}
    anchors = cells.anchors([*study.members])
    assert drawn == {f"r-{anchors[key]}" for key in with_rates}


def test_failures_are_listed_with_their_causes(parsed: Parsed, study: Study) -> None:
    for run in study.runs:
        if run.state in ("failed", "diverged", "cancelled"):
            assert parsed.text.count(run.id) == 2


def test_a_choice_that_is_not_the_protocols_stands_above(odd: str, tmp_path: Path) -> None:
    oracle = Study(Store.open(odd), rule="ood-oracle", partial=True)
    path = page.write(oracle, LABELS, tmp_path, conditions=["epochs=5"], now=NOW)
    text = Parsed(path.read_text(encoding="utf-8")).text
    assert "Oracle. Epochs and rates were chosen by the OOD numbers themselves." in text
    assert "An ORACLE:" in text
    assert "Rates that lack seeds compete." in text
    assert "Only epochs=5" in text


def test_miniature_data_are_named_above(tmp_path: Path) -> None:
    store = studies.fill(str(tmp_path / "x.db"), [a_run(dataset="fmow")], fingerprint="miniature-1")
    text = page.write(Study(store), LABELS, tmp_path).read_text(encoding="utf-8")
    assert "<strong>Miniature data</strong> stood in for FMoW" in text


@pytest.mark.parametrize("state", ["pending", "failed", "voided", "diverged"])
def test_a_study_without_a_result_is_a_page_too(tmp_path: Path, state: State) -> None:
    store = studies.fill(str(tmp_path / "x.db"), [a_run()], state=lambda run: state)
    found = Parsed(page.write(Study(store), LABELS, tmp_path).read_text(encoding="utf-8"))
    assert f"1 {state}" in found.text
    if state != "diverged":
        assert "No table has a number yet." in found.text


# The file


def test_the_same_study_gives_the_same_page(odd: str, written: Path, tmp_path: Path) -> None:
    again = page.write(Study(Store.open(odd), studies.NASTY), LABELS, tmp_path, now=NOW)
    assert again.read_bytes() == written.read_bytes()


def test_both_engines_give_the_same_page(
    postgres: PostgresServer, study: Study, written: Path, tmp_path: Path
) -> None:
    url = postgres.fresh()
    store = studies.fill(url, studies.odd_runs(), state=studies.odd_state, name=studies.NASTY)
    other = page.write(Study(store, studies.NASTY), LABELS, tmp_path, now=NOW)
    store.engine.dispose()
    places = [one.place.removeprefix("store ") for one in (study.reader, store)]
    pages = [path.read_text(encoding="utf-8") for path in (written, other)]
    ours, theirs = (
        text.replace(html.escape(place), "") for text, place in zip(pages, places, strict=True)
    )
    assert ours == theirs


def test_a_page_that_cannot_be_made_leaves_the_old_one(study: Study, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("old")
    mixed = [a_run(), a_run(batch_size=64)]
    refused = Study(studies.fill(str(tmp_path / "x.db"), mixed))
    with pytest.raises(ReportError, match="2 variants"):
        page.write(refused, LABELS, tmp_path)
    assert (tmp_path / "index.html").read_text() == "old"
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(EnvironmentProblem, match=r"cannot be written .*; name another folder"):
            page.write(study, LABELS, folder)
    assert not [*tmp_path.rglob("*.partial")]


def test_no_run_is_one_sentence(tmp_path: Path) -> None:
    store = studies.fill(str(tmp_path / "x.db"), [])
    with pytest.raises(ReportError, match="no run to report on"):
        page.write(Study(store), LABELS, tmp_path)
    assert not (tmp_path / "index.html").exists()


def test_the_whole_grid_stays_small(tmp_path: Path) -> None:
    store = studies.fill(str(tmp_path / "grid.db"), studies.grid_runs(), name="full_grid")
    path = page.write(Study(store, "full_grid"), LABELS, tmp_path)
    assert path.stat().st_size < 2_000_000
    assert len(Parsed(path.read_text(encoding="utf-8")).within) == 175


def test_the_command_writes_it(odd: str, tmp_path: Path) -> None:
    words = ["--store", odd, "report", "--html", str(tmp_path / "out")]
    done = CliRunner().invoke(main, [*words, "--where", "model=clip_vit_b16"])
    assert done.exit_code == 0, done.output
    path = tmp_path / "out" / "index.html"
    assert str(path) in done.output
    assert "Only model=clip_vit_b16" in path.read_text(encoding="utf-8")


# In a browser


@pytest.fixture(scope="module")
def tab() -> Iterator[Tab]:
    """One tab for all tests of this file."""
    if CHROMIUM is None:
        pytest.skip("there is no Chromium")
    with browser() as opened:
        yield opened


OVERFLOW = """
[...document.querySelectorAll("body *")].filter(e => !e.closest(".scroll") &&
 !e.closest(".skip") && e.getBoundingClientRect().right > innerWidth + 1).length
"""


@pytest.mark.parametrize("width", [390, 768, 1280])
def test_the_page_is_as_wide_as_the_window(tab: Tab, written: Path, width: int) -> None:
    tab.size(width, 844, phone=width == 390)
    tab.open(written.as_uri())
    tab.run("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert tab.run("document.documentElement.scrollWidth") == width
    assert tab.run(OVERFLOW) == 0
    assert tab.errors == []
    assert tab.requests == [written.as_uri()]


def seen(anchor: str) -> str:
    """Whether a cell is before the reader, as a condition in the page."""
    return f"document.querySelector('#drill[open] .cell')?.id === '{anchor}'"


BACK = "!drill.open && document.querySelectorAll('#cells .cell').length === 18"
"""Whether every cell is in its place."""


def test_a_number_opens_its_runs_and_escape_returns(tab: Tab, written: Path, study: Study) -> None:
    anchors = cells.anchors([*study.members])
    tab.size(390, 844, phone=True)
    tab.open(written.as_uri())
    assert tab.becomes(BACK)
    first, second = list(anchors.values())[:2]
    tab.run(f"document.querySelector('table.orch a[href=\"#{first}\"]').focus()")
    tab.key("Enter", 13)
    assert tab.becomes(seen(first))
    assert tab.run("drill.scrollWidth <= innerWidth")
    assert tab.run("document.activeElement.closest('#drill') !== null")
    assert tab.run("location.hash") == f"#{first}"
    tab.key("Escape", 27)
    assert tab.becomes(BACK)
    assert tab.run("document.activeElement.getAttribute('href')") == f"#{first}"
    assert tab.run("location.hash") == ""
    tab.run(f"document.querySelector('a[href=\"#{second}\"]').click()")
    assert tab.becomes(seen(second))
    tab.run("history.back()")
    assert tab.becomes(BACK)


def test_a_link_to_a_cell_opens_it(tab: Tab, written: Path, study: Study) -> None:
    anchor = cells.anchors([*study.members])["bit_r50_in21k", "fmow", "adam_spd"]
    tab.open(f"{written.as_uri()}#{anchor}")
    assert tab.becomes(seen(anchor))
    tab.run("document.querySelector('#drill button').click()")
    assert tab.becomes(BACK)


def test_pictures_that_are_used_twice_look_the_same(tab: Tab, written: Path) -> None:
    tab.open(written.as_uri())
    matched = """
    (() => { const line = document.querySelector('polyline.s-id');
      return [getComputedStyle(line).fill, getComputedStyle(line).stroke !== 'none'] })()
    """
    assert tab.run(matched) == ["none", True]
    # Rules with an ancestor do not hold in what <use> repeats.
    rules = "[...document.styleSheets[0].cssRules].map(r => r.selectorText || '').join(',')"
    small = [s.strip() for s in tab.run(rules).split(",") if ".s-" in s]
    assert small
    assert not [selector for selector in small if " " in selector]


def test_without_javascript_everything_is_open(tab: Tab, written: Path, study: Study) -> None:
    anchor = [*cells.anchors([*study.members]).values()][-1]
    tab.size(1280, 844)
    tab.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        tab.open(f"{written.as_uri()}#{anchor}")
        tree = tab.call("DOM.getDocument")["root"]["nodeId"]
        cell = tab.call("DOM.querySelector", nodeId=tree, selector=f"#{anchor} table")["nodeId"]
        box = tab.call("DOM.getBoxModel", nodeId=cell)["model"]
        assert box["height"] > 50
        assert 0 <= box["content"][1] < 844  # in the window
    finally:
        tab.call("Emulation.setScriptExecutionDisabled", value=False)


def test_dark_and_light_follow_the_reader(tab: Tab, written: Path) -> None:
    tab.open(written.as_uri())
    looks = []
    for scheme in ("light", "dark"):
        tab.prefer(scheme)
        looks.append(
            tab.run("""(() => { const look = e => getComputedStyle(e);
            const text = document.querySelector('svg.figure text');
            return [look(document.body).backgroundColor, look(document.body).color,
                    look(text).fill] })()""")
        )
    (light_paper, light_ink, light_text), (dark_paper, dark_ink, dark_text) = looks
    assert light_text == light_ink
    assert dark_text == dark_ink
    assert light_paper == "rgb(255, 255, 255)"
    assert dark_paper != light_paper
    assert dark_ink != light_ink


# The guide


GUIDE = (ROOT / "docs" / "figures.md").read_text(encoding="utf-8")


def test_the_guide_names_every_figure() -> None:
    named = re.findall(r"^\| `([a-z-]+)` \|", GUIDE, re.MULTILINE)
    assert named == [*figures.FIGURES]


def test_the_guides_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    studies.fill(str(tmp_path / "orch.db"), [a_run()], name="demo").engine.dispose()
    code = re.search(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    assert code
    monkeypatch.chdir(tmp_path)
    exec(code[1], {})
    assert (tmp_path / "summary.pdf").exists()
    assert (tmp_path / "report" / "index.html").exists()
