"""The defaults of EvalScope's benchmarks, read from their source: importing it would take seconds."""

from __future__ import annotations

import ast
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from evalscope_evalflow.config.python_source import parse


@lru_cache
def _read(folder: Path, dataset: str) -> tuple[tuple[str, Any], ...]:
    try:
        index = json.loads((folder / "benchmarks" / "_index.json").read_text(encoding="utf-8"))
        file = folder.joinpath(*index[dataset].split(".")[1:]).with_suffix(".py")
        tree = parse(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, AttributeError, SyntaxError):
        return ()
    constants = {
        target.id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call) or not ast.unparse(call.func).endswith("BenchmarkMeta"):
            continue
        given = {word.arg: word.value for word in call.keywords if word.arg}
        if _literal(given.get("name"), constants) == (dataset,):
            values = {name: _literal(value, constants) for name, value in given.items()}
            found = {name: value for name, value in _of_all(folder) if name not in given}
            found |= {name: value[0] for name, value in values.items() if value}
            return tuple(found.items())
    return ()


@lru_cache
def _of_all(folder: Path) -> tuple[tuple[str, Any], ...]:
    """The defaults that hold for every benchmark that says nothing else."""
    try:
        tree = parse((folder / "api" / "benchmark" / "meta.py").read_text(encoding="utf-8"))
    except (OSError, SyntaxError):
        return ()
    found: dict[str, Any] = {}
    for node in tree.body:
        for item in node.body if isinstance(node, ast.ClassDef) and node.name == "BenchmarkMeta" else ():
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and item.value is not None:
                value = _literal(_made_by(item.value), {})
                found |= {item.target.id: value[0]} if value else {}
    return tuple(found.items())


def _made_by(node: ast.expr) -> ast.expr:
    """What `field(default_factory=…)` makes; anything else as it is."""
    match node:
        case ast.Call(func=ast.Name(id="field"), keywords=[ast.keyword(arg="default_factory", value=made)]):
            match made:
                case ast.Lambda(body=body):
                    return body
                case ast.Name(id="list"):
                    return ast.List(elts=[], ctx=ast.Load())
                case ast.Name(id="dict"):
                    return ast.Dict(keys=[], values=[])
    return node


def benchmark_defaults(folder: Path, dataset: str) -> dict[str, Any]:
    """The defaults of a benchmark's settings that are plain values, such as `few_shot_num`; empty where its source is
    not found.

    Args:
        folder: of the `evalscope` package.
        dataset: the benchmark's name.
    """
    return dict(_read(folder, dataset))


def _literal(node: ast.expr | None, constants: dict[str, ast.expr]) -> tuple[Any, ...]:
    """The value that is written there, in a tuple; an empty one where it is no plain value."""
    if isinstance(node, ast.Name):
        node = constants.get(node.id)
    try:
        return () if node is None else (ast.literal_eval(node),)
    except ValueError:
        return ()
