"""`python -m finetune adapters add|list|remove|verify`: the commands on a store of adapters."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from diffusion.adapters.canonical import check_targets
from diffusion.adapters.packs import read_kept
from families import FAMILIES
from families.adapters import LORA_SCALE, STORE, AdapterEntry, AdapterError, store_folder
from families.wording import INDUSTRIES
from finetune.store import Said, Store, open_base


def add_commands(commands: Any) -> None:
    """The parser of `adapters`, with one of its own for each command."""
    adapters = commands.add_parser("adapters", help="the store of LoRA adapters")
    each = adapters.add_subparsers(required=True)
    for name, add in (("add", _add), ("list", _list), ("remove", _remove), ("verify", _verify)):
        parser = each.add_parser(name, help=str(add.__doc__).splitlines()[0])
        parser.add_argument("--store", type=Path, default=store_folder(), help=f"${STORE}, or %(default)s")
        parser.set_defaults(run=_or_error(add(parser)))


Command = Callable[[argparse.Namespace], None]


def _or_error(command: Command) -> Command:
    """`command`, which says in one line why an adapter is refused, and fails."""

    def run(options: argparse.Namespace) -> None:
        try:
            command(options)
        except AdapterError as error:
            sys.exit(f"error: {error}")

    return run


def _add(parser: argparse.ArgumentParser) -> Command:
    """check a LoRA file, convert it to diffusers' format and keep it"""
    parser.add_argument("file", type=Path, help="safetensors of diffusers, PEFT, ai-toolkit, kohya or XLabs")
    parser.add_argument("--name", required=True, help="what requests call it")
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder of what it changes")
    for fact in ("industry", "style", "trigger"):
        parser.add_argument(f"--{fact}", help="default: what the file's metadata say")
    parser.add_argument("--scale", type=float, default=LORA_SCALE.default, help="default %(default)s")
    parser.add_argument("--replace", action="store_true", help="take the place of an adapter of that name")
    parser.add_argument(
        "--any-checkpoint", action="store_true", help="even if its metadata name another checkpoint's hash"
    )

    def run(options: argparse.Namespace) -> None:
        base = open_base(options.checkpoint)
        said = Said(options.industry, options.style, options.trigger, options.scale)
        file = options.file.resolve()  # the hub's cache holds links; inside a store they are refused
        entry = Store(options.store).add(
            file, options.name, base, said, options.replace, options.any_checkpoint
        )
        print(_line(base.family.name, options.name, entry))
        if entry.industry and entry.industry not in INDUSTRIES:
            print(f"note: '{entry.industry}' is an industry of its own; known are {', '.join(INDUSTRIES)}")

    return run


def _list(parser: argparse.ArgumentParser) -> Command:
    """what the store has"""

    def run(options: argparse.Namespace) -> None:
        families = Store(options.store).index.families()
        lines = [_line(family, name, entry) for family, of in families.items() for name, entry in of.items()]
        print("\n".join(lines) or f"{options.store} has no adapters")

    return run


def _line(family: str, name: str, entry: AdapterEntry) -> str:
    words = "; ".join(
        f"{fact} {value}"
        for fact in ("industry", "style", "trigger", "step")
        if (value := getattr(entry, fact)) is not None
    )
    return (
        f"{family} {name}: rank {entry.rank}, {entry.modules} modules, scale {entry.scale:g}, for "
        f"{entry.checkpoint}, from {entry.format}, sha256 {entry.sha256[:12]}{words and f' ({words})'}"
    )


def _remove(parser: argparse.ArgumentParser) -> Command:
    """take an adapter out, and delete the files that none has"""
    parser.add_argument("name")
    parser.add_argument("--family", choices=FAMILIES, required=True)
    return lambda options: Store(options.store).remove(options.name, FAMILIES[options.family])


def _verify(parser: argparse.ArgumentParser) -> Command:
    """hash, check and load every file"""
    parser.add_argument("--checkpoint", type=Path, help="also see whether those of its family fit it")

    def run(options: argparse.Namespace) -> None:
        base = open_base(options.checkpoint) if options.checkpoint else None
        store, faults = Store(options.store), 0
        for family, adapters in store.index.families().items():
            for name, entry in adapters.items():
                try:
                    pairs = read_kept(store.index.file(entry), entry, FAMILIES[family])
                    if base and base.family.name == family:
                        check_targets(pairs, base.targets)
                    print(f"{family} {name}: whole")
                except AdapterError as error:
                    print(f"{family} {name}: {error}")
                    faults += 1
        for path in store.unused():
            print(f"{path}: no adapter has it; `remove` deletes it")
        if faults:
            raise AdapterError(f"{faults} adapters of {options.store} are damaged")

    return run
