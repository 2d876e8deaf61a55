r"""Tables as LaTeX, with booktabs and the paper's colours.

What comes out goes both ways: `\input` into a paper that loads the packages of its first lines, or
`pdflatex` of itself, since it brings a document where there is none.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence

from reports.entries import DASH, Entry, Table
from reports.render.html import titled
from reports.render.marks import (
    HIGH,
    LOW,
    Note,
    diverged,
    edge,
    heading,
    heads,
    legend,
    missing,
    spans,
)

_HEAD = r"""% Made by orch. In a paper: \usepackage{booktabs,graphicx,xcolor}, and \input this file.
% By itself: pdflatex this file, which brings a document where there is none.
\expandafter\ifx\csname @nodocument\endcsname\relax\else
  \documentclass[a4paper]{article}\usepackage[margin=2cm]{geometry}
  \usepackage{booktabs,graphicx,xcolor}\pagestyle{empty}
  \expandafter\def\csname orchalone\endcsname{\end{document}}\begin{document}
\fi
\providecommand{\orchtable}{table}%
"""
COLOURS = {
    "gain": "05691F", "slight gain": "2F8A4A", "slight loss": "C2483D", "loss": "9B0F0F",
}  # fmt: skip
"""Of deltas, by tone, as red, green and blue."""
_FOOT = "\\csname orchalone\\endcsname\n"


def document(tables: Sequence[Table]) -> str:
    """The tables one after another, as a fragment that is also a document."""
    colours = "".join(
        rf"\providecolor{{{_colour(tone)}}}{{HTML}}{{{code}}}%" + "\n"
        for tone, code in COLOURS.items()
    )
    return _HEAD + colours + "".join(fragment(table) for table in tables) + _FOOT


def fragment(table: Table) -> str:
    """One `table` environment, or what the paper calls `orchtable`.

    A tabular wider than the line is scaled down to it.
    """
    declared = table.declared
    label = f"paper-{declared.published}" if declared.published else declared.name
    label = re.sub(r"[^A-Za-z0-9.-]", "-", label)
    where = f" (the paper's Table {declared.published})" if declared.published else ""
    title = escaped(heading(table, declared.title + where))
    notes = "\n".join(rf"  {_note(note)}\par" for note in legend(table))
    columns = "l" * len(table.heads) + "c" * len(table.columns)
    body = "\n".join(f"    {line}" for line in _lines(table))
    return rf"""\begin{{\orchtable}}[htbp]
  \centering
  \caption{{{title}}}\label{{tab:{label}}}\par\smallskip
  \sbox0{{\small\begin{{tabular}}{{{columns}}}
{body}
  \end{{tabular}}}}%
  \ifdim\wd0>\linewidth\resizebox{{\linewidth}}{{!}}{{\usebox0}}\else\usebox0\fi
  \par\smallskip\begingroup\footnotesize\raggedright
{notes}
  \endgroup
\end{{\orchtable}}
"""


def _lines(table: Table) -> Iterator[str]:
    """The lines of the tabular: titles, and blocks with a rule between."""
    yield r"\toprule"
    yield from _header(table)
    yield r"\midrule"
    block = table.rows[0].block
    for named, row in zip(heads(table), table.rows, strict=True):
        if row.block != block:
            yield r"\midrule"
        block = row.block
        yield " & ".join([*map(escaped, named), *map(_cell, row)]) + r" \\"
    yield r"\bottomrule"


def _header(table: Table) -> Iterator[str]:
    named = [escaped(head) for head in table.heads]
    if not any(column.subtitle for column in table.columns):
        yield " & ".join([*named, *(escaped(column.title) for column in table.columns)]) + r" \\"
        return
    groups, rules, place = [], [], len(named) + 1
    for title, columns in titled(table.columns):
        groups.append(rf"\multicolumn{{{len(columns)}}}{{c}}{{{escaped(title)}}}")
        rules.append(rf"\cmidrule(lr){{{place}-{place + len(columns) - 1}}}")
        place += len(columns)
    yield " & ".join([*("" for _ in named), *groups]) + r" \\"
    yield "".join(rules)
    yield " & ".join([*named, *(escaped(column.subtitle) for column in table.columns)]) + r" \\"


def _cell(entry: Entry) -> str:
    text = escaped(entry.shown)
    if entry.bold:
        text = rf"\textbf{{{text}}}"
    if entry.shown_interval:
        text += rf"\,{{\scriptsize$\pm$\,{entry.shown_interval}}}"
    if entry.shown_delta:
        delta = rf"\textcolor{{{_colour(entry.tone)}}}{{({_signed(entry.shown_delta)})}}"
        text += rf" {{\footnotesize{delta}}}"
    count = missing(entry)
    marks = edge(entry) + diverged(entry) + (f" {count}" if count else "")
    return text + (rf"\textsuperscript{{{escaped(marks)}}}" if marks else "")


def _colour(tone: str) -> str:
    return "orch" + tone.replace(" ", "")


def _signed(delta: str) -> str:
    return f"$-${delta[1:]}" if delta.startswith("-") else delta


def _note(note: Note) -> str:
    text = "".join(
        rf"\texttt{{{escaped(part)}}}" if code else escaped(part) for code, part in spans(note.text)
    )
    mark = r"\textbf{bold}" if note.mark == "*" else escaped(note.mark)
    return f"{mark} {text}".strip()


SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
    '"': "''",
    "`": r"\textasciigrave{}",
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
    LOW: "$<$",
    HIGH: "$>$",
    DASH: r"\textemdash{}",
    "–": r"\textendash{}",
    "−": "$-$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "·": r"$\cdot$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "→": r"$\to$",
    "‘": "`",
    "’": "'",
    "“": "``",
    "”": "''",
    "…": r"\dots{}",
    "°": r"$^\circ$",
    "µ": r"$\mu$",
    "ß": r"\ss{}",
    "æ": r"\ae{}",
    "Æ": r"\AE{}",
    "ø": r"\o{}",
    "Ø": r"\O{}",
    "ł": r"\l{}",
    "Ł": r"\L{}",
    "œ": r"\oe{}",
    "Œ": r"\OE{}",
    "ı": r"\i{}",
    "\u00a0": "~",
}
ACCENTS = {
    "\u0300": r"\`", "\u0301": r"\'", "\u0302": r"\^", "\u0303": r"\~", "\u0304": r"\=",
    "\u0306": r"\u", "\u0307": r"\.", "\u0308": r"\"", "\u030a": r"\r", "\u030b": r"\H",
    "\u030c": r"\v", "\u0327": r"\c",
}  # fmt: skip
_GREEK = (
    "alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda",
    "mu", "nu", "xi", "", "pi", "rho", "", "sigma", "tau", "upsilon", "phi", "chi", "psi", "omega",
)  # fmt: skip
_CAPITALS = (
    "Gamma",
    "Delta",
    "Theta",
    "Lambda",
    "Xi",
    "Pi",
    "Sigma",
    "Upsilon",
    "Phi",
    "Psi",
    "Omega",
)
SPECIAL |= {
    unicodedata.lookup(f"GREEK CAPITAL LETTER {name.replace('Lambda', 'Lamda')}"): rf"$\{name}$"
    for name in _CAPITALS
}
SPECIAL |= {chr(ord("α") + place): rf"$\{name}$" for place, name in enumerate(_GREEK) if name}


def escaped(text: str) -> str:
    """Text that any LaTeX prints as it stands; what its fonts lack is named by its code point."""
    plain = unicodedata.normalize("NFC", re.sub(r"\s+", " ", text))
    return re.sub("-(?=-)", "-{}", "".join(map(_letter, plain)))  # no dash out of two hyphens


def _letter(letter: str) -> str:
    if letter in SPECIAL:
        return SPECIAL[letter]
    if " " <= letter <= "~":
        return letter
    base, accent = (
        unicodedata.normalize("NFD", letter)[:1],
        unicodedata.normalize("NFD", letter)[1:],
    )
    if accent in ACCENTS and base.isascii() and base.isalpha():
        base = {"i": r"\i", "j": r"\j"}.get(base, base)
        return rf"{{{ACCENTS[accent]}{{{base}}}}}"
    return f"(U+{ord(letter):04X})"
