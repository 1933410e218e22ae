"""The files: what is written can be read, whatever number of workers wrote it and whatever stopped them."""

from __future__ import annotations

import errno
import json
import shutil
import tarfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foundry_bench.data.captions import write
from foundry_bench.data.captions.config import SPLITS, CaptionsConfig
from foundry_bench.data.captions.facts import Facts
from foundry_bench.data.captions.make import make_captions
from foundry_bench.data.captions.pairs import YES_NO
from foundry_bench.data.captions.reader import CaptionDataset
from foundry_bench.data.captions.scenes import SceneStore, scenes_of, split_of
from foundry_bench.data.images import decode_image
from foundry_bench.envs.suites import Task, task
from foundry_bench.errors import FoundryError
from tests.data.captions.conftest import CONFIG, TASKS


def tasks() -> list[Task]:
    return [task(*which) for which in TASKS]


def tree(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.fixture
def dataset(finished: Path, tmp_path: Path) -> Path:
    """A copy of the dataset to do harm to, with its scenes."""
    shutil.copytree(finished.with_name("dataset.scenes"), tmp_path / "dataset.scenes")
    return Path(shutil.copytree(finished, tmp_path / "dataset"))


# --- writing -------------------------------------------------------------------------------------------


def test_equal_bytes_with_two_workers_and_in_two_goes(finished: Path, tmp_path: Path) -> None:
    root = tmp_path / "dataset"
    first = make_captions(tasks(), replace(CONFIG, scenes=4), root, workers=2, progress=False)
    assert first.made == 4
    assert make_captions(tasks(), CONFIG, root, workers=2, progress=False).made == 6
    assert tree(root) == tree(finished)
    assert make_captions(tasks(), CONFIG, root, workers=2, progress=False).made == 0


def test_a_damaged_scene_is_made_again(dataset: Path, finished: Path) -> None:
    scenes = dataset.with_name("dataset.scenes")
    some = sorted(scenes.glob("libero*.json"))[3]
    some.write_bytes(some.read_bytes()[:-40])
    (dataset / "parquet" / "train-00000.parquet").unlink()
    assert make_captions(tasks(), CONFIG, dataset, workers=1, progress=False).made == 1
    assert tree(dataset) == tree(finished)


def test_other_settings_are_refused(dataset: Path) -> None:
    with pytest.raises(FoundryError, match=r"dataset\.scenes"):
        make_captions(tasks(), replace(CONFIG, seed=4), dataset, workers=1)
    shutil.rmtree(dataset.with_name("dataset.scenes"))
    with pytest.raises(FoundryError, match="other tasks or settings"):
        make_captions(tasks(), replace(CONFIG, seed=4), dataset, workers=1)
    with pytest.raises(FoundryError, match="other tasks or settings"):
        make_captions(tasks()[:1], CONFIG, dataset, workers=1)


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letters.txt").write_text("dear")
    with pytest.raises(FoundryError, match="no dataset of captions"):
        make_captions(tasks(), CONFIG, tmp_path, workers=1)
    assert tree(tmp_path) == {"letters.txt": b"dear"}


def test_a_full_disk_leaves_the_dataset_that_was_there(
    dataset: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(write, "write_text", full)
    with pytest.raises(FoundryError, match="no space left"):
        make_captions(tasks(), replace(CONFIG, scenes=8), dataset, workers=1, progress=False)
    assert tree(dataset) == tree(finished)
    assert not dataset.with_name("dataset.building").exists()


def test_tasks_without_a_scene_of_liberos_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FoundryError, match="robosuite-00"):
        make_captions([task("robosuite", 0)], CONFIG, tmp_path / "x", workers=1)


@pytest.mark.parametrize(
    "change",
    [
        {"scenes": 0}, {"image_size": 8}, {"scrambled": 1.5}, {"painted": -0.1}, {"light_jitter": 9.0},
        {"cameras": ()}, {"cameras": ("agentview", "agentview")}, {"cameras": ("frontview",)},
        {"image_format": "gif"},
    ],
)  # fmt: skip
def test_bad_settings_are_named(change: dict[str, Any]) -> None:
    with pytest.raises(FoundryError, match=f"captions.{next(iter(change))}"):
        CaptionsConfig(**change)


# --- what is written -----------------------------------------------------------------------------------


@given(st.integers(0, 2**31), st.integers(1, 60), st.integers(1, 60))
def test_splits_are_by_scene_and_survive_more_scenes(seed: int, few: int, more: int) -> None:
    splits = Counter(split_of(index, seed) for index in range(10 * more))
    assert splits == {"train": 8 * more, "val": more, "test": more}
    both = tasks()
    assert scenes_of(both, few) == scenes_of(both, few + more)[:few]


def test_all_pairs_of_a_scene_are_in_one_split(finished: Path) -> None:
    scenes = {
        split: {key.rsplit("-", 1)[0] for key in CaptionDataset(finished, split)._keys} for split in SPLITS
    }
    assert all(scenes.values())
    assert sum(map(len, scenes.values())) == len(set().union(*scenes.values()))


def test_yes_is_right_half_of_the_time(finished: Path) -> None:
    manifest = json.loads((finished / "manifest.json").read_text())
    for split in SPLITS:
        answers: dict[str, Counter[str]] = {}
        for sample in CaptionDataset(finished, split, kinds=YES_NO):
            answers.setdefault(sample.kind, Counter())[sample.answer] += 1
        for kind, counts in answers.items():
            assert counts["yes"] == counts["no"], (split, kind)
            assert manifest["balance"][split][kind]["answers"] == counts
    assert manifest["counts"]["train"]["pairs"] > 100


def test_samples_are_what_the_facts_say(finished: Path) -> None:
    data = CaptionDataset(finished)
    rows = {
        row["key"]: row for row in pq.read_table(finished / "parquet" / "train-00000.parquet").to_pylist()
    }
    for index in range(len(data)):
        sample = data[index]
        facts = Facts.from_json(json.loads(rows[sample.key]["facts"]))
        assert sample.image.shape == (CONFIG.image_size, CONFIG.image_size, 3)
        assert sample.image.dtype == np.uint8
        if sample.kind == "at_point":
            named = [thing.spoken.phrase for thing in facts.things if thing.point == sample.point]
            assert sample.answer in named
        if sample.kind == "point":
            assert sample.point is not None
            assert sample.answer == f"({sample.point[0]}, {sample.point[1]})"
    assert len(data[0].image[0]) == CONFIG.image_size
    assert data[-1].question == data[len(data) - 1].question
    with pytest.raises(IndexError):
        data[len(data)]


def test_kinds_can_be_chosen_and_pairs_found_by_image(finished: Path) -> None:
    everything, counts = CaptionDataset(finished), CaptionDataset(finished, kinds=["count"])
    assert set(counts.kinds) == {"count"}
    assert len(counts) == everything.kinds.count("count")
    numbers = [index for image in range(everything.images) for index in everything.pairs_of(image)]
    assert numbers == list(range(len(everything)))
    for image in range(everything.images):
        assert len({everything[index].key for index in everything.pairs_of(image)}) == 1


def test_tar_shards_hold_what_parquet_holds(finished: Path) -> None:
    for split in SPLITS:
        rows = pq.read_table(finished / "parquet" / f"{split}-00000.parquet").to_pylist()
        with tarfile.open(finished / "webdataset" / f"{split}-00000.tar") as tar:
            members = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
        assert len(members) == 2 * len(rows)
        for row in rows:
            plain = json.loads(members[f"{row['key']}.json"])
            assert plain["pairs"] == row["pairs"]
            assert plain["facts"] == json.loads(row["facts"])
            image = decode_image(members[f"{row['key']}.png"])
            assert (image == decode_image(row["image"]["bytes"])).all()


def test_the_text_corpus_has_every_kind_and_captions_of_its_split_only(finished: Path) -> None:
    kinds, scenes = set(), {}
    for split in SPLITS:
        rows = [json.loads(line) for line in (finished / "text" / f"{split}.jsonl").read_text().splitlines()]
        assert rows == pq.read_table(finished / "text" / f"{split}-00000.parquet").to_pylist()
        kinds |= {row["kind"] for row in rows}
        scenes[split] = {row["text"] for row in rows if row["kind"] == "scene"}
        told = {sample.answer for sample in CaptionDataset(finished, split, kinds=["caption"])}
        assert scenes[split] <= told
    assert kinds == {"instruction", "paraphrase", "plan", "scene"}


def test_the_overview_is_a_picture(finished: Path) -> None:
    sheet = cv2.imread(str(finished / "overview.png"))
    assert sheet is not None
    assert sheet.std() > 20


def test_the_manifest_names_every_file(finished: Path) -> None:
    manifest = json.loads((finished / "manifest.json").read_text())
    assert set(manifest["files"]) == set(tree(finished)) - {"manifest.json"}
    assert manifest["config"]["seed"] == CONFIG.seed
    assert {entry["suite"] for entry in manifest["tasks"]} == {which[0] for which in TASKS}
    assert manifest["packages"]["mujoco"]


# --- files that others made ------------------------------------------------------------------------------


@given(st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_truncated_parquet_is_named(dataset: Path, data: st.DataObject) -> None:
    path = dataset / "parquet" / "val-00000.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    try:
        with pytest.raises(FoundryError, match=r"val-00000\.parquet"):
            CaptionDataset(dataset, "val")
    finally:
        path.write_bytes(whole)


@given(st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_changed_byte_is_read_or_named(dataset: Path, data: st.DataObject) -> None:
    """Page checksums find it, or the image's own; a byte nobody reads may change. Nothing else is raised."""
    path = dataset / "parquet" / "val-00000.parquet"
    whole = path.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    path.write_bytes(whole[:at] + bytes([whole[at] ^ data.draw(st.integers(1, 255))]) + whole[at + 1 :])
    try:
        captions = CaptionDataset(dataset, "val")
        for image in range(captions.images):
            captions.image(image)
    except FoundryError as error:
        assert "delete" in str(error)
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"config": 3, "files": {}}',
        b'{"config": {"image_size": 1e9}, "files": {}}', b'{"config": {"image_size": -4}, "files": {}}',
        b'{"config": {"image_size": 64}, "files": []}', b"[" * 100_000,
    ],
)  # fmt: skip
def test_a_hostile_manifest_is_named(dataset: Path, content: bytes) -> None:
    (dataset / "manifest.json").write_bytes(content)
    with pytest.raises(FoundryError, match=r"manifest\.json"):
        CaptionDataset(dataset)


def test_a_manifest_cannot_lead_out_of_the_folder(dataset: Path) -> None:
    manifest = json.loads((dataset / "manifest.json").read_text())
    manifest["files"] = {"parquet/train-/../../../secret.parquet": {"bytes": 1}}
    (dataset / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(FoundryError, match="secret"):
        CaptionDataset(dataset)


def test_missing_things_are_named(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(FoundryError, match="no captions there"):
        CaptionDataset(tmp_path / "nowhere")
    with pytest.raises(FoundryError, match="did you mean 'train'"):
        CaptionDataset(dataset, "trian")
    with pytest.raises(FoundryError, match="presense"):
        CaptionDataset(dataset, kinds=["presense"])
    with pytest.raises(FoundryError, match="no pairs in the split 'val'"):
        CaptionDataset(_without(dataset, "val"), "val")


def _without(dataset: Path, split: str) -> Path:
    manifest = json.loads((dataset / "manifest.json").read_text())
    manifest["files"] = {name: entry for name, entry in manifest["files"].items() if split not in name}
    (dataset / "manifest.json").write_text(json.dumps(manifest))
    return dataset


@pytest.mark.parametrize("column", ["key", "camera", "image", "pairs"])
def test_columns_that_are_not_there_or_of_another_type_are_named(dataset: Path, column: str) -> None:
    path = dataset / "parquet" / "train-00000.parquet"
    table = pq.read_table(path)
    pq.write_table(table.drop_columns([column]), path)
    with pytest.raises(FoundryError, match=f"'{column}' is missing"):
        CaptionDataset(dataset)
    place = table.schema.get_field_index(column)
    pq.write_table(table.set_column(place, column, pa.array([1] * len(table))), path)
    with pytest.raises(FoundryError, match=f"'{column}' is int64"):
        CaptionDataset(dataset)
    empty = pa.array([None] * len(table), table.schema.field(column).type)
    pq.write_table(table.set_column(place, table.schema.field(column), empty), path)
    with pytest.raises(FoundryError, match="empty cell"):
        CaptionDataset(dataset)


def test_an_image_that_is_none_or_a_bomb_is_named(dataset: Path) -> None:
    path = dataset / "parquet" / "train-00000.parquet"
    table = pq.read_table(path)
    rows = table.to_pylist()
    bomb = bytearray(rows[1]["image"]["bytes"])
    bomb[16:24] = b"\x00\x00\xff\xff" * 2  # says that it is 65,535 pixels wide and high
    rows[0]["image"]["bytes"], rows[1]["image"]["bytes"] = b"no picture", bytes(bomb)
    pq.write_table(pa.Table.from_pylist(rows, table.schema), path)
    captions = CaptionDataset(dataset)
    with pytest.raises(FoundryError, match=rows[0]["key"]):
        captions.image(0)
    with pytest.raises(FoundryError, match="65535x65535"):
        captions.image(1)
    assert captions.image(2).std() > 0


def test_a_scene_file_that_tells_another_truth_is_refused(dataset: Path) -> None:
    store = SceneStore(dataset, CONFIG)
    key = sorted(store.keys())[0]
    path = dataset.with_name("dataset.scenes") / f"{key}.json"
    path.write_bytes(path.read_bytes().replace(b'"answer":"yes"', b'"answer":"not"', 1))
    with pytest.raises(FoundryError, match="checksum"):
        store.load(key)


def test_a_scene_file_of_another_scene_is_refused(dataset: Path) -> None:
    store = SceneStore(dataset, CONFIG)
    one, other = sorted(store.keys())[:2]
    scenes = dataset.with_name("dataset.scenes")
    shutil.copy(scenes / f"{one}.json", scenes / f"{other}.json")
    with pytest.raises(FoundryError, match=other):
        store.load(other)
