"""Looks at the user's own data before anything starts: every file that EvalScope's own backend would read."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalscope_evalflow.backends.data_files import BrokenFile, DataFile, Patience
from evalscope_evalflow.backends.data_findings import Findings, as_notes, place
from evalscope_evalflow.backends.native.native_rows import CHECKS, Use, check_sendable
from evalscope_evalflow.config import catalog
from evalscope_evalflow.errors import Problem

if TYPE_CHECKING:
    from evalscope_evalflow.config.task import Task

# What EvalScope's LocalDataLoader reads, in the order in which it looks for them.
ENDINGS = (".jsonl", ".csv", ".tsv", ".parquet")
_SPLITS = {"general_qa": "test", "general_vqa": "test", "general_mcq": "val", "general_vmcq": "val"}
_MOST_FILES = 50  # of a folder whose files a benchmark of EvalScope's finds by itself


@dataclass(frozen=True)
class _Look:
    """What every file of a dataset is looked at with."""

    use: Use
    limit: int | float | None
    shuffled: bool
    patience: Patience
    notify: Callable[[str], None]
    bom_is_text: Callable[[Path], bool]


def data_problems(task: Task, notify: Callable[[str], None]) -> Iterator[Problem]:
    """What is wrong with local files.

    Args:
        task: the task.
        notify: is called with what may be no obstacle, and with how much was looked at, if it was not everything.
    """
    folder = catalog.evalscope_folder(task.flow.worker_env)
    patience = Patience()
    for dataset in task.datasets:
        settings = (task.stock.get("dataset_args") or {}).get(dataset) or {}
        if not isinstance(settings, Mapping):
            continue
        named = settings.get("local_path") or settings.get("dataset_id") or (dataset if dataset in CHECKS else "")
        home = Path(str(named))
        if not named or not os.path.exists(home):  # unlike Path's, it raises nothing
            continue
        source = catalog.benchmark_source(folder, dataset)
        by_name = dataset in CHECKS or "use_local_loader=True" in source
        look = _Look(
            use=_use(task, folder, dataset, source, settings, home),
            limit=task.stock.get("limit"),
            shuffled=bool(settings.get("shuffle")),
            patience=patience,
            notify=notify,
            bom_is_text=lambda path: path.suffix in (".csv", ".tsv") and not _skips_bom(folder),
        )
        if by_name:
            yield from _check_by_name(look, settings, home)
        else:
            yield from _look_around(look, home)


def _use(
    task: Task, folder: Path, dataset: str, source: str, settings: Mapping[str, Any], home: Path
) -> Use:  # fmt: skip
    judge = task.stock.get("judge") or {}
    strategy = judge.get("strategy") or "auto"
    policy = catalog.scoring_policy(folder, dataset) or ""
    judged = strategy in ("llm", "llm_recall") or (strategy == "auto" and policy.startswith("JUDGE"))
    extra = settings.get("extra_params")
    several = extra.get("multiple_correct") if isinstance(extra, Mapping) else None
    several = several.get("value") if isinstance(several, Mapping) else several
    return Use(
        dataset=dataset,
        source=source,
        ruled=task.flow.mode != "infer" and not judged,
        compares_letters=not settings.get("metric_list") and not settings.get("filters"),
        multiple_correct=bool(several),
        folder=home if os.path.isdir(home) else home.parent,
    )


def _check_by_name(look: _Look, settings: Mapping[str, Any], home: Path) -> Iterator[Problem]:
    """Files that EvalScope finds by the names of subset and split."""
    dataset = look.use.dataset
    if os.path.isfile(home):
        if not home.name.endswith(ENDINGS):
            what = f"{home} is of a kind that EvalScope does not read"
            yield Problem(f"dataset_args.{dataset}.local_path", what, f"It reads {', '.join(ENDINGS)}.")
        else:
            yield from _check_first([home], look)
        return
    split = str(settings.get("eval_split") or _named(look.use.source, "eval_split") or _SPLITS.get(dataset, "test"))
    subsets = settings.get("subset_list") or (["default"] if dataset in CHECKS else [])
    for subset, of_split in _named_by(settings, subsets, split):
        files = _candidates(home, subset, of_split)
        if files:
            yield from _check_first(files, look)
        elif dataset in CHECKS:
            what = f"{home} has no file of the subset {subset}: neither {subset}_{of_split}.jsonl nor {subset}.jsonl"
            what += " (.csv, .tsv and .parquet will do as well)"
            yield Problem(f"dataset_args.{dataset}.subset_list", what, _there_is(home))
    if dataset in CHECKS and isinstance(settings.get("few_shot_num"), int) and settings["few_shot_num"] > 0:
        yield from _few_shot_problems(look, settings, home, [str(subset) for subset in subsets])


def _named_by(settings: Mapping[str, Any], subsets: Any, split: str) -> list[tuple[str, str]]:
    """Subset and split in the names of the files that EvalScope looks for, one pair for each file."""
    listed = [str(subset) for subset in subsets] if isinstance(subsets, (list, tuple)) else []
    default = str(settings.get("default_subset") or "default")
    if settings.get("reformat_subset"):  # all subsets are in one file
        return [(default, split)]
    return [(default, subset) if settings.get("split_as_subset") else (subset, split) for subset in listed]


def subset_files(dataset: str, settings: Mapping[str, Any], home: Path) -> list[list[Path]]:
    """Of one of the general benchmarks, the files that EvalScope would read for each subset, the first with rows.

    Args:
        dataset: the benchmark.
        settings: its `dataset_args`.
        home: its `local_path`.

    Returns:
        Empty where files are found by other rules.
    """
    if dataset not in CHECKS:
        return []
    if os.path.isfile(home):
        return [[home]] if home.name.endswith(ENDINGS) else []
    split = str(settings.get("eval_split") or _SPLITS.get(dataset, "test"))
    subsets = settings.get("subset_list") or ["default"]
    found = [_candidates(home, subset, of_split) for subset, of_split in _named_by(settings, subsets, split)]
    return found if all(found) else []


def _few_shot_problems(
    look: _Look, settings: Mapping[str, Any], home: Path, subsets: Iterable[str]
) -> Iterator[Problem]:
    """Examples that are fewer than are to be shown: EvalScope finds out when it loads them."""
    split = settings.get("train_split") or _named(look.use.source, "train_split")
    if not split or "few_shot_mode='disabled'" in look.use.source:
        return
    wanted = settings["few_shot_num"]
    where = f"dataset_args.{look.use.dataset}.few_shot_num"
    for subset in subsets:
        files = _candidates(home, subset, str(split))
        if not files:
            yield Problem(where, f"{home} has no {subset}_{split}.jsonl to take examples from", _there_is(home))
            continue
        file = DataFile(files[0], look.patience)
        try:
            found = sum(1 for _ in zip(file.rows(), range(wanted), strict=False))
        except BrokenFile as error:
            yield Problem(place(look.use.dataset, files[0], error.line), error.what, error.todo)
            continue
        if found < wanted and file.whole:
            yield Problem(where, f"{files[0]} has {found} rows, and {wanted} are to be shown", "Lower it, or add rows.")


def _candidates(home: Path, subset: str, split: str) -> list[Path]:
    """The files that EvalScope would read for a subset: the first that has rows."""
    found = []
    for ending in ENDINGS:
        named = (home / f"{subset}_{split}{ending}", home / f"{subset}{ending}")
        found += [path for path in named if os.path.exists(path)][:1]
    return found


def _there_is(folder: Path) -> str:
    """What there is in a folder in place of what is missing."""
    try:
        inside = sorted(folder.iterdir())
    except OSError as error:
        return f"It cannot be read: {error.strerror}."
    files = [path.name for path in inside if os.path.isfile(path)]
    folders = [f"{path.name}/" for path in inside if os.path.isdir(path)]
    if not inside:
        return "It is empty."
    shown = ", ".join([*files, *folders][:5])
    more = len(inside) - 5
    hint = "" if files else " Name one of these folders in local_path, if the files are there."
    return f"There is {shown}{f' and {more} more' if more > 0 else ''}.{hint}"


def _check_first(paths: list[Path], look: _Look) -> Iterator[Problem]:
    """The first of some files that has rows."""
    for number, path in enumerate(paths, start=1):
        file = DataFile(path, look.patience, bom_is_text=look.bom_is_text(path))
        found = list(_check_file(file, look))
        if found or file.rows_read or not file.whole:
            yield from found
            return
        if number == len(paths):
            yield Problem(place(look.use.dataset, path), "it has no rows", "Put a question into each line.")


def _check_file(file: DataFile, look: _Look) -> Iterator[Problem]:
    dataset = look.use.dataset
    findings = Findings(dataset, file.path)
    check = CHECKS.get(dataset)
    broken = None
    try:
        for row in file.rows():

            def add(kind: str, what: str, todo: str, *, certain: bool = True, row: Any = row) -> None:
                findings.add(kind, row.number, row.line, what, todo, certain=certain)

            if check is not None:
                check(row.values, look.use, add)
            if row.halves:
                check_sendable(row.values, add)
    except BrokenFile as error:
        broken = error
        yield Problem(place(dataset, file.path, error.line), error.what, error.todo)
    sure, perhaps = findings.split(file.rows_read, _used(look.limit, file), look.shuffled)
    yield from sure
    for note in as_notes(perhaps):
        look.notify(note)
    if broken is None and file.looked_at():
        look.notify(f"{place(dataset, file.path)}: {file.looked_at()}")


def _used(limit: Any, file: DataFile) -> int | None:
    """How many of a file's rows are taken, as far as it was looked at."""
    if isinstance(limit, bool) or not isinstance(limit, (int, float)) or limit <= 0:
        return None
    if isinstance(limit, int):
        return limit
    return int(file.rows_read * limit) if limit < 1 else None  # EvalScope takes a share, of which more is all


def _look_around(look: _Look, home: Path) -> Iterator[Problem]:
    """A folder in which a benchmark finds its files by rules of its own, or a file.

    What is broken is only said, but for lines in the file that has the name of the split that is asked.
    """
    split = _named(look.use.source, "eval_split")
    inside = sorted(home.rglob("*")) if os.path.isdir(home) else [home]
    files = [path for path in inside if path.suffix in ENDINGS and os.path.isfile(path)]
    if len(files) > _MOST_FILES:
        look.notify(f"{place(look.use.dataset, home)}: the first {_MOST_FILES} of {len(files):,} files were looked at")
    for path in files[:_MOST_FILES]:
        file = DataFile(path, look.patience)
        try:
            for _row in file.rows():
                pass
        except BrokenFile as error:
            where = place(look.use.dataset, path, error.line)
            # With rows before that line, it is no JSON of another form, which EvalScope may read as well.
            if split and path == home / f"{split}.jsonl" and file.rows_read and _is_for_all(home, path.name):
                yield Problem(where, error.what, error.todo)
            else:
                look.notify(f"{where}: {error.what}")


def _is_for_all(home: Path, name: str) -> bool:
    """Whether a folder's README, which may say which files it is made of, names a file, or none at all."""
    try:
        about = (home / "README.md").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return True
    return "data_files" not in about or name in about


def _named(source: str, key: str) -> str:
    """A word that an adapter's source gives to a key, such as its `eval_split`."""
    found = re.search(rf"\b{key}=['\"]([^'\"]+)['\"]", source)
    return found[1] if found else ""


def _skips_bom(folder: Path) -> bool:
    """Whether the installed EvalScope reads tables without their byte-order mark."""
    try:
        text = (folder / "utils" / "io_utils.py").read_text(encoding="utf-8")
    except OSError:
        return True
    found = re.search(r"def csv_to_list\(.*?encoding=['\"]([\w-]+)['\"]", text, re.DOTALL)
    return found is None or found[1] != "utf-8"
