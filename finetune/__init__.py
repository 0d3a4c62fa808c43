"""pictures + captions -> tiny checkpoints, LoRA adapters, evaluation."""
