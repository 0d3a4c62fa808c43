"""Which names of TensorRT's Python API a source uses, and which of them a binding lacks.

The house's words tell what is TensorRT's: the module is `trt`, an object of it bears its class's name of
CLASSES. A parameter that is annotated with another type is none.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from stub_library import stub_library

CLASSES = {
    "builder": "Builder",
    "config": "IBuilderConfig",
    "context": "IExecutionContext",
    "engine": "ICudaEngine",
    "inspector": "EngineInspector",
    "layer": "ILayer",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "profile": "IOptimizationProfile",
    "runtime": "Runtime",
    "tensor": "ITensor",
    "timings": "ITimingCache",
}
# What the bindings of TensorRT 11.4 are linked to. If a later version needs more, its import names it.
LIBRARIES = ("libnvinfer.so.11", "libnvinfer_plugin.so.11", "libnvonnxparser.so.11")
ENTRY_POINTS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
)
LOOK_UP = """
import importlib, json, operator, sys

binding, names = importlib.import_module(sys.argv[1]), json.load(sys.stdin)
missing = []
for name in names:
    try:
        operator.attrgetter(name)(binding)
    except AttributeError:
        missing.append(name)
print(json.dumps(missing))
"""


def write_libraries(folder: Path) -> None:
    """Stands for TensorRT's libraries, so that its bindings import."""
    for name in LIBRARIES:
        (folder / name).write_bytes(stub_library(ENTRY_POINTS))


def missing(binding: str, names: Iterable[str], libraries: Path) -> list[str]:
    """The dotted `names` that the module `binding` lacks, which may be linked to those in `libraries`."""
    ended = subprocess.run(
        [sys.executable, "-c", LOOK_UP, binding],
        input=json.dumps(sorted(names)),
        env={**os.environ, "LD_LIBRARY_PATH": str(libraries)},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    found: list[str] = json.loads(ended.stdout)
    return found


def uses_tensorrt(source: str) -> bool:
    return any(isinstance(node, ast.Name) and node.id == "trt" for node in ast.walk(ast.parse(source)))


def names_used(source: str) -> set[str]:
    """Dotted names below `trt`: looked up there or on its objects, or overridden by subclasses."""
    tree = ast.parse(source)
    return {*_looked_up(tree, frozenset()), *_overridden(tree)}


def _looked_up(node: ast.AST, ours: frozenset[str]) -> Iterator[str]:
    """`ours` are the parameters around `node` that hold no TensorRT object."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        ours = ours | {argument.arg for argument in _arguments(node) if _is_ours(argument.annotation)}
    if isinstance(node, ast.Attribute) and (name := _name_of(node, ours)):
        yield name
    for child in ast.iter_child_nodes(node):
        yield from _looked_up(child, ours)


def _arguments(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[ast.arg]:
    return [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]


def _is_ours(annotation: ast.expr | None) -> bool:
    return annotation is not None and ast.unparse(annotation).split(".")[0] not in ("Any", "trt")


def _name_of(attribute: ast.Attribute, ours: frozenset[str]) -> str:
    """The name below `trt` that `attribute` looks up; empty if it is none of TensorRT's."""
    chain = _chain(attribute)
    if "trt" in chain[:-1]:
        return ".".join(chain[chain.index("trt") + 1 :])
    holder = next((place for place, part in enumerate(chain[:-1]) if part in CLASSES), None)
    if holder is None or chain[0] in ours:
        return ""
    return f"{CLASSES[chain[holder]]}.{chain[holder + 1]}"


def _chain(node: ast.expr) -> list[str]:
    """["self", "context", "execute_async_v3"] of self.context.execute_async_v3."""
    if isinstance(node, ast.Attribute):
        return [*_chain(node.value), node.attr]
    return [node.id] if isinstance(node, ast.Name) else [""]


def _overridden(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        bases = [_chain(base) for base in node.bases] if isinstance(node, ast.ClassDef) else []
        for base in bases:
            if base[0] == "trt":
                yield from (f"{'.'.join(base[1:])}.{name}" for name in _methods(node))


def _methods(node: ast.AST) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef) and not child.name.startswith("_"):
            yield child.name
