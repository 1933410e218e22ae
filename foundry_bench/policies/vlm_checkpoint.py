"""The checkpoint folder of a vision-language model: what the ``vlm`` stage writes.

The folder has config.yaml (``stage: vlm`` and ``model``, the whole VLA's config), model.safetensors,
tokenizer.json and README.md. Tensors are called as in the VLA, which takes them by name.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

import foundry_bench
from foundry_bench.errors import FoundryError
from foundry_bench.policies.answers import answer
from foundry_bench.policies.build import ACTION_TOKENIZER, asset_names, pretrained_parts
from foundry_bench.policies.checkpoint_files import (
    CARD,
    CONFIG,
    TOKENIZER,
    WEIGHTS,
    card,
    check_vocabulary,
    read_sections,
)
from foundry_bench.policies.config import VLAConfig
from foundry_bench.policies.storage import (
    check_tensors,
    read_tensors,
    read_text,
    tensors_to_bytes,
    write_folder,
)
from foundry_bench.policies.tokenizer import TextTokenizer
from foundry_bench.policies.vlm import VLM, make_vlm

STAGE = "vlm"


@dataclass(frozen=True)
class VLMCheckpoint:
    """Everything a folder holds, in memory.

    Attributes:
        model: with its weights, in evaluation mode.
        tokenizer: the one it was trained with.
        about: plain sections beside "model": train, data, versions.
    """

    model: VLM
    tokenizer: TextTokenizer
    about: Mapping[str, Any] = field(default_factory=dict)

    def answer(
        self, images: np.ndarray, camera: str, questions: Sequence[str], longest: int = 48
    ) -> list[str]:
        """An answer to a question about each picture.

        Args:
            images: uint8 (B, S, S, 3), as the environment gives them.
            camera: that took them.
            questions: B of them.

        Raises:
            FoundryError: the model knows no such camera, or pictures of another size.
        """
        config = self.model.config
        if camera not in config.cameras:
            raise FoundryError(f"camera '{camera}': the model knows {list(config.cameras)}")
        shape = (len(questions), config.image_size, config.image_size, 3)
        if images.shape != shape or images.dtype != np.uint8:
            raise FoundryError(
                f"images are {images.dtype} {list(images.shape)}, the model wants uint8 {list(shape)}"
            )
        tokens, mask = self.tokenizer.encode(questions)
        with torch.no_grad():
            text = self.model.read_instructions(torch.from_numpy(tokens), torch.from_numpy(mask))
            cameras = torch.full((len(questions),), config.cameras.index(camera))
            end = self.tokenizer.end
            pictures = torch.from_numpy(np.ascontiguousarray(images))  # upright ones may be flipped views
            told = answer(self.model, pictures, cameras, text, end, end, longest)
        return [self.tokenizer.decode(each) for each in told]


def save_vlm(
    folder: Path,
    config: VLAConfig,
    weights: Mapping[str, Tensor],
    tokenizer: TextTokenizer,
    about: Mapping[str, Any],
    assets: Mapping[str, str] | None = None,
) -> None:
    """Write the folder, replacing an older one only when this one is complete.

    Args:
        folder: the checkpoint folder.
        config: of the whole VLA.
        weights: the state of a `VLM`.
        tokenizer: written as tokenizer.json.
        about: plain sections: train, data; the versions are added.
        assets: of the model, see `build.asset_names`.
    """
    versions = {
        "foundry_bench": foundry_bench.__version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }
    sections = {"stage": STAGE, "model": config.to_dict(), **about, "versions": versions}
    write_folder(
        folder,
        {
            CONFIG: yaml.safe_dump(sections, sort_keys=False).encode(),
            WEIGHTS: tensors_to_bytes(weights),
            TOKENIZER: tokenizer.to_json().encode(),
            CARD: _model_card(config, weights, tokenizer, about).encode(),
            **{name: text.encode() for name, text in (assets or {}).items()},
        },
    )


def load_vlm(folder: Path) -> VLMCheckpoint:
    """Read what the ``vlm`` stage wrote.

    Raises:
        FoundryError: naming what is missing, damaged, unknown, of another shape or of another stage.
    """
    folder = Path(folder)
    sections = read_sections(folder, STAGE)
    try:
        config = VLAConfig.from_dict(sections.pop("model"))
    except (FoundryError, TypeError) as error:
        raise FoundryError(f"{folder / CONFIG}: {error}") from error
    weights = read_tensors(folder / WEIGHTS)
    names = [name for name in asset_names(config) if name != ACTION_TOKENIZER]
    assets = {name: read_text(folder / name) for name in names}
    with torch.device("meta"):
        expected = make_vlm(config, assets).state_dict()
    check_tensors(weights, expected, str(folder / WEIGHTS))
    model = make_vlm(config, assets)
    model.load_state_dict(weights)
    where = folder / TOKENIZER
    tokenizer = TextTokenizer.from_json(read_text(where), config.text_tokens, str(where))
    check_vocabulary(where, tokenizer.vocab_size, config.vocab_size)
    return VLMCheckpoint(model.eval(), tokenizer, sections)


def _model_card(
    config: VLAConfig, weights: Mapping[str, Tensor], tokenizer: TextTokenizer, about: Mapping[str, Any]
) -> str:
    data, train = about.get("data", {}), about.get("train", {})
    count = sum(tensor.numel() for tensor in weights.values())
    rows = [
        ("parameters", f"{count / 1e6:.2f} M"),
        ("pictures", f"{', '.join(config.cameras)} at {config.image_size} x {config.image_size} pixels"),
        ("vocabulary", f"{tokenizer.vocab_size} tokens of {config.vocab_size}"),
        ("trained on", f"{data.get('pairs', '?')} pairs of {data.get('scenes', '?')} scenes, fingerprint "
                       f"{data.get('fingerprint', '?')}"),
        ("training pairs", str(train.get("samples", "?"))),
    ]  # fmt: skip
    parts = pretrained_parts(config)
    if parts:
        rows.insert(1, ("pretrained parts", ", ".join(parts)))
    about_it = (
        "A small vision-language model trained by foundry-bench on questions about rendered scenes, to start",
        "vision-language-action models from. It has seen nothing else"
        + (" beside its pretrained parts, whose licences hold for it too." if parts else "."),
    )
    code = (
        "from pathlib import Path",
        "from foundry_bench.policies.vlm_checkpoint import load_vlm",
        'checkpoint = load_vlm(Path("path/to/this/folder"))',
        'checkpoint.answer(images, "agentview", ["What colour is the bowl?"])  # images: uint8 (1, S, S, 3)',
    )
    return card(f"{config.name} (vlm)", ("visual-question-answering", "robotics"), about_it, rows, code)
