"""Weights: bad files are one clear line, good ones are read where they lie, whatever their age spells."""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import onnx_ir as ir
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_graphs import PROFILE, Case, for_cpu
from test_export_refusals import refusal
from torch import Tensor, nn

from export import models, values
from export.checkpoint import open_checkpoint
from export.errors import ExportError
from export.spill import ALIGNMENT, Spill, padded
from export.weights import Weights

NORM = "final_layer_norm.weight"
Change = Callable[[Path], object]  # of a folder with model.safetensors
State = dict[str, Tensor]


def change(edit: Callable[[State], object]) -> Change:
    """A change of what the one file holds."""

    def changed(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        edit(weights)
        save_file(weights, folder / "model.safetensors", {"format": "pt"})

    return changed


def cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def index_of(folder: Path, text: str | None = None, **places: str) -> None:
    """Writes an index of all weights, some at other `places`, or `text` in its stead."""
    placed = {**dict.fromkeys(load_file(folder / "model.safetensors"), "model.safetensors"), **places}
    whole = json.dumps({"weight_map": placed})
    (folder / "model.safetensors.index.json").write_text(whole if text is None else text)


def indexed(text: str | None = None, **places: str) -> Change:
    return lambda folder: index_of(folder, text, **places)


def outside(folder: Path) -> None:
    shutil.copy(folder / "model.safetensors", folder.parent / "other.safetensors")
    index_of(folder, **{NORM: "../other.safetensors"})


BAD: dict[str, tuple[Change, str]] = {
    "missing": (change(lambda w: w.pop(NORM)), f"text_encoder lacks the weight {NORM}"),
    "extra": (change(lambda w: w.update(lora=torch.ones(2))), "has 1 weights too many, e.g. lora"),
    "other shape": (change(lambda w: w.update({NORM: torch.ones(7)})), f"{NORM} has shape [7], its config"),
    "cut short": (cut, "model.safetensors is no whole safetensors file"),
    "not safetensors": (lambda f: (f / "model.safetensors").write_bytes(b"no"), "no whole safetensors file"),
    "pickle": (pickled, "pytorch_model.bin is a pickle, which can run code"),
    "nothing": (lambda f: (f / "model.safetensors").unlink(), "has no weights: no *.safetensors"),
    "missing shard": (indexed(**{NORM: "model-2.safetensors"}), "names 'model-2.safetensors', which is not"),
    "shard outside": (outside, "names '../other.safetensors', which is not beside it"),
    "index of nothing": (indexed("{}"), "index.json has no weight_map of names to files"),
    "index no JSON": (indexed("{"), "index.json has no weight_map of names to files"),
    "list for index": (indexed("[]"), "index.json has no weight_map of names to files"),
    "list for map": (indexed('{"weight_map": []}'), "index.json has no weight_map of names to files"),
    "number for file": (
        indexed('{"weight_map": {"a": 3}}'),
        "index.json has no weight_map of names to files",
    ),
}


@pytest.fixture
def folder(random_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoint's text_encoder."""
    return shutil.copytree(random_checkpoint / "text_encoder", tmp_path / "text_encoder")


def stock(case: Case) -> nn.Module:
    return models.inner(case.module())[1]


@pytest.fixture(scope="module")
def module(random_checkpoint: Path) -> nn.Module:
    return stock(for_cpu(random_checkpoint, "text_encoder"))


def test_good_weights_pass(folder: Path, module: nn.Module) -> None:
    weights = Weights(folder)
    weights.check(module)
    for name, parameter in module.named_parameters():
        assert name in weights and torch.equal(weights.tensor(name), parameter)


@pytest.mark.parametrize("name", BAD)
def test_bad_weights_are_one_line(name: str, folder: Path, module: nn.Module) -> None:
    spoil, fault = BAD[name]
    spoil(folder)
    with pytest.raises(ExportError) as refused:
        Weights(folder).check(module)
    assert fault in str(refused.value) and "\n" not in str(refused.value)


# One of each step; tests/test_export.py has others.
@pytest.mark.parametrize("name", ["extra", "other shape", "shard outside"])
def test_bad_weights_end_an_export(
    name: str, random_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil, fault = BAD[name]
    checkpoint, build = shutil.copytree(random_checkpoint, tmp_path / "checkpoint"), tmp_path / "build"
    spoil(checkpoint / "text_encoder")
    said = refusal(capsys, "--checkpoint", checkpoint, "--target", "cpu", "--output", build / "out")
    assert fault in said
    assert list(build.iterdir()) == []


def test_a_number_that_fp16_has_not_ends_an_export(
    random_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, build = shutil.copytree(random_checkpoint, tmp_path / "checkpoint"), tmp_path / "build"
    change(lambda weights: weights[NORM].fill_(70_000))(checkpoint / "text_encoder")
    plan = "--target", "a100", "--builder", "tensorrt_rtx", "--profile", *PROFILE
    said = refusal(capsys, "--checkpoint", checkpoint, *plan, "--output", build / "out")
    assert f"{NORM} does not fit FLOAT16: it has 70000" in said
    assert list(build.iterdir()) == []


def test_links_into_the_hub_s_cache_are_followed(random_checkpoint: Path, tmp_path: Path) -> None:
    snapshot, blobs = shutil.copytree(random_checkpoint, tmp_path / "snapshots" / "abc"), tmp_path / "blobs"
    blobs.mkdir()
    for number, file in enumerate(path for path in snapshot.rglob("*") if path.is_file()):
        file.rename(blobs / str(number))
        file.symlink_to(os.path.relpath(blobs / str(number), file.parent))
    linked = for_cpu(snapshot, "text_encoder_2")
    linked.weights.check(stock(linked))
    assert linked.plan.checkpoint.sha256() == open_checkpoint(random_checkpoint).sha256()


def test_shards_are_read_as_one_file(folder: Path, module: nn.Module) -> None:
    weights = load_file(folder / "model.safetensors")
    second = {name: weights.pop(name) for name in sorted(weights)[::2]}
    placed = {name: "b.safetensors" for name in second} | {name: "a.safetensors" for name in weights}
    index_of(folder, **placed)
    save_file(weights, folder / "a.safetensors")
    save_file(second, folder / "b.safetensors")
    (folder / "model.safetensors").unlink()
    Weights(folder).check(module)
    assert torch.equal(Weights(folder).tensor(NORM), module.get_parameter(NORM))


def test_a_variant_beside_the_weights_is_not_read(folder: Path, module: nn.Module) -> None:
    save_file({NORM: torch.zeros(64)}, folder / "model.fp16.safetensors")
    Weights(folder).check(module)
    assert Weights(folder).tensor(NORM).any()


def renamed(pattern: str, replacement: str) -> Callable[[str], str]:
    return lambda name: re.sub(pattern, replacement, name)


OLD = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
SPELLINGS: dict[str, tuple[str, Callable[[str], str]]] = {
    "CLIP's prefix": ("text_encoder", renamed("^(text_model.)?", "text_model.")),
    "T5's shared": ("text_encoder_2", renamed("^(encoder.embed_tokens|shared)", "shared")),
    "T5's tied": ("text_encoder_2", renamed("^(encoder.embed_tokens|shared)", "encoder.embed_tokens")),
    "VAE's attention": ("vae_decoder", renamed("|".join(OLD), lambda found: OLD[found[0]])),
}


@pytest.mark.parametrize("age", SPELLINGS)
def test_older_spellings_are_known(age: str, random_checkpoint: Path, tmp_path: Path) -> None:
    name, spell = SPELLINGS[age]
    case = for_cpu(random_checkpoint, name)
    module, now = stock(case), next((random_checkpoint / case.component.folder).glob("*.safetensors"))
    before = {spell(name): weight.clone() for name, weight in load_file(now).items()}
    save_file(before, tmp_path / "model.safetensors")
    weights = Weights(tmp_path)
    weights.check(module)
    for path, parameter in module.named_parameters():
        assert torch.equal(weights.tensor(path), parameter), path


def graph_of(weights: Mapping[str, tuple[ir.DataType, list[int]]]) -> ir.Model:
    """A graph of nothing but weights that have no values yet."""
    initializers = [
        ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype))
        for name, (dtype, shape) in weights.items()
    ]
    return ir.Model(ir.Graph([], [], nodes=[], initializers=initializers), ir_version=10)


def is_mapped(address: int, file: Path) -> bool:
    """Whether `address` lies in this process's mapping of `file`."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, end = (int(each, 16) for each in line.split()[0].split("-"))
        if start <= address < end:
            return line.endswith(str(file))
    return False


@pytest.fixture
def mixed(tmp_path: Path) -> Weights:
    """A bf16 weight and fp32 ones."""
    numbers = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    save_file({"a": numbers.bfloat16(), "b": numbers, "c": numbers + 1}, tmp_path / "model.safetensors")
    return Weights(tmp_path)


def test_weights_of_the_graph_s_type_are_read_where_they_lie(mixed: Weights, tmp_path: Path) -> None:
    types = {"a": ir.DataType.BFLOAT16, "b": ir.DataType.FLOAT, "c": ir.DataType.FLOAT16}
    model = graph_of({name: (dtype, [6, 5]) for name, dtype in types.items()})
    spill = Spill(tmp_path, values.capacity(model))
    found = values.buffers(model, mixed, {}, spill)
    file = tmp_path / "model.safetensors"
    assert {name: is_mapped(each.address, file) for name, each in found.items()} == {
        "a": True, "b": True, "c": False
    }  # fmt: skip
    assert found["a"].address == mixed.tensor("a").data_ptr()
    wanted = {"a": mixed.tensor("a"), "b": mixed.tensor("b"), "c": mixed.tensor("c").half()}
    for name, tensor in wanted.items():
        read = bytearray(ctypes.string_at(found[name].address, found[name].bytes))
        assert torch.equal(torch.frombuffer(read, dtype=tensor.dtype).view(6, 5), tensor), name


def test_a_weight_that_the_graph_wants_otherwise_is_refused(mixed: Weights) -> None:
    with pytest.raises(ExportError, match=r"b has shape \[6, 5\], the graph wants \[5, 6\]"):
        dict(values.values(graph_of({"b": (ir.DataType.FLOAT, [5, 6])}), mixed, {}))
    with pytest.raises(ExportError, match="lacks the weight d"):
        dict(values.values(graph_of({"d": (ir.DataType.FLOAT, [6, 5])}), mixed, {}))


def test_a_spill_keeps_tensors_whole_aligned_and_off_the_folder(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randn(257, 33, generator=generator)
    tensors = [numbers.bfloat16(), torch.tensor(0.5), numbers.to(torch.int8), numbers.half().T, numbers]
    sizes = [tensor.numel() * tensor.element_size() for tensor in tensors]
    spill = Spill(tmp_path, sum(map(padded, sizes)))
    found = [spill.keep(tensor) for tensor in tensors]
    assert [buffer.bytes for buffer in found] == sizes
    for buffer, tensor in zip(found, tensors, strict=True):
        read = torch.frombuffer(bytearray(ctypes.string_at(*buffer)), dtype=tensor.dtype)
        assert buffer.address % ALIGNMENT == 0
        assert torch.equal(read.view(tensor.shape), tensor)
    assert list(tmp_path.iterdir()) == []
