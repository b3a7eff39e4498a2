"""How easy a source tree is to find the way in, in figures; of two trees, side by side.

    python benchmarks/structure.py
    python benchmarks/structure.py OLD_TREE NEW_TREE

A tree is a folder with `evalscope_evalflow/` and `README.md` in it; the default is this one. Nothing is imported, only
parsed. The figures:

- modules at the top level of the package, without `__init__` and `__main__`;
- the longest chain of modules that import each other at import time (modules of an import cycle count together);
- the class with the most attributes of its instances (`self.name = …` in any method, and fields of dataclasses);
- parameters that are handed on under their name, without being assigned to, through a chain of four functions or more.
  Calls are resolved by names: functions and classes of the module or imported ones, methods of `self`, and of other
  objects where one class alone has a method of that name. So some are missed, in both trees alike;
- words in README.md.
"""

from __future__ import annotations

import argparse
import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

PACKAGE = "evalscope_evalflow"
LEAST_CHAIN = 4  # functions
SHOWN_CHAINS = 3
Function = (ast.FunctionDef, ast.AsyncFunctionDef)
Parameter = tuple[str, str]  # a function's full name, and the parameter's


@dataclass
class Definition:
    """A function or method.

    Attributes:
        name: its full name.
        node: its code.
        module: the module it is in.
        owner: the full name of its class; empty: a function.
    """

    name: str
    node: ast.FunctionDef | ast.AsyncFunctionDef
    module: str
    owner: str = ""

    @cached_property
    def positional(self) -> list[str]:
        """Parameters that a call may give by their place, without `self`."""
        names = [argument.arg for argument in (*self.node.args.posonlyargs, *self.node.args.args)]
        static = any(isinstance(item, ast.Name) and item.id == "staticmethod" for item in self.node.decorator_list)
        return names[1:] if self.owner and not static else names

    @cached_property
    def parameters(self) -> set[str]:
        """All parameters, without `self`."""
        return {*self.positional, *(argument.arg for argument in self.node.args.kwonlyargs)}

    @cached_property
    def unchanged(self) -> set[str]:
        """Parameters that are never assigned to."""
        stored = {
            node.id for node in ast.walk(self.node) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        }
        return self.parameters - stored


@dataclass
class Module:
    """A parsed module.

    Attributes:
        name: its full name.
        tree: its code.
        names: what its own names stand for: full names of modules, classes and functions.
    """

    name: str
    tree: ast.Module
    names: dict[str, str] = field(default_factory=dict)


class SourceTree:
    """A source tree, parsed.

    Attributes:
        root: the folder with the package and the README.
        modules: by their full names.
        definitions: functions and methods, by their full names.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.modules: dict[str, Module] = {}
        self.definitions: dict[str, Definition] = {}
        self._methods: dict[str, list[str]] = defaultdict(list)
        folder = root / PACKAGE
        if not folder.is_dir():
            raise SystemExit(f"{root}: there is no {PACKAGE}/ in it")
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            name = ".".join(parts).removesuffix(".__init__")
            self.modules[name] = Module(name, ast.parse(path.read_text(encoding="utf-8")))
        for module in self.modules.values():
            self._define(module)

    def _define(self, module: Module) -> None:
        for node in module.tree.body:
            if isinstance(node, Function):
                self._add(Definition(f"{module.name}.{node.name}", node, module.name))
                module.names[node.name] = f"{module.name}.{node.name}"
            elif isinstance(node, ast.ClassDef):
                owner = f"{module.name}.{node.name}"
                module.names[node.name] = owner
                for item in node.body:
                    if isinstance(item, Function):
                        self._add(Definition(f"{owner}.{item.name}", item, module.name, owner))
                        self._methods[item.name].append(f"{owner}.{item.name}")
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Import):
                module.names |= {alias.asname: alias.name for alias in node.names if alias.asname}
            elif isinstance(node, ast.ImportFrom) and node.module:
                module.names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}

    def _add(self, definition: Definition) -> None:
        self.definitions[definition.name] = definition

    # --- figures ---

    @property
    def top_level(self) -> int:
        """Modules at the top of the package."""
        names = [path.stem for path in (self.root / PACKAGE).glob("*.py")]
        return len([name for name in names if name not in ("__init__", "__main__")])

    @property
    def readme_words(self) -> int:
        """Words in the README."""
        path = self.root / "README.md"
        return len(path.read_text(encoding="utf-8").split()) if path.exists() else 0

    def longest_import_chain(self) -> list[str]:
        """Modules that import each other at import time, from the first to the last."""
        graph = {name: self._imports(module) - {name} for name, module in self.modules.items()}
        return longest_path(graph)

    def _imports(self, module: Module) -> set[str]:
        found: set[str] = set()
        for node in import_time_nodes(module.tree.body):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                found |= inner & self.modules.keys() or {node.module}
        return found & self.modules.keys()

    def largest_class(self) -> tuple[str, int]:
        """The class with the most attributes of its instances, and their number."""
        counts: dict[str, int] = {}
        for module in self.modules.values():
            for node in ast.walk(module.tree):
                if isinstance(node, ast.ClassDef):
                    counts[f"{module.name.removeprefix(PACKAGE + '.')}.{node.name}"] = len(instance_attributes(node))
        return max(counts.items(), key=lambda item: (item[1], item[0]))

    def chains(self) -> list[list[Parameter]]:
        """The longest chain of each parameter that enters one: functions that hand it on, LEAST_CHAIN or more."""
        graph: dict[Parameter, set[Parameter]] = defaultdict(set)
        for definition in self.definitions.values():
            for name, callee in self._handed_on(definition):
                graph[definition.name, name].add((callee, name))
        entered = {item for targets in graph.values() for item in targets}
        starts = sorted(item for item in graph if item not in entered)
        found = [longest_path(reachable(graph, start), start) for start in starts]
        return sorted((chain for chain in found if len(chain) >= LEAST_CHAIN), key=lambda chain: (-len(chain), chain))

    def _handed_on(self, definition: Definition) -> Iterator[tuple[str, str]]:
        """Parameters of a function that it passes on under the same name, with the function that gets each."""
        for call in (node for node in ast.walk(definition.node) if isinstance(node, ast.Call)):
            callee = self._callee(call, definition)
            if callee is None or callee.name == definition.name:
                continue
            given = dict(zip(callee.positional, call.args, strict=False))
            given |= {item.arg: item.value for item in call.keywords if item.arg}
            for name, value in given.items():
                handed = isinstance(value, ast.Name) and value.id == name and name in definition.unchanged
                if handed and name in callee.parameters:
                    yield name, callee.name

    def _callee(self, call: ast.Call, caller: Definition) -> Definition | None:
        """What a call calls, as far as names tell."""
        target, names = call.func, self.modules[caller.module].names
        if isinstance(target, ast.Name):
            return self._named(names.get(target.id, ""))
        if not isinstance(target, ast.Attribute):
            return None
        if isinstance(target.value, ast.Name):
            if target.value.id == "self" and f"{caller.owner}.{target.attr}" in self.definitions:
                return self.definitions[f"{caller.owner}.{target.attr}"]
            found = self._named(f"{names.get(target.value.id, '')}.{target.attr}")
            if found is not None:
                return found
        methods = self._methods[target.attr]
        return self.definitions[methods[0]] if len(methods) == 1 else None

    def _named(self, name: str) -> Definition | None:
        """The function of this full name, or the `__init__` of the class; re-exports are followed."""
        for _ in range(LEAST_CHAIN):
            if name in self.definitions:
                return self.definitions[name]
            if f"{name}.__init__" in self.definitions:
                return self.definitions[f"{name}.__init__"]
            module, _, attribute = name.rpartition(".")
            if module not in self.modules or attribute not in self.modules[module].names:
                return None
            name = self.modules[module].names[attribute]
        return None


def import_time_nodes(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that run at import time; those for type checkers do not."""
    for node in body:
        yield node
        if isinstance(node, ast.If):
            if "TYPE_CHECKING" not in ast.unparse(node.test):
                yield from import_time_nodes(node.body)
            yield from import_time_nodes(node.orelse)
        elif isinstance(node, (ast.ClassDef, ast.With)):
            yield from import_time_nodes(node.body)
        elif isinstance(node, ast.Try):
            yield from import_time_nodes([*node.body, *node.orelse, *node.finalbody])


def instance_attributes(node: ast.ClassDef) -> set[str]:
    """Names of the attributes that instances of a class have of their own."""
    found: set[str] = set()
    if any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
        fields = (item for item in node.body if isinstance(item, ast.AnnAssign))
        found |= {item.target.id for item in fields if isinstance(item.target, ast.Name) and not _is_class_var(item)}
    stored = (item for item in ast.walk(node) if isinstance(item, ast.Attribute) and isinstance(item.ctx, ast.Store))
    return found | {item.attr for item in stored if isinstance(item.value, ast.Name) and item.value.id == "self"}


def _is_class_var(item: ast.AnnAssign) -> bool:
    return "ClassVar" in ast.unparse(item.annotation)


def reachable(graph: Mapping[Parameter, set[Parameter]], start: Parameter) -> dict[Parameter, set[Parameter]]:
    """The part of a graph that can be reached from a node."""
    found: dict[Parameter, set[Parameter]] = {}
    waiting = [start]
    while waiting:
        node = waiting.pop()
        if node not in found:
            found[node] = graph.get(node, set())
            waiting += found[node]
    return found


def longest_path(graph: Mapping, start: object = None) -> list:
    """The longest path through a graph, or the longest one from a node; nodes of a cycle are taken together."""
    groups = strong_components(graph)
    group_of = {node: number for number, group in enumerate(groups) for node in group}
    best: dict[int, list] = {}
    for number, group in enumerate(groups):  # those that a group leads to come before it
        onward = {group_of[target] for node in group for target in graph[node] if target in group_of} - {number}
        rest = max((best[other] for other in onward), key=len, default=[])
        first = [start] if start in group else []
        best[number] = [*first, *sorted(set(group) - set(first)), *rest]
    if start is not None:
        return best[group_of[start]]
    return max(best.values(), key=len, default=[])


def strong_components(graph: Mapping) -> list[list]:
    """Nodes that lead to each other, together (Tarjan 1972); what a component leads to comes before it."""
    index: dict = {}
    low: dict = {}
    stack: list = []
    found: list[list] = []

    def visit(node: object) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in sorted(graph.get(node, ())):
            if target not in index:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], index[target])
        if low[node] == index[node]:
            place = stack.index(node)
            found.append(stack[place:])
            del stack[place:]

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return found


def figures(tree: SourceTree) -> dict[str, str]:
    """The figures of a tree, by what they are."""
    chain, (largest, attributes), chains = tree.longest_import_chain(), tree.largest_class(), tree.chains()
    names = {parameters[0][1] for parameters in chains}
    return {
        "modules at the top level": str(tree.top_level),
        "modules": str(len(tree.modules)),
        "longest import chain (modules)": str(len(chain)),
        "largest class (attributes)": f"{attributes} ({largest})",
        f"chains of {LEAST_CHAIN}+ functions that hand a parameter on": str(len(chains)),
        "different parameters in them": str(len(names)),
        "longest of these chains (functions)": str(max(map(len, chains), default=0)),
        "words in README.md": str(tree.readme_words),
    }


def show(trees: Sequence[SourceTree]) -> None:
    """Print a table of the trees, and their longest chains."""
    rows = [figures(tree) for tree in trees]
    titles = ["", *(("before", "after") if len(trees) == 2 else ("this tree",))]
    print("| " + " | ".join(titles) + " |")
    print("|" + "---|" * len(titles))
    for name in rows[0]:
        print("| " + " | ".join([name, *(row[name] for row in rows)]) + " |")
    for title, tree in zip(titles[1:], trees, strict=True):
        for chain in tree.chains()[:SHOWN_CHAINS]:
            functions = [function.removeprefix(f"{PACKAGE}.") for function, _ in chain]
            print(f"\n{title}: `{chain[0][1]}` through {len(chain)}: {' → '.join(functions)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trees", nargs="*", type=Path, default=[Path(__file__).parents[1]], help="one tree, or two")
    args = parser.parse_args()
    if len(args.trees) > 2:
        parser.error("one tree, or two")
    show([SourceTree(tree) for tree in args.trees])


if __name__ == "__main__":
    main()
