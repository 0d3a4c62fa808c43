"""True-size denoisers of random weights in our loop on a GPU: a step's seconds beside their floor.

    python -m benchmarks.gpu_check                   # where there is no GPU: tiny ones, in seconds
    python -m benchmarks.gpu_check --wheels FOLDER   # what is not installed comes from a folder of wheels
    python -m benchmarks.gpu_check --keep            # rows go to benchmarks/results/ too, as lines of JSON

docs/gpu.md tells what it proves. Needs torch and diffusers, and no weights.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from benchmarks.gpu_check import wheels
from families import FAMILIES, family_named

RESULTS = Path(__file__).parent.parent / "results"
CAP_GB, MINUTES = 40.0, 8.0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_check", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--families", nargs="+", metavar="NAME", default=[*FAMILIES], choices=[*FAMILIES])
    parser.add_argument("--cap-gb", type=float, default=CAP_GB, help="of GPU memory; %(default)s")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="what is not done by then is left out")
    parser.add_argument(
        "--tiny", action="store_true", help="tiny sizes on a GPU too: does all of it run there?"
    )
    parser.add_argument(
        "--wheels", type=Path, metavar="FOLDER", help="wheels of packages that are not installed"
    )
    parser.add_argument("--keep", type=Path, nargs="?", const=RESULTS, metavar="FOLDER", help="of results")
    return parser.parse_args()


def run(options: argparse.Namespace) -> None:
    from benchmarks.gpu_check.check import plan_of, rows  # diffusers may come from the wheels
    from benchmarks.gpu_check.measure import HEADING

    families = [family_named(name) for name in options.families]
    plan = plan_of(families, int(options.cap_gb * 1e9), 60 * options.minutes, options.tiny)
    conditions = plan.conditions()
    print(", ".join(f"{name} {value}" for name, value in conditions.items() if value is not None))
    if plan.device.place.type == "cpu":
        print("ready, not run on a GPU: there is none here, so tiny denoisers run on the CPU")
    print(HEADING, flush=True)
    kept = results_file(options.keep, conditions) if options.keep else None
    for row in rows(plan, say=print):
        print(row.words(), flush=True)
        if kept:
            with kept.open("a") as file:
                file.write(row.line(conditions) + "\n")


def results_file(folder: Path, conditions: dict[str, object]) -> Path:
    """<date>-<device>.jsonl in `folder`, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    device = re.sub(r"[^a-z0-9]+", "-", str(conditions["device"]).lower()).strip("-")
    return folder / f"{conditions['date']}-{device}.jsonl"


def main() -> None:
    options = arguments()
    with wheels.importable(options.wheels):
        if reason := wheels.missing():
            raise SystemExit(f"error: {reason}")
        run(options)


if __name__ == "__main__":
    main()
