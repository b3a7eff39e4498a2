"""The worker: a child process that runs the stock EvalScope task of one model, phase after phase.

It is run by its folder's path, in any environment that has EvalScope, and needs nothing else of this package. Parent
and worker exchange JSON lines: requests (`events/worker_requests.py`) come on standard input, events
(`events/worker_events.py`) go to the descriptor EVALFLOW_STATUS_FD. Keys are in the worker's environment, and in
requests only by reference.

    parent                        worker
    StartTask                 →   imports EvalScope, loads the data: WorkerImported, WorkerWaiting
    ModelReady                →   WorkerAsking, asks the model: AllAnswered, DatasetAnswered, AnswersSaved
    JudgeAnswers              →   WorkerJudging, scores what is saved: WorkerDone

The task starts at once; it is held where it first needs the model, so that importing EvalScope and loading data cost
nothing while the engine loads. A task that fails ends with WorkerFailed.
"""
