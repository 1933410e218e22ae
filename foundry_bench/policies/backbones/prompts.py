"""How each family of backbones is addressed: what stands around images and instruction."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Prompt:
    """``before``, then each image between ``opens`` and ``closes``, ``between``, the instruction, ``after``.

    ``image`` is the token that an image's features replace, repeated for each of them; empty where features
    are handed to the model as embeddings.
    """

    before: str
    opens: str
    image: str
    closes: str
    between: str
    after: str


#: Vision-language models, by the ``model_type`` of their config. As their processors and chat templates write
#: one user's turn; PaliGemma has no turns.
PROMPTS = {
    "qwen3_vl": Prompt(
        "<|im_start|>user\n", "<|vision_start|>", "<|image_pad|>", "<|vision_end|>", "",
        "<|im_end|>\n<|im_start|>assistant\n",
    ),
    "smolvlm": Prompt(
        "<|im_start|>User:", "<fake_token_around_image><global-img>", "<image>", "<fake_token_around_image>",
        "", "<end_of_utterance>\nAssistant:",
    ),
    "paligemma": Prompt("", "", "<image>", "", "<bos>", "\n"),
}  # fmt: skip
#: Language models: the images come first, then the instruction, as a line.
PLAIN = Prompt("", "", "", "", "", "\n")
#: Language models that are tested; others of transformers that take embeddings may do as well.
LANGUAGE_MODELS = ("llama", "qwen2", "qwen3", "gemma", "gemma2", "smollm3", "mistral")
