"""The worker: a child process that runs the stock EvalScope task of one model, phase after phase.

It is run by its folder's path, in any environment that has EvalScope, and needs nothing else of our package; so its
modules import one another by dots. It speaks JSON lines. On its standard input, first the task:

    {"task": {…stock TaskConfig…}, "backend": "Native", "phases": ["infer", "judge"],
     "failures": {"file": …, "cause": …}, …}

Then `{"go": {"api_url": …}}` when the model can be asked, and `{"judge": {}}` when the answers may be judged. On the
descriptor EVALFLOW_STATUS_FD it says `imported`; `waiting`, when all that can be done without the model is done, and
`going`, if there is anything to ask; `answered`, if the last answer is safe before the backend's own files are
written; `predicted`, when they are; `judging`; at the end `done` or `failed`. Keys are in its environment, and in the
task only by reference.

The task starts at once; it is held where it first needs the model, so that importing EvalScope and loading data cost
nothing while the engine loads.
"""
