"""From records to table, summary and picture: what is counted, what is shown, what is refused."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

from foundry_bench.analysis.load import load_records
from foundry_bench.analysis.rates import Report, build_report
from foundry_bench.analysis.report import print_table, write_report
from foundry_bench.analysis.summary import summarise
from foundry_bench.analysis.tables import caption, latex_escape, to_csv, to_latex, to_markdown
from foundry_bench.errors import FoundryError
from foundry_bench.evaluation import EpisodeRecord, latest, read_records
from tests.analysis.fake_records import BASE, META, episodes, suite_of_tasks, write


def report_of(tmp_path: Path, records: list[EpisodeRecord], meta: Any = None, **options: Any) -> Report:
    return build_report(load_records([write(tmp_path / "records.jsonl", records)]), meta, **options)


@pytest.fixture
def typical(tmp_path: Path) -> Report:
    records = [
        *episodes("libero_goal", 0, "ssffe"),
        *episodes("libero_goal", 1, "ee"),
        *episodes("libero_spatial", 0, "ssss"),
        *episodes("libero_spatial", 1, "sfff"),
    ]
    return report_of(tmp_path, records, META)


def test_counts(typical: Report) -> None:
    found = {(row.suite, row.task): row for row in typical.rows}
    assert [(row.suite, row.task) for row in typical.rows] == [
        ("libero_spatial", 0),
        ("libero_spatial", 1),
        ("libero_spatial", None),
        ("libero_goal", 0),
        ("libero_goal", 1),
        ("libero_goal", 3),
        ("libero_goal", None),
        ("", None),
    ]
    assert (found["libero_spatial", 0].rate, found["libero_spatial", 0].high) == (1.0, 1.0)
    assert (found["libero_goal", 0].episodes, found["libero_goal", 0].errors) == (4, 1)
    assert found["libero_goal", 0].rate == 0.5  # an error is not a failure
    assert (found["libero_goal", 1].rate, found["libero_goal", 1].low) == (None, None)
    assert (found["libero_goal", 1].episodes, found["libero_goal", 1].errors) == (0, 2)
    assert found["libero_goal", 3].skipped == "no skill | opens"
    goal = found["libero_goal", None]
    assert (goal.rate, goal.episodes, goal.errors) == (0.5, 4, 3)
    assert goal.instruction == "mean of 1 task, 1 skipped"
    assert (typical.total.episodes, typical.total.successes, typical.total.errors) == (12, 7, 3)
    assert typical.total.rate == pytest.approx((1.0 + 0.25 + 0.5) / 3)
    assert found["libero_spatial", 0].demonstrations == 20
    assert found["libero_goal", 0].demonstrations is None


def test_tasks_weigh_the_same_and_unequal_counts_are_said(tmp_path: Path) -> None:
    records = [*episodes("libero_goal", 0, "ss"), *episodes("libero_goal", 1, "ffffffff")]
    report = report_of(tmp_path, records)
    assert report.total.rate == 0.5
    assert report.total.pooled == 0.2
    assert "Tasks have unequal numbers of episodes; pooled over all, 20.0 % succeed." in caption(report)
    equal = report_of(tmp_path, [*episodes("a", 0, "ss"), *episodes("a", 1, "fs")])
    assert equal.total.rate == equal.total.pooled == 0.75
    assert "unequal" not in caption(equal)


def test_caption_says_what_it_is(typical: Report) -> None:
    text = caption(typical)
    assert "Experiment libero_goal-quick." in text
    assert (
        "Policy vla (checkpoint 0123456789ab), trained in 420 s on 20 scripted demonstrations per task."
        in text
    )
    assert "Protocol foundry@aaaabbbbcccc." in text
    assert "95 % Wilson" in text
    assert "3 episodes ended in errors and are counted neither way." in text
    assert "Without any finished episode: libero_goal 1." in text
    other = {**META, "demonstrations": {"source": "/data/human/", "per_task": "18 to 50"}, "seconds": {}}
    assert "trained on 18 to 50 demonstrations per task from human." in caption(replace(typical, meta=other))
    assert "trained" not in caption(replace(typical, meta={}))


def test_tables_never_show_nothing_as_zero(typical: Report) -> None:
    markdown = to_markdown(typical)
    lines = {line.split("|")[2].strip(): line for line in markdown.splitlines() if "| libero_goal" in line}
    assert "| 0 | - | 2 | - | - |" in lines["1"]
    assert "| - | - | - | skipped (no demonstrations) | - |" in lines["3"]
    assert "- libero_goal 3, open the drawer & look: no skill | opens" in markdown
    assert (
        "| libero_spatial | 0 | do libero_spatial task 0 | 20 | 4 | 4 | 0 | 100.0 | 51.0-100.0 |" in markdown
    )
    assert "**58.3**" in markdown
    tasks = [line for line in markdown.splitlines() if re.match(r"\| libero_\w+ \| \d", line)]
    assert len({line.replace("\\|", "").count("|") for line in tasks}) == 1


def test_csv_reads_back(typical: Report) -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(typical))))
    assert [row["level"] for row in rows] == [
        "task",
        "task",
        "suite",
        "task",
        "task",
        "task",
        "suite",
        "total",
    ]
    assert rows[1]["rate"] == "0.250000"
    assert rows[4]["rate"] == ""
    assert rows[5]["note"] == "skipped: no skill | opens"
    assert rows[-1]["successes"] == "7"
    assert {row["protocol"] for row in rows} == {"foundry@aaaabbbbcccc", ""}


def test_latex_has_no_raw_specials(typical: Report) -> None:
    text = to_latex(typical)
    assert "open the drawer \\& look" in text
    assert (
        "libero\\_spatial & 0 & do libero\\_spatial task 0 & 20 & 4 & 4 & 0 & 100.0 & 51.0--100.0 \\\\"
        in text
    )
    assert "\\label{tab:libero-goal-quick}" in text
    assert text.count("\\midrule") == 3
    body = [line for line in text.splitlines() if line.endswith("\\\\")]
    assert {len(re.findall(r"(?<!\\)&", line)) for line in body} == {8}
    assert not re.search(r"(?<!\\)[_#$]|(?<![\\%])%(?! needs)", text)


@given(st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=40))
def test_latex_escape_leaves_only_commands_of_ours(text: str) -> None:
    escaped = latex_escape(text)
    for command in (r"\textbackslash{}", r"\textasciitilde{}", r"\textasciicircum{}"):
        escaped = escaped.replace(command, "")
    for command in (r"\textless{}", r"\textgreater{}", r"\textbar{}"):
        escaped = escaped.replace(command, "")
    assert not re.search(r"(?<!\\)[{}$&#_%]|[~^<>|]|\\(?![{}$&#_%])", escaped)


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
@pytest.mark.slow
def test_latex_compiles(typical: Report, tmp_path: Path) -> None:
    (tmp_path / "table.tex").write_text(to_latex(typical))
    (tmp_path / "paper.tex").write_text(
        "\\documentclass[twocolumn]{article}\\usepackage{booktabs}\\begin{document}\\input{table}\\end{document}"
    )
    subprocess.run(["pdflatex", "-halt-on-error", "paper.tex"], cwd=tmp_path, check=True, capture_output=True)


def test_summary(typical: Report) -> None:
    summary = json.loads(json.dumps(summarise(typical), allow_nan=False))
    assert summary["total"]["interval"][0] < summary["total"]["rate"] < summary["total"]["interval"][1]
    assert [suite["suite"] for suite in summary["suites"]] == ["libero_spatial", "libero_goal"]
    assert summary["suites"][1]["tasks"][1]["rate"] is None
    assert summary["suites"][1]["tasks"][2]["skipped"] == "no skill | opens"
    assert summary["seconds"] == {"demos": 61.5, "train": 420.2, "eval": 99.0}
    assert summary["versions"] == {"libero": "0.1.1", "mujoco": "3.3.2"}
    assert summary["protocol"]["hash"] == "aaaabbbbcccc"
    assert summary["protocols"] == ["foundry@aaaabbbbcccc"]
    assert summary["policy"] == {"name": "vla", "checkpoint": "train/checkpoint", "hash": "0123456789abcdef"}
    assert summary["episode_wall_seconds"] == 15 * 1.25


def test_mixed_protocols_are_refused_or_marked(tmp_path: Path) -> None:
    records = episodes("libero_goal", 0, "ss") + episodes(
        "libero_goal", 0, "ff", protocol_hash="ddddeeeeffff"
    )
    with pytest.raises(FoundryError, match="foundry@aaaabbbbcccc, foundry@ddddeeeeffff"):
        report_of(tmp_path, records)
    report = report_of(tmp_path, records, allow_mixed=True)
    assert report.total.episodes == 4
    for text in (to_markdown(report), to_latex(report)):
        assert "MIXED PROTOCOLS, not comparable: foundry@aaaabbbbcccc, foundry@ddddeeeeffff" in text
        assert text.count("foundry@ddddeeeeffff") == 4  # caption, task, suite, total
    assert summarise(report)["mixed_protocols"] is True


def test_several_policies_are_refused(tmp_path: Path) -> None:
    records = [*episodes("a", 0, "s"), *episodes("a", 0, "s", policy="other")]
    with pytest.raises(FoundryError, match=r"different policies.*other@0123456789abcdef, vla@"):
        report_of(tmp_path, records)


def test_all_files_are_written_and_are_the_same_each_time(tmp_path: Path) -> None:
    records = suite_of_tasks("libero_object", [0.9, 0.5, 1.0])
    path = write(tmp_path / "records.jsonl", records)
    names = ["success.pdf", "success.png", "summary.json", "table.csv", "table.md", "table.tex"]
    returned = write_report([path], tmp_path / "one", META)
    assert returned == tmp_path / "one" / "table.md"
    assert sorted(each.name for each in (tmp_path / "one").iterdir()) == names
    shuffled = write(tmp_path / "shuffled.jsonl", records[::-1])
    write_report(shuffled, tmp_path / "two", META)
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


def test_the_picture_has_the_size_of_a_column_or_a_page(tmp_path: Path) -> None:
    for count, inches in ((3, 3.4), (14, 7.0)):
        path = write(tmp_path / "records.jsonl", suite_of_tasks("libero_90", [0.5] * count))
        write_report(path, tmp_path / str(count))
        with Image.open(tmp_path / str(count) / "success.png") as image:
            assert image.width == round(inches * 300)
            assert len(image.convert("RGB").resize((64, 64)).getcolors(4096)) > 10


def test_printed_table(typical: Report, tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=120)
    print_table([tmp_path / "records.jsonl"], META, console=console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "skipped: open the drawer & look" in text
    assert "Protocol foundry@aaaabbbbcccc." in text
    assert re.search(r"all +mean of 3 tasks, 1 skipped +7/12 +3 +58\.3 +32\.0-80\.7", text)


def test_a_narrow_terminal_cuts_instructions_and_no_numbers(typical: Report, tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=72)
    print_table([tmp_path / "records.jsonl"], META, console=console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert re.search(r"all +mean of 3 \S* *\S*… +7/12 +3 +58\.3 +32\.0-80\.7", text)
    assert max(map(len, text.splitlines())) <= 72


def test_loading_agrees_with_the_evaluation_on_which_record_counts(tmp_path: Path) -> None:
    error, done = episodes("a", 0, "e")[0], episodes("a", 0, "f")[0]
    other = episodes("a", 1, "e")[0]
    records = [
        error,
        replace(error, steps=2),
        done,
        replace(done, outcome="success"),
        other,
        replace(other, steps=5),
    ]
    path = write(tmp_path / "records.jsonl", records)
    frame = load_records([path])
    counting = sorted(latest(read_records(path)).values(), key=lambda record: record.key)
    assert frame["outcome"].tolist() == [record.outcome for record in counting] == ["failure", "error"]
    assert frame["steps"].tolist() == [record.steps for record in counting] == [90, 5]


def test_bad_records_are_named(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    with pytest.raises(FoundryError, match=r"records\.jsonl: cannot be read"):
        load_records([path])
    path.touch()
    with pytest.raises(FoundryError, match="no episode records"):
        load_records([path])
    line = BASE.to_line()
    for bad, words in [
        ("{", "not a JSON object"),
        ("[]", "not a JSON object"),
        ("{}", "no 'run'"),
        (line.replace('"success"', '"win"'), "outcome is 'win'"),
        (line.replace('"steps":90', '"steps":"90"'), "steps is '90'"),
    ]:
        path.write_text(f"{line}\n{bad}\n")
        with pytest.raises(FoundryError) as caught:
            load_records([path])
        assert str(caught.value).startswith(f"{path}:2: ")
        assert words in str(caught.value)
    path.write_text(f"{line}\n{line[:50]}")
    with pytest.warns(UserWarning, match="torn"):
        assert len(load_records([path])) == 1


@given(st.binary(max_size=100))
def test_any_line_is_read_or_refused_by_name(tmp_path_factory: pytest.TempPathFactory, noise: bytes) -> None:
    path = tmp_path_factory.mktemp("noise") / "records.jsonl"
    path.write_bytes(noise.replace(b"\n", b"") + b"\n")
    with pytest.raises(FoundryError, match=r"records\.jsonl:1: "):
        load_records([path])


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "records.jsonl", [BASE])
    with pytest.raises(FoundryError, match="the report cannot be written"):
        write_report(path, path / "below")
