"""Success per task, grouped by suite, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from foundry_bench.analysis import style
from foundry_bench.analysis.rates import Report, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_HEIGHT_INCHES = 2.0
_COLUMN_BARS, _COLUMN_PANELS = 12, 2  # what can be read in one column of a paper
_LINE_BARS, _LINE_PANELS = 40, 4  # and across its page


def plot_success(report: Report, stem: Path) -> list[Path]:
    """Draw ``stem.png`` and ``stem.pdf``: a panel for each suite, a bar for each task, 95 % intervals.

    Instead of a bar, a cross means that the task was skipped, a question mark that it has no episodes.
    """
    with style.style():
        figure = _figure(report)
        return style.save(figure, stem)


def _figure(report: Report) -> Figure:
    from matplotlib.figure import Figure

    lines = _lines(report)
    bars = max(sum(len(tasks) for _, tasks in line) for line in lines)
    narrow = bars <= _COLUMN_BARS and max(map(len, lines)) <= _COLUMN_PANELS
    width = style.COLUMN_INCHES if narrow else style.PAGE_INCHES
    figure = Figure(figsize=(width, _HEIGHT_INCHES * len(lines)), layout="constrained")
    parts = figure.subfigures(len(lines), 1, squeeze=False)[:, 0]
    if report.mixed:
        figure.suptitle("mixed protocols: not comparable", color=style.COLOURS[3], fontsize=7.5)
    colours = iter(style.COLOURS * len(report.suites))
    for part, line in zip(parts, lines, strict=True):
        widths = [_slots(tasks) for _, tasks in line]
        axes = part.subplots(1, len(line), sharey=True, squeeze=False, width_ratios=widths)[0]
        for axis, (suite, tasks) in zip(axes, line, strict=True):
            _panel(axis, suite, tasks, next(colours))
        axes[0].set_ylabel("success (%)")
    return figure


def _lines(report: Report) -> list[list[tuple[Row, list[Row]]]]:
    """Suites in lines that are not too full."""
    lines: list[list[tuple[Row, list[Row]]]] = [[]]
    for suite in report.suites:
        tasks = [row for row in report.tasks if row.suite == suite.suite]
        bars = sum(len(others) for _, others in lines[-1]) + len(tasks)
        if lines[-1] and (bars > _LINE_BARS or len(lines[-1]) == _LINE_PANELS):
            lines.append([])
        lines[-1].append((suite, tasks))
    return lines


def _slots(tasks: Sequence[Row]) -> int:
    """How many bars wide a panel is: a few bars are not blown up to fill it."""
    return max(len(tasks), 4)


def _panel(axis: Axes, suite: Row, tasks: Sequence[Row], colour: str) -> None:
    axis.grid(axis="y")
    _bars(axis, [(place, row) for place, row in enumerate(tasks) if row.rate is not None], colour)
    for place, row in enumerate(tasks):
        if row.rate is None:
            axis.text(place, 2, "×" if row.skipped else "?", ha="center", color=style.GREY, fontsize=7)
    if suite.rate is not None:
        axis.axhline(100 * suite.rate, color=style.INK, linewidth=0.7, linestyle=(0, (4, 2)))
    axis.set_title(_title(suite), loc="left")
    step = 1 if len(tasks) <= 20 else 5
    axis.set_xticks(range(0, len(tasks), step), [str(row.task) for row in tasks[::step]])
    axis.set_xlabel(_below(suite, tasks))
    middle = (len(tasks) - 1) / 2
    axis.set_xlim(middle - _slots(tasks) / 2 - 0.1, middle + _slots(tasks) / 2 + 0.1)
    axis.set_ylim(0, 104)
    axis.set_yticks([0, 25, 50, 75, 100])
    axis.tick_params(axis="x", length=0)


def _bars(axis: Axes, judged: Sequence[tuple[int, Row]], colour: str) -> None:
    if not judged:
        return
    places, rates = [place for place, _ in judged], [100 * (row.rate or 0) for _, row in judged]
    axis.bar(places, rates, 0.74, color=colour, alpha=0.75)
    axis.errorbar(
        places,
        rates,
        _whiskers([row for _, row in judged]),
        fmt=".",
        markersize=3,
        color=style.INK,
        elinewidth=0.7,
        capsize=1.4,
        capthick=0.7,
        clip_on=False,
    )


def _below(suite: Row, tasks: Sequence[Row]) -> str:
    """How many episodes a panel shows, and what the marks in it mean."""
    marks = ["× skipped"] if any(row.skipped for row in tasks) else []
    if any(row.rate is None and not row.skipped for row in tasks):
        marks.append("? none ended")
    return "\n".join([f"task (n = {suite.episodes})", *([", ".join(marks)] if marks else [])])


def _whiskers(rows: Sequence[Row]) -> list[list[float]]:
    """Distances from rate to bounds, in per cent."""
    below = [100 * ((row.rate or 0) - (row.low or 0)) for row in rows]
    above = [100 * ((row.high or 0) - (row.rate or 0)) for row in rows]
    return [below, above]


def _title(suite: Row) -> str:
    if suite.rate is None or suite.low is None or suite.high is None:
        return f"{suite.suite}\nno episodes"
    return f"{suite.suite}\nmean {100 * suite.rate:.0f} % [{100 * suite.low:.0f}, {100 * suite.high:.0f}]"
