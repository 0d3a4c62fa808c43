"""The report of a run for people: one HTML file that needs no other, and Markdown with plots beside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

from benchmarks.plots import drawn
from benchmarks.rows import Entry, Missing, Row

Table = Sequence[Sequence[str]]  # the first row names the columns
TITLE = "Benchmarks of PostPulse image generation"
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem }
table { border-collapse: collapse; font-size: 13px; margin: .5rem 0 1.5rem }
th, td { border-bottom: 1px solid #ddd; padding: .25rem .6rem; text-align: left; vertical-align: top }
.met { color: #176d2c; font-weight: 600 } .missed { color: #a3231b; font-weight: 600 }
svg { max-width: 100%; height: auto } code { background: #f2f2f2; padding: 0 .2rem }
"""
READ = (
    "Figures are medians between quartiles of n measurements; ratios are paired, in turns, within this run. "
    "The floor is the arithmetic (families/costs.py) at the matmul peak measured in this run. "
    "A figure of a loaded machine is none: only ratios stand up to neighbours, and not always."
)


def write(entries: Sequence[Entry], said: Mapping[str, str], folder: Path) -> None:
    """report.html, report.md and plots/*.svg in `folder`."""
    rows = [entry for entry in entries if isinstance(entry, Row)]
    missing = [entry for entry in entries if isinstance(entry, Missing)]
    plots = drawn(rows)
    (folder / "report.html").write_text(html(rows, missing, said, plots))
    (folder / "plots").mkdir(exist_ok=True)
    for title, svg in plots.items():
        (folder / _plot_file(title)).write_text(svg)
    (folder / "report.md").write_text(markdown(rows, missing, said, plots))


def _plot_file(title: str) -> str:
    return f"plots/{title.replace(' ', '-').replace(',', '')}.svg"


def number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def spread(row: Row) -> str:
    low, median, high = map(number, (row.value.low, row.value.median, row.value.high))
    return f"{median} [{low}, {high}] {'' if row.unit == 'ratio' else row.unit}".rstrip()


def over_floor(row: Row) -> str:
    return f"{number(row.value.median / row.floor)}x" if row.floor else ""


def conditions_of(row: Row) -> str:
    return ", ".join(f"{key} {value}" for key, value in row.conditions.items())


def goals(rows: Iterable[Row]) -> Table:
    """What is asked, what was found."""
    asked = sorted((row for row in rows if row.goal), key=lambda row: row.goal.name if row.goal else "")
    lines = [
        [
            str(row.goal),
            f"{row.name} ({row.of})" if row.of else row.name,
            conditions_of(row),
            spread(row),
            row.verdict,
        ]
        for row in asked
    ]
    return [["asked", "figure", "conditions", "median [quartiles]", "verdict"], *lines]


def absent(missing: Iterable[Missing]) -> Table:
    lines = [
        [entry.part, entry.what, ("failed: " if entry.failed else "") + entry.reason] for entry in missing
    ]
    return [["part", "what", "why"], *lines]


def of_part(rows: Iterable[Row]) -> Table:
    lines = [[row.name, row.of, conditions_of(row), spread(row), str(row.n), over_floor(row)] for row in rows]
    return [["figure", "ratio of", "conditions", "median [quartiles]", "n", "measured / floor"], *lines]


def sections(rows: Sequence[Row], missing: Sequence[Missing]) -> dict[str, tuple[str, Table]]:
    """Heading -> command and table; without those that are empty."""
    found = {"What is asked": ("", goals(rows)), "What is missing": ("", absent(missing))}
    for part in dict.fromkeys(row.part for row in rows):
        of = [row for row in rows if row.part == part]
        found[part] = (of[0].command, of_part(of))
    return {heading: content for heading, content in found.items() if len(content[1]) > 1}


def html(
    rows: Sequence[Row], missing: Sequence[Missing], said: Mapping[str, str], plots: Mapping[str, str]
) -> str:
    figures = [f"<h2>{escape(title)}</h2>\n{svg}" for title, svg in plots.items()]
    first, *rest = [_section(*content) for content in sections(rows, missing).items()] or [""]
    head = f"<meta charset='utf-8'><title>{TITLE}</title><style>{STYLE}</style>"
    told = _html_table([["", ""], *([key, value] for key, value in said.items())])
    body = "\n".join([f"<h1>{TITLE}</h1><p>{READ}</p>", told, first, *figures, *rest])
    return f"<!doctype html><html lang='en'><head>{head}</head><body>{body}</body></html>\n"


def _section(heading: str, content: tuple[str, Table]) -> str:
    command = f"<p><code>{escape(content[0])}</code></p>" if content[0] else ""
    return f"<h2>{escape(heading)}</h2>{command}{_html_table(content[1])}"


def _html_table(table: Table) -> str:
    head, *lines = table
    marked = "".join(f"<tr>{''.join(map(_cell, line))}</tr>\n" for line in lines)
    return f"<table><tr>{''.join(f'<th>{escape(word)}</th>' for word in head)}</tr>\n{marked}</table>"


def _cell(text: str) -> str:
    marked = f" class='{text}'" if text in ("met", "missed") else ""
    return f"<td{marked}>{escape(text)}</td>"


def markdown(
    rows: Sequence[Row], missing: Sequence[Missing], said: Mapping[str, str], plots: Mapping[str, str]
) -> str:
    told = [f"* {key}: {value}" for key, value in said.items()]
    figures = [f"## {title}\n\n![{title}]({_plot_file(title)})" for title in plots]
    tables = [
        f"## {heading}\n\n" + (f"`{command}`\n\n" if command else "") + _markdown_table(table)
        for heading, (command, table) in sections(rows, missing).items()
    ]
    return "\n\n".join([f"# {TITLE}", READ, "\n".join(told), *tables[:1], *figures, *tables[1:]]) + "\n"


def _markdown_table(table: Table) -> str:
    head, *lines = [[cell.replace("|", "\\|") for cell in line] for line in table]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *lines))
