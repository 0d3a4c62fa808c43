"""LoRA files of every ecosystem do what they do in stock diffusers, and so do the files that are kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lora_files import (
    ATTENTION,
    PIPELINES,
    Bench,
    FluxWidths,
    ai_toolkit,
    kohya_flux,
    kohya_sdxl,
    prefixed,
    saved,
    sgm_sdxl,
    with_alphas,
    xlabs,
)  # fmt: skip
from safetensors.torch import load_file
from small_graphs import answers, relative_error
from torch import Tensor

from diffusion.adapters import Packs, files
from diffusion.adapters.canonical import Pairs
from diffusion.adapters.convert import convert
from export import models
from families.adapters import AdapterError
from families.loras import Lora
from finetune.store import Said, Store

pytestmark = pytest.mark.filterwarnings("ignore:Already found a `peft_config`")  # two adapters are meant

EXACT = 1e-5  # of norms


@dataclass(frozen=True)
class Stock:
    """diffusers' pipeline around one denoiser, and that denoiser as a module of batch-first tensors."""

    bench: Bench
    pipeline: Any
    module: Any

    @classmethod
    def open(cls, bench: Bench) -> Stock:
        module = bench.case.module()
        denoiser = {bench.component: models.inner(module)[1]}
        pipeline = PIPELINES[bench.family].from_pretrained(bench.folder, local_files_only=True, **denoiser)
        return cls(bench, pipeline, module)

    def __call__(self, *loras: tuple[Path, float]) -> Tensor:
        """The prediction with these files at these scales."""
        self.pipeline.unload_lora_weights()
        names = [f"adapter{n}" for n in range(len(loras))]
        for name, (path, _) in zip(names, loras, strict=True):
            self.pipeline.load_lora_weights(path.parent, weight_name=path.name, adapter_name=name)
        if loras:
            self.pipeline.set_adapters(names, [scale for _, scale in loras])
        (answer,) = answers(self.module, inputs(self.bench))
        return answer


def inputs(bench: Bench) -> dict[str, Tensor]:
    axes = {**bench.case.axes(), "batch": 1}
    every = bench.case.inputs(axes)
    return {name: tensor for name, tensor in every.items() if not name.startswith("lora_")}


@dataclass(frozen=True)
class Ours:
    """The store and packs, around the module that takes packed inputs."""

    bench: Bench
    module: Any

    def __call__(self, store: Store, *loras: Lora) -> Tensor:
        base = self.bench.base
        packs = Packs(store.folder, base.family, base.targets, 64, torch.float32, "cpu", base.sha256)
        pack = packs.packs(loras)
        (answer,) = answers(self.module, {**inputs(self.bench), "lora_a": pack.lora_a, "lora_b": pack.lora_b})
        return answer


@pytest.fixture(scope="module")
def flux(random_checkpoint: Path) -> tuple[Bench, Stock, Ours]:
    bench = Bench.open("flux", random_checkpoint)
    return bench, Stock.open(bench), Ours(bench, bench.case.module(lora=True))


@pytest.fixture(scope="module")
def sdxl(random_sdxl: Path) -> tuple[Bench, Stock, Ours]:
    bench = Bench.open("sdxl", random_sdxl)
    return bench, Stock.open(bench), Ours(bench, bench.case.module(lora=True))


@pytest.fixture(params=["flux", "sdxl"])
def either(request: pytest.FixtureRequest) -> tuple[Bench, Stock, Ours]:
    return request.getfixturevalue(request.param)


def widths(bench: Bench) -> FluxWidths:
    rows = {target.name: target.out_features for target in bench.base.targets}
    return FluxWidths(
        rows["single_transformer_blocks.0.attn.to_q"], rows["single_transformer_blocks.0.proj_mlp"]
    )


def blocks(bench: Bench) -> tuple[int, int]:
    config = bench.base.configs["transformer"]
    return config["num_layers"], config["num_single_layers"]


# Of modules of different ranks and alphas, some by the ends of their names.
UNEVEN = {"rank_pattern": {"to_k": 2, "to_out.0": 7}, "alpha_pattern": {"to_q": 9, "to_out.0": 3}}


def diffusers_metadata(bench: Bench, folder: Path) -> Path:
    return bench.diffusers_file(folder, bench.trained(lora_alpha=6, **UNEVEN))


def diffusers_plain(bench: Bench, folder: Path) -> Path:
    """Of several ranks, and without metadata: alpha is the rank."""
    return bench.diffusers_file(folder, bench.trained(rank_pattern=UNEVEN["rank_pattern"]), metadata=False)


def diffusers_older(bench: Bench, folder: Path) -> Path:
    return bench.diffusers_file(folder, bench.trained(lora_alpha=6, modules=ATTENTION, **UNEVEN), older=True)


def save_lora_adapter(bench: Bench, folder: Path) -> Path:
    """As the model's own method saves it: no prefix, neither of keys nor of metadata."""
    bench.trained(lora_alpha=6, modules=ATTENTION, **UNEVEN).save_lora_adapter(
        folder, upcast_before_saving=False
    )
    return folder / "pytorch_lora_weights.safetensors"


def raw_peft(bench: Bench, folder: Path) -> Path:
    return saved(folder / "peft.safetensors", bench.state(modules=ATTENTION))


def peft_alphas(bench: Bench, folder: Path) -> Path:
    return saved(folder / "alpha.safetensors", prefixed(with_alphas(bench.state(), 3.0), "transformer."))


def of_ai_toolkit(bench: Bench, folder: Path) -> Path:
    return ai_toolkit(folder / "food.safetensors", bench.state(rank=16, modules=ATTENTION))


def of_kohya_flux(bench: Bench, folder: Path) -> Path:
    """All that diffusers reads at widths other than FLUX.1's: not linear1."""
    state = kohya_flux(widths(bench), *blocks(bench), rank=8, alpha=3)
    return saved(folder / "k.safetensors", {k: v for k, v in state.items() if "linear1" not in k})


def of_xlabs(bench: Bench, folder: Path) -> Path:
    return saved(folder / "x.safetensors", xlabs(widths(bench).width, *blocks(bench), rank=4))


def of_kohya_sdxl(bench: Bench, folder: Path) -> Path:
    return saved(folder / "k.safetensors", kohya_sdxl(bench.state()))


def of_sd_scripts(bench: Bench, folder: Path) -> Path:
    layers = bench.base.configs["unet"]["layers_per_block"]
    return saved(folder / "k.safetensors", sgm_sdxl(bench.state(), 3.0, layers))


BOTH = {diffusers_metadata: "diffusers", diffusers_plain: "diffusers"}
FORMATS = {
    "flux": {
        **BOTH,
        peft_alphas: "peft",
        of_ai_toolkit: "ai-toolkit",
        of_kohya_flux: "kohya",
        of_xlabs: "xlabs",
    },
    "sdxl": {**BOTH, diffusers_older: "diffusers", of_kohya_sdxl: "kohya", of_sd_scripts: "kohya"},
}
Writer = Callable[[Bench, Path], Path]


@pytest.mark.parametrize(
    ("family", "write"), [(family, write) for family, writers in FORMATS.items() for write in writers]
)
def test_a_file_of_each_format_does_what_stock_diffusers_does_with_it(
    family: str, write: Writer, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    bench, stock, ours = request.getfixturevalue(family)
    path, store = write(bench, tmp_path), Store(tmp_path / "store")
    entry = store.add(path, "food", bench.base, Said())
    wanted = stock((path, 0.7))
    assert relative_error(wanted, stock()) > 0.01
    assert relative_error(ours(store, Lora("food", 0.7)), wanted) < EXACT
    assert relative_error(stock((store.index.file(entry), 0.7)), wanted) < EXACT
    assert entry.format == FORMATS[family][write]


@pytest.mark.parametrize("write", [raw_peft, save_lora_adapter])
def test_a_file_of_the_model_alone_does_what_the_model_does(
    write: Writer, either: tuple[Bench, Stock, Ours], tmp_path: Path
) -> None:
    """Pipelines pass over such keys without a word; the model's own loader reads them."""
    bench, stock, ours = either
    path, store = write(bench, tmp_path), Store(tmp_path / "store")
    entry = store.add(path, "food", bench.base, Said())
    module = bench.case.module()
    models.inner(module)[1].load_lora_adapter(path.parent, weight_name=path.name, prefix=None)
    (wanted,) = answers(module, inputs(bench))
    assert relative_error(ours(store, Lora("food")), wanted) < EXACT
    assert relative_error(stock((store.index.file(entry), 1.0)), wanted) < EXACT
    assert entry.format == "peft"


def test_two_adapters_of_different_ranks_and_scales_merge_as_in_diffusers(
    either: tuple[Bench, Stock, Ours], tmp_path: Path
) -> None:
    bench, stock, ours = either
    store, paths = Store(tmp_path / "store"), {}
    trained = {
        "food": bench.trained(1, rank=4, lora_alpha=6, **UNEVEN),
        "bold": bench.trained(2, rank=3, modules=("to_q", "to_v", "proj_out")),
    }
    for name, denoiser in trained.items():
        paths[name] = bench.diffusers_file(tmp_path / name, denoiser)
        store.add(paths[name], name, bench.base, Said())
    wanted = stock((paths["food"], 0.6), (paths["bold"], -1.3))
    assert relative_error(ours(store, Lora("food", 0.6), Lora("bold", -1.3)), wanted) < EXACT
    assert relative_error(wanted, stock((paths["food"], 0.6))) > 0.01


def test_no_adapter_and_scale_zero_are_the_base(either: tuple[Bench, Stock, Ours], tmp_path: Path) -> None:
    bench, stock, ours = either
    store = Store(tmp_path / "store")
    store.add(diffusers_plain(bench, tmp_path), "food", bench.base, Said())
    assert torch.equal(ours(store), ours(store, Lora("food", 0.0)))
    assert relative_error(ours(store), stock()) < EXACT


def converted(bench: Bench, path: Path) -> Pairs:
    base = bench.base
    return convert(files.read(path), base.family, base.targets, base.configs).pairs


def test_kohyas_linear1_is_read_at_every_width(flux: tuple[Bench, Stock, Ours], tmp_path: Path) -> None:
    """diffusers' converter knows FLUX.1's width alone, so the wanted products are worked out here."""
    bench, _, _ = flux
    double, single = blocks(bench)
    state = kohya_flux(widths(bench), double, single, rank=8, alpha=3)
    pairs = converted(bench, saved(tmp_path / "k.safetensors", state))
    assert len(pairs) == 14 * double + 6 * single
    for block in range(single):
        name = f"lora_unet_single_blocks_{block}_linear1"
        wanted = 3 / 8 * state[f"{name}.lora_up.weight"] @ state[f"{name}.lora_down.weight"]
        parts = [pairs[f"single_transformer_blocks.{block}.{part}"] for part in PARTS]
        got = torch.cat([pair.b @ pair.a * pair.alpha / pair.rank for pair in parts])
        assert relative_error(got, wanted) < EXACT


PARTS = ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")


def test_kohyas_linear1_at_flux1s_width_is_what_diffusers_makes_of_it(
    flux: tuple[Bench, Stock, Ours], tmp_path: Path
) -> None:
    bench, stock, _ = flux
    full = FluxWidths(3072, 12288)
    state = {k: v for k, v in kohya_flux(full, 0, 1, rank=2, alpha=1).items() if "linear1" in k}
    path = saved(tmp_path / "k.safetensors", state)
    names = [f"single_transformer_blocks.0.{part}" for part in PARTS]
    targets = [
        replace(target, in_features=3072, out_features=12288 if "mlp" in target.name else 3072)
        for target in bench.base.targets
        if target.name in names
    ]
    pairs = convert(files.read(path), bench.base.family, targets, bench.base.configs).pairs
    wanted = type(stock.pipeline).lora_state_dict(load_file(path))
    assert [*pairs] == names
    for module, pair in pairs.items():
        assert torch.equal(pair.a, wanted[f"transformer.{module}.lora_A.weight"])
        assert torch.equal(pair.b, wanted[f"transformer.{module}.lora_B.weight"])


def test_what_diffusers_would_drop_of_a_file_is_refused(
    flux: tuple[Bench, Stock, Ours], tmp_path: Path
) -> None:
    """sd-scripts' last layer comes out of the converter without prefix, and without its alpha."""
    bench, _, _ = flux
    state = kohya_flux(widths(bench), *blocks(bench), rank=4, alpha=4)
    last = "lora_unet_final_layer_linear"
    state[f"{last}.lora_down.weight"], state[f"{last}.lora_up.weight"] = torch.ones(4, 128), torch.ones(64, 4)
    with pytest.raises(AdapterError, match=f"{last}.lora_down.weight"):
        converted(bench, saved(tmp_path / "k.safetensors", state))
