"""Frames stored as video: what is written can be read frame by frame, extended, and never half there."""

from __future__ import annotations

import io
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foundry_bench.data.images import decode_image
from foundry_bench.data.lerobot import DatasetSpec, Episode, EpisodeStore, RobotDataset
from foundry_bench.data.packing import Packer
from foundry_bench.data.video import ClipWriter, clip_info, cut_clip, decode_clip, encode_clip
from foundry_bench.errors import FoundryError
from tests.data.conftest import build_smooth_episode, smooth_frames

SIZE = 32
LENGTHS = (5, 3, 12)
KEYS = [f"libero_object-{number:06d}" for number in range(len(LENGTHS))]
WRIST = "observation.images.wrist"
VIDEO = f"videos/{WRIST}/chunk-000/file-000.mp4"
INFO = "meta/info.json"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"

Tree = Callable[[Path], dict[str, bytes]]


def fill(root: Path, codec: str = "h264", keys: list[str] = KEYS) -> Path:
    store = EpisodeStore(root, DatasetSpec(image_size=SIZE, image_format=codec))
    there = set(store.keys())
    for number, key in enumerate(KEYS):
        if key in keys and key not in there:
            store.add(key, build_smooth_episode(number, LENGTHS[number], SIZE))
    return store.finalize(keys)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A finished dataset by codec that no test may change."""
    return {codec: fill(tmp_path_factory.mktemp(codec) / "dataset", codec) for codec in ("h264", "av1")}


@pytest.fixture
def dataset(written: dict[str, Path], tmp_path: Path) -> Path:
    """A copy to do harm to."""
    return Path(shutil.copytree(written["h264"], tmp_path / "dataset"))


def original(camera: int) -> np.ndarray:
    return np.concatenate([smooth_frames(n, length, SIZE, camera) for n, length in enumerate(LENGTHS)])


def decibels(one: np.ndarray, other: np.ndarray) -> float:
    """Peak signal-to-noise ratio."""
    return float(10 * np.log10(255**2 / np.mean((one.astype(float) - other) ** 2)))


@settings(max_examples=15, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    codec=st.sampled_from(["h264", "av1"]),
    fps=st.sampled_from([10, 20, 30]),
)
def test_joined_clips_are_cut_out_again(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], codec: str, fps: int
) -> None:
    clips = [encode_clip(smooth_frames(n, length, SIZE, 0), fps, codec) for n, length in enumerate(lengths)]
    path = tmp_path_factory.mktemp("joined") / "file.mp4"
    writer = ClipWriter(path, fps)
    spans = [writer.add(clip) for clip in clips]
    writer.close()
    ends = np.cumsum(lengths)
    np.testing.assert_allclose(spans, np.stack([ends - lengths, ends], axis=1) / fps)
    for clip, end, length in zip(clips, ends, lengths, strict=True):
        again = cut_clip(path, int(end - length), length, fps)
        assert clip_info(again).frames == length
        for one, other in zip(decode_clip(clip), decode_clip(again), strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("codec", ["h264", "av1"])
def test_same_frames_same_bytes(codec: str) -> None:
    """Whatever lies in memory: with x264's lookahead one clip in a hundred differed."""
    frames = smooth_frames(2, 12, SIZE, 1)
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(300 if codec == "h264" else 30):
        rubbish = rng.integers(0, 256, rng.integers(1, 300_000), dtype=np.uint8)
        seen.add(encode_clip(frames, 20, codec))
        del rubbish
    assert len(seen) == 1


@pytest.mark.parametrize("codec", ["h264", "av1"])
def test_layout(written: dict[str, Path], codec: str, tree: Tree) -> None:
    root = written[codec]
    assert sorted(tree(root)) == [
        "data/chunk-000/file-000.parquet",
        EPISODES,
        INFO,
        "meta/stats.json",
        "meta/tasks.parquet",
        "videos/observation.images.agentview/chunk-000/file-000.mp4",
        VIDEO,
    ]
    info = json.loads((root / INFO).read_text())
    assert info["video_path"] == "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
    feature = info["features"][WRIST]
    assert (feature["dtype"], feature["shape"]) == ("video", [SIZE, SIZE, 3])
    assert (feature["info"]["video.codec"], feature["info"]["video.fps"]) == (codec, 20)
    assert WRIST not in pd.read_parquet(root / "data/chunk-000/file-000.parquet")
    rows = pd.read_parquet(root / EPISODES)
    assert rows[f"videos/{WRIST}/from_timestamp"].tolist() == [0.0, 0.25, 0.4]
    assert rows[f"videos/{WRIST}/to_timestamp"].tolist() == [0.25, 0.4, 1.0]
    assert np.shape(rows[f"stats/{WRIST}/mean"][0]) == (3,)
    with av.open(str(root / VIDEO)) as container:
        frames: list[Any] = list(container.decode(video=0))
    assert [round(frame.pts * frame.time_base * 20) for frame in frames] == list(range(20))
    assert frames[5].key_frame  # an episode begins with a key frame, so it can be cut out
    assert frames[8].key_frame


@pytest.mark.parametrize("codec", ["h264", "av1"])
def test_every_frame_is_the_one_that_was_written(written: dict[str, Path], codec: str) -> None:
    read = RobotDataset(written[codec])
    assert (read.spec.image_format, read.spec.is_video) == (codec, True)
    for camera, name in enumerate(read.spec.cameras):
        seen = read.batch(np.arange(len(read)), 1)["images"][name]
        truth = original(camera)
        assert decibels(seen, truth) > 30
        # Nearer to its own frame than to any other of the dataset.
        distance = ((seen[:, None].astype(int) - truth[None]) ** 2).mean(axis=(2, 3, 4))
        np.testing.assert_array_equal(distance.argmin(axis=1), np.arange(len(read)))


@settings(max_examples=25, deadline=None)
@given(
    frames=st.lists(st.integers(0, sum(LENGTHS) - 1), max_size=8),
    cache_frames=st.sampled_from([1, 3, 1000]),
    codec=st.sampled_from(["h264", "av1"]),
)
def test_random_access_is_sequential_decoding(
    written: dict[str, Path], frames: list[int], cache_frames: int, codec: str
) -> None:
    read = RobotDataset(written[codec], cache_bytes=2 * cache_frames * SIZE * SIZE * 3)
    with av.open(str(written[codec] / VIDEO)) as container:
        decoded: Any = container.decode(video=0)
        truth = np.stack([frame.to_ndarray(format="rgb24") for frame in decoded])
    np.testing.assert_array_equal(read.batch(np.array(frames, int), 2)["images"]["wrist"], truth[frames])


@pytest.mark.parametrize("key_every", [4, 5, 250])
def test_distant_key_frames_and_reordered_frames(dataset: Path, key_every: int) -> None:
    """Videos made elsewhere: few key frames, B frames, another pixel format."""
    frames = original(1)
    sink = io.BytesIO()
    with av.open(sink, "w", format="mp4") as container:
        stream: Any = container.add_stream(
            "libx264", rate=20, options={"g": str(key_every), "bf": "3", "crf": "12"}
        )
        stream.width, stream.height, stream.pix_fmt = SIZE, SIZE, "yuv444p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    (dataset / VIDEO).write_bytes(sink.getvalue())
    read = RobotDataset(dataset, cache_bytes=1)
    order = np.random.default_rng(0).permutation(len(frames))
    seen = read.batch(order, 1)["images"]["wrist"]
    distance = ((seen[:, None].astype(int) - frames[None]) ** 2).mean(axis=(2, 3, 4))
    np.testing.assert_array_equal(distance.argmin(axis=1), order)
    with pytest.raises(
        FoundryError, match=r"file-000\.mp4: episode 1: .*frame \d+ is (no key frame|missing or stored out)"
    ):
        read.episode(1)


@pytest.mark.parametrize("codec", ["h264", "av1"])
def test_extending_encodes_nothing_again(
    tmp_path: Path, written: dict[str, Path], codec: str, tree: Tree
) -> None:
    root = tmp_path / "dataset"
    fill(root, codec, KEYS[:2])
    assert tree(fill(root, codec)) == tree(written[codec])


def test_episode_gives_its_clip_back(written: dict[str, Path]) -> None:
    episode = RobotDataset(written["h264"]).episode(2)
    assert episode.images == {}
    assert clip_info(episode.clips["wrist"]).frames == len(episode) == 12
    truth = np.stack(smooth_frames(2, 12, SIZE, 1))
    assert decibels(np.stack(list(decode_clip(episode.clips["wrist"]))), truth) > 30


def test_video_files_are_split(tmp_path: Path) -> None:
    spec = DatasetSpec(image_size=SIZE, image_format="h264")
    episodes = [(f"key-{n}", build_smooth_episode(n, 6, SIZE).as_stored(spec, "x")) for n in range(4)]
    Packer(spec, tmp_path / "split", video_bytes=4000).run(episodes)
    Packer(spec, tmp_path / "whole").run(episodes)
    assert len(list((tmp_path / "split" / VIDEO).parent.iterdir())) > 1
    one, other = (RobotDataset(tmp_path / name).batch(np.arange(24)[::-1], 4) for name in ("split", "whole"))
    np.testing.assert_array_equal(one["images"]["wrist"], other["images"]["wrist"])


def test_kill_9_while_writing_video_loses_nothing(
    tmp_path: Path, written: dict[str, Path], tree: Tree
) -> None:
    """A real process is killed at several moments while it adds and packs over and over."""
    root = tmp_path / "dataset"
    source = f"""
import sys
sys.path[:0] = {sys.path!r}
from pathlib import Path
from tests.data.test_video import fill
import shutil
print("ready", flush=True)
for number in range(10**6):
    fill(Path({str(root)!r}), keys={KEYS!r} if number % 2 else {KEYS[:2]!r})
"""
    for wait_s in (0.0, 0.05, 0.1, 0.2):
        with subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            time.sleep(wait_s)
            process.send_signal(signal.SIGKILL)
        if root.exists():
            opened = RobotDataset(root)
            opened.batch(np.arange(len(opened)), 1)
    assert tree(fill(root)) == tree(written["h264"])
    assert [path.name for path in tmp_path.iterdir()] == ["dataset"]


def harmed(path: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def harm(root: Path) -> None:
        (root / path).write_bytes(change((root / path).read_bytes()))

    return harm


def other_video(length: int, size: int = SIZE, fps: int = 20) -> Callable[[Path], None]:
    clip = encode_clip(smooth_frames(0, length, size, 0), fps, "h264")
    return harmed(VIDEO, lambda _: clip)


def episodes_column(name: str, value: object) -> Callable[[Path], None]:
    def harm(root: Path) -> None:
        table = pd.read_parquet(root / EPISODES)
        table[f"videos/{WRIST}/{name}"] = value
        table.to_parquet(root / EPISODES)

    return harm


def in_info(**changes: object) -> Callable[[Path], None]:
    return harmed(INFO, lambda old: json.dumps({**json.loads(old), **changes}).encode())


def playlist(root: Path) -> None:
    """A text that leads FFmpeg, where it may guess, to the good video under another name."""
    path = root / VIDEO
    path.rename(path.with_name("other.mp4"))
    path.write_text("ffconcat version 1.0\nfile other.mp4\n")


def index_first_and_cut(root: Path) -> None:
    """The same video with its index at the front, as for streaming, and its end cut off."""
    path = root / VIDEO
    moved = path.with_name("moved.mp4")
    with av.open(str(path)) as source, av.open(str(moved), "w", options={"movflags": "faststart"}) as target:
        stream: Any = target.add_stream_from_template(source.streams.video[0], opaque=True)
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    path.write_bytes(moved.read_bytes()[:-300])


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda root: (root / VIDEO).unlink(), r"file-000\.mp4: is missing; delete the dataset"),
        (harmed(VIDEO, lambda old: old[:-100]), r"file-000\.mp4: frame 0 of episode 0: cannot be decoded"),
        (harmed(VIDEO, lambda old: b""), r"file-000\.mp4: not a readable video"),
        (harmed(VIDEO, lambda old: b"RIFF" + old), r"file-000\.mp4: not a readable video"),
        (playlist, r"file-000\.mp4: not a readable video"),
        (index_first_and_cut, r"file-000\.mp4: is truncated: \d+ bytes of"),
        (other_video(19), r"file-000\.mp4: holds 19 frames, meta/episodes needs 20"),
        (other_video(20, size=48), r"frames are 48x48 pixels, info\.json says 32"),
        (other_video(20, fps=10), r"is at 10 frames per second, fps in info\.json is 20"),
        (in_info(video_path="../{video_key}/{chunk_index}{file_index}.mp4"), r"video_path is '\.\./"),
        (in_info(video_path="{no_such_key}.mp4"), r"video_path is '{no_such_key}\.mp4'"),
        (in_info(video_path=7), r"video_path is 7"),
        (episodes_column("from_timestamp", np.nan), r"from_timestamp' has 3 empty cells"),
        (episodes_column("from_timestamp", np.inf), r"from_timestamp' is inf in row 0"),
        (episodes_column("from_timestamp", -1.0), r"from_timestamp' is -1\.0 in row 0"),
        (episodes_column("file_index", 3), r"file-003\.mp4: is missing"),
        (episodes_column("from_timestamp", 1e30), r"holds 20 frames, meta/episodes needs 1999999"),
        (episodes_column("from_timestamp", 9.0), r"holds 20 frames, meta/episodes needs 192"),
    ],
)
def test_bad_video_is_named_when_opened(dataset: Path, harm: Callable[[Path], None], message: str) -> None:
    harm(dataset)
    with pytest.raises(FoundryError, match=message) as raised:
        RobotDataset(dataset)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("cache_bytes", [None, 1])
def test_a_frame_between_frames_is_named(dataset: Path, cache_bytes: int | None) -> None:
    episodes_column("from_timestamp", [0.0, 0.27, 0.4])(dataset)
    opened = RobotDataset(dataset, cache_bytes=cache_bytes)
    opened.batch(np.array([3, 12]), 1)
    with pytest.raises(
        FoundryError, match=r"file-000\.mp4: frame \d of episode 1: there is no frame at 0\.\d+ s"
    ):
        opened.batch(np.array([6]), 1)
    opened.batch(np.array([4, 19]), 1)  # what is good is still read


def test_random_damage_is_harmless_or_named(dataset: Path) -> None:
    path = dataset / VIDEO
    good = path.read_bytes()
    rng = np.random.default_rng(0)
    outcomes = []
    for _ in range(60):
        content = bytearray(good[: rng.integers(len(good))] if rng.random() < 0.2 else good)
        for position in rng.integers(0, max(len(content), 1), min(4, len(content))):
            content[position] = rng.integers(256)
        path.write_bytes(content)
        try:
            opened = RobotDataset(dataset)
            opened.batch(np.arange(len(opened)), 1)
            outcomes += ["fine" for index in range(3) if opened.episode(index)]
        except FoundryError as error:
            outcomes.append("named")
            assert "\n" not in str(error)
    assert "named" in outcomes


def test_a_staged_clip_that_is_damaged_is_named(tmp_path: Path) -> None:
    store = EpisodeStore(tmp_path / "dataset", DatasetSpec(image_size=SIZE, image_format="h264"))
    episode = build_smooth_episode(0, 4, SIZE).as_stored(store.spec, "x")
    cut_short = {**episode.clips, "wrist": episode.clips["wrist"][:-30]}
    shorter = {**episode.clips, "wrist": encode_clip(smooth_frames(0, 3, SIZE, 0), 20, "h264")}
    faster = {**episode.clips, "wrist": encode_clip(smooth_frames(0, 4, SIZE, 0), 30, "h264")}
    for clips, message in (
        ({"agentview": b""}, "video of camera 'agentview': not a readable video"),
        ({"agentview": episode.clips["agentview"]}, "camera 'wrist' is missing"),
        (shorter, "video of camera 'wrist': 3 frames for 4 states"),
        (faster, "h264 at 30 fps, expected h264 at 20"),
    ):
        with pytest.raises(FoundryError, match=message):
            store.add("key", Episode(**{**vars(episode), "clips": clips}))
    assert store.keys() == []
    assert clip_info(cut_short["wrist"]).frames == 4  # the index is whole, so only packing decodes the damage


def test_settings_that_cannot_be_video() -> None:
    with pytest.raises(
        FoundryError, match=r"image_size=33: frames stored as video need an even size; use 34"
    ):
        DatasetSpec(image_size=33, image_format="h264")
    with pytest.raises(FoundryError, match=r"image_format=h265"):
        DatasetSpec(image_format="h265")


def test_images_that_cannot_be_decoded_are_named(tmp_path: Path) -> None:
    store = EpisodeStore(tmp_path / "dataset", DatasetSpec(image_size=SIZE, image_format="h264"))
    episode = build_smooth_episode(0, 2, SIZE)
    episode.images["wrist"][1] = episode.images["wrist"][1][:40]
    with pytest.raises(FoundryError, match="episode key: camera 'wrist': the bytes are not an image"):
        store.add("key", episode)
    assert decode_image(episode.images["wrist"][0]).shape == (SIZE, SIZE, 3)
