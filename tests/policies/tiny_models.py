"""Folders in Hugging Face's format with random weights: tiny models of every family that is supported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

WIDTH, LAYERS, VOCABULARY = 48, 3, 420
FAMILY_NAMES = ("qwen3_vl", "smolvlm", "paligemma", "paligemma2")
SPECIAL = {
    "qwen3_vl": ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|im_start|>", "<|im_end|>"],
    "smolvlm": ["<fake_token_around_image>", "<global-img>", "<image>", "<|im_start|>", "<end_of_utterance>"],
    "paligemma": ["<image>", "<bos>"],
    "paligemma2": ["<image>", "<bos>"],
    "llama": ["<s>"],
}
TEXTS = [
    "pick up the bowl and place it on the plate",
    "open the drawer",
    "turn on the stove",
    "user\nassistant\n",
]


def tokenizer(kind: str) -> Tokenizer:
    """A byte-level BPE with the family's special tokens, which come first."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<pad>", *SPECIAL[kind]],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    made.train_from_iterator(TEXTS, trainer)
    return made


def save_vlm(folder: Path, kind: str, seed: int = 0) -> Path:
    """A vision-language model: config.json, model.safetensors, tokenizer.json, preprocessor_config.json."""
    from transformers import AutoModelForImageTextToText

    words = tokenizer(kind)
    make = {"qwen3_vl": _qwen, "smolvlm": _smolvlm, "paligemma": _paligemma, "paligemma2": _paligemma2}[kind]
    config, processor = make(words)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForImageTextToText.from_config(config)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(words.to_str())
    return folder


def save_lm(folder: Path, kind: str = "llama", seed: int = 0) -> Path:
    """A language model; SmolLM2 is of the Llama kind."""
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    words = tokenizer("llama")
    small = {**_text(), "intermediate_size": 64, "head_dim": 12, "pad_token_id": 0, "eos_token_id": 0}
    config = CONFIG_MAPPING[kind](**small, bos_token_id=words.token_to_id("<s>"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    (folder / "tokenizer.json").write_text(words.to_str())
    return folder


def save_tower(folder: Path, kind: str, seed: int = 0) -> Path:
    """A vision tower: SigLIP and CLIP with a text tower beside it, as they are published; DINOv2 alone."""
    from transformers import AutoModel, CLIPConfig, Dinov2Config, Dinov2WithRegistersConfig, SiglipConfig
    from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    size: dict[str, Any] = {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32,
        "patch_size": 8,
    }  # fmt: skip
    text = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2,
        "vocab_size": 50,
    }  # fmt: skip
    both = {"vision_config": {**size, "intermediate_size": 48}, "text_config": text}
    made: dict[str, tuple[Any, Any]] = {
        "siglip": (SiglipConfig(**both), SiglipImageProcessorPil(size={"height": 32, "width": 32})),
        "clip": (CLIPConfig(**both, projection_dim=16), CLIPImageProcessorPil(size={"shortest_edge": 32})),
        "dinov2": (Dinov2Config(**size, mlp_ratio=2), BitImageProcessorPil(size={"shortest_edge": 32})),
        "dinov2_with_registers": (
            Dinov2WithRegistersConfig(**size, mlp_ratio=2, num_register_tokens=3),
            BitImageProcessorPil(size={"shortest_edge": 32}),
        ),
    }
    config, processor = made[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        AutoModel.from_config(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _text() -> dict[str, Any]:
    return {
        "vocab_size": VOCABULARY, "hidden_size": WIDTH, "num_hidden_layers": LAYERS,
        "num_attention_heads": 4, "num_key_value_heads": 2,
    }  # fmt: skip


def _qwen(words: Tokenizer) -> tuple[Any, Any]:
    from transformers import Qwen3VLConfig
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    half = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "patch_size": 16}
    processor = Qwen2VLImageProcessorPil(**half, size={"shortest_edge": 4096, "longest_edge": 65536})
    rope = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [4, 2, 2], "mrope_interleaved": True}
    config = Qwen3VLConfig(
        text_config={**_text(), "head_dim": 16, "intermediate_size": 64, "rope_parameters": rope},
        vision_config={
            "depth": 2, "hidden_size": 32, "num_heads": 2, "intermediate_size": 48, "patch_size": 16,
            "spatial_merge_size": 2, "temporal_patch_size": 2, "out_hidden_size": WIDTH,
            "num_position_embeddings": 16, "deepstack_visual_indexes": [0],
        },
        image_token_id=words.token_to_id("<|image_pad|>"),
        video_token_id=VOCABULARY - 1,
        vision_start_token_id=words.token_to_id("<|vision_start|>"),
        vision_end_token_id=words.token_to_id("<|vision_end|>"),
    )  # fmt: skip
    return config, processor


def _smolvlm(words: Tokenizer) -> tuple[Any, Any]:
    from transformers import SmolVLMConfig
    from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

    processor = SmolVLMImageProcessorPil(size={"longest_edge": 128}, max_image_size={"longest_edge": 64})
    config = SmolVLMConfig(
        text_config={**_text(), "model_type": "llama", "intermediate_size": 64},
        vision_config={
            "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48,
            "image_size": 64, "patch_size": 8,
        },
        image_token_id=words.token_to_id("<image>"),
        scale_factor=2,
    )  # fmt: skip
    return config, processor


def _paligemma2(words: Tokenizer) -> tuple[Any, Any]:
    return _paligemma(words, "gemma2")


def _paligemma(words: Tokenizer, text: str = "gemma") -> tuple[Any, Any]:
    from transformers import PaliGemmaConfig
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    processor = SiglipImageProcessorPil(size={"height": 32, "width": 32})
    config = PaliGemmaConfig(
        text_config={
            **_text(), "model_type": text, "num_key_value_heads": 1, "head_dim": 16,
            "intermediate_size": 64,
        },
        vision_config={
            "model_type": "siglip_vision_model", "hidden_size": 32, "num_hidden_layers": 2,
            "num_attention_heads": 2, "intermediate_size": 48, "image_size": 32, "patch_size": 8,
            "vision_use_head": False,
        },
        image_token_index=words.token_to_id("<image>"),
        projection_dim=WIDTH,
        hidden_size=WIDTH,
    )  # fmt: skip
    return config, processor
