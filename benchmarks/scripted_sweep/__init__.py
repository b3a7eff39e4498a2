"""A sweep of scripted models, against the best schedule that there is.

scenario.py draws it from a seed, best.py finds its best schedule, simulation.py plays the scheduler's decisions through
without processes, and run.py runs it for real: `evalflow run` with engines (engine.py, server.py) and workers
(worker.py) that wait instead of working.
"""
