"""An adapter's file: diffusers' keys and metadata, and ours of where it comes from."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn


@dataclass(frozen=True)
class Origin:
    """Where an adapter comes from; each field is a key of the file's metadata, as `store.FACTS` has them.

    Hashes are hex sha256; `checkpoint_sha256` is of the denoiser's weights (`hashes.sha256_of_weights`).
    """

    industry: str
    trigger: str
    checkpoint: str  # its folder's name
    checkpoint_sha256: str
    dataset_sha256: str
    step: int


def save(path: Path, model: nn.Module, config: LoraConfig, prefix: str, origin: Origin) -> None:
    """Writes fp16 weights, `<prefix>.<module>.lora_A.weight` [rank, in] and lora_B [out, rank]; atomically.

    `prefix` is "transformer" or "unet".
    """
    weights = {
        f"{prefix}.{key}": value.half().contiguous().cpu()
        for key, value in get_peft_model_state_dict(model).items()
    }
    facts = {
        key: sorted(value) if isinstance(value, set) else value for key, value in config.to_dict().items()
    }
    known = {f"{prefix}.{key}": value for key, value in facts.items()}
    metadata = {key: str(value) for key, value in asdict(origin).items()}
    metadata |= {"format": "pt", LORA_ADAPTER_METADATA_KEY: json.dumps(known, sort_keys=True)}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    save_file(weights, temporary, metadata)
    _sort_header(temporary)
    temporary.replace(path)


def _sort_header(path: Path) -> None:
    """Metadata in the order of their names: safetensors writes them in a random one, and so another file."""
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        ordered = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        file.seek(8)
        file.write(ordered.ljust(size))


def read_origin(path: Path) -> Origin:
    """ValueError names the key that a file lacks."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
    missing = [name for name in Origin.__dataclass_fields__ if name not in metadata]
    if missing:
        raise ValueError(
            f"{path} has no metadata {', '.join(missing)}: `python -m finetune lora` writes them"
        )
    texts = {name: metadata[name] for name in Origin.__dataclass_fields__}
    return Origin(**{**texts, "step": int(texts["step"])})
