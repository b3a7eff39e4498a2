"""Imports point one way: what is simple knows nothing of what is built on it."""

import ast
import subprocess
import sys
from collections import Counter, defaultdict
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import evalscope_evalflow

PACKAGE = Path(evalscope_evalflow.__file__).parent
NAME = PACKAGE.name
FILES = sorted(PACKAGE.rglob("*.py"))
MOST_LINES = 400

# From the top to the bottom: a package imports only from those below it (docs/contributing/architecture.md).
LAYERS = [
    "testing",
    "cli",
    "plugin",
    "notebook",
    "sweep",
    "run",
    "results",
    "display",
    "backends",
    "worker",
    "serving",
    "devices",
    "processes",
    "engines",
    "state",
    "config",
    "events",
    "errors",
    "terminal_text",
]
# What runs in the worker, in environments that lack our dependencies. It may import only itself and `events`.
HALF_ENDINGS = ("worker", "answers", "judging", "report", "data", "client", "files", "verdicts", "patching", "scoring")
WORKER_HALVES = sorted(
    {
        *(PACKAGE / "worker").glob("*.py"),
        *(PACKAGE / "events").glob("*.py"),
        *(
            path
            for path in (PACKAGE / "backends").glob("*/*.py")
            if path.stem.endswith(
                (
                    "_scoring",
                    "_worker",
                    "_answers",
                    "_judging",
                    "_report",
                    "_data",
                    "_client",
                    "_files",
                    "_verdicts",
                    "_patching",
                )
            )
            or path.stem == "benchmark_identity"
        ),
    }
)
LAUNCHERS = sorted((PACKAGE / "engines").glob("*_launcher.py"))


def name(path):
    return str(path.relative_to(PACKAGE))


def module_of(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join([NAME, *parts]).removesuffix(".__init__")


MODULES = {module_of(path) for path in FILES}


def imports(path, *, module_level=False):
    """Full names of what a file imports; what is only for type checkers is left out."""
    found = set()

    def visit(node):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.orelse:
                visit(child)
            return
        if module_level and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name(path)} imports by dots"
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return found


def layer(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def layers_used(path):
    parts = (imported.split(".") for imported in imports(path))
    return {item[1] for item in parts if item[0] == NAME and len(item) > 1 and item[1] in LAYERS} - {layer(path)}


def uses(path, package, **options):
    return any(item == package or item.startswith(f"{package}.") for item in imports(path, **options))


def test_the_check_itself_sees_imports():
    assert "serving" in layers_used(PACKAGE / "run" / "attempt.py")
    assert "config" in layers_used(PACKAGE / "engines" / "base.py")
    assert uses(PACKAGE / "plugin" / "stock_reports.py", "evalscope", module_level=True)
    native = PACKAGE / "backends" / "native" / "native_worker.py"
    assert uses(native, "evalscope")
    assert not uses(native, "evalscope", module_level=True)
    assert native in WORKER_HALVES


def test_every_package_has_its_place_and_nothing_else_is_at_the_top():
    units = {path.name for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert units - {"__init__.py", "__main__.py"} == {*LAYERS[:-2], *(f"{name}.py" for name in LAYERS[-2:])}


@pytest.mark.parametrize("number", range(len(LAYERS)), ids=LAYERS)
def test_a_layer_imports_only_from_those_below_it(number):
    above = set(LAYERS[:number])
    found = {name(path): layers_used(path) & above for path in FILES if layer(path) == LAYERS[number]}
    assert {path: used for path, used in found.items() if used} == {}


def test_no_module_imports_itself_by_way_of_others():
    graph = defaultdict(set)
    for path in FILES:
        if path.name != "__init__.py":
            graph[module_of(path)] |= (imports(path, module_level=True) & MODULES) - {module_of(path)}
    packages = {module_of(path) for path in FILES if path.name == "__init__.py"}
    for module in graph:
        graph[module] -= packages
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"cycle: {' -> '.join(error.args[1])}")


def test_no_two_modules_share_a_name():
    names = Counter(path.stem for path in FILES if path.stem not in ("__init__", "__main__", "base"))
    names.update({folder.name for folder in PACKAGE.rglob("*") if (folder / "__init__.py").exists()})
    assert [stem for stem, number in names.items() if number > 1] == []


def test_no_file_is_longer_than_one_can_read_unless_it_says_why():
    texts = {name(path): path.read_text(encoding="utf-8") for path in FILES}
    reasons = {file: " ".join((ast.get_docstring(ast.parse(text)) or "").split()) for file, text in texts.items()}
    long = [file for file, text in texts.items() if text.count("\n") > MOST_LINES]
    assert [file for file in long if "over 400 lines" not in reasons[file]] == []


def test_only_the_plugin_and_the_worker_know_evalscope():
    users = {path for path in FILES if uses(path, "evalscope")}
    assert {path for path in users if layer(path) != "plugin"} <= set(WORKER_HALVES)


def test_only_what_runs_inside_evalscope_imports_it_at_once():
    users = {name(path) for path in FILES if uses(path, "evalscope", module_level=True)}
    assert users <= {"plugin/scored_report.py", "plugin/stock_reports.py", "plugin/seams.py", "plugin/startup.py"}


@pytest.mark.parametrize("path", [*WORKER_HALVES, *LAUNCHERS], ids=name)
def test_what_runs_in_another_environment_needs_only_the_standard_library_at_once(path):
    """That environment may have none of our packages, nor ours."""
    used = imports(path, module_level=True)
    ours = {item for item in used if item.split(".")[0] == NAME}
    assert {item.split(".")[0] for item in used - ours} <= set(sys.stdlib_module_names)
    halves = {module_of(half) for half in WORKER_HALVES} if path in WORKER_HALVES else set()
    packages = {f"{NAME}.worker", f"{NAME}.events", f"{NAME}.backends.native", f"{NAME}.backends.vlmevalkit"}
    modules = {item for item in ours if item in MODULES}
    assert modules - packages <= halves


@pytest.mark.parametrize("file", ["processes/guard.py", "engines/options/dump_options.py"])
def test_what_is_run_by_its_path_needs_only_the_standard_library(file):
    assert {item.split(".")[0] for item in imports(PACKAGE / file)} <= set(sys.stdlib_module_names)


def test_what_every_interpreter_imports_at_its_start_is_next_to_nothing():
    assert imports(PACKAGE / "plugin" / "startup.py", module_level=True) == {"os", "sys"}


@pytest.mark.parametrize("module", ["cli", "sweep", "plugin.evalflow_backend"])
def test_nothing_slow_is_imported_before_an_engine_is_started(module):
    slow = ("evalscope", "torch", "openai", "pandas", "numpy", "httpx", "transformers", "xllamacpp", "vllm", "pynvml")
    code = f"import sys, {NAME}.{module}; print(*[name for name in {slow!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == []
