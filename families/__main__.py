"""Rewrites the generated configs of model_repository/; `--check` only compares, and fails on a difference."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from families import FAMILIES
from families.generated import settle
from families.triton import MODEL_REPOSITORY, generated_configs


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m families", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if a file differs")
    parser.add_argument(
        "--repository", type=Path, default=MODEL_REPOSITORY, help="the model repository's folder"
    )
    options = parser.parse_args(arguments)
    wanted = {options.repository / path: text for path, text in generated_configs(FAMILIES)}
    return settle(wanted, options.check, "python -m families")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
