"""Run by the folder's path, whatever else the environment has."""

import os
import sys

here = os.path.dirname(os.path.abspath(__file__))
# Python puts this folder first, and its modules would hide others: `secrets` is one of the standard library.
sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != here]

import importlib.util  # noqa: E402

spec = importlib.util.spec_from_file_location(
    "evalflow_worker", os.path.join(here, "__init__.py"), submodule_search_locations=[here]
)
assert spec is not None
assert spec.loader is not None
sys.modules[spec.name] = package = importlib.util.module_from_spec(spec)
spec.loader.exec_module(package)

if __name__ == "__main__":
    importlib.import_module("evalflow_worker.main").main()
