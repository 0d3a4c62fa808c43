"""Checkpoint -> runnable model repository: `python -m export --checkpoint PATH --target cpu`."""

from __future__ import annotations

import argparse
import signal
import sys
from dataclasses import replace
from pathlib import Path

from export.builders import BUILDERS, load_builder
from export.checkpoint import open_checkpoint
from export.errors import ExportError
from export.manifest import FILE_NAME
from export.memory import check_fits
from export.plan import PROMPTS, Plan
from export.process import peak_gb
from export.profile import Profile, changed
from export.status import existing, up_to_date
from export.targets import TARGETS, target_named, with_precisions
from families import FamilySpec
from families.adapters import store_folder


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m export", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="a folder in diffusers' layout")
    parser.add_argument("--target", required=True, help=f"where it is to run: {', '.join(TARGETS)}")
    parser.add_argument(
        "--components", nargs="+", default=[], metavar="NAME", help="export these anew, if unchanged too"
    )
    parser.add_argument(
        "--output", type=Path, help="the repository's folder; build/CHECKPOINT-TARGET unless told"
    )
    parser.add_argument(
        "--precision",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=PRECISION",
        help="in place of the target's own",
    )
    parser.add_argument(
        "--profile", nargs="+", action="extend", default=[], metavar="AXIS=MIN,OPT,MAX",
        help=f"sizes to build for; axes: {', '.join(Profile.__dataclass_fields__)}",
    )  # fmt: skip
    parser.add_argument(
        "--calibration-prompts", type=Path, default=PROMPTS, metavar="FILE", help="for int8, a prompt a line"
    )
    adapters = parser.add_mutually_exclusive_group()
    adapters.add_argument(
        "--without-lora", action="store_true", help="an engine that takes no adapters: every request the same"
    )
    adapters.add_argument(
        "--merge-lora", nargs="+", action="extend", default=[], metavar="NAME[:SCALE]",
        help="put these adapters into the weights, for a service of their own; it takes no others",
    )  # fmt: skip
    parser.add_argument("--adapters", type=Path, default=store_folder(), help="the store of --merge-lora")
    parser.add_argument("--cuda-graphs", action="store_true", help="of the commonest calls: docs/engines.md")
    parser.add_argument(
        "--builder", choices=BUILDERS, help="tensorrt_rtx compiles a check, not a served plan"
    )
    parser.add_argument("--force", action="store_true", help="export every component anew")
    return parser


def planned(options: argparse.Namespace) -> Plan:
    """The export that the options ask for; ExportError names what cannot be."""
    target, checkpoint = target_named(options.target), open_checkpoint(options.checkpoint)
    target = replace(target, profile=changed(target.profile, options.profile))
    target = with_precisions(target, checkpoint.family, options.precision)
    builder = options.builder or target.engine
    if target.engine == "onnxruntime" and builder != target.engine:
        raise ExportError(f"target {target.name} is not built by {builder}")
    if not options.calibration_prompts.is_file():
        raise ExportError(f"calibration prompts {options.calibration_prompts} is not a file")
    plan = Plan(
        checkpoint=checkpoint,
        target=target,
        builder=builder,
        lora=not (options.without_lora or options.merge_lora),
        cuda_graphs=options.cuda_graphs,
        prompts=options.calibration_prompts,
    )
    return with_merged(plan, options.merge_lora, options.adapters) if options.merge_lora else plan


def with_merged(plan: Plan, choices: list[str], store: Path) -> Plan:
    from export.merge import merge_of  # here, because torch takes seconds to import

    merge = merge_of(plan.checkpoint, choices, store)
    return replace(plan, merge=merge, merged=merge.applied)


def again(family: FamilySpec, names: list[str], force: bool) -> frozenset[str]:
    """The components to export even if nothing changed; ExportError names one that the family lacks."""
    known = [component.name for component in family.components]
    for name in names:
        if name not in known:
            raise ExportError(f"unknown component {name!r}; {family.name} has {', '.join(known)}")
    return frozenset(known if force else names)


def check_output(output: Path) -> None:
    """An export replaces its output: so that must be new, empty, or an earlier export."""
    if (
        output.exists()
        and not (output / FILE_NAME).is_file()
        and (not output.is_dir() or any(output.iterdir()))
    ):
        raise ExportError(
            f"output {output} exists and is no earlier export (no {FILE_NAME}); name another folder"
        )


def export(options: argparse.Namespace) -> None:
    plan = planned(options)
    if table := check_fits(plan):
        print(table)
    output = (options.output or Path("build", plan.name)).resolve()
    components = again(plan.checkpoint.family, options.components, options.force)
    check_output(output)
    if plan.builder in BUILDERS:
        load_builder(plan.builder)  # before any work
    previous = existing(output)
    if not components and up_to_date(plan, output, previous):
        print(f"{output}: up to date")
        return
    from export.build import build, heading  # here, because torch takes seconds to import

    found, names = plan.checkpoint, ", ".join(component.name for component in plan.family.components)
    print(
        f"{found.name} ({plan.checkpoint_sha256[:12]}) for {plan.target.name}: {names}\n{heading()}",
        flush=True,
    )
    build(plan, output, previous, components)
    print(f"{output}: ready; peak memory {peak_gb():.1f} GB")


def main(arguments: list[str]) -> int:
    try:
        export(parser().parse_args(arguments))
    except (ExportError, OSError) as error:
        print(f"export: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the unfinished folder is removed
    sys.exit(main(sys.argv[1:]))
