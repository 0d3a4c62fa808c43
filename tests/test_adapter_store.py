"""Adding adapters to a store: whole or not at all, each refusal with its key, by several at once."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from lora_files import CHECKPOINTS, TINY, kohya_flux, peft, written
from safetensors.torch import load_file

from diffusion.adapters import Packs
from families import FLUX, SDXL
from families.adapters import AdapterError, AdapterIndex
from families.loras import Lora
from finetune import __main__ as finetune
from finetune.store import Base, Said, Store, open_base


@pytest.fixture(scope="module")
def base() -> Base:
    return open_base(CHECKPOINTS / "flux-tiny")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def store(base: Base, tmp_path: Path) -> Store:
    """A store that has `food` already."""
    store = Store(tmp_path / "store")
    store.add(written(tmp_path / "food.safetensors", peft(base)), "food", base, Said(industry="food"))
    return store


def test_what_a_person_says_wrongly_is_refused_and_leaves_the_store_as_it_was(
    base: Base, store: Store, tmp_path: Path
) -> None:
    path, before = written(tmp_path / "good.safetensors", peft(base, seed=1)), contents(store.folder)
    for name in ("..", "a/b", "%2e", "a\0", "Food", "a" * 65, ""):
        with pytest.raises(AdapterError, match="is not of the form"):
            store.add(path, name, base, Said())
    with pytest.raises(AdapterError, match="flux has an adapter food; --replace"):
        store.add(path, "food", base, Said())
    for said in (Said(industry=" a"), Said(trigger="a\0"), Said(scale=3.0), Said(scale=float("nan"))):
        with pytest.raises(AdapterError, match=f"{path}: (industry|trigger|scale)"):
            store.add(path, "toys", base, said)
    assert contents(store.folder) == before


def test_a_file_of_another_checkpoint_is_refused_unless_told(
    base: Base, store: Store, tmp_path: Path
) -> None:
    other = "0" * 64
    path = written(
        tmp_path / "a.safetensors", peft(base, seed=1), checkpoint="flux-big", checkpoint_sha256=other
    )
    with pytest.raises(AdapterError, match=f"trained on 'flux-big' '{other[:12]}'.*--any-checkpoint"):
        store.add(path, "toys", base, Said())
    assert store.add(path, "toys", base, Said(), any_checkpoint=True).checkpoint_sha256 == base.sha256
    right = written(tmp_path / "b.safetensors", peft(base, seed=2), checkpoint_sha256=base.sha256)
    assert store.add(right, "games", base, Said()).checkpoint_sha256 == base.sha256


def test_a_files_own_facts_count_where_nothing_is_said(base: Base, store: Store, tmp_path: Path) -> None:
    facts = {"industry": "toys and games", "trigger": "pptoys", "step": "2000", "dataset_sha256": "1" * 64}
    path = written(tmp_path / "toys.safetensors", peft(base, seed=1), **facts)
    entry = store.add(path, "toys", base, Said(trigger="said", scale=0.5))
    assert (entry.industry, entry.trigger, entry.step, entry.dataset_sha256, entry.scale) == (
        "toys and games", "said", 2000, "1" * 64, 0.5,
    )  # fmt: skip
    assert AdapterIndex(store.folder).entries("flux")["toys"] == entry
    assert AdapterIndex(store.folder).file(entry).read_bytes() == path.read_bytes()
    for step in ("-1", "x", "9" * 20, "²"):
        bad = written(tmp_path / "bad.safetensors", peft(base, seed=1), step=step)
        with pytest.raises(AdapterError, match="step"):
            store.add(bad, "bad", base, Said())


def test_a_converted_file_is_kept_in_diffusers_form(base: Base, store: Store, tmp_path: Path) -> None:
    path = written(tmp_path / "k.safetensors", kohya_flux(TINY, 2, 4, rank=4, alpha=2))
    entry = store.add(path, "toys", base, Said())
    assert {*load_file(store.index.file(entry))} == {key for key in peft(base) if ".proj_out" not in key[:20]}
    assert (entry.format, entry.modules, entry.rank) == ("kohya", 52, 4)
    assert entry.source_sha256 != entry.sha256


def test_replaced_and_removed_adapters_leave_no_files_in_the_end(
    base: Base, store: Store, tmp_path: Path
) -> None:
    old = store.index.entries("flux")["food"]
    new = store.add(
        written(tmp_path / "b.safetensors", peft(base, seed=1)), "food", base, Said(), replace=True
    )
    assert store.unused() == [store.index.file(old)]  # a request may be reading it
    store.remove("food", FLUX)
    assert store.index.entries("flux") == {} and not store.index.file(new).exists() and store.unused() == []
    with pytest.raises(AdapterError, match="flux has no adapter 'food'; choices: none"):
        store.remove("food", FLUX)
    with pytest.raises(AdapterError, match="sdxl has no adapter 'food'"):
        store.remove("food", SDXL)


def test_many_adds_at_once_lose_none_while_readers_see_whole_stores(base: Base, tmp_path: Path) -> None:
    store, done = Store(tmp_path / "store"), threading.Event()
    paths = [written(tmp_path / f"{n}.safetensors", peft(base, seed=n)) for n in range(12)]

    def read() -> int:
        packs, most = Packs(store.folder, FLUX, base.targets, 16, torch.float32, "cpu", base.sha256), 0
        index = AdapterIndex(store.folder)
        while not done.is_set():
            names = [*index.entries("flux")]
            assert len(names) >= most
            most = len(names)
            for name in names[:6]:
                assert packs.packs([Lora(name)]).applied[0].modules_applied == 53
        return most

    with ThreadPoolExecutor(6) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        try:
            adds = [pool.submit(store.add, path, f"a{n}", base, Said()) for n, path in enumerate(paths)]
            assert len({add.result().sha256 for add in adds}) == 12
        finally:
            done.set()
        assert all(reader.result() >= 0 for reader in readers)
    assert {*store.index.entries("flux")} == {f"a{n}" for n in range(12)}
    assert store.unused() == [] and len(contents(store.folder)) == 13


def command(name: str, file: Path, base: Base) -> list[str]:
    facts = ["--industry", "real estate", "--scale", "0.5"]
    return ["adapters", "add", str(file), "--name", name, "--checkpoint", str(base.folder), *facts]


def test_two_processes_add_at_once_and_the_commands_tell_of_it(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("POSTPULSE_ADAPTERS", str(tmp_path / "store"))
    files = {n: written(tmp_path / f"{n}.safetensors", peft(base, seed=len(n))) for n in ("food", "games")}
    (tmp_path / "link").symlink_to(files["games"])
    files["games"] = tmp_path / "link"  # as in the hub's cache
    adds = [
        subprocess.Popen(
            [sys.executable, "-m", "finetune", *command(name, file, base)], stdout=subprocess.PIPE
        )
        for name, file in files.items()
    ]
    added = [add.communicate()[0].decode() for add in adds]
    assert [add.returncode for add in adds] == [0, 0]

    def told(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["finetune", *words])
        finetune.main()
        return capsys.readouterr().out

    assert told("adapters", "list") == "".join(added)
    assert "flux food: rank 2, 53 modules, scale 0.5, for flux-tiny, from diffusers" in added[0]
    assert (
        told("adapters", "verify", "--checkpoint", str(base.folder))
        == "flux food: whole\nflux games: whole\n"
    )
    with pytest.raises(SystemExit, match="error: flux has an adapter food"):
        told(*command("food", files["games"], base))
    index = AdapterIndex(tmp_path / "store")
    kept = index.file(index.entries("flux")["food"])
    kept.write_bytes(kept.read_bytes()[:-1] + b"\0")
    with pytest.raises(SystemExit, match="error: 1 adapters of .* are damaged"):
        told("adapters", "verify")
    assert f"flux food: {kept} was changed" in (told_of := capsys.readouterr().out)
    assert "flux games: whole" in told_of
    assert told("adapters", "remove", "food", "--family", "flux") == "" and not kept.exists()
    told("adapters", "remove", "games", "--family", "flux")
    assert told("adapters", "list") == f"{tmp_path / 'store'} has no adapters\n"
    own = told(*command("food", files["food"], base), "--industry", "foood")
    assert "note: 'foood' is an industry of its own; known are technology, " in own


@pytest.mark.parametrize(
    ("folder", "why"),
    [("assets", "model_index.json"), ("assets/checkpoints/flux-tiny/vae", "model_index.json")],
)
def test_what_is_no_checkpoint_is_named(folder: str, why: str) -> None:
    with pytest.raises(AdapterError, match=why):
        open_base(CHECKPOINTS.parent.parent / folder)
