"""Pretrained backbones: the same keys and values as transformers computes from its own processors' output."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from foundry_bench.errors import FoundryError
from foundry_bench.policies.backbones.families import FAMILIES, Qwen3VL
from foundry_bench.policies.backbones.huggingface import BackboneVLA, cached
from foundry_bench.policies.backbones.prompts import LANGUAGE_MODELS, PROMPTS
from foundry_bench.policies.base import load_policy
from foundry_bench.policies.build import make_model, make_tokenizer
from foundry_bench.policies.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from foundry_bench.policies.config import VLAConfig
from foundry_bench.policies.vla_policy import VLAPolicy
from foundry_bench.training.config import TrainConfig
from foundry_bench.training.loop import train
from tests.policies.conftest import SMALL, TEXTS, observations
from tests.policies.test_encoder_vla import batch_of, built, policy_of
from tests.policies.test_vision_encoders import change_config
from tests.policies.tiny_models import FAMILY_NAMES, LAYERS, save_lm
from tests.training.toy import TINY, ToyDataset

SIDE = {
    "qwen3_vl": 64,
    "smolvlm": 64,
    "paligemma": 32,
    "paligemma2": 32,
}  # what the tiny models take as it is


def config_of(folders: dict[str, Path], kind: str, base: VLAConfig = SMALL, **change: Any) -> VLAConfig:
    own = (
        {"backbone": "lm", "vision": "vit", "vit_width": 48, "vit_heads": 2, "vit_layers": 1}
        if kind == "lm"
        else {}
    )
    return replace(
        base, **{"backbone": "vlm", "backbone_path": str(folders[kind]), "text_tokens": 32, **own, **change}
    )


def with_processor(folder: Path, kind: str, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Pixels as transformers' own image processor (the PIL one) gives them, images (B, V, S, S, 3)."""
    from transformers import AutoImageProcessor

    processor: Any = AutoImageProcessor.from_pretrained(folder, backend="pil")
    nested = [[view.numpy() for view in row] for row in images]
    if kind == "smolvlm":
        # Its own resizing enlarges every image and shrinks it again before the tower sees it.
        found = processor(nested, return_tensors="pt", do_image_splitting=False, do_resize=False)
        assert found["pixel_attention_mask"].all()
        return {"pixel_values": found["pixel_values"]}
    found = processor([view for row in nested for view in row], return_tensors="pt")
    return {name: found[name] for name in ("pixel_values", "image_grid_thw") if name in found}


@pytest.mark.parametrize("kind", FAMILY_NAMES)
def test_pixels_are_what_transformers_own_processor_gives(folders: dict[str, Path], kind: str) -> None:
    side = SIDE[kind]
    model = make_model(config_of(folders, kind, image_size=side))
    assert isinstance(model, BackboneVLA)
    assert model.family is not None
    assert model.family.side == side
    images = torch.randint(0, 256, (2, 3, side, side, 3), dtype=torch.uint8)
    ours = model.family.inputs(images, torch.ones(2, 5, dtype=torch.bool))
    theirs = with_processor(folders[kind], kind, images)
    torch.testing.assert_close(ours["pixel_values"], theirs["pixel_values"], atol=1e-6, rtol=1e-6)
    if kind == "qwen3_vl":
        assert torch.equal(ours["image_grid_thw"], theirs["image_grid_thw"])


@pytest.mark.parametrize("size", [16, 48, 64, 100, 200, 300])
def test_qwen_images_get_the_side_that_its_processor_chooses(folders: dict[str, Path], size: int) -> None:
    from transformers import AutoImageProcessor

    processor: Any = AutoImageProcessor.from_pretrained(folders["qwen3_vl"], backend="pil")
    grid = processor([np.zeros((size, size, 3), np.uint8)], return_tensors="pt")["image_grid_thw"]
    model = make_model(config_of(folders, "qwen3_vl", image_size=size))
    assert isinstance(model, BackboneVLA)
    assert model.family is not None
    assert model.family.side == int(grid[0, 1]) * 16


def whole_model(folder: Path) -> Any:
    from transformers import AutoModelForImageTextToText

    return AutoModelForImageTextToText.from_pretrained(folder).eval()


@pytest.mark.parametrize("kind", FAMILY_NAMES)
def test_keys_and_values_are_those_of_the_published_way(folders: dict[str, Path], kind: str) -> None:
    """Prompt, pixels, positions and masks together: transformers' own processor and model, row by row."""
    side = SIDE[kind]
    config = config_of(folders, kind, image_size=side)
    model, tokenizer = make_model(config).eval(), make_tokenizer(config, TEXTS)
    images = torch.randint(0, 256, (2, 2, side, side, 3), dtype=torch.uint8)
    tokens, mask = (torch.from_numpy(array) for array in tokenizer.encode(TEXTS[:2]))
    with torch.no_grad():
        prefix = model.encode(images, torch.zeros(2, 8), model.read_instructions(tokens, mask))
    reference = whole_model(folders[kind])
    words = tokenizer.tokenizer  # type: ignore[attr-defined]
    count = {"qwen3_vl": 4, "smolvlm": 16, "paligemma": 16}[kind.removesuffix("2")]
    for row, text in enumerate(TEXTS[:2]):
        one = {
            "qwen3_vl": "<|vision_start|>" + "<|image_pad|>" * count + "<|vision_end|>",
            "smolvlm": "<fake_token_around_image><global-img>"
            + "<image>" * count
            + "<fake_token_around_image>",
            "paligemma": "<image>" * count,
        }[kind.removesuffix("2")] * 2
        prompt = {
            "qwen3_vl": f"<|im_start|>user\n{one}{text}<|im_end|>\n<|im_start|>assistant\n",
            "smolvlm": f"<|im_start|>User:{one}{text}<end_of_utterance>\nAssistant:",
            "paligemma": f"{one}<bos>{text}\n",
        }[kind.removesuffix("2")]
        ids = torch.tensor([words.encode(prompt, add_special_tokens=False).ids])
        inputs = with_processor(folders[kind], kind, images[row : row + 1])
        if kind == "qwen3_vl":
            inputs["mm_token_type_ids"] = (ids == reference.config.image_token_id).int()
        elif kind.startswith("paligemma"):
            inputs["token_type_ids"] = torch.zeros_like(ids)
        with torch.no_grad():
            expected = cached(
                reference(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=True, **inputs),
                ids.shape[1],
            )
        assert len(prefix) == len(expected) == LAYERS
        for (k, v), (k_ref, v_ref) in zip(prefix, expected, strict=True):
            torch.testing.assert_close(k[row : row + 1, :, : ids.shape[1]], k_ref, atol=2e-5, rtol=1e-4)
            torch.testing.assert_close(v[row : row + 1, :, : ids.shape[1]], v_ref, atol=2e-5, rtol=1e-4)
        hidden = prefix.mask_BP[row]  # type: ignore[attr-defined]
        assert hidden[: ids.shape[1]].all()
        assert not hidden[ids.shape[1] : -1].any()
        assert hidden[-1]


def test_qwens_positions_are_its_own(folders: dict[str, Path]) -> None:
    config = config_of(folders, "qwen3_vl", image_size=96, cameras=("agentview", "wrist", "left"))
    model = make_model(config)
    assert isinstance(model, BackboneVLA)
    assert model.positions is not None
    text = torch.full((1, config.text_tokens), 30)
    ids = torch.cat([model.start, text], dim=1)
    reference = whole_model(folders["qwen3_vl"]).model
    sizes = torch.tensor([[1, 6, 6]] * 3)
    expected, _ = reference.get_rope_index(ids, (ids == reference.config.image_token_id).int(), sizes)
    assert torch.equal(model.positions, expected)


@pytest.mark.parametrize("kind", [*FAMILY_NAMES, "lm"])
def test_padding_is_hidden_from_backbone_and_expert(folders: dict[str, Path], kind: str) -> None:
    """A longer room for the instruction, so more padding, gives the same chunks."""
    short, long = (config_of(folders, kind, text_tokens=count) for count in (32, 45))
    model = built(short)
    roomy = built(long)
    roomy.load_state_dict(model.state_dict())
    everything = observations(short, 3)
    a = policy_of(short, model).predict(everything, range(3))
    b = policy_of(long, roomy).predict(everything, range(3))
    np.testing.assert_allclose(a, b, atol=2e-5)
    assert a.std() > 0.05


@pytest.mark.parametrize("kind", [*FAMILY_NAMES, "lm"])
def test_it_looks_at_images_instruction_and_state(folders: dict[str, Path], kind: str) -> None:
    config = config_of(folders, kind)
    policy = policy_of(config)
    everything = observations(config, 4)
    chunks = policy.predict(everything, range(4))
    for key, value in (
        ("agentview", everything["agentview"][::-1].copy()),
        ("wrist", everything["wrist"][::-1].copy()),
        ("state", everything["state"][::-1].copy()),
        ("instruction", [TEXTS[2], TEXTS[0], TEXTS[1], TEXTS[2]]),
    ):
        assert np.abs(policy.predict({**everything, key: value}, range(4)) - chunks).max() > 1e-4, key
    alone = {key: value[2:3] for key, value in everything.items()}
    np.testing.assert_array_equal(policy.predict(alone, [2]), chunks[2:3])


@pytest.mark.parametrize("model_type", LANGUAGE_MODELS)
def test_every_language_model_reads_images_and_hides_padding(tmp_path: Path, model_type: str) -> None:
    pytest.importorskip("peft")
    folder = {"lm": save_lm(tmp_path / model_type, model_type)}
    short, long = (config_of(folder, "lm", text_tokens=count, tuning="lora") for count in (32, 45))
    model, roomy = built(short), built(long)
    roomy.load_state_dict(model.state_dict())
    everything = observations(short, 3)
    chunks = policy_of(short, model).predict(everything, range(3))
    np.testing.assert_allclose(policy_of(long, roomy).predict(everything, range(3)), chunks, atol=2e-5)
    for key in ("agentview", "instruction"):
        changed = {**everything, key: everything[key][::-1]}
        assert np.abs(policy_of(short, model).predict(changed, range(3)) - chunks).max() > 1e-4, key
    assert any("lora_" in name for name, p in model.named_parameters() if p.requires_grad)


def test_qwens_side_is_its_processors_for_every_size(folders: dict[str, Path], tmp_path: Path) -> None:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    model = make_model(config_of(folders, "qwen3_vl"))
    assert isinstance(model, BackboneVLA)
    assert isinstance(model.family, Qwen3VL)
    for least, most in ((4096, 65536), (65536, 16_777_216), (3136, 50_000)):
        model.family.pixels = replace(
            model.family.pixels, size={"shortest_edge": least, "longest_edge": most}
        )
        for size in range(16, 700):
            expected = smart_resize(size, size, factor=32, min_pixels=least, max_pixels=most)
            assert model.family.own_side(size) == expected[0], (size, least, most)


@pytest.mark.parametrize("tuning", ["frozen", "full"])
@pytest.mark.parametrize("kind", [*FAMILY_NAMES, "lm"])
def test_a_step_in_mixed_precision(folders: dict[str, Path], kind: str, tuning: str) -> None:
    """As on a GPU, where training runs under bfloat16 autocast."""
    model = built(config_of(folders, kind, tuning=tuning)).train()
    batch = batch_of(model.config)
    exact = model.loss(batch, torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model.loss(batch, torch.Generator().manual_seed(0))
    loss.backward()
    assert loss.item() == pytest.approx(exact.item(), rel=0.05)


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("tuning", ["frozen", "lora", "full"])
@pytest.mark.parametrize("kind", [*FAMILY_NAMES, "lm"])
def test_two_steps_move_what_they_should_and_the_checkpoint_stands_alone(
    folders: dict[str, Path], tmp_path: Path, kind: str, tuning: str
) -> None:
    if tuning == "lora":
        pytest.importorskip("peft")
    source = tmp_path / "source"
    shutil.copytree(folders[kind], source)
    small = {"vit_width": 16, "vit_heads": 2, "vit_patch": 8} if kind == "lm" else {}
    config = config_of({kind: source}, kind, TINY, tuning=tuning, lora_rank=2, **small)
    settings = TrainConfig(samples=16, batch_size=8, warmup=1, shift=2, save_every=8, learning_rate=0.01)
    torch.manual_seed(3)
    dataset: Any = ToyDataset(6)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        before = {name: value.clone() for name, value in make_model(config).state_dict().items()}
    checkpoint = train(settings, config, dataset, tmp_path / "out", "cpu", progress=False)
    shutil.rmtree(source)  # neither the policy nor a resumed run needs it any more
    weights = dict(load_checkpoint(checkpoint).weights)
    assert weights.keys() == before.keys()
    changed = {name for name in moved(before, weights) if name.startswith("backbone.")}
    if tuning == "frozen":
        assert not changed
    elif tuning == "lora":
        assert changed
        assert all("lora_" in name for name in changed)
        assert not any("visual" in name or "vision" in name for name in changed)
    else:
        assert len(changed) > len([name for name in weights if name.startswith("backbone.")]) / 2
    assert {name.split(".")[0] for name in moved(before, weights)} >= {"expert", "state"}
    policy = load_policy(checkpoint, device="cpu")
    assert isinstance(policy, VLAPolicy)
    batch = dataset.batch(np.arange(5), config.horizon)
    seen = {**batch["images"], "state": batch["state"], "instruction": batch["instruction"]}
    chunks = policy.predict(seen, range(5))
    again = load_policy(checkpoint, device="cpu").predict(seen, range(5))
    np.testing.assert_array_equal(chunks, again)
    longer = replace(settings, save_every=16)
    assert train(longer, config, dataset, tmp_path / "out", "cpu", progress=False) == checkpoint
    assert "pretrained parts" in (checkpoint / "README.md").read_text()


def test_a_killed_run_resumes_without_the_source_and_ends_with_the_same_bits(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("peft")
    from foundry_bench.training import loop

    torch.set_num_threads(1)
    source = tmp_path / "source"
    shutil.copytree(folders["smolvlm"], source)
    config = config_of({"smolvlm": source}, "smolvlm", TINY, tuning="lora", lora_rank=2)
    settings = TrainConfig(samples=32, batch_size=8, warmup=1, shift=2, save_every=16)
    dataset: Any = ToyDataset(6)
    whole = train(settings, config, dataset, tmp_path / "whole", "cpu", progress=False)
    update = loop.Trainer.update

    def killed(self: loop.Trainer, batch: Any) -> tuple[float, float]:
        if self.step == 3:
            raise KeyboardInterrupt
        return update(self, batch)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop.Trainer, "update", killed)
        train(settings, config, dataset, tmp_path / "killed", "cpu", progress=False)
    shutil.rmtree(source)
    resumed = train(settings, config, dataset, tmp_path / "killed", "cpu", progress=False)
    names = sorted(path.name for path in whole.iterdir())
    assert names == sorted(path.name for path in resumed.iterdir())
    assert {"backbone_config.json", "backbone_preprocessor.json", "tokenizer.json"} <= set(names)
    for name in names:
        assert (whole / name).read_bytes() == (resumed / name).read_bytes(), name


def test_the_expert_may_read_fewer_layers(folders: dict[str, Path]) -> None:
    model = make_model(config_of(folders, "qwen3_vl", expert_layers=2))
    assert isinstance(model, BackboneVLA)
    assert model.read_layers == [0, 2]
    assert len(model.expert.blocks) == 2
    assert torch.isfinite(model.loss(batch_of(model.config), torch.Generator()))
    with pytest.raises(FoundryError, match=r"model.expert_layers=9 is more than the 3 layers of qwen3_vl"):
        make_model(config_of(folders, "qwen3_vl", expert_layers=9))


def test_a_frozen_backbone_runs_without_gradients(folders: dict[str, Path]) -> None:
    model = built(config_of(folders, "smolvlm", tuning="frozen")).train()
    assert isinstance(model, BackboneVLA)
    assert not model.backbone.training
    batch = batch_of(model.config)
    text = model.read_instructions(batch["tokens"], batch["token_mask"])
    layers = model._read(batch["images"], *prompt(model, text.tokens))
    assert not any(k.requires_grad or v.requires_grad for k, v in layers)


def prompt(model: BackboneVLA, tokens: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    assert tokens is not None
    ids = torch.cat([model.start.expand(len(tokens), -1), tokens.clamp(min=0)], dim=1)
    return ids, torch.ones_like(ids, dtype=torch.bool)


def test_bfloat16_halves_the_backbone_and_leaves_the_rest(folders: dict[str, Path]) -> None:
    config = config_of(folders, "qwen3_vl", tuning="frozen", backbone_dtype="bfloat16")
    model = built(config)
    kinds = {name.split(".")[0]: parameter.dtype for name, parameter in model.named_parameters()}
    assert kinds == {"backbone": torch.bfloat16, "state": torch.float32, "expert": torch.float32}
    exact = built(config_of(folders, "qwen3_vl", tuning="frozen"))
    everything = observations(config, 2)
    a, b = (policy_of(config, each).predict(everything, range(2)) for each in (model, exact))
    assert np.abs(a - b).max() < 0.05
    assert a.dtype == np.float32


@pytest.mark.parametrize("kind", ["qwen3_vl", "lm"])
def test_adapters_of_a_bfloat16_backbone_are_fp32(
    folders: dict[str, Path], kind: str, tmp_path: Path
) -> None:
    """Or a learning rate that is right for them would move them by less than a step of bfloat16."""
    pytest.importorskip("peft")
    config = config_of(folders, kind, tuning="lora", backbone_dtype="bfloat16")
    model: Any = built(config)
    trained = {name: p for name, p in model.backbone.named_parameters() if p.requires_grad}
    assert {p.dtype for p in trained.values()} == {torch.float32}
    fixed = [p for p in model.backbone.parameters() if not p.requires_grad]
    assert {p.dtype for p in fixed} == {torch.bfloat16}
    before = {name: p.detach().clone() for name, p in trained.items() if "lora_A" in name}
    optimizer = torch.optim.AdamW(trained.values(), lr=3e-5, weight_decay=0.0)
    for step in range(2):  # what comes after is zero before the first step, so its gradient comes second
        model.loss(batch_of(config), torch.Generator().manual_seed(step)).backward()
        optimizer.step()
    changed = {name: (trained[name] != values).float().mean() for name, values in before.items()}
    reached = {name for name in before if trained[name].grad is not None and trained[name].grad.any()}
    assert len(reached) > len(before) / 2  # of the last layer only keys and values are read
    assert all(changed[name] > 0.9 for name in reached)
    made = policy_of(config, model)
    checkpoint = Checkpoint(
        config, model.state_dict(), made.normalizer, made.tokenizer, {}, dict(model.assets)
    )
    save_checkpoint(tmp_path / "checkpoint", checkpoint)
    weights = load_checkpoint(tmp_path / "checkpoint").weights
    assert all(torch.equal(weights[f"backbone.{name}"], p) for name, p in trained.items())


def test_a_dropout_that_a_backbones_config_asks_for_is_not_drawn(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    """It would come from torch's global chance, which a resumed run does not have any more."""
    folder = tmp_path / "lm"
    shutil.copytree(folders["lm"], folder)
    change_config(folder, {"attention_dropout": 0.5})
    model = built(config_of({"lm": folder}, "lm")).train()
    batch = batch_of(model.config)
    state = torch.get_rng_state()
    one, two = (model.loss(batch, torch.Generator().manual_seed(0)) for _ in range(2))
    assert one.item() == two.item()
    assert torch.equal(torch.get_rng_state(), state)


def test_a_window_shorter_than_the_prompt_is_refused(tmp_path: Path) -> None:
    folder = save_lm(tmp_path / "mistral", "mistral")
    change_config(folder, {"sliding_window": 20})
    model = built(config_of({"lm": folder}, "lm"))
    with pytest.raises(FoundryError, match=r"a sliding window of the backbone keeps \d+ of the prompt's"):
        model.loss(batch_of(model.config), torch.Generator())


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        ("paligemma", {"vision_pixels": 64}, "takes images of 32 pixels only"),
        ("qwen3_vl", {"vision_pixels": 50}, "model.vision_pixels=50 is not a multiple of 32.*use 64"),
        ("smolvlm", {"text_tokens": 8}, "model.text_tokens=8 leaves no room"),
    ],
)
def test_sizes_that_a_family_cannot_take_are_refused(
    folders: dict[str, Path], kind: str, change: dict[str, Any], words: str
) -> None:
    with pytest.raises(FoundryError, match=words):
        make_model(config_of(folders, kind, **change))


def test_every_family_has_a_prompt() -> None:
    assert set(FAMILIES) == set(PROMPTS)


def test_image_tokens_begin_as_large_as_words(folders: dict[str, Path]) -> None:
    model = built(config_of(folders, "lm"))
    assert isinstance(model, BackboneVLA)
    words = model.backbone.get_input_embeddings().weight
    with torch.no_grad():
        tokens = model.projector(model.vision.tokens(batch_of(model.config)["images"]))
    assert 0.5 < tokens.std() / words.std() < 2.0
