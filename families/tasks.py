"""What every family has in common: the tasks, their ensembles, what clients send and get, the VAE."""

from families.lora import APPLIED_LORAS, LORA_A, LORA_B, LORAS, MERGE
from families.spec import ComponentSpec, EnsembleSpec, Step, TensorSpec, Width

TEXT_TO_IMAGE, IMAGE_TO_IMAGE = "text_to_image", "image_to_image"
MAX_PROMPT_CHARACTERS = 2_000

PROMPT = TensorSpec(
    "prompt", "STRING", (1,), f"text to draw: UTF-8, at most {MAX_PROMPT_CHARACTERS} characters, not blank"
)
SEED = TensorSpec("seed", "INT64", (1,), "seed of the noise, 0..2^63-1; same request and seed, same picture")
SIZES = tuple(
    TensorSpec(
        name,
        "INT32",
        (1,),
        "pixels, a multiple of size_multiple in min_size..max_size; the same in every row",
    )
    for name in ("height", "width")
)
BASE_IMAGE = (
    TensorSpec(
        "image", "UINT8", ("height", "width", 3),
        "RGB picture to start from; sides are multiples of size_multiple in min_size..max_size",
    ),
    TensorSpec("strength", "FP32", (1,), "how far to leave the picture, in (0, 1]: share of steps made"),
)  # fmt: skip
IMAGES = TensorSpec("images", "UINT8", ("height", "width", 3), "RGB, 0..255: [height, width, 3]")
PROMPT_TOKENS = TensorSpec(
    "prompt_tokens", "INT32", (2, 2),
    "tokens of the prompt: rows text_encoder, text_encoder_2; columns kept, dropped",
)  # fmt: skip

# `image` goes in and `images` come out: an ensemble has one name for one tensor, as diffusers' pipelines do.
ENCODE = Step("vae_encoder", (("images", "image"),), (("mean", "image_mean"), ("std", "image_std")))
DECODE = Step("vae_decoder", ("latents",), ("images",))

LATENTS = (Width("vae", "latent_channels"), "latent_height", "latent_width")
# Un-scaling, decoding, clamping and rounding to uint8 happen inside the engine.
VAE_DECODER = ComponentSpec(
    name="vae_decoder",
    folder="vae",
    inputs=(TensorSpec("latents", "FP32", LATENTS),),
    outputs=(TensorSpec("images", "UINT8", ("height", "width", 3)),),
)
# mean and standard deviation of the posterior, already shifted and scaled: a draw from it is latents.
VAE_ENCODER = ComponentSpec(
    name="vae_encoder",
    folder="vae",
    inputs=(TensorSpec("images", "UINT8", ("height", "width", 3)),),
    outputs=tuple(TensorSpec(name, "FP32", LATENTS) for name in ("mean", "std")),
)


def ensembles(
    settings: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    text_steps: tuple[Step, ...],
    conditions: tuple[str, ...],
) -> tuple[EnsembleSpec, EnsembleSpec]:
    """Both tasks: `text_steps` encode the prompt, the scheduler takes `conditions` and a size or an image."""
    size, image = ("height", "width"), ("image", "image_mean", "image_std", "strength")
    conditions, outputs = (*conditions, LORA_A, LORA_B, APPLIED_LORAS.name), (*outputs, APPLIED_LORAS)
    settings, text_steps = (*settings, LORAS), (*text_steps, MERGE)
    return (
        EnsembleSpec(
            task=TEXT_TO_IMAGE,
            inputs=(PROMPT, *settings, *SIZES),
            outputs=outputs,
            steps=(*text_steps, Step("scheduler", (*conditions, *size), ("latents",)), DECODE),
        ),
        EnsembleSpec(
            task=IMAGE_TO_IMAGE,
            inputs=(PROMPT, *settings, *BASE_IMAGE),
            outputs=outputs,
            steps=(*text_steps, ENCODE, Step("scheduler", (*conditions, *image), ("latents",)), DECODE),
        ),
    )
