"""Pictures through a real tritonserver equal stock diffusers' for the same checkpoint and seed."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import tritonclient.grpc as grpc
from diffusers import FluxImg2ImgPipeline, FluxPipeline
from PIL import Image
from tritonclient.utils import InferenceServerException

from families import FLUX
from serving import EmbeddedTriton

DTYPES = {
    "seed": "INT64",
    "num_inference_steps": "INT32",
    "guidance_scale": "FP32",
    "height": "INT32",
    "width": "INT32",
    "image": "UINT8",
    "strength": "FP32",
    **dict.fromkeys(("prompt", "quality", "loras", "applied_loras"), "BYTES"),
}
NUMPY = {
    "BYTES": np.object_, "INT64": np.int64, "INT32": np.int32, "FP32": np.float32, "UINT8": np.uint8
}  # fmt: skip
OURS = "quality", "loras"  # what the pipelines do not take
TEXT, IMAGE = "flux_text_to_image", "flux_image_to_image"


def base_image(height: int, width: int, channels: int = 3) -> np.ndarray:
    """A picture with edges and slopes, the same every time."""
    rows, columns = np.mgrid[:height, :width]
    slopes = [rows * 2, columns * 3, (rows // 16 + columns // 16) % 2 * 200, rows + columns]
    return np.stack(slopes[:channels], axis=-1).astype(np.uint8)


SHARED: dict[str, Any] = {
    "prompt": ["a red smartphone on a dark gradient background"],
    "seed": [1],
    "num_inference_steps": [4],
    "guidance_scale": [3.5],
    "quality": ["high"],
    "loras": [""],
}
REQUESTS: dict[str, dict[str, Any]] = {
    TEXT: {**SHARED, "height": [128], "width": [128]},
    IMAGE: {**SHARED, "image": [base_image(64, 96)], "strength": [0.55]},
}


@pytest.fixture(scope="module")
def client(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[grpc.InferenceServerClient]:
    with (
        EmbeddedTriton([exported], tmp_path_factory.mktemp("logs")) as triton,
        grpc.InferenceServerClient(triton.grpc_url) as connected,
    ):
        yield connected


@pytest.fixture(scope="module")
def pipelines(random_checkpoint: Path) -> dict[str, Any]:
    """diffusers' own, by the model that does its task."""
    text = FluxPipeline.from_pretrained(random_checkpoint, dtype=torch.float32)
    made = {TEXT: text, IMAGE: FluxImg2ImgPipeline(**text.components)}
    for pipeline in made.values():
        pipeline.set_progress_bar_config(disable=True)
    return made


def tensor(name: str, values: list[Any]) -> grpc.InferInput:
    column = np.array([v.encode() if isinstance(v, str) else v for v in values], NUMPY[DTYPES[name]])
    array = column if name == "image" else column.reshape(-1, 1)
    made = grpc.InferInput(name, array.shape, DTYPES[name])
    made.set_data_from_numpy(array)
    return made


def ask(client: grpc.InferenceServerClient, model: str = TEXT, **changes: list[Any]) -> grpc.InferResult:
    """What `model` answers to its request with `changes`, of which an empty one leaves the tensor out."""
    request = {name: values for name, values in {**REQUESTS[model], **changes}.items() if values}
    rows = max(len(values) for values in request.values())
    filled = {name: values * rows if len(values) == 1 else values for name, values in request.items()}
    tensors = [tensor(name, values) for name, values in filled.items()]
    return client.infer(model, tensors, client_timeout=120)


def picture(client: grpc.InferenceServerClient, model: str = TEXT, **changes: list[Any]) -> np.ndarray:
    return ask(client, model, **changes).as_numpy("images").astype(int)


def stock(pipelines: dict[str, Any], model: str, changes: dict[str, list[Any]]) -> np.ndarray:
    one = {name: values[0] for name, values in {**REQUESTS[model], **changes}.items() if name not in OURS}
    if "image" in one:
        one["height"], one["width"], _ = one["image"].shape
        one["image"] = Image.fromarray(one["image"])
    generator = torch.Generator("cpu").manual_seed(one.pop("seed"))
    drawn = pipelines[model](**one, generator=generator, max_sequence_length=64)
    return np.asarray(drawn.images[0]).astype(int)


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        (TEXT, {}),
        (
            TEXT,
            {"prompt": ["émoji 😀 مرحبا"], "seed": [2**53 - 1], "num_inference_steps": [3], "width": [192]},
        ),
        (TEXT, {"prompt": ["a very long mug " * 30], "seed": [0], "guidance_scale": [0.0], "height": [64]}),
        (IMAGE, {}),
        (IMAGE, {"strength": [1.0], "seed": [2**53 - 1], "image": [base_image(128, 64)]}),
        # Shares of the steps that FP32 does not hold: 0.3 is a little more there, 0.02 a little less.
        (IMAGE, {"strength": [0.3], "num_inference_steps": [10], "guidance_scale": [0.0]}),
        (IMAGE, {"strength": [0.02], "num_inference_steps": [50]}),
    ],
)
def test_a_picture_is_the_pipeline_s(
    client: grpc.InferenceServerClient, pipelines: dict[str, Any], model: str, changes: dict[str, list[Any]]
) -> None:
    ours, theirs = picture(client, model, **changes), stock(pipelines, model, changes)
    difference = np.abs(ours[0] - theirs)
    assert ours.shape == (1, *theirs.shape)
    assert difference.max() <= 1 and (difference > 0).mean() < 1e-2


@pytest.mark.parametrize("model", REQUESTS)
def test_the_same_request_is_the_same_picture_and_another_seed_another(
    client: grpc.InferenceServerClient, model: str
) -> None:
    first = picture(client, model)
    np.testing.assert_array_equal(picture(client, model), first)
    assert np.abs(picture(client, model, seed=[2]) - first).mean() > 1


def test_rows_are_pictures_of_their_own(client: grpc.InferenceServerClient) -> None:
    prompts, seeds, steps = ["a mug", "a red box", "headphones"], [5, 6, 7], [2, 5, 3]
    together = picture(client, prompt=prompts, seed=seeds, num_inference_steps=steps)
    for row in range(3):
        alone = picture(client, prompt=[prompts[row]], seed=[seeds[row]], num_inference_steps=[steps[row]])
        assert np.abs(together[row] - alone[0]).max() <= 1


def test_rows_have_base_images_and_strengths_of_their_own(client: grpc.InferenceServerClient) -> None:
    images, strengths = [base_image(64, 64), 255 - base_image(64, 64)], [0.3, 0.8]
    together = picture(client, IMAGE, image=images, strength=strengths)
    for row in range(2):
        alone = picture(client, IMAGE, image=[images[row]], strength=[strengths[row]])
        assert np.abs(together[row] - alone[0]).max() <= 1
    assert np.abs(together[0] - together[1]).mean() > 1


def test_dropped_tokens_are_told(client: grpc.InferenceServerClient) -> None:
    ((clip, t5),) = (
        ask(client, prompt=["mug " * 100], num_inference_steps=[1]).as_numpy("prompt_tokens").tolist()
    )
    assert (clip[0], t5[0]) == (75, 63)
    assert clip[1] > 0 and t5[1] > 0


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"prompt": [" \n"]}, r"prompt ' \\n' is empty"),
        ({"prompt": ["a\0b"]}, "prompt has a NUL character at position 1"),
        ({"prompt": [b"\xff"]}, "prompt is not UTF-8: invalid start byte at byte 0"),
        (
            {"prompt": ["x" * 1_000_000]},
            f"prompt has 1000000 characters; at most {FLUX.max_prompt_characters}",
        ),
        ({"seed": [-1]}, "seed -1 is negative"),
        ({"num_inference_steps": [0]}, r"num_inference_steps 0 is not in 1\.\.50"),
        ({"guidance_scale": [float("nan")]}, "guidance_scale nan"),
        ({"height": [130]}, "height 130 is not a multiple of 16"),
        ({"width": [528]}, r"width 528 is not in 64\.\.512"),
        ({"width": [64, 128]}, "width differs between a request's rows"),
        ({"seed": [1, 2, 3, 4, 5]}, "batch-size must be <= 4"),
        ({"image": [base_image(128, 128)]}, "expected 8 inputs but got 9 .*'image'"),
    ],
)
def test_a_bad_request_is_refused_and_the_server_goes_on(
    client: grpc.InferenceServerClient, changes: dict[str, list[Any]], fault: str
) -> None:
    refused(client, TEXT, changes, fault)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"image": [base_image(72, 64)]}, "height 72 is not a multiple of 16"),
        ({"image": [base_image(64, 100)]}, "width 100 is not a multiple of 16"),
        ({"image": [base_image(64, 528)]}, r"width 528 is not in 64\.\.512"),
        ({"image": [base_image(32, 64)]}, r"height 32 is not in 64\.\.512"),
        ({"image": [base_image(1, 1)]}, "flux_vae_encoder"),  # too small for its engine
        ({"image": [base_image(64, 64, channels=1)]}, "'image'.*Expected.*3.*got"),
        ({"image": [base_image(64, 64, channels=4)]}, "'image'.*Expected.*3.*got"),
        ({"image": []}, "expected 8 inputs but got 7 .*'image'"),
        ({"strength": []}, "expected 8 inputs but got 7 .*'strength'"),
        ({"strength": [0.0]}, r"strength 0\.0 is not above 0 and at most 1"),
        ({"strength": [-0.5]}, r"strength -0\.5 is not above 0 and at most 1"),
        ({"strength": [1.01]}, r"strength 1\.01 is not above 0 and at most 1"),
        ({"strength": [float("nan")]}, r"strength nan is not above 0 and at most 1"),
        ({"strength": [0.55, 0.2]}, r"strength 0\.2 of num_inference_steps 4 .* at least 0\.25"),
        ({"height": [64]}, "expected 8 inputs but got 9 .*'height'"),
    ],
)
def test_a_bad_request_with_a_base_image_is_refused_too(
    client: grpc.InferenceServerClient, changes: dict[str, list[Any]], fault: str
) -> None:
    refused(client, IMAGE, changes, fault)


def refused(
    client: grpc.InferenceServerClient, model: str, changes: dict[str, list[Any]], fault: str
) -> None:
    with pytest.raises(InferenceServerException, match=fault) as raised:
        ask(client, model, **changes)
    assert raised.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert picture(client, num_inference_steps=[1]).shape == (1, 128, 128, 3)


def test_a_bad_row_refuses_its_own_request_only(client: grpc.InferenceServerClient) -> None:
    expected = picture(client, num_inference_steps=[20])
    with ThreadPoolExecutor() as pool:
        beside = pool.submit(picture, client, num_inference_steps=[20])
        with pytest.raises(InferenceServerException, match="seed -1"):
            ask(client, seed=[3, -1])
        np.testing.assert_array_equal(beside.result(), expected)


def directly(client: grpc.InferenceServerClient, fault: str, embeds: float, *more: str) -> None:
    """Asks flux_scheduler itself, of the tensors of either task that `more` names; `fault` is its answer."""
    given = {name: values for request in REQUESTS.values() for name, values in request.items()}
    names = [name for name in (*SHARED, *more) if name not in ("prompt", "loras")]
    tensors = [*(tensor(name, given[name]) for name in names), tensor("applied_loras", ["[]"])]
    for name, shape, value in (
        ("prompt_embeds", (1, 64, 96), embeds),
        ("pooled_prompt_embeds", (1, 64), embeds),
        ("lora_a", (1, 4, 10_368), 0.0),
        ("lora_b", (1, 13_376, 4), 0.0),
    ):
        tensors.append(grpc.InferInput(name, shape, "FP32"))
        tensors[-1].set_data_from_numpy(np.full(shape, value, np.float32))
    with pytest.raises(InferenceServerException, match=fault):
        client.infer("flux_scheduler", tensors, client_timeout=120)
    assert picture(client, num_inference_steps=[1]).shape == (1, 128, 128, 3)


def test_a_transformer_that_answers_nan_fails_that_request_only(client: grpc.InferenceServerClient) -> None:
    directly(client, "prediction is not finite at step 1", np.nan, "height", "width")


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ([], "neither image nor height and width are given"),
        (["height"], "neither image nor height and width are given"),
        (["image"], "strength is missing"),
        (["image", "strength"], "image_mean is missing"),
    ],
)
def test_the_scheduler_names_what_it_was_not_given(
    client: grpc.InferenceServerClient, given: list[str], fault: str
) -> None:
    directly(client, fault, 0.0, *given)


def test_a_repeated_prompt_is_not_encoded_again(client: grpc.InferenceServerClient) -> None:
    def hits() -> dict[str, int]:
        names = ("flux_text_encoder", "flux_text_encoder_2")
        statistics = [client.get_inference_statistics(name).model_stats[0] for name in names]
        return {model.name: model.inference_stats.cache_hit.count for model in statistics}

    picture(client, prompt=["a prompt that nobody sent before"], num_inference_steps=[1])
    before = hits()
    picture(client, prompt=["a prompt that nobody sent before"], num_inference_steps=[1])
    assert hits() == {name: count + 1 for name, count in before.items()}


@pytest.mark.parametrize("model", REQUESTS)
def test_the_served_config_documents_tensors_and_limits(
    client: grpc.InferenceServerClient, model: str
) -> None:
    parameters = client.get_model_config(model, as_json=True)["config"]["parameters"]
    told = {name: value["string_value"] for name, value in parameters.items()}
    assert {
        f"tensor.{name}" for name in (*REQUESTS[model], "images", "prompt_tokens", "applied_loras")
    } <= set(told)
    assert (told["native_size"], told["size_multiple"], told["checkpoint"]) == ("128", "16", "flux-random")
    metadata = client.get_model_metadata(model)
    wanted = {name: DTYPES[name] for name in REQUESTS[model]}
    assert {tensor.name: tensor.datatype for tensor in metadata.inputs} == wanted
    assert all(tensor.shape[0] == -1 for tensor in (*metadata.inputs, *metadata.outputs))
