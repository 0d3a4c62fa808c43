"""The store of adapters, from its writers' side: files are added and removed here.

A file is kept under its hash and never changes. The index is replaced whole: readers see the old or the new.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from diffusion.adapters import files
from diffusion.adapters.convert import Converted, convert
from families import FAMILIES, FamilySpec
from families.adapters import (
    FILES,
    LORA_SCALE,
    AdapterEntry,
    AdapterError,
    AdapterIndex,
    check_name,
    index_text,
)
from families.hashes import sha256_of_weights
from families.layers import LoraTarget, lora_targets
from families.spec import Configs

# What `python -m finetune lora` writes into a file's metadata, each as text.
FACTS = ("industry", "style", "trigger", "step", "dataset_sha256", "checkpoint", "checkpoint_sha256")


@dataclass(frozen=True)
class Base:
    """The checkpoint that an adapter is for."""

    folder: Path
    family: FamilySpec
    configs: Configs  # of the denoiser alone

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @cached_property
    def sha256(self) -> str:
        """Of the denoiser's weights."""
        return sha256_of_weights(self.folder / self.family.denoiser.folder)

    @cached_property
    def targets(self) -> tuple[LoraTarget, ...]:
        return lora_targets(self.family, self.family.denoiser, self.configs)


def open_base(folder: Path) -> Base:
    """AdapterError names what `folder` lacks of a checkpoint in diffusers' layout."""
    pipeline = _json(folder / "model_index.json").get("_class_name")
    family = next((family for family in FAMILIES.values() if family.pipeline == pipeline), None)
    if family is None:
        choices = ", ".join(family.pipeline for family in FAMILIES.values())
        raise AdapterError(f"checkpoint {folder} is of pipeline {pipeline!r}; choices: {choices}")
    denoiser = folder / family.denoiser.folder
    if not any(denoiser.glob("*.safetensors")):
        raise AdapterError(f"checkpoint {folder} has no *.safetensors in {family.denoiser.folder}")
    return Base(folder, family, {family.denoiser.folder: _json(denoiser / "config.json")})


def _json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise AdapterError(f"checkpoint file {path} cannot be read: {error}") from None
    if not isinstance(values, dict):
        raise AdapterError(f"checkpoint file {path} holds no object")
    return values


@dataclass(frozen=True)
class Said:
    """What the command line says of an adapter; where it says nothing, the file's own metadata count."""

    industry: str | None = None
    style: str | None = None
    trigger: str | None = None
    scale: float = LORA_SCALE.default


@dataclass(frozen=True)
class Store:
    """The store in `folder`, which is made when the first adapter is added."""

    folder: Path

    @property
    def index(self) -> AdapterIndex:
        return AdapterIndex(self.folder)

    def add(
        self,
        file: Path,
        name: str,
        base: Base,
        said: Said,
        replace: bool = False,
        any_checkpoint: bool = False,
    ) -> AdapterEntry:
        """Keeps `file` as `name`, in diffusers' format; the store is as before if it is refused.

        AdapterError if the file cannot be used with `base`, says that it was trained on another checkpoint
        (unless `any_checkpoint`), or if there is a `name` already (unless `replace`).
        """
        check_name(name)
        contents = files.read(file)
        _check_family(contents, base)
        converted = convert(contents, base.family, base.targets, base.configs)
        try:
            entry = _entry(contents, converted, base, said, any_checkpoint)
        except AdapterError as error:
            raise AdapterError(f"{file}: {error}") from None
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._locked():
            families = self._families()
            adapters = families[base.family.name]
            if name in adapters and not replace:
                raise AdapterError(f"{base.family.name} has an adapter {name}; --replace takes its place")
            _put(self.index.file(entry), converted.data)
            adapters[name] = entry
            self._write(families)
        return entry

    def remove(self, name: str, family: FamilySpec) -> None:
        """Takes `name` out of the index, then deletes the files that no adapter has any more."""
        with self._locked():
            families = self._families()
            if name not in families[family.name]:
                choices = ", ".join(sorted(families[family.name])) or "none"
                raise AdapterError(f"{family.name} has no adapter {name!r}; choices: {choices}")
            del families[family.name][name]
            self._write(families)
            for path in self.unused():
                path.unlink()

    def unused(self) -> list[Path]:
        """Files that no adapter has: of adapters that were replaced, which a request may still be reading."""
        used = {self.index.file(e) for adapters in self.index.families().values() for e in adapters.values()}
        return sorted({*(self.folder / FILES).glob("*.safetensors")} - used)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One writer at a time: the folder itself is the lock file."""
        try:
            descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise AdapterError(f"store {self.folder} cannot be opened: {error.strerror}") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)  # which also unlocks

    def _families(self) -> dict[str, dict[str, AdapterEntry]]:
        known = self.index.families()
        return {family: {**known.get(family, {})} for family in FAMILIES}

    def _write(self, families: Mapping[str, Mapping[str, AdapterEntry]]) -> None:
        _put(self.index.path, index_text(families).encode())


def _check_family(contents: files.Contents, base: Base) -> None:
    """AdapterError for a file in diffusers' form of another family's denoiser."""
    for family in FAMILIES.values():
        prefix = f"{family.denoiser.name}."
        key = next((key for key in contents.tensors if key.startswith(prefix)), None)
        if key and family is not base.family:
            raise AdapterError(
                f"{contents.path} is for {family.name} (it has {key[:80]}), {base.name} is {base.family.name}"
            )


def _entry(
    contents: files.Contents, converted: Converted, base: Base, said: Said, any_checkpoint: bool
) -> AdapterEntry:
    facts = {fact: contents.metadata[fact] for fact in FACTS if contents.metadata.get(fact)}
    if facts.get("checkpoint_sha256", base.sha256) != base.sha256 and not any_checkpoint:
        raise AdapterError(
            f"it was trained on {facts.get('checkpoint', 'another checkpoint')[:80]!r} "
            f"{facts['checkpoint_sha256'][:12]!r}, {base.name} is {base.sha256[:12]!r}; "
            "--any-checkpoint takes it"
        )
    return AdapterEntry(
        sha256=hashlib.sha256(converted.data).hexdigest(),
        rank=max(pair.rank for pair in converted.pairs.values()),
        modules=len(converted.pairs),
        checkpoint=base.name,
        checkpoint_sha256=base.sha256,
        format=converted.format,
        source_sha256=contents.sha256,
        scale=said.scale,
        industry=facts.get("industry") if said.industry is None else said.industry or None,
        style=facts.get("style") if said.style is None else said.style or None,
        trigger=facts.get("trigger") if said.trigger is None else said.trigger or None,
        step=_step(facts.get("step")),
        dataset_sha256=facts.get("dataset_sha256"),
    )


def _step(text: str | None) -> int | None:
    if text is not None and not (text.isascii() and text.isdigit() and len(text) < 10):
        raise AdapterError(f"its metadata has step {text[:80]!r}, which is not a number of steps")
    return None if text is None else int(text)


def _put(path: Path, data: bytes) -> None:
    """Writes `path` whole or not at all, also if the power fails."""
    path.parent.mkdir(exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        _sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    """What was renamed in `folder` stays so if the power fails."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
