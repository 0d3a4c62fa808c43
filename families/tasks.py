"""What every family's ensembles have in common: the tasks, and the tensors that clients send and get."""

from families.spec import Step, TensorSpec

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
