"""Which of a backbone's weights are trained: all, none, or low-rank adapters beside them (LoRA)."""

from __future__ import annotations

from importlib.util import find_spec

from torch import nn

from foundry_bench.errors import FoundryError
from foundry_bench.policies.config import VLAConfig

#: The linear maps of the language model's layers, whatever the family calls the language model.
LANGUAGE_LAYERS = (
    r"((language_model|text_model)\.)?layers\.\d+\."
    r"(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)"
)


def tune(backbone: nn.Module, config: VLAConfig) -> None:
    """Mark what is trained, after adding adapters where ``config.tuning`` is ``lora``.

    Adapters sit on the language model's layers; the vision tower and the embeddings stay as they were. They
    are fp32 beside a bfloat16 backbone too: in bfloat16 most updates would be lost to rounding.

    Raises:
        FoundryError: the package that makes adapters is not installed, or the layers have other names.
    """
    if config.tuning == "lora":
        add_adapters(backbone, config.lora_rank, config.lora_alpha)
    for name, parameter in backbone.named_parameters():
        adapter = "lora_" in name
        if adapter:
            parameter.data = parameter.data.float()
        parameter.requires_grad_(config.tuning == "full" or adapter)


def check_peft() -> None:
    """FoundryError where the package that makes adapters is not installed."""
    if find_spec("peft") is None:
        raise FoundryError(
            "model.tuning=lora needs the package peft, which is not installed: "
            "pip install 'foundry-bench[pretrained]'"
        )


def add_adapters(backbone: nn.Module, rank: int, alpha: int) -> None:
    """Put an adapter beside each linear map, in place; it changes nothing until it is trained."""
    check_peft()
    from peft import LoraConfig, inject_adapter_in_model

    try:
        inject_adapter_in_model(
            LoraConfig(r=rank, lora_alpha=alpha, target_modules=LANGUAGE_LAYERS), backbone
        )
    except ValueError as error:
        reason = " ".join(str(error).split())[:160]
        raise FoundryError(
            f"model.tuning=lora found no layers to adapt ({reason}); use model.tuning=full or frozen"
        ) from error
