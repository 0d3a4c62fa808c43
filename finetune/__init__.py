"""pictures + captions -> tiny checkpoints and their evaluation."""
