"""What a row of the user's own data has to be for EvalScope's general benchmarks, each as its adapter reads it.

Two kinds of rows are found: those that EvalScope fails at, and those that it asks or scores in a wrong way without a
word, such as options in a list that it does not look for.
"""

from __future__ import annotations

import ast
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from evalscope_evalflow.backends import data_images
from evalscope_evalflow.errors import nearest
from evalscope_evalflow.events import any_json

# Other names that people give to the right answer, to the question and to the options.
_ANSWERS = ("answer", "answers", "label", "labels", "target", "gold", "response", "reference", "solution", "output",
            "correct", "correct_answer", "right_answer", "ground_truth", "expected")  # fmt: skip
_QUESTIONS = ("question", "query", "prompt", "problem", "instruction", "input", "text", "content")
_OPTIONS = ("options", "choices", "option", "choice", "candidates", "answers")
_LETTERS = "ABCDEFGHIJ"  # EvalScope's general_mcq reads ten
_PLACEHOLDER = re.compile(r"<(image|video|audio)[_ ](\d{1,9})>")
_MEDIA = ("image", "video", "audio")


class Add(Protocol):
    """Takes note of something that is wrong with a row."""

    def __call__(self, kind: str, what: str, todo: str, *, certain: bool = True) -> None: ...


@dataclass(frozen=True)
class Use:
    """What is done with a dataset's rows.

    Attributes:
        dataset: the benchmark.
        source: its adapter's source text: columns that it names are none of the unknown ones.
        ruled: whether a right answer is compared with by a rule, and not by a judge or not at all.
        compares_letters: whether the rule is the one of multiple choice.
        multiple_correct: whether a row may have several right options.
        folder: the folder of the file.
    """

    dataset: str
    source: str
    ruled: bool
    compares_letters: bool
    multiple_correct: bool
    folder: Path

    def names(self, column: str) -> bool:
        """Whether the adapter reads a column of this name."""
        return f"'{column}'" in self.source or f'"{column}"' in self.source


Check = Callable[[Mapping[str, Any], Use, Add], None]


def check_choice(values: Mapping[str, Any], use: Use, add: Add) -> None:
    """A row of general_mcq."""
    _require_text(values, "question", _QUESTIONS, use, add)
    letters: list[str] = []
    for letter in _LETTERS:
        if letter not in values:
            break
        letters.append(letter)
    lists = [name for name in _OPTIONS if name in values]
    if not letters and any(use.names(name) for name in lists):
        return  # another version of EvalScope
    if not letters:
        found = f", not from `{lists[0]}`" if lists else ""
        lower = " (`a`, `b`, … are none)" if "a" in values and "b" in values else ""
        what = f"it has no options: {use.dataset} reads them from A, B, …{found}{lower}, and would ask without any"
        add("options", what, 'Write each option under its letter: {"question": …, "A": …, "B": …, "answer": "A"}.')
    for letter in letters:
        if not isinstance(values[letter], str):
            what = f"option {letter} is {_said(values[letter])}, and EvalScope takes only text"
            add("option", what, "Put it in quotation marks.")
            break
    _require_option(values, letters, [values[letter] for letter in letters], use, add)


def check_question(values: Mapping[str, Any], use: Use, add: Add) -> None:
    """A row of general_qa."""
    messages = values.get("messages")
    if messages:
        if not _are_messages(messages):
            add("messages", f"its `messages` are {_said(messages)}, and no list of messages", _AS_MESSAGES)
    else:
        question = values.get("question") or values.get("query")
        if question is None or question == "":
            _missing(values, ("question", "query", "messages"), _QUESTIONS, use, add)
        else:
            _require_content(question, "question", add)
        if values.get("system"):
            _require_content(values["system"], "system", add)
    _require_reference(values, ("answer", "response"), use, add)


def check_picture_choice(values: Mapping[str, Any], use: Use, add: Add) -> None:
    """A row of general_vmcq."""
    if values.get("question") is None:
        _missing(values, ("question",), _QUESTIONS, use, add)
    options = _listed(values.get("options"))
    if options is None:
        letters = " (A, B, … are none)" if "A" in values and "B" in values else ""
        what = f"it has no options: {use.dataset} reads them from a list `options`{letters}"
        add("options", what, 'Write {"question": …, "options": ["…", "…"], "answer": "A"}.')
        return
    names = [chr(ord("A") + n) if n < 26 else str(n - 25) for n in range(len(options))]
    _require_option(values, names, options, use, add)
    texts = [str(values.get("question") or ""), *options]
    _check_media(values, "\n".join(texts), use, add, all_kinds=True)


def check_picture_question(values: Mapping[str, Any], use: Use, add: Add) -> None:
    """A row of general_vqa."""
    messages = values.get("messages")
    if isinstance(messages, str):
        try:
            messages = any_json.loads(messages)
        except ValueError as error:
            add("messages", f"its `messages` are no JSON: {error}", "Mend them.")
            return
    if not isinstance(messages, list) or not messages:
        if "messages" in values:
            add("messages", f"its `messages` are {_said(messages)}, and would be asked as nothing", _AS_MESSAGES)
        else:
            _missing(values, ("messages",), _QUESTIONS, use, add, todo=_AS_MESSAGES)
        return
    if not _are_messages(messages):
        add("messages", "its `messages` are no list of messages", _AS_MESSAGES)
        return
    texts, pictures = [], False
    for message in messages:
        content = message.get("content")
        if isinstance(content, str) and message.get("role") == "user":
            texts.append(content)
        for part in content if isinstance(content, list) else ():
            found = part.get("image_url") if isinstance(part, dict) else None
            url = found.get("url") if isinstance(found, dict) else None
            if isinstance(url, str):
                pictures = True
                _check_file(url, "image_url", use, add)
    if not pictures:
        _check_media(values, "\n".join(texts), use, add)
    _require_reference(values, ("answer",), use, add)


_AS_MESSAGES = 'Write them as OpenAI does: {"messages": [{"role": "user", "content": "…"}], "answer": "…"}.'
CHECKS: dict[str, Check] = {
    "general_mcq": check_choice,
    "general_qa": check_question,
    "general_vmcq": check_picture_choice,
    "general_vqa": check_picture_question,
}


def check_sendable(values: Any, add: Add) -> None:
    """Whether a row's text can be sent and saved: half of a character, as JSON can write it, cannot."""
    try:
        json.dumps(values, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError as error:
        half = ascii(error.object[error.start])[1:-1]
        what = f"it has half of a character ({half}), which can be neither sent nor saved"
        add("surrogate", what, "Write the whole character, or take it out.")


def _require_text(values: Mapping[str, Any], column: str, alike: tuple[str, ...], use: Use, add: Add) -> None:
    value = values.get(column)
    if value is None:
        _missing(values, (column,), alike, use, add)
    else:
        _require_content(value, column, add)


def _require_content(value: Any, column: str, add: Add) -> None:
    """Text, or a list of parts or messages."""
    parts = isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)
    if not isinstance(value, str) and not parts:
        add(column, f"its {column} is {_said(value)}, not text", "Put it in quotation marks.")


def _are_messages(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) and "role" in item for item in value)


def _require_reference(values: Mapping[str, Any], columns: tuple[str, ...], use: Use, add: Add) -> None:
    """The right answer in words, which a judge may do without."""
    value = next((values[name] for name in columns if values.get(name)), None)
    if isinstance(value, str) or (isinstance(value, list) and all(isinstance(item, str) for item in value)):
        return
    if value is not None:
        add("answer", f"its answer is {_said(value)}, and EvalScope takes only text", "Put it in quotation marks.")
    elif use.ruled:
        _missing(values, columns, _ANSWERS, use, add, then="; whatever the model says would be scored 0")


def _require_option(values: Mapping[str, Any], letters: list[str], options: list[Any], use: Use, add: Add) -> None:
    """The right answer as the letter of an option."""
    answer = values.get("answer")
    if answer is None or (answer == "" and use.ruled):
        _missing(values, ("answer",), _ANSWERS, use, add)
        return
    if use.multiple_correct and not isinstance(answer, list):
        what = f"its answer is {_said(answer)}, and with multiple_correct it has to be a list of letters"
        add("answer", what, 'Write "answer": ["A", "C"], in JSON lines.')
        return
    given = answer if isinstance(answer, list) else [answer]
    if not all(isinstance(item, str) for item in given):
        what = f"its answer is {_said(answer)}, and EvalScope takes only text"
        add("answer", what, f"Write the letter of the right option: {_range(letters)}.")
        return
    if not use.ruled or not use.compares_letters or not letters:
        return
    if len(given) != 1 and not use.multiple_correct:
        what = f"it has {len(given)} right answers, and without multiple_correct EvalScope compares with one"
        add("answer", what, "Set dataset_args.general_mcq.extra_params: {multiple_correct: true}, or keep one.")
        return
    for item in given:
        if item.strip().upper() not in letters:
            shown = f"{item[:40]}…" if len(item) > 40 else item
            same = [letter for letter, text in zip(letters, options, strict=True) if text == item]
            what = f"its answer {shown!r} is none of its options {_range(letters)}"
            what += f" (it is the text of {same[0]})" if same else ", so that no answer is right"
            add("answer", what, "Write the letter of the right option.")
            return


def _check_media(
    values: Mapping[str, Any], text: str, use: Use, add: Add, *, all_kinds: bool = False
) -> None:  # fmt: skip
    """Pictures, videos and sounds that a text names by placeholders.

    Args:
        values: the row.
        text: what is asked.
        use: what is done with it.
        add: takes note of what is wrong.
        all_kinds: whether EvalScope looks at those that the text does not name as well.
    """
    named = {(kind, int(number)) for kind, number in _PLACEHOLDER.findall(text)}
    there = dict(_media(values))
    for kind in _MEDIA:
        several = values.get(f"{kind}s")
        read = (all_kinds or any(found == kind for found, _ in named)) and not any(found == kind for found, _ in there)
        if several and read and not isinstance(several, list):
            add(f"{kind}s", f"its `{kind}s` is {_said(several)}, not a list", f"Write it as a list, or as `{kind}_1`.")
    for kind, number in sorted(named - there.keys()):
        what = f"its text names <{kind} {number}>, and there is no {kind}_{number}: it would be asked without"
        add(f"no {kind}", what, f"Give it in `{kind}_{number}`, or take the placeholder out.")
        break
    if there and not named:
        kind, number = min(there)
        what = f"it has {kind}_{number}, but its text has no <{kind} {number}>, so it would be asked without"
        add("placeholder", what, f"Write <{kind} {number}> where it belongs.")
    for (kind, number), value in there.items():
        if not isinstance(value, (str, dict)) and (all_kinds or (kind, number) in named):
            what = f"its {kind}_{number} is {_said(value)}"
            add(f"{kind} value", what, "Give a path, an address, or base64 that begins with data:.")
        if (kind, number) not in named:
            continue  # it is not sent
        path = value.get("path") or value.get("url") if isinstance(value, dict) else value
        if isinstance(path, str):
            _check_file(path, f"{kind}_{number}", use, add)


def _media(values: Mapping[str, Any]) -> Iterator[tuple[tuple[str, int], Any]]:
    for kind in _MEDIA:
        found = [(name, value) for name, value in values.items() if str(name).startswith(f"{kind}_") and value]
        numbered = [(int(name[len(kind) + 1 :]), value) for name, value in found if name[len(kind) + 1 :].isdecimal()]
        several = values.get(f"{kind}s")
        if not numbered and isinstance(several, list):
            numbered = list(enumerate(several, start=1))
        yield from (((kind, number), value) for number, value in numbered if value)


def _check_file(path: str, column: str, use: Use, add: Add) -> None:
    if data_images.is_remote(path):
        return
    problem = data_images.file_problem(path, picture=False)
    if problem:
        beside = use.folder / path
        here = beside.exists() and not os.path.isabs(path)
        todo = f"Write {beside.resolve()}: paths are relative to the folder that you run in." if here else "Give it."
        shown = path if len(path) < 200 else f"{path[:60]}…"
        add(f"file {problem}", f"its {column} {shown} {problem}", todo)


def _missing(
    values: Mapping[str, Any],
    columns: tuple[str, ...],
    alike: tuple[str, ...],
    use: Use,
    add: Add,
    *,
    then: str = "",
    todo: str = "",
) -> None:
    """None of some columns is there, or has anything in it; another one may be meant."""
    first = columns[0]
    if any(name in values for name in columns):
        named = next(name for name in columns if name in values)
        add(f"no {first}", f"its `{named}` is empty{then}", todo or "Fill it in.")
        return
    others = [str(name) for name in values if name is not None]
    lowered = {name.lower().strip(): name for name in others}
    meant = next((lowered[name] for name in (*columns, *alike) if name in lowered), "")
    meant = meant or _quoted(nearest(first, others))
    if meant and use.names(meant):
        meant = ""  # it has a meaning of its own
    named = f"`{first}`" + "".join(f" (or `{name}`)" for name in columns[1:])
    has = f"; it has {', '.join(others[:8])}" if others else ""
    add(f"no {first}", f"it has no {named}{then}{has}", todo or (f"Rename `{meant}`." if meant else "Add it."))


def _quoted(hint: str) -> str:
    found = re.search(r"'(.+)'", hint)
    return found[1] if found else ""


def _listed(value: Any) -> list[str] | None:
    """Options as EvalScope reads them: a list, or the text of one."""
    if isinstance(value, str):
        try:
            value = any_json.loads(value)
        except ValueError:
            try:
                value = ast.literal_eval(value)
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                return None
    return [str(item) for item in value] if isinstance(value, (list, tuple)) else None


def _range(letters: list[str]) -> str:
    return ", ".join(letters) if len(letters) < 4 else f"{letters[0]} to {letters[-1]}"


def _said(value: Any) -> str:
    """A value in words."""
    if value is None:
        return "empty"
    if isinstance(value, (list, dict)):
        return "a list" if isinstance(value, list) else "an object"
    return f"{value!r:.40}" if isinstance(value, str) else f"the {_NUMBERS.get(type(value), 'value')} {value}"


_NUMBERS = {int: "number", float: "number", bool: "switch"}
