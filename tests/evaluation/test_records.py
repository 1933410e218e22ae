"""Records on disk: whole lines or none, and nothing that is corrupt goes unnoticed."""

from __future__ import annotations

import os
import resource
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foundry_bench.errors import FoundryError
from foundry_bench.evaluation import EpisodeRecord, RecordWriter, latest, read_records

RECORD = EpisodeRecord(
    run="r",
    policy="p",
    checkpoint_hash="c",
    protocol="foundry",
    protocol_hash="h",
    suite="libero_spatial",
    task_index=1,
    instruction="pick up the black bowl",
    init_state=2,
    seed=9,
    outcome="success",
    steps=88,
    chunks=22,
    simulated_seconds=4.4,
    wall_seconds=1.5,
    versions={"mujoco": "3.3.2"},
)

text = st.text(st.characters(codec="utf-8"), max_size=20)
records = st.builds(
    EpisodeRecord,
    run=text,
    policy=text,
    checkpoint_hash=text,
    protocol=text,
    protocol_hash=text,
    suite=text,
    task_index=st.integers(0, 9),
    instruction=text,
    init_state=st.integers(0, 49),
    seed=st.integers(0, 2**40),
    outcome=st.sampled_from(["success", "failure", "error"]),
    steps=st.integers(0, 600),
    chunks=st.integers(0, 600),
    simulated_seconds=st.floats(0, 1e6),
    wall_seconds=st.floats(0, 1e6),
    simulator_seconds=st.floats(0, 1e6),
    attempts=st.integers(1, 20),
    error=text,
    video=st.none() | text,
    versions=st.dictionaries(text, text, max_size=3),
    host=text,
    ended_at=text,
)


@given(st.lists(records, max_size=5), st.integers(0, 200))
@settings(max_examples=50, deadline=None)
def test_written_records_are_read_back_and_a_torn_line_loses_only_itself(
    tmp_path_factory: pytest.TempPathFactory, many: list[EpisodeRecord], cut: int
) -> None:
    path = tmp_path_factory.mktemp("records") / "records.jsonl"
    with RecordWriter(path) as writer:
        for record in many:
            writer.write(record)
    assert read_records(path) == many
    whole = path.read_bytes()
    path.write_bytes(whole[: max(0, len(whole) - cut)])
    kept = path.read_bytes().count(b"\n")
    if not path.read_bytes().endswith(b"\n") and path.stat().st_size:
        with pytest.warns(UserWarning, match="torn"):
            assert read_records(path) == many[:kept]
        with pytest.warns(UserWarning, match="torn"):
            writer = RecordWriter(path)
    else:
        writer = RecordWriter(path)
    with writer:
        writer.write(RECORD)
    assert read_records(path) == [*many[:kept], RECORD]


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_read_or_refused_by_name(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes
) -> None:
    path = tmp_path_factory.mktemp("noise") / "records.jsonl"
    path.write_bytes(RECORD.to_line().encode() + b"\n" + noise + b"\n")
    with pytest.raises(FoundryError, match=r"records\.jsonl:2: not an episode record"):
        read_records(path)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"success"', '"succes"', "outcome is 'succes'"),
        ('"steps":88', '"steps":"88"', "steps is '88'"),
        ('"steps":88', '"steps":true', "steps is True"),
        ('"steps":88', '"step":88', "unexpected keyword argument 'step'"),
        ('"steps":88,', "", "missing 1 required positional argument: 'steps'"),
        ('"wall_seconds":1.5', '"wall_seconds":NaN', "seconds must be finite"),
        ('{"mujoco":"3.3.2"}', '{"mujoco":3}', "versions is"),
        ('{"mujoco":"3.3.2"}', "[" * 100_000, "nested too deeply"),
    ],
)
def test_a_wrong_field_is_named(tmp_path: Path, old: str, new: str, words: str) -> None:
    path = tmp_path / "records.jsonl"
    assert old in RECORD.to_line()
    path.write_text(RECORD.to_line().replace(old, new) + "\n" + RECORD.to_line() + "\n")
    with pytest.raises(FoundryError) as caught:
        read_records(path)
    assert str(caught.value).startswith(f"{path}:1: not an episode record")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FoundryError, match=r"nowhere\.jsonl: cannot be read"):
        read_records(tmp_path / "nowhere.jsonl")


def test_errors_give_way_to_what_finished() -> None:
    error = replace(RECORD, outcome="error", error="first")
    later = replace(error, error="second")
    again = replace(RECORD, outcome="failure")
    other = replace(RECORD, init_state=3, outcome="error")
    assert latest([error, later]) == {RECORD.key: later}
    assert latest([error, RECORD, later, again, other]) == {RECORD.key: RECORD, other.key: other}


def test_a_file_has_one_writer(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "records.jsonl"
    with RecordWriter(path), pytest.raises(FoundryError, match="another evaluation is writing"):
        RecordWriter(path)
    RecordWriter(path).close()


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FoundryError, match="cannot be written"):
        RecordWriter(tmp_path / "file" / "records.jsonl")


def test_a_full_disk_leaves_whole_records(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    size = len(RECORD.to_line()) + 1
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with RecordWriter(path) as writer:
            writer.write(RECORD)
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, hard))
            with pytest.raises(FoundryError, match=r"records\.jsonl: cannot be written \(File too large\)"):
                writer.write(RECORD)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert os.path.getsize(path) == size  # noqa: PTH202
    assert read_records(path) == [RECORD]
