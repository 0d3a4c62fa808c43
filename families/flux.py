"""Flux.1: facts from diffusers' FluxPipeline and FluxTransformer2DModel; every tensor is batch-first."""

from families.spec import ComponentSpec, FamilySpec, Range, TensorSpec, Width

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

FLUX = FamilySpec(
    name="flux",
    pipeline="FluxPipeline",
    scheduler="FlowMatchEulerDiscreteScheduler",
    components=(TEXT_ENCODER, TEXT_ENCODER_2, TRANSFORMER, VAE_DECODER),
    max_batch_size=4,
    vae_scale_factor=8,
    patch_size=2,
    max_prompt_characters=2_000,
    num_inference_steps=Range(1, 28, 50),
    guidance_scale=Range(0.0, 3.5, 20.0),
)
