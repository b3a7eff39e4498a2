"""Checkpoints written in random pieces, orders, renames, pauses and deletions, with restarts of the watcher between."""

import json
import os
import random
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import checkpoints
import pytest

from evalscope_evalflow.config import DeployConfig
from evalscope_evalflow.config.watch_settings import WatchConfig
from evalscope_evalflow.run.checkpoint_changes import differences, facts_of
from evalscope_evalflow.sweep.watching.found_matches import WatchedTask
from evalscope_evalflow.sweep.watching.match_book import RELOOK_S, MatchBook, State
from evalscope_evalflow.sweep.watching.wholeness import why_not_whole

TRIALS = 100
QUIET_S, POLL_S, LAST_S = 20.0, 5.0, 4000.0
TENSORS = [(f"layers.{number}.weight", "BF16", (16, 4)) for number in range(6)]


def whole_files(folder: Path, sharded: bool, seed: int) -> dict[str, bytes]:
    """What a checkpoint has in the end, by file names."""
    made = folder.parent / f".made-{folder.name}"
    made.mkdir(parents=True)
    config = {"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 4096}
    (made / "config.json").write_text(json.dumps(config))
    if sharded:
        places = {}
        for number in range(3):
            shard = TENSORS[2 * number : 2 * number + 2]
            name = f"model-{number + 1:05}-of-00003.safetensors"
            checkpoints.write_file(made / name, shard)
            places.update({tensor: name for tensor, _, _ in shard})
        (made / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    else:
        checkpoints.write_file(made / "model.safetensors", TENSORS)
    found = {file.name: file.read_bytes() for file in made.iterdir()}
    shutil.rmtree(made)
    small = {
        "generation_config.json": {"top_k": seed},
        "tokenizer.json": {"v": seed},
        "trainer_state.json": {"s": seed},
    }
    return found | {name: json.dumps(value).encode() for name, value in small.items()}


@dataclass
class Written:
    """One checkpoint, and the steps of its writer that are left.

    Attributes:
        path: where it is in the end.
        steps: (seconds until it is done, what it does).
        final: its files in the end; None: it is deleted.
        ended_s: when the last step was done.
        marked_s: when its marker was written.
    """

    path: Path
    steps: list = field(default_factory=list)
    final: dict | None = None
    ended_s: float | None = None
    marked_s: float | None = None


def is_written_again(written: Written) -> bool:
    return written.final is not None and b"again" in written.final["tokenizer.json"]


class Trial:
    """A trainer, and a watcher that dies now and then, on real files and with a clock of their own."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.random, self.folder, self.now = random.Random(seed), folder, 0.0
        self.marker = self.random.random() < 0.4
        self.slow = self.random.random() < 0.5  # evaluations take a while; else none keeps another one waiting
        self.sharded = self.random.random() < 0.6
        self.folder.mkdir(parents=True, exist_ok=True)
        self.writers = [self.writer(number) for number in range(1, self.random.choice((2, 3, 4)))]
        self.watched = WatchedTask(
            {
                "datasets": ["d"],
                "work_dir": str(folder / "work"),
                "evalflow": {"models": [{"path": f"{folder}/step-*"}]},
            }
        )
        self.marker_is_named = self.marker and self.random.random() < 0.5
        named = {"marker": "STABLE"} if self.marker_is_named else {}
        order = self.random.choice(("newest", "oldest"))
        self.settings = WatchConfig(quiet_s=QUIET_S, poll_s=POLL_S, order=order, **named)
        self.scores: dict[str, dict[str, str]] = {}  # what stands in the run folders: facts by name
        self.made: list[str] = []
        self.lost: list[str] = []  # scores that were withdrawn
        self.begun: dict[str, float] = {}
        self.said: list[str] = []
        self.torn_weights = self.torn_with_reference = self.torn_at_first = 0
        self.up_since = 0.0
        self.restart()

    # --- the trainer ---

    def writer(self, number: int) -> Written:
        path = self.folder / f"step-{number * 1000}"
        files = whole_files(path, self.sharded, number)
        pick = self.random
        by_rename = pick.random() < 0.2
        target = self.folder / f"tmp-{path.name}" if by_rename else path
        written = Written(path, final=files)
        pieces = []
        for name, data in files.items():
            as_temporary = pick.random() < 0.2
            cuts = sorted(pick.sample(range(1, len(data)), min(len(data) - 1, pick.choice((0, 1, 2)))))
            parts = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
            shown = f"{name}.tmp" if as_temporary else name
            steps = [("append", target / shown, part) for part in parts]
            pieces.append([*steps, *([("rename", target / shown, target / name)] if as_temporary else [])])
        pick.shuffle(pieces)
        todo = [step for piece in pieces for step in piece]
        if pick.random() < 0.3:  # in turns, piece by piece
            todo = [
                step for turn in range(max(map(len, pieces))) for piece in pieces for step in piece[turn : turn + 1]
            ]
        todo = [("mkdir", target, None), *todo]
        if by_rename:
            todo.append(("rename", target, path))
        if self.marker:
            todo.append(("marker", path / "STABLE", None))
        if pick.random() < 0.15:  # it is deleted, at any time
            todo = [*todo[: pick.randrange(2, len(todo) + 1)], ("delete", path, target)]
            written.final = None
        elif pick.random() < 0.15:  # training goes back, and writes it again
            again = {**files, "tokenizer.json": b'{"v": "again"}'}
            todo.append(("wait", None, None))
            todo += [("remove", path / "STABLE", None)] if self.marker else []
            todo += [("rewrite", path / "tokenizer.json", again["tokenizer.json"])]
            todo += [("marker", path / "STABLE", None)] if self.marker else []
            written.final = again
        begins = number * pick.uniform(50, 150)
        pause = lambda: pick.choice((0.1, 0.5, 2.0, *([QUIET_S * 2] if pick.random() < 0.3 else [])))  # noqa: E731
        at = begins
        for step in todo:
            at += pick.uniform(150, 400) if step[0] == "wait" else pause()
            written.steps.append((at, step))
        return written

    def write(self, written: Written) -> None:
        at, (what, place, more) = written.steps.pop(0)
        self.now = at
        if what == "mkdir":
            place.mkdir(parents=True)
        elif what == "append":
            with place.open("ab") as file:
                file.write(more)
        elif what == "rewrite":
            place.write_bytes(more)
        elif what == "rename":
            place.rename(more)
            place = more
        elif what == "marker":
            place.touch()
            written.marked_s = at
        elif what == "remove":
            place.unlink()
        elif what == "delete":
            shutil.rmtree(place, ignore_errors=True)
            shutil.rmtree(more, ignore_errors=True)
        if what not in ("wait", "remove", "delete") and place.is_file():  # the real clock is too coarse for so many
            os.utime(place, ns=(int(at * 1e9), int(at * 1e9)))
        if not written.steps:
            written.ended_s = at

    # --- the watcher ---

    def restart(self) -> None:
        """A new process: it knows what is in the run folders, and nothing else."""
        self.up_since, self.running = self.now, None
        self.book = MatchBook(self.settings, self.why_not, self.said.append, self.recall, self.changed)

    def why_not(self, match, files, before):
        return why_not_whole(match.model, DeployConfig(), files, self.settings.marker, before)

    def recall(self, match):
        return match.name in self.scores and not self.changed(match)

    def changed(self, match):
        before = self.scores.get(match.name)
        if before is None or not differences(before, facts_of(match.model), deleted_counts=False):
            return False
        del self.scores[match.name]
        self.lost.append(match.name)
        return True

    def look(self) -> None:
        self.book.look(self.watched.matches(), self.now, 0)
        if self.running is not None and self.now >= self.running[2]:
            self.finish()
        if self.running is None:
            for match in self.book.next_round()[:1]:
                facts = facts_of(match.model)
                if self.book.is_as_it_was(match):
                    self.begun[match.name] = self.now
                    self.running = match, facts, self.now + (self.random.uniform(5, 60) if self.slow else 0.0)
                    if not self.slow:
                        self.finish()

    def finish(self) -> None:
        match, facts, _ = self.running
        self.running = None
        if differences(facts, facts_of(match.model), deleted_counts=False):
            self.book.settle(match.name, State.WRITING, "", self.now)
            return
        self.scores[match.name] = facts
        self.made.append(match.name)
        self.book.settle(match.name, State.DONE, "", self.now)
        self.note_if_torn(match.name)

    def note_if_torn(self, name: str) -> None:
        """A score stands now: are its weights, and all of its files, those of the whole checkpoint?"""
        written = next(item for item in self.writers if item.path.name == name)
        there = {file.name: file.read_bytes() for file in written.path.iterdir()} if written.path.exists() else None
        if there is None or written.final is None:
            return
        if any(there.get(file) != data for file, data in written.final.items() if "safetensors" in file):
            self.torn_weights += 1
        first = not any(other != name for other in self.made)
        rewritten_later = any(step[0] == "rewrite" for _, step in written.steps)
        differs = any(there.get(file) != data for file, data in written.final.items())
        if differs and not rewritten_later:
            self.torn_at_first += first
            self.torn_with_reference += not first

    def run(self) -> None:
        look_s = 0.0
        restarts = sorted(self.random.uniform(50, 900) for _ in range(self.random.choice((0, 1, 3))))
        while self.now < LAST_S:
            steps = [written for written in self.writers if written.steps]
            next_write = min(steps, key=lambda item: item.steps[0][0], default=None)
            write_s = next_write.steps[0][0] if next_write else LAST_S
            if restarts and restarts[0] < min(write_s, look_s):
                self.now = restarts.pop(0)
                down_s = self.random.choice((0.0, 3.0, 60.0))
                self.restart()
                look_s = self.up_since = self.now + down_s
            elif write_s <= look_s:
                self.write(next_write)
            else:
                self.now = look_s
                self.look()
                # a thread looks on while a checkpoint is evaluated, so the rhythm is the same
                pause = self.book.next_look_s(self.now)
                look_s = self.now + min(pause, max(0.0, self.running[2] - self.now) if self.running else pause)
                if not steps and not restarts and self.running is None and self.now > self.quiet_by():
                    return

    def quiet_by(self) -> float:
        """When all that the trainer has written has to be evaluated."""
        ended = max([self.up_since, *(written.ended_s or 0.0 for written in self.writers)])
        return ended + RELOOK_S + 3 * QUIET_S + 4 * POLL_S + (300 if self.slow else 0)


@pytest.fixture(scope="module")
def trials(tmp_path_factory):
    found = []
    for seed in range(TRIALS):
        trial = Trial(tmp_path_factory.mktemp(f"trial-{seed}"), seed)
        trial.run()
        found.append(trial)
    return found


def test_the_trials_have_what_they_are_to_show(trials):
    written = [item for trial in trials for item in trial.writers]
    assert sum(item.final is None for item in written) >= 10
    assert sum(trial.marker for trial in trials) >= 25
    assert sum(trial.sharded for trial in trials) >= 40
    assert sum(bool(trial.lost) for trial in trials) >= 5


def test_each_whole_checkpoint_has_one_score_and_it_is_of_its_final_files(trials):
    for number, trial in enumerate(trials):
        for written in trial.writers:
            name = written.path.name
            if written.final is None:
                continue
            match = next(item for item in trial.watched.matches() if item.name == name)
            assert trial.scores.get(name) == facts_of(match.model), (number, name, trial.said)
            standing = trial.made.count(name) - trial.lost.count(name)
            assert standing == 1, (number, name)


def test_no_score_is_of_torn_weights_or_of_less_than_the_checkpoint_before_has(trials):
    assert sum(trial.torn_weights for trial in trials) == 0
    assert sum(trial.torn_with_reference for trial in trials) == 0


def test_with_a_marker_nothing_is_ever_taken_back_unless_it_is_written_again(trials):
    for trial in trials:
        again = {item.path.name for item in trial.writers if is_written_again(item)}
        if trial.marker_is_named:
            assert set(trial.lost) <= again


def test_evaluation_begins_within_the_poll_interval_of_the_marker_or_of_the_quiet(trials):
    late = []
    for number, trial in enumerate(trials):
        if trial.slow:  # others may be evaluated before
            continue
        for written in trial.writers:
            if written.final is None or is_written_again(written):
                continue
            since = written.marked_s if trial.marker else written.ended_s
            allowed = POLL_S + 2 + (0 if trial.marker else QUIET_S)
            begun, up = trial.begun[written.path.name], trial.up_since
            if up <= since and begun - since > allowed:
                late.append((number, written.path.name, begun - since))
    assert late == []


def test_what_was_deleted_before_its_turn_is_said_once(trials):
    said = [line for trial in trials for line in trial.said if "deleted before its turn" in line]
    assert said
    for trial in trials:
        lines = [line for line in trial.said if "deleted before its turn" in line]
        assert len(lines) == len(set(lines))
