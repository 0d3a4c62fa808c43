"""Flux.1: facts from diffusers' FluxPipeline and FluxTransformer2DModel; every tensor is batch-first."""

from families import tasks
from families.spec import ComponentSpec, EnsembleSpec, FamilySpec, Range, Step, TensorSpec, Width

TEXT_ENCODER = ComponentSpec(
    name="text_encoder",
    folder="text_encoder",
    inputs=(TensorSpec("input_ids", "INT64", (77,)),),
    outputs=(TensorSpec("pooler_output", "FP32", (Width("text_encoder", "hidden_size"),)),),
    response_cache=True,
)

TEXT_ENCODER_2 = ComponentSpec(
    name="text_encoder_2",
    folder="text_encoder_2",
    inputs=(TensorSpec("input_ids", "INT64", ("text_length",)),),
    outputs=(TensorSpec("last_hidden_state", "FP32", ("text_length", Width("text_encoder_2", "d_model"))),),
    response_cache=True,
)

# Position ids have a batch axis so that Triton can batch, but a call has one picture size: row 0 counts.
TRANSFORMER = ComponentSpec(
    name="transformer",
    folder="transformer",
    inputs=(
        TensorSpec("hidden_states", "FP32", ("image_tokens", Width("transformer", "in_channels"))),
        TensorSpec(
            "encoder_hidden_states", "FP32", ("text_length", Width("transformer", "joint_attention_dim"))
        ),
        TensorSpec("pooled_projections", "FP32", (Width("transformer", "pooled_projection_dim"),)),
        TensorSpec("timestep", "FP32", (1,)),
        TensorSpec("img_ids", "FP32", ("image_tokens", 3)),
        TensorSpec("txt_ids", "FP32", ("text_length", 3)),
        TensorSpec("guidance", "FP32", (1,)),
    ),
    outputs=(TensorSpec("sample", "FP32", ("image_tokens", Width("transformer", "in_channels"))),),
)

# Un-scaling, decoding, clamping and rounding to uint8 happen inside the engine.
VAE_DECODER = ComponentSpec(
    name="vae_decoder",
    folder="vae",
    inputs=(
        TensorSpec("latents", "FP32", (Width("vae", "latent_channels"), "latent_height", "latent_width")),
    ),
    outputs=(TensorSpec("images", "UINT8", ("height", "width", 3)),),
)

# mean and standard deviation of the posterior, already shifted and scaled: a draw from it is latents.
VAE_ENCODER = ComponentSpec(
    name="vae_encoder",
    folder="vae",
    inputs=(TensorSpec("images", "UINT8", ("height", "width", 3)),),
    outputs=tuple(
        TensorSpec(name, "FP32", (Width("vae", "latent_channels"), "latent_height", "latent_width"))
        for name in ("mean", "std")
    ),
)

STEPS = Range(1, 28, 50)
GUIDANCE = Range(0.0, 3.5, 20.0)
SETTINGS = (
    tasks.SEED,
    TensorSpec("num_inference_steps", "INT32", (1,), f"denoising steps, {STEPS}"),
    TensorSpec("guidance_scale", "FP32", (1,), f"how closely to follow the prompt, {GUIDANCE}; distilled"),
)
TEXT_STEPS = (
    Step("tokenizer", ("prompt",), ("input_ids", "input_ids_2", "prompt_tokens")),
    Step("text_encoder", ("input_ids",), (("pooler_output", "pooled_prompt_embeds"),)),
    Step("text_encoder_2", (("input_ids", "input_ids_2"),), (("last_hidden_state", "prompt_embeds"),)),
)
CONDITIONS = ("prompt_embeds", "pooled_prompt_embeds", "seed", "num_inference_steps", "guidance_scale")
ENSEMBLES = (
    EnsembleSpec(
        task=tasks.TEXT_TO_IMAGE,
        inputs=(tasks.PROMPT, *SETTINGS, *tasks.SIZES),
        outputs=(tasks.IMAGES, tasks.PROMPT_TOKENS),
        steps=(
            *TEXT_STEPS,
            Step("scheduler", (*CONDITIONS, "height", "width"), ("latents",)),
            tasks.DECODE,
        ),
    ),
    EnsembleSpec(
        task=tasks.IMAGE_TO_IMAGE,
        inputs=(tasks.PROMPT, *SETTINGS, *tasks.BASE_IMAGE),
        outputs=(tasks.IMAGES, tasks.PROMPT_TOKENS),
        steps=(
            *TEXT_STEPS,
            tasks.ENCODE,
            Step("scheduler", (*CONDITIONS, "image", "image_mean", "image_std", "strength"), ("latents",)),
            tasks.DECODE,
        ),
    ),
)

FLUX = FamilySpec(
    name="flux",
    pipeline="FluxPipeline",
    schedulers=("FlowMatchEulerDiscreteScheduler",),
    components=(TEXT_ENCODER, TEXT_ENCODER_2, TRANSFORMER, VAE_ENCODER, VAE_DECODER),
    ensembles=ENSEMBLES,
    max_batch_size=4,
    vae_scale_factor=8,
    latent_multiple=2,
    max_prompt_characters=tasks.MAX_PROMPT_CHARACTERS,
    num_inference_steps=STEPS,
    guidance_scale=GUIDANCE,
    default_strength=0.6,
)
