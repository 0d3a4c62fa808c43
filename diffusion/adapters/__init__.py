"""Adapters: files of LoRA weights, checked, converted to diffusers' keys, merged into what engines take."""

from diffusion.adapters.packs import Pack, Packs, stacked
from families.adapters import AdapterError

__all__ = ["AdapterError", "Pack", "Packs", "stacked"]
