"""For an engine's PYTHONPATH, as `sitecustomize`: writes down what routes its server has, by EVALFLOW_TEST_ROUTES."""

import importlib.abc
import importlib.machinery
import json
import os
import sys


def routes(app, before=""):
    """Kind, path and methods of each route, mounts included."""
    for route in getattr(app, "routes", None) or ():
        path = before + (getattr(route, "path", "") or "")
        yield [type(route).__name__, path, sorted(getattr(route, "methods", None) or ())]
        yield from routes(getattr(route, "app", None), path)


class _Server(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "uvicorn.server":
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        execute = spec.loader.exec_module

        def execute_and_watch(module):
            execute(module)
            begin = module.Server.__init__

            def begin_and_write(server, config):
                with open(os.environ["EVALFLOW_TEST_ROUTES"], "w", encoding="utf-8") as file:
                    json.dump(list(routes(config.app)), file)
                begin(server, config)

            module.Server.__init__ = begin_and_write

        spec.loader.exec_module = execute_and_watch
        return spec


sys.meta_path.insert(0, _Server())
