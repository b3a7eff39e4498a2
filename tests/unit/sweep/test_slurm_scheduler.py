"""The scheduler against a scripted Slurm: a thousand jobs, how often it is asked, and what it refuses."""

import gc
import os
import stat
import sys
import time
import tracemalloc
from pathlib import Path

import pytest

from evalscope_evalflow.errors import ConfigError
from evalscope_evalflow.sweep.cluster import slurm_scheduler
from evalscope_evalflow.sweep.cluster.scheduler import JobStatus, SchedulerSilent, Stage, Submission
from evalscope_evalflow.sweep.cluster.slurm_scheduler import SlurmScheduler
from evalscope_evalflow.sweep.cluster.slurm_settings import SlurmSettings
from evalscope_evalflow.sweep.device_needs import Offer

SCRIPT = Path(__file__).parents[2] / "scripted_slurm" / "command.py"
NAMES = ("sbatch", "squeue", "scontrol", "scancel", "sinfo", "srun")
NODES = 64
JOBS = 1000
SUBMIT_S = 30.0  # well below a second on an idle machine
GROWTH_BYTES = 200_000  # of memory, over many polls of a thousand jobs


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The folder of a scripted Slurm, whose commands are on PATH."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for name in NAMES:
        (commands / name).write_text(f"#!{sys.executable} -IS\n" + SCRIPT.read_text())
        (commands / name).chmod(0o755)
    folder = tmp_path / "slurm"
    folder.mkdir()
    monkeypatch.setenv("SCRIPTED_SLURM", str(folder))
    monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{os.environ['PATH']}")
    return folder


@pytest.fixture
def clock(monkeypatch):
    """The monotonic clock that the scheduler reads; it stands unless it is moved."""
    now = [1000.0]
    monkeypatch.setattr(slurm_scheduler, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def submissions(tmp_path):
    """Makes jobs with folders as the executor makes them."""

    def make(count, devices=1):
        jobs = tmp_path / "work" / "evalflow" / "jobs"
        jobs.mkdir(parents=True, exist_ok=True, mode=0o700)
        made = []
        for number in range(count):
            folder = jobs / f"model-{devices}-{number}"
            folder.mkdir(mode=0o700)
            made.append(Submission(folder.name, folder, devices))
        return made

    return make


def scheduler(**settings):
    return SlurmScheduler(SlurmSettings(python=sys.executable, **settings), lambda folder: ["true", str(folder)])


def calls(home, name):
    return [line for line in (home / "calls").read_text().splitlines() if line.split()[0] == name]


def test_a_thousand_jobs_are_submitted_within_seconds_and_asked_after_in_one_request_each(home, submissions, clock):
    slurm = scheduler()
    jobs = submissions(JOBS)
    began = time.perf_counter()
    ids = slurm.submit(jobs)
    assert time.perf_counter() - began < SUBMIT_S
    assert len(set(ids)) == JOBS
    assert len(calls(home, "sbatch")) == 2  # the cluster's arrays have 500 elements at most
    assert ids[0] == "100_0"
    assert ids[500] == "101_0"

    polls = 0
    while any(status.stage is not Stage.GONE for status in slurm.statuses(ids).values()):
        polls += 1
        clock[0] += 10
        assert polls < 2 * JOBS / NODES
    assert len(calls(home, "squeue")) == polls + 1 == -(-JOBS // NODES) + 1
    assert [line.split()[1] for line in calls(home, "scontrol")] == ["show"]
    assert {status.reason for status in slurm.statuses(ids).values()} == {"COMPLETED"}
    left = [path.name for path in (jobs[0].folder.parents[1] / "slurm").iterdir()]
    assert len(left) == 2 * 2  # the scripts of both arrays


def test_squeue_is_asked_at_most_every_ten_seconds_whoever_asks(home, submissions, clock):
    slurm = scheduler()
    ids = slurm.submit(submissions(3))
    for _ in range(50):
        slurm.statuses(ids)
    assert len(calls(home, "squeue")) == 1
    clock[0] += 9.9
    slurm.statuses(ids)
    more = slurm.submit(submissions(1, devices=0))
    assert slurm.statuses([*ids, *more])[more[0]].stage is Stage.QUEUED
    assert len(calls(home, "squeue")) == 1
    clock[0] += 0.2
    assert slurm.statuses(more)[more[0]].nodes == "gpu03"
    assert len(calls(home, "squeue")) == 2


def test_memory_is_flat_over_many_polls_of_a_thousand_jobs(home, clock, monkeypatch):
    slurm = scheduler()
    ids = [f"100_{number}" for number in range(JOBS)]
    monkeypatch.setattr(slurm, "_run", lambda command: Answer("\n".join(row(job, "RUNNING") for job in ids)))

    def polled(times):
        for _ in range(times):
            clock[0] += 10
            assert slurm.statuses(ids)[ids[-1]].stage is Stage.RUNNING
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        before = polled(3)
        assert polled(10) - before < GROWTH_BYTES
    finally:
        tracemalloc.stop()


def test_jobs_that_need_different_numbers_of_devices_are_different_arrays_and_ids_keep_their_order(home, submissions):
    slurm = scheduler()
    one, two = submissions(2, devices=1), submissions(2, devices=2)
    ids = slurm.submit([one[0], two[0], one[1], two[1]])
    assert ids == ["100_0", "101_0", "100_1", "101_1"]
    files = one[0].folder.parents[1] / "slurm"
    assert "#SBATCH --gpus-per-node=1\n" in (files / "100_submission.sh").read_text()
    assert "#SBATCH --gpus-per-node=2\n" in (files / "101_submission.sh").read_text()
    assert stat.S_IMODE(files.stat().st_mode) == 0o700


def test_a_refusal_is_in_the_clusters_own_words_and_takes_back_what_was_submitted(home, submissions):
    (home / "refuse-after").write_text("1")
    with pytest.raises(ConfigError, match=r"Slurm refuses the jobs: QOSMaxSubmitJobPerUserLimit; .*job submit limit"):
        scheduler().submit([*submissions(3), *submissions(1, devices=0)])
    (line,) = calls(home, "scancel")
    assert line.split()[1:] == ["100_0", "100_1", "100_2"]


def test_jobs_are_given_no_variable_but_those_that_are_named(home, submissions, monkeypatch):
    monkeypatch.setenv("SBATCH_EXPORT", "ALL")
    slurm = scheduler()
    (first,) = slurm.submit(submissions(1))
    (second,) = scheduler(pass_env=("HF_HOME", "HF_TOKEN")).submit(submissions(1, devices=0))
    files = slurm._files[first][0]
    assert "#SBATCH --export=NONE\n" in (files / f"{first}_submission.sh").read_text()
    assert "#SBATCH --export=HF_HOME,HF_TOKEN\n" in (files / f"{second}_submission.sh").read_text()
    assert os.environ["SBATCH_EXPORT"] == "ALL"


def test_a_controller_that_is_away_is_not_taken_for_jobs_that_have_gone(home, submissions, clock):
    slurm = scheduler()
    ids = slurm.submit(submissions(2))
    (home / "silent").touch()
    with pytest.raises(SchedulerSilent, match="Unable to contact slurm controller"):
        slurm.statuses(ids)
    with pytest.raises(SchedulerSilent):
        slurm.cancel(ids)
    (home / "silent").unlink()
    clock[0] += 10
    assert {status.stage for status in slurm.statuses(ids).values()} == {Stage.RUNNING}


def test_jobs_that_slurm_puts_back_into_the_queue_begin_as_soon_as_there_is_room(home, submissions, clock, monkeypatch):
    """Slurm lets them wait for two minutes otherwise."""
    slurm = scheduler()
    ids = slurm.submit(submissions(2))
    put_back = {job: JobStatus(Stage.QUEUED, reason="BeginTime") for job in ids}
    monkeypatch.setattr(slurm_scheduler, "read_jobs", lambda text: put_back)
    assert slurm.statuses(ids) == put_back
    assert calls(home, "scontrol")[-1] == "scontrol update JobId=100_0,100_1 StartTime=now"


def test_a_job_that_slurm_lists_no_more_keeps_the_reason_for_which_it_went(home, submissions, clock, monkeypatch):
    slurm = scheduler()
    ids = slurm.submit(submissions(1))
    monkeypatch.setattr(slurm_scheduler.SlurmScheduler, "_run", lambda *_: Answer(lines.pop(0)))
    scancel = ""
    lines = [row(ids[0], "TIMEOUT", "TimeLimit"), row(ids[0], "TIMEOUT", "TimeLimit"), scancel, "", ""]
    assert slurm.statuses(ids)[ids[0]].stage is Stage.RUNNING
    for _ in range(2):
        clock[0] += 10
        assert slurm.statuses(ids)[ids[0]].reason == "TIMEOUT (TimeLimit)"
    clock[0] += 10
    assert slurm.statuses(["77"])["77"] == JobStatus(Stage.GONE, reason="Slurm does not list it any more")


def test_a_job_that_is_listed_as_failed_for_a_moment_before_it_is_queued_again_is_not_taken_for_gone(
    home, submissions, clock, monkeypatch
):
    slurm = scheduler()
    (job,) = slurm.submit(submissions(1))
    monkeypatch.setattr(slurm_scheduler.SlurmScheduler, "_run", lambda *_: Answer(lines.pop(0)))
    lines = [row(job, "RUNNING"), row(job, "FAILED"), row(job, "PENDING", "Priority"), row(job, "FAILED")]
    stages = []
    while lines:
        stages.append(slurm.statuses([job])[job].stage)
        clock[0] += 10
    assert stages == [Stage.RUNNING, Stage.RUNNING, Stage.QUEUED, Stage.RUNNING]
    assert (slurm._files[job][0] / f"{job}_submitted.pkl").exists()


@pytest.mark.parametrize(
    ("slurm_says", "job_says", "words"),
    [
        ("", "Traceback…\nModuleNotFoundError: no torch\n", "ModuleNotFoundError: no torch"),
        ("bash: line 9: /x/python: not found\n", "", "bash: line 9: /x/python: not found"),
    ],
)
def test_a_job_that_failed_has_its_last_words_in_the_reason(
    home, submissions, clock, monkeypatch, slurm_says, job_says, words
):
    slurm = scheduler()
    (submission,) = submissions(1)
    (job,) = slurm.submit([submission])
    (slurm._files[job][0] / f"{job}_0_log.err").write_text(slurm_says)
    (submission.folder / "job.log").write_text(job_says)
    monkeypatch.setattr(
        slurm_scheduler.SlurmScheduler, "_run", lambda *_: Answer(row(job, "FAILED", "NonZeroExitCode"))
    )
    slurm.statuses([job])
    clock[0] += 10
    assert slurm.statuses([job])[job].reason == f"FAILED: {words}"


def test_a_job_that_is_given_up_is_cancelled_as_another_one_gets_its_work(home, submissions, clock, monkeypatch):
    slurm = scheduler()
    (job,) = slurm.submit(submissions(1))
    rows = {job: JobStatus(Stage.GONE, reason="NODE_FAIL")}
    monkeypatch.setattr(slurm_scheduler, "read_jobs", lambda text: rows)
    for _ in range(3):
        slurm.statuses([job])
        clock[0] += 10
    assert calls(home, "scancel") == [f"scancel {job}"]


def row(job, state, reason="None"):
    """A line of squeue's."""
    return f"{job}|{state}|gpu01|2026-01-01T00:00:00|2026-01-01T00:00:00|{reason}"


class Answer:
    """What a command printed."""

    returncode, stderr = 0, ""

    def __init__(self, stdout):
        self.stdout = stdout


def test_what_a_job_can_be_given_is_declared_or_read_from_sinfo(home):
    assert scheduler().offer() == Offer(1)
    assert scheduler(gpu_type="h100", constraint="ib&h100").offer() == Offer(1)
    assert scheduler(constraint="a100").offer() == Offer(0)
    assert len(calls(home, "sinfo")) == 3
    assert scheduler(gpus_per_node=8, gpu_bytes=80 << 30).offer() == Offer(8, 80 << 30)
    assert len(calls(home, "sinfo")) == 3


def test_what_the_cluster_does_not_have_is_reported_with_what_is_most_like_it(home):
    def problems(**settings):
        return scheduler(probe_s=0, **settings).problems([])

    assert problems() == []
    assert problems(partition="bacth") == [
        "partition 'bacth' is not on this cluster\nDid you mean 'batch'? There are: batch."
    ]
    assert problems(gpu_type="h1000")[0].endswith("Did you mean 'h100'? There are: h100.")
    assert problems(nodes=("gpu00", "gpu99"))[0].startswith("nodelist 'gpu99' is not on this cluster")


def test_without_slurm_it_says_where_to_run_or_what_to_choose(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    (problem,) = scheduler().problems([])
    assert problem.startswith("sbatch, squeue, scancel, sinfo, scontrol, srun not found\n")
    assert "executor: local" in problem
    with pytest.raises(ConfigError, match="sinfo not found"):
        scheduler().offer()


def test_nothing_is_submitted_from_a_folder_that_others_can_write(home, submissions):
    jobs = submissions(1)
    files = jobs[0].folder.parents[1] / "slurm"
    files.mkdir(mode=0o700)
    files.chmod(0o770)
    with pytest.raises(ConfigError, match="not of mode 0700"):
        scheduler().submit(jobs)
    assert not (home / "calls").exists() or not calls(home, "sbatch")
