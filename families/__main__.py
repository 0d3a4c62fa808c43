"""Rewrites the generated configs of model_repository/; `--check` only compares, and fails on a difference."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from families import FAMILIES
from families.triton import MODEL_REPOSITORY, generated_configs


def differing(repository: Path) -> dict[Path, str]:
    """Path -> wanted text of each generated file that is absent or not as the specs say."""
    wanted = {repository / path: text for path, text in generated_configs(FAMILIES)}
    return {path: text for path, text in wanted.items() if not path.is_file() or path.read_text() != text}


def write(files: dict[Path, str]) -> None:
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m families", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if a file differs")
    parser.add_argument(
        "--repository", type=Path, default=MODEL_REPOSITORY, help="the model repository's folder"
    )
    options = parser.parse_args(arguments)
    files = differing(options.repository)
    if not options.check:
        write(files)
    for path in files:
        print(f"{path}: {'differs from families/; run `python -m families`' if options.check else 'written'}")
    return 1 if options.check and files else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
