"""HTML: one table for a page, a page that needs nothing else, and no markup from a name."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest

from handmade import LABELS, cell, study, table
from reports import render, tables
from reports.declared import Declared
from reports.entries import Entry, Labels, Table
from reports.render import html

VOID = {"meta", "br", "link", "img", "input"}


class Page(HTMLParser):
    """A page's elements with their attributes, and the text of its cells by row."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self._open: list[str] = []
        self.feed(text)
        assert self._open == [], "every element is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self._open):
            self.rows[-1][-1] += data

    def count(self, tag: str) -> int:
        """How many elements of a sort there are."""
        return sum(name == tag for name, _ in self.elements)

    def classes(self, name: str) -> list[str]:
        """The tags that have a class."""
        return [tag for tag, attrs in self.elements if name in (attrs.get("class") or "").split()]


@pytest.fixture
def made() -> Table:
    """Two models, with marks."""
    return table(
        cell("sgd", 70.0, edge="low"), cell("adamw", 75.0, ci90=0.4), cell("freeze", 69.9, n=5),
        cell("adamw", None, "fmow", n=2, reason="no rate has a score from every seed"),
        cell("sgd", 50.0, model="bit"),
    )  # fmt: skip


def test_a_page_needs_nothing_from_elsewhere(made: Table) -> None:
    text = render.render([made, made], "html")
    page = Page(text)

    assert text.startswith("<!doctype html>")
    assert page.count("table") == 2
    assert page.count("script") == page.count("link") == page.count("img") == 0
    assert "http" not in text
    assert "url(" not in text
    assert "@import" not in text


def test_a_fragment_is_one_table_and_its_rows_are_those_of_the_text(made: Table) -> None:
    text = html.fragment(made)
    page = Page(text)

    assert text.startswith('<table class="orch">')
    assert page.count("table") == page.count("caption") == page.count("tfoot") == 1
    assert page.count("tbody") == 2
    assert page.rows[0] == ["Model", "Method", "Living-17", "FMoW", "Avg."]
    rows = [row for row in page.rows[1:-1] if len(row) == 5]
    assert rows[0] == ["Sup ViT-B/16", "SGD", "70.0‹", "—", "70.0 (1/2)"]
    assert rows[1] == ["", "AdamW", "75.0 ±0.4 (+5.0)", "— (2/6)", "75.0 (1/2)"]
    assert rows[2][2] == "69.9 (-0.1) (5/6r)"
    assert [row for row in page.rows if len(row) == 1][:2] == [["Sup ViT-B/16"], ["BiT ResNet-50"]]
    for note in render.legend(made):
        assert note.text.replace("`", "").split(":")[0] in page.rows[-1][0]


def test_bold_and_colours_of_the_paper(made: Table) -> None:
    page = Page(html.fragment(made))

    assert page.count("strong") == 3, "one of each model, and in the legend"
    assert page.classes("gain") == ["span"]
    assert page.classes("slight-loss") == ["span"]


def test_cells_say_how_they_were_chosen_or_why_they_are_empty(made: Table) -> None:
    titles = [
        attrs.get("title") for tag, attrs in Page(html.fragment(made)).elements if tag == "td"
    ]

    assert "learning rate 0.001; 6 of 6 runs" in titles
    assert "no rate has a score from every seed" in titles


def test_cells_lead_where_the_page_says(made: Table) -> None:
    def link(entry: Entry) -> str | None:
        return None if entry.column == "avg" else f"#{entry.model}&{entry.method}"

    page = Page(html.fragment(made, link))
    targets = [attrs["href"] for tag, attrs in page.elements if tag == "a"]

    assert targets.count("#vit&adamw") == 2
    assert len(targets) == 4 * 2
    assert Page(html.fragment(made)).count("a") == 0


def test_no_name_becomes_markup() -> None:
    bad = '<script>alert("1")</script> & "x"'
    labels = Labels(models={"vit": bad}, datasets={"living17": bad}, methods={"sgd": bad})
    one = Declared(name="m", title=f"of {bad[:-1]}", note=bad)
    tabled = tables.build(one, study(cell("sgd", 70.0), cell("adamw", 60.0)), labels)

    page = Page(html.page([tabled]))

    assert page.count("script") == 0
    assert [bad, bad, "70.0", "70.0"] in page.rows


def test_columns_of_one_dataset_share_its_title() -> None:
    one = Declared(name="m", title="M", splits=("id", "ood"))
    cells = [cell("sgd", 70.0), cell("sgd", 71.0, "fmow")]
    page = Page(html.fragment(tables.build(one, study(*cells, id=cells), LABELS)))

    assert page.rows[:2] == [
        ["Model", "Method", "Living-17", "FMoW", "Avg."],
        ["ID", "OOD", "ID", "OOD", "ID", "OOD"],
    ]
    spans = [attrs.get("colspan") for tag, attrs in page.elements if "group" in str(attrs)]
    assert spans == ["2", "2", "2"]
