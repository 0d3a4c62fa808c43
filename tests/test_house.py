"""The house's own rules: imports point one way, code stays small, nothing names this machine."""

from __future__ import annotations

import ast
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent

# Room -> what it may import of the house. `serving` gets the manifest's reader, nothing else of `export`,
# where the adapters are and how engines take them.
ALLOWED = {
    "families": {"families"},
    "diffusion": {"diffusion", "families"},
    "export": {"export", "diffusion", "families"},
    "model_repository": {"diffusion", "families"},
    "finetune": {"finetune", "diffusion", "families"},
    "serving": {"serving", "export.manifest", "families.adapters", "families.lora"},
    "gateway": {"gateway", "families", "serving"},
    "benchmarks": {"benchmarks", "gateway", "serving", "finetune", "export", "diffusion", "families"},
    "examples": set(),
}
SHARED_LIMIT, MODEL_LIMIT = 300, 80
FORBIDDEN_TEXT = {
    # In pieces, so that this file itself names none.
    "registry host": re.compile("py" + r"pi\.org|python" + r"hosted\.org|np" + r"mjs\.org|\bdebian\.org"),
    "machine path": re.compile(
        r"(?<![\w.}])/(?:root|home|Users|tmp|work|mnt)/\w|/opt/(?:pypi|wheels)|[.]pyenv"
    ),
}


class Function(NamedTuple):
    place: str
    lines: int


@cache
def house_files() -> list[Path]:
    """What is committed or would be."""
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(listing, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


def python_files(*rooms: str) -> list[Path]:
    return [path for path in house_files() if path.suffix == ".py" and room(path) in rooms]


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0]


def short(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def line_count(path: Path) -> int:
    return len(path.read_text().splitlines())


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and dotted name of each import, inside functions too; `from a import b` counts as `a.b`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (
                (node.lineno, f"{'.' * node.level}{node.module}.{alias.name}") for alias in node.names
            )


def permitted(name: str, allowed: set[str]) -> bool:
    """`name` is not of the house, or lies in one of `allowed`."""
    return name.split(".")[0] not in ALLOWED or any(f"{name}.".startswith(f"{entry}.") for entry in allowed)


@pytest.mark.parametrize("name", ALLOWED)
def test_imports_point_one_way(name: str) -> None:
    wrong = [
        f"{short(path)}:{line} imports {imported}"
        for path in python_files(name)
        for line, imported in imports(path)
        if imported.startswith(".") or not permitted(imported, ALLOWED[name])
    ]
    assert not wrong, "\n".join(wrong)


def test_every_room_has_an_import_rule() -> None:
    rooms = {room(path) for path in house_files() if path.suffix == ".py"}
    assert not rooms - {*ALLOWED, "tests"}


def test_families_needs_the_standard_library_only() -> None:
    wrong = [
        f"{short(path)}:{line} imports {imported}"
        for path in python_files("families")
        for line, imported in imports(path)
        if imported.split(".")[0] not in {*sys.stdlib_module_names, "families"}
    ]
    assert not wrong, "\n".join(wrong)


def test_the_gateway_and_serving_never_import_torch() -> None:
    modules = [short(path)[:-3].replace("/", ".") for path in python_files("gateway", "serving")]
    names = [name.removesuffix(".__init__") for name in modules if "backends" not in name]
    code = (
        f"import sys, {', '.join(names)}; print({{'torch', 'diffusers', 'transformers'}} & {{*sys.modules}})"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (ended.stdout.strip(), ended.returncode) == ("set()", 0), ended.stdout + ended.stderr


def functions() -> list[Function]:
    found = []
    for path in python_files(*ALLOWED):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                found.append(Function(f"{short(path)}:{node.lineno} {node.name}", lines))
    return sorted(found, key=lambda function: -function.lines)


def test_functions_are_short() -> None:
    """Median at most 8 lines, 90 % at most 25."""
    found = functions()
    longest = "\n".join(f"{function.lines} lines: {function.place}" for function in found[:20])
    assert statistics.median(function.lines for function in found) <= 8, longest
    assert sum(function.lines <= 25 for function in found) >= 0.9 * len(found), longest


def test_files_are_short() -> None:
    lengths = {short(path): line_count(path) for path in house_files() if path.suffix == ".py"}
    wrong = [f"{name}: {lines} lines" for name, lines in lengths.items() if lines > SHARED_LIMIT]
    assert not wrong, "\n".join(wrong)


def test_models_are_adapters() -> None:
    """Every model.py, Triton's word for a Python model, is at most 80 lines."""
    lengths = {short(path): line_count(path) for path in house_files() if path.name == "model.py"}
    wrong = [f"{name}: {lines} lines" for name, lines in lengths.items() if lines > MODEL_LIMIT]
    assert lengths and not wrong, "\n".join(wrong)


def text_lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except UnicodeDecodeError:
        return []


def test_nothing_names_a_registry_or_this_machine() -> None:
    wrong = [
        f"{short(path)}:{number}: {what}: {found[0]}"
        for path in house_files()
        for number, line in enumerate(text_lines(path), start=1)
        for what, pattern in FORBIDDEN_TEXT.items()
        if (found := pattern.search(line))
    ]
    assert not wrong, "\n".join(wrong)
