"""LaTeX: every table compiles, by itself and in a paper, whatever its words are."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handmade import LABELS, cell, study, table
from reports import render, tables
from reports.declared import NUMBERED, TABLES, Declared
from reports.entries import Labels, Table
from reports.render import latex
from reports.select import Cell

NEEDS_LATEX = pytest.mark.skipif(not shutil.which("pdflatex"), reason="no pdflatex here")
ODD = [
    r"\input{/etc/passwd} \\ 100% of $x_1$ & #2 ~ ^ {a} [b] *c* <d> |e| \"f\" `g' -- --- \par",
    "naïve Über-modèle, Łódź, çağ, ñ, ő, ß, Ærø, i̇, ǰ; × ± ≤ ≥ → – — … “q” ‘q’ °",
    "αβγ Ω 中文 🙂 عربى \u200b\u00a0\u2028 \x00\x07 \t\n end",
    "*starts with a star",
    "[starts with a bracket]",
    "",
]


def compiled(folder: Path, text: str, *, name: str = "out") -> Path:
    """The PDF that pdflatex makes of a text; fails with the log where it makes none."""
    (folder / f"{name}.tex").write_text(text, encoding="utf-8")
    words = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", f"{name}.tex"]
    done = subprocess.run(words, cwd=folder, capture_output=True, timeout=120)
    log = done.stdout.decode("utf-8", "replace")
    assert done.returncode == 0, log[-2000:]
    assert "Missing character" not in (folder / f"{name}.log").read_text(errors="replace")
    return folder / f"{name}.pdf"


def odd() -> list[Table]:
    """Tables whose every name and note is hostile."""
    made = []
    for words in ODD:
        labels = Labels(models={"vit": words}, datasets={"living17": words}, methods={"sgd": words})
        one = Declared(
            name="m", title=words or "nothing", splits=("id", "ood"), note=words.replace("`", "")
        )
        cells = [cell("sgd", 70.0, edge="low", diverged=True), cell("adamw", 60.0, n=5, ci90=1.0)]
        made.append(tables.build(one, study(*cells, id=cells), labels))
    return made


def full() -> list[Table]:
    """Every table there is, filled."""
    kept = [t for t in (*NUMBERED.values(), *TABLES.values()) if t.kind == "finetune"]
    made = []
    for one in kept:
        keys = {
            (model, dataset, method)
            for model in one.models or ("clip_vit_b16", "bit_r50_in21k")
            for dataset in one.datasets or ("living17", "fmow")
            for method in one.methods or ("sgd", "adamw", "sgd_freeze_embed")
        }
        cells = [filled(*key) for key in sorted(keys)]
        made.append(tables.build(one, study(**dict.fromkeys(one.splits, cells))))
    return made


def filled(model: str, dataset: str, method: str) -> Cell:
    """A cell of three seeds, some with marks."""
    value = 40 + sum(map(ord, model + dataset + method)) % 500 / 10
    edge = {"sgd": "low", "adamw": "high"}.get(method, "")
    return cell(method, value, dataset, model=model, ci90=1.3, edge=edge)


@NEEDS_LATEX
def test_every_table_compiles_by_itself(tmp_path: Path) -> None:
    made = full()

    assert {t.declared.name for t in made} == set(TABLES) - {"memory"}
    compiled(tmp_path, render.render(made, "latex"))


@NEEDS_LATEX
def test_tables_compile_in_a_paper_of_any_class(tmp_path: Path) -> None:
    (tmp_path / "tables.tex").write_text(render.render([*full()[:2], *odd()], "latex"))
    for options, name in (("", "article"), ("[twocolumn]", "article"), ("", "report")):
        compiled(
            tmp_path,
            rf"\documentclass{options}{{{name}}}\usepackage{{booktabs,graphicx,xcolor}}"
            r"\begin{document}\title{T}\author{A}\maketitle Text before, Table~\ref{tab:paper-1}."
            r"\input{tables}\input{tables.tex}Text after.\end{document}",
        )


@NEEDS_LATEX
def test_a_paper_says_which_environment_its_tables_are(tmp_path: Path) -> None:
    (tmp_path / "tables.tex").write_text(render.render(full()[:1], "latex"))
    compiled(
        tmp_path,
        r"\documentclass[twocolumn]{article}\usepackage{booktabs,graphicx,xcolor}"
        r"\newcommand{\orchtable}{table*}\definecolor{orchgain}{gray}{0.1}"
        r"\begin{document}\input{tables}Text.\end{document}",
    )

    text = (tmp_path / "out.log").read_text(errors="replace")
    assert "Overfull" not in text


def test_what_a_paper_must_load_stands_at_the_top() -> None:
    first = render.render([table(cell("sgd", 70.0))], "latex").splitlines()[0]

    assert first.startswith("%")
    assert r"\usepackage{booktabs,graphicx,xcolor}" in first


@NEEDS_LATEX
def test_any_words_compile(tmp_path: Path) -> None:
    compiled(tmp_path, render.render(odd(), "latex"))


@given(st.text())
def test_escaped_text_holds_no_command_of_its_own(text: str) -> None:
    """Only what we wrote may follow a backslash, open a group or end a cell."""
    left = latex.escaped(text)
    for ours in sorted({*latex.SPECIAL.values()}, key=len, reverse=True):
        if len(ours) > 1:
            left = left.replace(ours, "")
    for accent in latex.ACCENTS.values():
        for letter in "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ":
            base = {"i": r"\i", "j": r"\j"}.get(letter, letter)
            left = left.replace(rf"{{{accent}{{{base}}}}}", "")

    assert not set(left.replace("-{}", "")) & set("\\{}$&#%_~^\n[]*")
    assert left.isascii()


def test_the_papers_typography() -> None:
    made = table(
        cell("sgd", 70.0, edge="low"), cell("adamw", 75.0, ci90=0.4, edge="high"),
        cell("freeze", 69.9, n=5), cell("sgd", 50.0, model="bit"),
    )  # fmt: skip

    text = render.render([made], "latex")
    rows = [line.strip() for line in text.splitlines() if line.endswith(r" \\")]

    assert rows[0] == r"Model & Method & Living-17 & Avg. \\"
    assert rows[1].startswith(r"Sup ViT-B/16 & SGD & 70.0\textsuperscript{$<$} & 70.0")
    assert r"\textbf{75.0}\,{\scriptsize$\pm$\,0.4}" in rows[2]
    assert r"\textcolor{orchgain}{(+5.0)}" in rows[2]
    assert r"\textcolor{orchslightloss}{($-$0.1)}" in rows[3]
    assert r"\textsuperscript{5/6r}" in rows[3].replace(" 5", "5")
    assert rows[3].startswith(" & SGD (freeze-embed)") or rows[3].startswith("& SGD (freeze")
    inside = text[text.index(r"\toprule") : text.index(r"\bottomrule")]
    assert inside.count(r"\midrule") == 2, "under the titles, and between two models"


def test_a_table_with_the_papers_rows_is_not_captioned_table_1_twice() -> None:
    made = tables.build(tables.find("1"), study(cell("sgd", 70.0, model="clip_vit_b16")))

    text = render.render([made], "latex")
    assert (
        r"\caption{Out-of-distribution accuracy (\%) (the paper's Table 1)}\label{tab:paper-1}"
    ) in text
    assert render.text(made).startswith("Table 1: Out-of-distribution accuracy (%)\n")


def test_columns_of_one_dataset_share_its_title() -> None:
    one = Declared(name="m", title="M", splits=("id", "ood"))
    cells = [cell("sgd", 70.0), cell("sgd", 71.0, "fmow")]
    text = render.render([tables.build(one, study(*cells, id=cells), LABELS)], "latex")

    assert r"\multicolumn{2}{c}{Living-17} & \multicolumn{2}{c}{FMoW}" in text
    assert r"\cmidrule(lr){3-4}\cmidrule(lr){5-6}\cmidrule(lr){7-8}" in text
    assert r"Model & Method & ID & OOD & ID & OOD & ID & OOD \\" in text


def test_colours_are_those_of_the_page() -> None:
    """One palette: what the page calls green the paper calls green."""
    declared = render.html.STYLE.lower()
    for colour in latex.COLOURS.values():
        assert f"#{colour.lower()}" in declared
