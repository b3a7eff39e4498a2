"""EvalScope's own backend: the parent half, and the half that runs in the worker."""
