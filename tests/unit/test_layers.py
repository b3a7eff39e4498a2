"""Imports point one way: what is simple knows nothing of what is built on it."""

import ast
import subprocess
import sys
from collections import defaultdict
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import evalscope_evalflow

PACKAGE = Path(evalscope_evalflow.__file__).parent
NAME = PACKAGE.name
FILES = sorted(PACKAGE.rglob("*.py"))
WORKER = {path.stem for path in (PACKAGE / "worker").glob("*.py")}
UNITS = {path.stem if path.is_file() else path.name for path in PACKAGE.iterdir() if path.suffix in ("", ".py")}

TASKS = {"backends", "catalog", "failures", "ledger", "record", "report", "task", "worker", "workers"}
FLOW = {"attempt", "collect", "control", "fingerprint", "flow", "needs", "outcome", "plan", "preflight", "sweep"}
ABOVE_SERVING = TASKS | FLOW | {"cli", "demo", "doctor", "plugin", "runs", "surroundings"}
FORBIDDEN = {
    "errors": UNITS - {"errors"},
    "keys": UNITS - {"keys", "errors"},
    "config": UNITS - {"config", "keys", "errors"},
    "entries": UNITS - {"entries", "errors"},
    "engines": {"serving"} | ABOVE_SERVING,
    "serving": ABOVE_SERVING,
    "worker": UNITS - {"worker"},
    "backends": {"serving", "engines", "cli", "plugin", "report", "workers"} | FLOW,
    "runs": FLOW | {"cli", "doctor", "plugin"},
    "signals": UNITS - {"signals"},
    "control": UNITS - {"control", "errors"},
    "flow": {"cli", "doctor", "plan", "plugin", "sweep"},
    "sweep": {"cli", "doctor", "plugin"},
    "report": {"serving", "cli", "plugin"} | FLOW,
    "plugin": {"cli"},
}


def name(path):
    return str(path.relative_to(PACKAGE))


def imports(path, *, module_level=False):
    """Full names of what a file imports, relative to nothing; what is only for type checkers is left out."""
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
            # The worker's modules do, as it may run where our package is not.
            assert node.level == (unit(path) == "worker" and node.module in WORKER), f"{name(path)} imports by dots"
            module = f"{NAME}.worker.{node.module}" if node.level else node.module
            found.add(module)
            found.update(f"{module}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return found


def unit(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def units_used(path):
    parts = (imported.split(".") for imported in imports(path))
    return {item[1] for item in parts if item[0] == NAME and len(item) > 1 and item[1] in UNITS} - {unit(path)}


def uses(path, package, **options):
    return any(item == package or item.startswith(f"{package}.") for item in imports(path, **options))


def test_the_check_itself_sees_imports():
    assert "serving" in units_used(PACKAGE / "flow.py")
    assert "config" in units_used(PACKAGE / "engines" / "base.py")
    assert uses(PACKAGE / "plugin" / "results.py", "evalscope", module_level=True)
    assert uses(PACKAGE / "worker" / "native.py", "evalscope")
    assert not uses(PACKAGE / "worker" / "native.py", "evalscope", module_level=True)
    assert uses(PACKAGE / "worker" / "main.py", f"{NAME}.worker.parent")


@pytest.mark.parametrize("layer", list(FORBIDDEN))
def test_a_layer_knows_nothing_of_what_is_built_on_it(layer):
    assert layer in UNITS
    found = {name(path): units_used(path) & FORBIDDEN[layer] for path in FILES if unit(path) == layer}
    assert {path: used for path, used in found.items() if used} == {}


def test_no_imports_go_round_in_a_circle():
    graph = defaultdict(set)
    for path in FILES:
        if path.parent != PACKAGE or path.name not in ("__init__.py", "__main__.py"):
            graph[unit(path)] |= units_used(path)
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"circle: {' -> '.join(error.args[1])}")


def test_only_the_plugin_and_the_worker_know_evalscope():
    users = {name(path) for path in FILES if uses(path, "evalscope")}
    assert {unit(PACKAGE / path) for path in users} == {"plugin", "worker"}


def test_only_what_runs_inside_evalscope_imports_it_at_once():
    users = {name(path) for path in FILES if uses(path, "evalscope", module_level=True)}
    assert users <= {"plugin/results.py", "plugin/seams.py", "plugin/startup.py"}


@pytest.mark.parametrize(
    "file",
    [
        *(f"worker/{module}.py" for module in sorted(WORKER)),
        "serving/guard.py",
        "engines/llamacpp_server.py",
        "engines/lmdeploy_server.py",
        "engines/sglang_server.py",
        "engines/dump_options.py",
    ],
)
def test_what_is_run_by_its_path_needs_only_the_standard_library_at_once(file):
    """It may run in an environment that has none of our packages."""
    used = {item for item in imports(PACKAGE / file, module_level=True) if not item.startswith(f"{NAME}.worker")}
    assert {item.split(".")[0] for item in used} <= set(sys.stdlib_module_names)
    assert units_used(PACKAGE / file) == set()


def test_what_every_interpreter_imports_at_its_start_is_next_to_nothing():
    assert imports(PACKAGE / "plugin" / "startup.py", module_level=True) == {"os", "sys"}


@pytest.mark.parametrize("module", ["cli", "sweep", "plugin.backend"])
def test_nothing_slow_is_imported_before_an_engine_is_started(module):
    slow = ("evalscope", "torch", "openai", "pandas", "numpy", "httpx", "transformers", "xllamacpp", "vllm", "pynvml")
    code = f"import sys, {NAME}.{module}; print(*[name for name in {slow!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == []
