"""Demonstrations on disk as LeRobotDataset v3.0: the public names of this part in one place.

`EpisodeStore` writes, `RobotDataset` reads; see `foundry_bench.data.schema` for the layout.
"""

from foundry_bench.data.episode import ACTION_NAMES, STATE_NAMES, DatasetSpec, Episode
from foundry_bench.data.images import decode_image, encode_image
from foundry_bench.data.reader import RobotDataset
from foundry_bench.data.store import EpisodeStore

__all__ = [
    "ACTION_NAMES",
    "STATE_NAMES",
    "DatasetSpec",
    "Episode",
    "EpisodeStore",
    "RobotDataset",
    "decode_image",
    "encode_image",
]
