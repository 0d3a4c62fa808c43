"""Merging adapters into packs: exact, in ranks that engines have, within bounds, never of a wrong file."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from torch import Tensor

from diffusion.adapters import AdapterError, Pack, Packs, packs, stacked
from families import FLUX
from families.adapters import AdapterEntry, AdapterIndex, index_text
from families.hashes import sha256_of_file
from families.layers import LoraTarget
from families.loras import Applied, Lora
from families.spec import InvalidRequest

TARGETS = (LoraTarget("a", 3, 5, 0, 0), LoraTarget("b.c", 4, 2, 3, 5), LoraTarget("c", 6, 7, 7, 7))
SUM_IN, SUM_OUT = 13, 14
PREFIX = "transformer."
Products = dict[str, Tensor]  # of B A by module


DENOISER = "d" * 64  # hash of the weights that the engine has


class Shelf:
    """A store that is written by hand, and the products of its adapters."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.entries = folder, dict[str, AdapterEntry]()
        self.products = dict[str, Products]()
        (folder / "files").mkdir(parents=True)

    def add(self, name: str, dtype: torch.dtype = torch.float32, **ranks: int) -> None:
        """An adapter of alpha = rank on the modules of TARGETS with these names, __ for a dot."""
        random, tensors = torch.Generator().manual_seed(len(self.entries)), dict[str, Tensor]()
        for target in TARGETS:
            if rank := ranks.get(target.name.replace(".", "__")):
                a, b = (
                    torch.randn(rank, target.in_features, generator=random),
                    torch.randn(target.out_features, rank, generator=random),
                )
                (
                    tensors[f"{PREFIX}{target.name}.lora_A.weight"],
                    tensors[f"{PREFIX}{target.name}.lora_B.weight"],
                ) = a.to(dtype), b.to(dtype)
        self.put(name, save(tensors), max(ranks.values()), len(ranks))
        self.products[name] = {
            t.name: tensors[f"{PREFIX}{t.name}.lora_B.weight"].float()
            @ tensors[f"{PREFIX}{t.name}.lora_A.weight"].float()
            for t in TARGETS
            if f"{PREFIX}{t.name}.lora_A.weight" in tensors
        }

    def put(self, name: str, data: bytes, rank: int, modules: int) -> None:
        (self.folder / "new").write_bytes(data)
        sha256 = sha256_of_file(self.folder / "new")
        (self.folder / "new").rename(self.folder / "files" / f"{sha256}.safetensors")
        self.entries[name] = AdapterEntry(sha256, rank, modules, "x", "diffusers", sha256)
        (self.folder / "beside").write_text(index_text({"flux": self.entries}))
        (self.folder / "beside").replace(self.folder / "index.json")

    def packs(
        self, max_rank: int = 64, dtype: torch.dtype = torch.float32, cache_bytes: int = 2**20
    ) -> Packs:
        return Packs(self.folder, FLUX, TARGETS, max_rank, dtype, "cpu", DENOISER, cache_bytes)


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    shelf = Shelf(tmp_path / "store")
    shelf.add("all", a=2, b__c=3, c=1)
    shelf.add("some", a=5)
    return shelf


def parts(pack: Pack) -> Iterator[tuple[str, Tensor, Tensor]]:
    for t in TARGETS:
        a = pack.lora_a[0, :, t.in_offset : t.in_offset + t.in_features]
        yield t.name, a, pack.lora_b[0, t.out_offset : t.out_offset + t.out_features]


def test_a_pack_adds_each_adapter_times_its_scale_to_each_module(shelf: Shelf) -> None:
    pack = shelf.packs().packs([Lora("all", 0.5), Lora("some", -1.5)])
    assert pack.lora_a.shape == (1, 8, SUM_IN) and pack.lora_b.shape == (1, SUM_OUT, 8)
    every, some = shelf.products["all"], shelf.products["some"]
    wanted = {
        **{name: 0.5 * product for name, product in every.items()},
        "a": 0.5 * every["a"] - 1.5 * some["a"],
    }
    for name, a, b in parts(pack):
        torch.testing.assert_close(b @ a, wanted[name], rtol=1e-5, atol=1e-6)
    sha256 = {name: entry.sha256 for name, entry in shelf.entries.items()}
    assert pack.applied == (
        Applied("all", sha256["all"], 0.5, 3, 3),
        Applied("some", sha256["some"], -1.5, 1, 1),
    )


def test_no_adapter_is_zeros_of_the_smallest_rank(shelf: Shelf) -> None:
    pack = shelf.packs().packs([])
    assert pack.lora_a.shape == (1, 4, SUM_IN) and pack.lora_b.shape == (1, SUM_OUT, 4)
    assert not pack.lora_a.any() and not pack.lora_b.any() and pack.applied == ()


@pytest.mark.parametrize(
    ("ranks", "max_rank", "wanted"),
    [
        ([1], 64, 4), ([2], 64, 4), ([4], 64, 4), ([5, 8], 64, 16), ([30, 30], 64, 64),
        ([5], 6, 6), ([33], 48, 48), ([70], 128, 128),
    ],
)  # fmt: skip
def test_ranks_are_filled_up_to_a_bucket(
    ranks: list[int], max_rank: int, wanted: int, tmp_path: Path
) -> None:
    shelf = Shelf(tmp_path / "store")
    for number, rank in enumerate(ranks):
        shelf.add(f"a{number}", a=rank)
    pack = shelf.packs(max_rank).packs([Lora(name) for name in shelf.entries])
    assert pack.lora_a.shape[1] == pack.lora_b.shape[2] == wanted
    for filled in (pack.lora_a[0, sum(ranks) :], pack.lora_b[0, :, sum(ranks) :]):
        assert not filled.any()


def test_ranks_above_the_largest_are_refused_with_all_of_them(shelf: Shelf) -> None:
    with pytest.raises(InvalidRequest, match="more than 7: all of rank 3, some of rank 5"):
        shelf.packs(max_rank=7).packs([Lora("all"), Lora("some")])


def test_an_unknown_adapter_is_refused_with_the_choices(shelf: Shelf) -> None:
    with pytest.raises(InvalidRequest, match="^flux has no adapter 'fod'; choices: all, some$"):
        shelf.packs().packs([Lora("fod")])
    for number in range(30):
        shelf.entries[f"a{number:02}"] = shelf.entries["all"]
    (shelf.folder / "index.json").write_text(index_text({"flux": shelf.entries}))
    with pytest.raises(InvalidRequest, match="a00, .*, a19 and 12 more$"):
        shelf.packs().packs([Lora("fod")])
    with pytest.raises(InvalidRequest, match="choices: none$"):
        Packs(shelf.folder / "none", FLUX, TARGETS, 4, torch.float32, "cpu", DENOISER).packs([Lora("all")])


def test_rows_of_a_stack_are_the_packs(shelf: Shelf) -> None:
    each = [shelf.packs().packs(loras) for loras in ([], [Lora("all")], [Lora("some"), Lora("all", 2.0)])]
    lora_a, lora_b = stacked(each)
    assert lora_a.shape == (3, 8, SUM_IN) and lora_b.shape == (3, SUM_OUT, 8)
    for row, pack in enumerate(each):
        rank = pack.lora_a.shape[1]
        assert torch.equal(lora_a[row, :rank], pack.lora_a[0]) and not lora_a[row, rank:].any()
        assert torch.equal(lora_b[row, :, :rank], pack.lora_b[0]) and not lora_b[row, :, rank:].any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_scales_are_rounded_once(dtype: torch.dtype, tmp_path: Path) -> None:
    """B of a file in half precision times a scale is the nearest of the pack's type."""
    shelf = Shelf(tmp_path / "store")
    shelf.add("half", dtype, a=2, c=2)
    exact = shelf.packs().packs([Lora("half", 0.3)])
    pack = shelf.packs(dtype=dtype).packs([Lora("half", 0.3)])
    assert torch.equal(pack.lora_b, exact.lora_b.to(dtype)) and torch.equal(
        pack.lora_a, exact.lora_a.to(dtype)
    )


def test_values_that_overflow_a_packs_type_are_refused(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "store")
    halves = {
        f"{PREFIX}a.lora_A.weight": torch.ones(1, 3),
        f"{PREFIX}a.lora_B.weight": torch.full((5, 1), 6e4),
    }
    shelf.put("loud", save(halves), 1, 1)
    assert shelf.packs(dtype=torch.float16).packs([Lora("loud")]).lora_b.max() > 5e4
    with pytest.raises(AdapterError, match="overflow torch.float16"):
        shelf.packs(dtype=torch.float16).packs([Lora("loud", 2.0)])


def test_packs_are_kept_and_a_replaced_adapter_is_not(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    reads, read = [], packs.files.read
    monkeypatch.setattr(packs.files, "read", lambda *given: reads.append(given) or read(*given))
    kept = shelf.packs()
    first, again = kept.packs([Lora("all")]), kept.packs([Lora("all")])
    assert again.lora_a is first.lora_a and again.lora_b is first.lora_b and len(reads) == 1
    kept.packs([]), kept.packs([Lora("all", 0)])  # without adapters there is nothing to keep
    assert kept.counts == {"hits": 1, "misses": 1}
    kept.packs([Lora("all", 0.5), Lora("some")])
    assert len(reads) == 2  # `all` was loaded already
    shelf.add("all", a=9)
    assert kept.packs([Lora("all")]).lora_a.shape[1] == 16 and len(reads) == 3


def test_two_names_of_one_file_share_a_pack_and_keep_their_names(shelf: Shelf) -> None:
    shelf.entries["other"] = shelf.entries["all"]
    (shelf.folder / "index.json").write_text(index_text({"flux": shelf.entries}))
    kept = shelf.packs()
    one, other = kept.packs([Lora("all")]), kept.packs([Lora("other")])
    assert one.lora_a is other.lora_a
    assert [pack.applied[0].name for pack in (one, other)] == ["all", "other"]


def test_what_is_kept_stays_within_its_bytes(shelf: Shelf) -> None:
    size = 4 * 4 * (SUM_IN + SUM_OUT)  # of a pack of rank 4
    kept = shelf.packs(cache_bytes=2 * size)
    scales = [n / 10 for n in range(1, 8)]
    for scale in scales:
        kept.packs([Lora("all", scale)])
        assert kept._packs.bytes <= 2 * size and kept._adapters.bytes <= 2 * size
    assert kept._packs.bytes == 2 * size
    last = kept.packs([Lora("all", scales[-1])])
    assert kept.packs([Lora("all", scales[-1])]).lora_a is last.lora_a


def test_the_cache_drops_what_was_used_longest_ago() -> None:
    cache = packs.Cache[str](10)
    cache.put("a", "A", 4), cache.put("b", "B", 4)
    assert cache.get("a") == "A"
    cache.put("c", "C", 4)
    assert (cache.get("a"), cache.get("b"), cache.get("c"), cache.bytes) == ("A", None, "C", 8)
    cache.put("d", "D", 11)
    assert (cache.get("d"), cache.get("a"), cache.bytes) == (None, "A", 8)
    cache.put("a", "AA", 6)
    assert (cache.get("a"), cache.get("c"), cache.bytes) == ("AA", "C", 10)
    assert cache.counts == {"hits": 6, "misses": 2}


def test_a_file_that_is_not_the_indexs_is_refused_and_the_next_one_works(shelf: Shelf) -> None:
    path = AdapterIndex(shelf.folder).file(shelf.entries["all"])
    whole, kept = path.read_bytes(), shelf.packs()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(AdapterError, match=f"{path} was changed"):
        kept.packs([Lora("all")])
    path.unlink()
    with pytest.raises(AdapterError, match=f"{path} cannot be read"):
        kept.packs([Lora("all")])
    path.symlink_to("/dev/zero")
    with pytest.raises(AdapterError, match="symbolic link"):
        kept.packs([Lora("all")])
    path.unlink()
    path.write_bytes(whole)
    assert kept.packs([Lora("all")]).applied


def halves(module: str, rank: int, into: int, out: int) -> dict[str, Tensor]:
    return {
        f"{PREFIX}{module}.lora_A.weight": torch.ones(rank, into),
        f"{PREFIX}{module}.lora_B.weight": torch.ones(out, rank),
    }


GOOD = halves("a", 2, 3, 5)
METADATA = {"transformer.r": 2, "transformer.lora_alpha": 2}
MISFITS = {
    "no target": ({**GOOD, **halves("d", 2, 3, 5)}, None, "d is none of the 3 linears"),
    "another width": (halves("a", 2, 4, 5), None, r"a is for a linear of \(5, 4\)"),
    "A alone": ({f"{PREFIX}a.lora_A.weight": torch.ones(2, 3)}, None, "a has no lora_B.weight"),
    "2": ({**GOOD, f"{PREFIX}a.lora_B.weight": torch.ones(5, 3)}, None, r"lora_A \[2, 3\], lora_B \[5, 3\]"),
    "other keys": ({**GOOD, f"{PREFIX}a.alpha": torch.ones(())}, None, "transformer.a.alpha is not"),
    "another rank": (halves("a", 3, 3, 5), METADATA, "a has rank 3, lora_adapter_metadata says 2"),
    **{
        f"{key} {value}": (GOOD, {**METADATA, f"transformer.{key}": value}, key)
        for key, value in (
            ("lora_alpha", True), ("lora_alpha", None), ("lora_alpha", 0), ("lora_alpha", -1),
            ("lora_alpha", float("nan")), ("lora_alpha", float("inf")), ("lora_alpha", "2"),
            ("r", True), ("r", 0), ("use_dora", True), ("use_rslora", True), ("bias", "all"),
            ("lora_bias", True), ("modules_to_save", ["x"]), ("alpha_pattern", {"(a+)+": 1}),
            ("alpha_pattern", [1]), ("alpha_pattern", {"a": False}), ("rank_pattern", {"a": 1e400}),
        )
    },
}  # fmt: skip


@pytest.mark.parametrize("name", MISFITS)
def test_a_file_that_does_not_fit_is_refused_with_its_key(name: str, tmp_path: Path) -> None:
    tensors, metadata, why = MISFITS[name]
    shelf = Shelf(tmp_path / "store")
    said = {"lora_adapter_metadata": json.dumps(metadata)} if metadata else None
    shelf.put("odd", save(tensors, said), 2, (len(tensors) + 1) // 2)
    with pytest.raises(AdapterError, match=f"{shelf.folder}.*{why}"):
        shelf.packs().packs([Lora("odd")])


def test_a_file_with_fewer_modules_than_the_index_says_is_refused(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "store")
    shelf.put("odd", save(halves("a", 2, 3, 5)), 2, 3)
    with pytest.raises(AdapterError, match="has rank 2 and 1 modules, the index says 2 and 3"):
        shelf.packs().packs([Lora("odd")])


def test_feeding_an_engine_needs_no_diffusers() -> None:
    code = "import sys, diffusion.adapters; print({'diffusers', 'transformers', 'peft'} & {*sys.modules})"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "set()"
