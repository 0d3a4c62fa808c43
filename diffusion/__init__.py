"""Procedures of diffusion models: prompts, latents, the denoising loop. torch and diffusers; no HTTP."""
