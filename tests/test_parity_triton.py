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
from diffusers import FluxPipeline
from tritonclient.utils import InferenceServerException

from families import FLUX
from serving import EmbeddedTriton

DTYPES = {
    "prompt": "BYTES",
    "seed": "INT64",
    "num_inference_steps": "INT32",
    "guidance_scale": "FP32",
    "height": "INT32",
    "width": "INT32",
}
NUMPY = {"BYTES": np.object_, "INT64": np.int64, "INT32": np.int32, "FP32": np.float32}
REQUEST: dict[str, Any] = {
    "prompt": ["a red smartphone on a dark gradient background"],
    "seed": [1],
    "num_inference_steps": [4],
    "guidance_scale": [3.5],
    "height": [128],
    "width": [128],
}


@pytest.fixture(scope="module")
def client(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[grpc.InferenceServerClient]:
    with (
        EmbeddedTriton(exported, tmp_path_factory.mktemp("logs")) as triton,
        grpc.InferenceServerClient(triton.grpc_url) as connected,
    ):
        yield connected


@pytest.fixture(scope="module")
def pipeline(random_checkpoint: Path) -> FluxPipeline:
    pipeline = FluxPipeline.from_pretrained(random_checkpoint, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def tensor(name: str, values: list[Any]) -> grpc.InferInput:
    column = np.array([v.encode() if isinstance(v, str) else v for v in values], NUMPY[DTYPES[name]])
    made = grpc.InferInput(name, (len(values), 1), DTYPES[name])
    made.set_data_from_numpy(column.reshape(-1, 1))
    return made


def ask(client: grpc.InferenceServerClient, **changes: list[Any]) -> grpc.InferResult:
    request = {**REQUEST, **changes}
    rows = max(len(values) for values in request.values())
    filled = {name: values * rows if len(values) == 1 else values for name, values in request.items()}
    tensors = [tensor(name, values) for name, values in filled.items()]
    return client.infer("flux_text_to_image", tensors, client_timeout=120)


def picture(client: grpc.InferenceServerClient, **changes: list[Any]) -> np.ndarray:
    return ask(client, **changes).as_numpy("images").astype(int)


def stock(pipeline: FluxPipeline, **changes: list[Any]) -> np.ndarray:
    one = {name: values[0] for name, values in {**REQUEST, **changes}.items()}
    generator = torch.Generator("cpu").manual_seed(one.pop("seed"))
    return np.asarray(pipeline(**one, generator=generator, max_sequence_length=64).images[0]).astype(int)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"prompt": ["émoji 😀 مرحبا"], "seed": [2**53 - 1], "num_inference_steps": [3], "width": [192]},
        {"prompt": ["a very long mug " * 30], "seed": [0], "guidance_scale": [0.0], "height": [64]},
    ],
)
def test_a_picture_is_the_pipeline_s(
    client: grpc.InferenceServerClient, pipeline: FluxPipeline, changes: dict[str, list[Any]]
) -> None:
    ours, theirs = picture(client, **changes), stock(pipeline, **changes)
    difference = np.abs(ours[0] - theirs)
    assert ours.shape == (1, *theirs.shape)
    assert difference.max() <= 1 and (difference > 0).mean() < 1e-2


def test_the_same_request_is_the_same_picture_and_another_seed_another(
    client: grpc.InferenceServerClient,
) -> None:
    first = picture(client)
    np.testing.assert_array_equal(picture(client), first)
    assert np.abs(picture(client, seed=[2]) - first).mean() > 1


def test_rows_are_pictures_of_their_own(client: grpc.InferenceServerClient) -> None:
    prompts, seeds, steps = ["a mug", "a red box", "headphones"], [5, 6, 7], [2, 5, 3]
    together = picture(client, prompt=prompts, seed=seeds, num_inference_steps=steps)
    for row in range(3):
        alone = picture(client, prompt=[prompts[row]], seed=[seeds[row]], num_inference_steps=[steps[row]])
        assert np.abs(together[row] - alone[0]).max() <= 1


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
    ],
)
def test_a_bad_request_is_refused_and_the_server_goes_on(
    client: grpc.InferenceServerClient, changes: dict[str, list[Any]], fault: str
) -> None:
    with pytest.raises(InferenceServerException, match=fault) as raised:
        ask(client, **changes)
    assert raised.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert picture(client, num_inference_steps=[1]).shape == (1, 128, 128, 3)


def test_a_bad_row_refuses_its_own_request_only(client: grpc.InferenceServerClient) -> None:
    expected = picture(client, num_inference_steps=[20])
    with ThreadPoolExecutor() as pool:
        beside = pool.submit(picture, client, num_inference_steps=[20])
        with pytest.raises(InferenceServerException, match="seed -1"):
            ask(client, seed=[3, -1])
        np.testing.assert_array_equal(beside.result(), expected)


def test_a_transformer_that_answers_nan_fails_that_request_only(client: grpc.InferenceServerClient) -> None:
    embeds = np.full((1, 64, 96), np.nan, np.float32)
    texts = {"prompt_embeds": embeds, "pooled_prompt_embeds": np.zeros((1, 64), np.float32)}
    tensors = [tensor(name, values) for name, values in REQUEST.items() if name != "prompt"]
    for name, values in texts.items():
        tensors.append(grpc.InferInput(name, values.shape, "FP32"))
        tensors[-1].set_data_from_numpy(values)
    with pytest.raises(InferenceServerException, match="prediction is not finite at step 1"):
        client.infer("flux_scheduler", tensors)
    assert picture(client, num_inference_steps=[1]).shape == (1, 128, 128, 3)


def test_a_repeated_prompt_is_not_encoded_again(client: grpc.InferenceServerClient) -> None:
    def hits() -> dict[str, int]:
        names = ("flux_text_encoder", "flux_text_encoder_2")
        statistics = [client.get_inference_statistics(name).model_stats[0] for name in names]
        return {model.name: model.inference_stats.cache_hit.count for model in statistics}

    picture(client, prompt=["a prompt that nobody sent before"], num_inference_steps=[1])
    before = hits()
    picture(client, prompt=["a prompt that nobody sent before"], num_inference_steps=[1])
    assert hits() == {name: count + 1 for name, count in before.items()}


def test_the_served_config_documents_tensors_and_limits(client: grpc.InferenceServerClient) -> None:
    parameters = client.get_model_config("flux_text_to_image", as_json=True)["config"]["parameters"]
    told = {name: value["string_value"] for name, value in parameters.items()}
    assert {f"tensor.{name}" for name in (*REQUEST, "images", "prompt_tokens")} <= set(told)
    assert (told["native_size"], told["checkpoint"]) == ("128", "flux-random")
    metadata = client.get_model_metadata("flux_text_to_image")
    assert {tensor.name: tensor.datatype for tensor in metadata.inputs} == DTYPES
    assert all(tensor.shape[0] == -1 for tensor in (*metadata.inputs, *metadata.outputs))
