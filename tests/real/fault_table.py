"""The fault matrix: what may go wrong, when, on which engine, and what has to hold afterwards.

`test_faults.py` makes each row happen. `docs/measured/faults.md` shows the rows with the seconds that they took.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

LOADING, EVALUATING, RELEASING, JUDGING = "loading", "evaluating", "releasing", "judging"
SCRIPTED, LLAMACPP, VLLM = "scripted", "llamacpp", "vllm"

# Who can be struck.
ORCHESTRATOR = "the orchestrator"
ENGINE_GUARD, WORKER_GUARD = "the engine's guard", "the worker's guard"
ENGINE, WORKER = "the engine", "the worker"
CHILD = "a child of the engine"
ENGINE_CORE = "vLLM's EngineCore"

# Acts that are no signals.
FULL_DISK, READ_ONLY, SECOND_RUN, SICK_JUDGE = "full disk", "read-only folder", "second run", "sick judge"

NASTY = ("--daemon-children", "--ignore-sigterm")  # a child and a daemon with empty environments; deaf to SIGTERM
SLOW = ("--answer-seconds", "0.25")
# What the scripted server notes the time of; the rest is so from its start.
STRIKES = {
    "--exit-after-start", "--silent-stall", "--bind-fails", "--bind-fails-once", "--die-after-requests", "--hang-after",
    "--status-for-request", "--fail-prompt", "--reject-chat",
}  # fmt: skip
FOR_EVER = ("--load-seconds", "600")


@dataclass(frozen=True)
class Row:
    """One fault.

    Attributes:
        engine: what serves.
        phase: when it happens.
        fault: it, in words.
        strike: whom a signal is sent to; empty: the script, or `act`, does it.
        signal: which one.
        act: what the test does in place of a signal.
        script: arguments for the scripted server.
        deploy: settings of the engine.
        task: settings of the task.
        code: exit code of the run; negative: the signal that ended it.
        says: what its output must hold; the first of them is how the fault is told.
        state: as run.json has it at the end; None: nobody was left to write it, or there is none.
        lost: answers that the results lack at the end; None: it ended too early to have any.
        resumes: the same command, with the fault gone, then gives an undisturbed run's results.
        after: a command that clears away what nothing was left to clear away; empty: none is needed.
    """

    engine: str
    phase: str
    fault: str
    strike: tuple[str, ...] = ()
    signal: int = signal.SIGKILL
    act: str = ""
    script: tuple[str, ...] = ()
    deploy: Mapping[str, Any] = field(default_factory=dict)
    task: Mapping[str, Any] = field(default_factory=dict)
    code: int = 1
    says: tuple[str, ...] = ()
    state: str | None = "failed"
    lost: int | None = None
    resumes: bool = False
    after: str = ""

    @property
    def id(self) -> str:
        """A name that no other row has."""
        return re.sub(r"\W+", "-", f"{self.engine} {self.phase} {self.fault}").strip("-").lower()

    @property
    def recovers(self) -> bool:
        """Whether the run itself comes through."""
        return self.code == 0

    @property
    def script_tells(self) -> bool:
        """Whether the server's log tells when it strikes."""
        return bool(STRIKES.intersection(self.script))

    @property
    def goes_on(self) -> bool:
        """Whether answers are saved after the fault."""
        return self.code in (0, 3) and self.phase in (LOADING, EVALUATING) and self.lost != self.task.get("limit", -1)

    @property
    def is_told(self) -> bool:
        """Whether something is said of the fault itself: not where nothing is lost by it, or nobody is left."""
        return self.code >= 0 and bool(self.says) and not self.says[0].startswith(SCORES)


SCORES = ("12/", "16/")  # the last words of a run that came through, which tell nothing of a fault
INTERRUPTED = "interrupted; what was saved is kept"
STOPPED = "stopped in the middle of the evaluation"
WHILE_STARTING = "stopped while it was starting"
KILLED = "it was killed by somebody"
GUARD_KILLED = "its guard process was killed"
NO_WORKER = "the EvalScope process ended without a result"


def _signal_rows(engine: str, phase: str, script: tuple[str, ...] = ()) -> list[Row]:
    """The signals to the orchestrator, in one phase."""
    rows = [
        Row(
            engine, phase, f"{number.name} to the orchestrator", (ORCHESTRATOR,), number,
            script=script, code=130, says=(INTERRUPTED,), state="interrupted", resumes=number == signal.SIGINT,
        )
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    ]  # fmt: skip
    rows.append(
        Row(
            engine, phase, "SIGKILL to the orchestrator", (ORCHESTRATOR,),
            script=script, code=-signal.SIGKILL, state=None, resumes=phase in (EVALUATING, JUDGING),
        )
    )  # fmt: skip
    return rows


_LOADING = [
    *_signal_rows(SCRIPTED, LOADING, (*NASTY, *FOR_EVER)),
    Row(
        SCRIPTED, LOADING, "SIGKILL of the engine", (ENGINE,),
        script=(*NASTY, *FOR_EVER), says=(WHILE_STARTING, "exit code 137", KILLED),
    ),
    Row(
        SCRIPTED, LOADING, "SIGKILL of the engine's guard", (ENGINE_GUARD,),
        script=("--daemon-children", "kept", *FOR_EVER), says=(WHILE_STARTING, GUARD_KILLED),
    ),
    Row(
        SCRIPTED, LOADING, "SIGKILL of the worker", (WORKER,), script=FOR_EVER,
        says=(NO_WORKER, "exit code 137", KILLED),
    ),
    Row(
        SCRIPTED, LOADING, "SIGKILL of the worker's guard", (WORKER_GUARD,), script=FOR_EVER,
        says=(NO_WORKER, GUARD_KILLED),
    ),
    Row(
        SCRIPTED, LOADING, "the engine exits", script=("--load-seconds", "1", "--exit-after-start", "3"),
        says=(WHILE_STARTING, "exit code 3", "the script says: told to end with code 3", "Change the script."),
    ),
    Row(
        SCRIPTED, LOADING, "the engine stalls", script=("--silent-stall",), deploy={"stall_timeout_s": 2},
        says=("has made no progress for 2 s", "raise deploy.stall_timeout_s"),
    ),
    Row(
        SCRIPTED, LOADING, "the engine is never healthy", script=("--unhealthy",), deploy={"stall_timeout_s": 2},
        says=("no progress for 2 s",),
    ),
    Row(
        SCRIPTED, LOADING, "the port is taken, once", script=("--bind-fails-once", "SCRATCH/bound"),
        code=0, state="complete", lost=0,
    ),
    Row(SCRIPTED, LOADING, "the port is taken, always", script=("--bind-fails",), says=("the port is taken",)),
    Row(
        SCRIPTED, LOADING, "the engine serves another name", script=("--wrong-name",),
        says=("serves not-m, not m",),
    ),
    Row(
        SCRIPTED, LOADING, "the engine refuses every chat request",
        script=("--reject-chat", "400:there is no chat template"),
        says=("refuses a chat request (400): there is no chat template", "deploy.chat_template"),
    ),
    Row(
        SCRIPTED, LOADING, "the engine refuses the key",
        deploy={"env_vars": {"SCRIPTED_API_KEY": "another"}, "stall_timeout_s": 2},
        says=("refuses the key",),
    ),
    Row(
        SCRIPTED, LOADING, "the disk is full", act=FULL_DISK, script=("--load-seconds", "1"),
        says=("cannot be written: No space left on device", "Make room, and run the same command"), resumes=True,
    ),
    Row(LLAMACPP, LOADING, "SIGINT to the orchestrator", (ORCHESTRATOR,), signal.SIGINT,
        code=130, says=(INTERRUPTED,), state="interrupted"),
    Row(LLAMACPP, LOADING, "SIGKILL to the orchestrator", (ORCHESTRATOR,), code=-signal.SIGKILL, state=None),
    Row(LLAMACPP, LOADING, "SIGKILL of the engine", (ENGINE,), says=(WHILE_STARTING, "exit code 137", KILLED)),
    Row(
        LLAMACPP, LOADING, "the model's file is damaged", task={"model": "SCRATCH/damaged.gguf"},
        says=(WHILE_STARTING, "llama.cpp cannot load the file: ", "tensor 'token_embd.weight' not found"),
    ),
]  # fmt: skip

_EVALUATING = [
    *_signal_rows(SCRIPTED, EVALUATING, (*NASTY, *SLOW)),
    Row(
        SCRIPTED, EVALUATING, "SIGKILL of the engine", (ENGINE,), script=(*NASTY, *SLOW),
        code=0, says=(STOPPED, "starting it again (1 of 2)", "12/12"), state="complete", lost=0,
    ),
    Row(
        SCRIPTED, EVALUATING, "SIGKILL of the engine's guard", (ENGINE_GUARD,),
        script=("--daemon-children", "kept", *SLOW),
        code=0, says=(STOPPED, "starting it again (1 of 2)", "12/12"), state="complete", lost=0,
    ),
    Row(
        SCRIPTED, EVALUATING, "SIGKILL of a child of the engine", (CHILD,), script=("--daemon-children", *SLOW),
        code=0, says=("12/12",), state="complete", lost=0,
    ),
    Row(
        SCRIPTED, EVALUATING, "SIGKILL of the worker", (WORKER,), script=(*NASTY, *SLOW),
        says=(NO_WORKER, "exit code 137", KILLED), resumes=True,
    ),
    Row(
        SCRIPTED, EVALUATING, "SIGKILL of the worker's guard", (WORKER_GUARD,), script=SLOW,
        says=(NO_WORKER, GUARD_KILLED),
    ),
    Row(
        SCRIPTED, EVALUATING, "the engine dies once", script=("--die-after-requests", "8"),
        code=0, says=(STOPPED, "starting it again (1 of 2)", "12/12"), state="complete", lost=0,
    ),
    Row(
        SCRIPTED, EVALUATING, "the engine dies again and again", script=("--die-after-requests", "3"),
        deploy={"max_restarts": 1},
        says=(STOPPED, "starting it again (1 of 1)", "log:", "command:"), resumes=True,
    ),
    Row(
        SCRIPTED, EVALUATING, "500, once", script=(*SLOW, "--status-for-request", "5=500"),
        code=0, says=("12/12",), state="complete", lost=0,
    ),
    Row(
        SCRIPTED, EVALUATING, "500 for one sample, always", script=(*SLOW, "--fail-prompt", "number 7=500"),
        code=3, says=("incomplete: 11 of 12 answered",), state="incomplete", lost=1, resumes=True,
    ),
    Row(
        SCRIPTED, EVALUATING, "400 for one sample", script=(*SLOW, "--fail-prompt", "number 7=400"),
        code=3, says=("incomplete: 11 of 12 answered",), state="incomplete", lost=1,
    ),
    Row(
        SCRIPTED, EVALUATING, "500 for every sample", script=("--fail-prompt", "number=500"), task={"limit": 2},
        code=3, says=("incomplete: 0 of 2 answered",), state="incomplete", lost=2,
    ),
    Row(
        SCRIPTED, EVALUATING, "a second run on the same folder", act=SECOND_RUN, script=SLOW,
        code=0, says=("12/12",), state="complete", lost=0,
    ),
    Row(
        SCRIPTED, EVALUATING, "the disk fills up", act=FULL_DISK, script=SLOW,
        says=("cannot be written: No space left on device", "Make room, and run the same command"), resumes=True,
    ),
    Row(
        SCRIPTED, EVALUATING, "the folder turns read-only", act=READ_ONLY, script=SLOW,
        says=("cannot be written: Read-only file system", "Make it writable, and run the same command"),
        state=None, resumes=True,
    ),
    *_signal_rows(LLAMACPP, EVALUATING),
    Row(
        LLAMACPP, EVALUATING, "SIGKILL of the engine", (ENGINE,),
        code=0, says=(STOPPED, "starting it again (1 of 2)", "16/16"), state="complete", lost=0,
    ),
    Row(
        LLAMACPP, EVALUATING, "SIGKILL of the engine, with no restarts left", (ENGINE,), deploy={"max_restarts": 0},
        says=(STOPPED, "engine.log"), resumes=True,
    ),
    Row(LLAMACPP, EVALUATING, "SIGKILL of the engine's guard", (ENGINE_GUARD,), deploy={"max_restarts": 0},
        says=(STOPPED, GUARD_KILLED)),
    Row(LLAMACPP, EVALUATING, "SIGKILL of the worker", (WORKER,), says=(NO_WORKER, "exit code 137", KILLED)),
    Row(LLAMACPP, EVALUATING, "SIGKILL of the worker's guard", (WORKER_GUARD,), says=(NO_WORKER, GUARD_KILLED)),
]  # fmt: skip

_RELEASING = [
    *_signal_rows(SCRIPTED, RELEASING, NASTY),
    Row(
        SCRIPTED, RELEASING, "SIGKILL of the engine", (ENGINE,), script=NASTY,
        code=0, says=("12/12",), state="complete", lost=0,
    ),
    Row(
        SCRIPTED, RELEASING, "SIGKILL of the engine's guard", (ENGINE_GUARD,),
        script=("--daemon-children", "kept", "--ignore-sigterm"), code=0, says=("12/12",), state="complete", lost=0,
    ),
]  # fmt: skip

# The engine is gone by then.
_JUDGING = [
    *_signal_rows(SCRIPTED, JUDGING),
    Row(SCRIPTED, JUDGING, "SIGKILL of the worker", (WORKER,), says=(NO_WORKER, "exit code 137", KILLED), resumes=True),
    Row(SCRIPTED, JUDGING, "SIGKILL of the worker's guard", (WORKER_GUARD,), says=(NO_WORKER, GUARD_KILLED)),
    Row(
        SCRIPTED, JUDGING, "the judge answers with 500 from now on", act=SICK_JUDGE,
        deploy={"stall_timeout_s": 5}, code=3, says=("500: the judge is unwell", "is incomplete: 12 of 12 answered"),
        state="incomplete", resumes=True,
    ),
    Row(
        SCRIPTED, JUDGING, "the disk fills up", act=FULL_DISK,
        says=("cannot be written: No space left on device", "Make room, and run the same command"), resumes=True,
    ),
]  # fmt: skip

# In the order in which they strike one and the same task: each start of vLLM takes most of a minute.
# Whether the engine's end is told first, or that it does not work any more, is a matter of tenths of a second.
_VLLM = [
    Row(VLLM, LOADING, "SIGKILL to the orchestrator", (ORCHESTRATOR,), code=-signal.SIGKILL, state=None, resumes=True),
    Row(
        VLLM, EVALUATING, "SIGKILL to the orchestrator", (ORCHESTRATOR,),
        code=-signal.SIGKILL, state=None, resumes=True,
    ),
    Row(
        VLLM, EVALUATING, "SIGKILL of vLLM's EngineCore", (ENGINE_CORE,),
        code=0, says=("starting it again (1 of 2)",), state="complete", lost=0,
    ),
    Row(
        VLLM, EVALUATING, "SIGKILL of vLLM's API server", (ENGINE,),
        code=0, says=("starting it again (2 of 2)",), state="complete", lost=0,
    ),
]  # fmt: skip

# Both dead: what is left goes with the next start of anything, or by `evalflow clean`.
_ORPHANS = [
    Row(
        SCRIPTED, phase, f"SIGKILL of the orchestrator and both guards; then {words}",
        (ORCHESTRATOR, ENGINE_GUARD, WORKER_GUARD), script=("--daemon-children", *options),
        code=-signal.SIGKILL, state=None, resumes=after == "run", after=after,
    )
    # What has lost its environment is found once the guard has written it down, which takes it a moment.
    for phase, options in ((LOADING, ("kept", *FOR_EVER)), (EVALUATING, SLOW))
    for after, words in (("clean", "`evalflow clean`"), ("run", "the same command"))
] + [
    Row(
        SCRIPTED, JUDGING, "SIGKILL of the orchestrator and the worker's guard; then the same command",
        (ORCHESTRATOR, WORKER_GUARD), code=-signal.SIGKILL, state=None, resumes=True, after="run",
    ),
    Row(
        LLAMACPP, EVALUATING, "SIGKILL of the orchestrator and both guards; then `evalflow clean`",
        (ORCHESTRATOR, ENGINE_GUARD, WORKER_GUARD), code=-signal.SIGKILL, state=None, after="clean",
    )
]  # fmt: skip

_HANGS = [
    Row(
        SCRIPTED, EVALUATING, "the engine hangs once", script=("--hang-after", "8"), deploy={"stall_timeout_s": 3},
        code=0, says=("starting it again (1 of 2)", "12/12"), state="complete", lost=0,
    ),
    Row(
        SCRIPTED, EVALUATING, "the engine hangs again and again", script=("--hang-after", "3"),
        deploy={"stall_timeout_s": 3, "max_restarts": 1}, says=("starting it again (1 of 1)",), resumes=True,
    ),
    Row(
        LLAMACPP, EVALUATING, "SIGSTOP of the engine: it hangs", (ENGINE,), signal.SIGSTOP,
        deploy={"stall_timeout_s": 10},
        code=0, says=("llamacpp hangs", "starting it again (1 of 2)", "16/16"), state="complete", lost=0,
    ),
]  # fmt: skip

ROWS: list[Row] = [*_LOADING, *_EVALUATING, *_HANGS, *_RELEASING, *_JUDGING, *_ORPHANS]
VLLM_ROWS: list[Row] = _VLLM
