"""Stable Diffusion XL: facts from diffusers' StableDiffusionXLPipeline and UNet2DConditionModel."""

from families import tasks
from families.spec import ComponentSpec, FamilySpec, Range, Step, TensorSpec, Width

TOKENS = 77  # both encoders are CLIPs

# `hidden_states` is the last but one of the list that transformers calls so, as the pipeline takes it.
TEXT_ENCODER = ComponentSpec(
    name="text_encoder",
    folder="text_encoder",
    inputs=(TensorSpec("input_ids", "INT64", (TOKENS,)),),
    outputs=(TensorSpec("hidden_states", "FP32", (TOKENS, Width("text_encoder", "hidden_size"))),),
    response_cache=True,
)

TEXT_ENCODER_2 = ComponentSpec(
    name="text_encoder_2",
    folder="text_encoder_2",
    inputs=(TensorSpec("input_ids", "INT64", (TOKENS,)),),
    outputs=(
        TensorSpec("hidden_states", "FP32", (TOKENS, Width("text_encoder_2", "hidden_size"))),
        TensorSpec("text_embeds", "FP32", (Width("text_encoder_2", "projection_dim"),)),
    ),
    response_cache=True,
)

# Both of `added_cond_kwargs` are inputs of their own; the output cannot be called `sample` as the input is.
UNET = ComponentSpec(
    name="unet",
    folder="unet",
    inputs=(
        TensorSpec("sample", "FP32", tasks.LATENTS),
        TensorSpec("timestep", "FP32", (1,)),
        TensorSpec("encoder_hidden_states", "FP32", (TOKENS, Width("unet", "cross_attention_dim"))),
        TensorSpec("text_embeds", "FP32", (Width("text_encoder_2", "projection_dim"),)),
        TensorSpec("time_ids", "FP32", (6,)),
    ),
    outputs=(TensorSpec("noise_pred", "FP32", tasks.LATENTS),),
    rows_per_picture=2,
    denoiser=True,
)

STEPS = Range(1, 30, 100)
GUIDANCE = Range(0.0, 5.0, 20.0)
SCHEDULERS = ("EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "DDIMScheduler")

SETTINGS = (
    TensorSpec(
        "negative_prompt", "STRING", (1,),
        f"what to keep away from, at most {tasks.MAX_PROMPT_CHARACTERS} characters; blank: nothing",
    ),
    tasks.SEED,
    TensorSpec("num_inference_steps", "INT32", (1,), f"denoising steps, {STEPS}"),
    TensorSpec("guidance_scale", "FP32", (1,), f"how closely to follow the prompt, {GUIDANCE}; to 1: not"),
    TensorSpec("scheduler", "STRING", (1,), f"diffusers' class: {', '.join(SCHEDULERS)}"),
)  # fmt: skip
OUTPUTS = (
    tasks.IMAGES,
    tasks.PROMPT_TOKENS,
    TensorSpec("negative_prompt_tokens", "INT32", (2, 2), "the same of the negative prompt"),
)


def _encoders(prefix: str) -> tuple[Step, Step]:
    """Both text encoders on the prompt, or with `prefix` "negative_" on the negative prompt."""
    embeds, pooled = f"{prefix}prompt_embeds", f"{prefix}pooled_prompt_embeds"
    return (
        Step("text_encoder", (("input_ids", f"{prefix}input_ids"),), (("hidden_states", embeds),)),
        Step(
            "text_encoder_2",
            (("input_ids", f"{prefix}input_ids_2"),),
            (("hidden_states", f"{embeds}_2"), ("text_embeds", pooled)),
        ),
    )


IDS = ("input_ids", "input_ids_2", "prompt_tokens")
TEXT_STEPS = (
    Step("tokenizer", ("prompt", "negative_prompt"), (*IDS, *(f"negative_{name}" for name in IDS))),
    *_encoders(""),
    *_encoders("negative_"),
)
EMBEDS = ("prompt_embeds", "prompt_embeds_2", "pooled_prompt_embeds")
CONDITIONS = (*EMBEDS, *(f"negative_{name}" for name in EMBEDS), *(tensor.name for tensor in SETTINGS))

SDXL = FamilySpec(
    name="sdxl",
    pipeline="StableDiffusionXLPipeline",
    schedulers=SCHEDULERS,
    components=(TEXT_ENCODER, TEXT_ENCODER_2, UNET, tasks.VAE_ENCODER, tasks.VAE_DECODER),
    ensembles=tasks.ensembles(SETTINGS, OUTPUTS, TEXT_STEPS, CONDITIONS),
    max_batch_size=4,
    max_running=8,
    vae_scale_factor=8,
    latent_multiple=4,
    max_prompt_characters=tasks.MAX_PROMPT_CHARACTERS,
    num_inference_steps=STEPS,
    guidance_scale=GUIDANCE,
    default_strength=0.6,
    qualities=("high",),
)
