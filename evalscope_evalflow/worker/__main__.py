"""Run by the folder's path, in any environment that has EvalScope, whatever else is there.

EvalFlow need not be installed there, and if it is, it may be another version. So the packages that the worker's
modules name are made here, from the folders beside this file, and their own `__init__` is not executed: it would
import what this environment may lack.
"""

import os
import sys
import types

HERE = os.path.dirname(os.path.abspath(__file__))
PACKAGE = os.path.dirname(HERE)
NAME = "evalscope_evalflow"

# Python puts this folder first, and its modules would hide others of the same names.
sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != HERE]

for name, folder in ((NAME, PACKAGE), (f"{NAME}.backends", os.path.join(PACKAGE, "backends"))):
    package = types.ModuleType(name)
    package.__path__ = [folder]
    sys.modules[name] = package

if __name__ == "__main__":
    from evalscope_evalflow.worker.main import main

    main()
