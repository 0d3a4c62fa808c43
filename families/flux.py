"""Flux.1: facts from diffusers' FluxPipeline and FluxTransformer2DModel; every tensor is batch-first."""

from families import tasks
from families.spec import ComponentSpec, FamilySpec, Range, Step, TensorSpec, Width

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
    denoiser=True,
)

STEPS = Range(1, 28, 50)
GUIDANCE = Range(0.0, 3.5, 20.0)
QUALITIES = ("high", "medium", "low")
SETTINGS = (
    tasks.SEED,
    TensorSpec("num_inference_steps", "INT32", (1,), f"denoising steps, {STEPS}"),
    TensorSpec("guidance_scale", "FP32", (1,), f"how closely to follow the prompt, {GUIDANCE}; distilled"),
    TensorSpec(
        "quality",
        "STRING",
        (1,),
        f"{', '.join(QUALITIES)}: below high, some steps are forecast, not computed",
    ),
)
TEXT_STEPS = (
    Step("tokenizer", ("prompt",), ("input_ids", "input_ids_2", "prompt_tokens")),
    Step("text_encoder", ("input_ids",), (("pooler_output", "pooled_prompt_embeds"),)),
    Step("text_encoder_2", (("input_ids", "input_ids_2"),), (("last_hidden_state", "prompt_embeds"),)),
)
CONDITIONS = (
    "prompt_embeds",
    "pooled_prompt_embeds",
    "seed",
    "num_inference_steps",
    "guidance_scale",
    "quality",
)

FLUX = FamilySpec(
    name="flux",
    pipeline="FluxPipeline",
    schedulers=("FlowMatchEulerDiscreteScheduler",),
    components=(TEXT_ENCODER, TEXT_ENCODER_2, TRANSFORMER, tasks.VAE_ENCODER, tasks.VAE_DECODER),
    ensembles=tasks.ensembles(SETTINGS, (tasks.IMAGES, tasks.PROMPT_TOKENS), TEXT_STEPS, CONDITIONS),
    max_batch_size=4,
    max_running=8,
    vae_scale_factor=8,
    latent_multiple=2,
    max_prompt_characters=tasks.MAX_PROMPT_CHARACTERS,
    num_inference_steps=STEPS,
    guidance_scale=GUIDANCE,
    default_strength=0.6,
    qualities=QUALITIES,
)
