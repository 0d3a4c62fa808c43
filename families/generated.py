"""Files that specs decide: written, or compared with what is there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def differing(wanted: Mapping[Path, str]) -> dict[Path, str]:
    """Those of `wanted`, path -> text, that are absent or not so."""
    return {path: text for path, text in wanted.items() if not path.is_file() or path.read_text() != text}


def settle(wanted: Mapping[Path, str], check: bool, command: str) -> int:
    """Writes what differs and names it; with `check` only names it, with `command` to mend it, and fails."""
    files = differing(wanted)
    for path, text in files.items():
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        print(f"{path}: {f'differs from families/; run `{command}`' if check else 'written'}")
    return 1 if check and files else 0
