"""Checkpoint in diffusers' layout -> ONNX -> a model repository that Triton runs, with its manifest."""
