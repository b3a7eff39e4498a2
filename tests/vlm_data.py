"""Small datasets of the tests' own, in the form of VLMEvalKit's files: questions with base64 images."""

from __future__ import annotations

import base64
import csv
import io
from pathlib import Path
from typing import Any

from PIL import Image

WORDS = ["apple", "river", "stone", "cloud", "piano", "tiger", "bread", "snow"]
CUSTOM = "shapes"  # multiple choice, of nobody's but ours
OPEN = "riddles"  # questions without options, of our own
NAMED = ["LogicVista", "MathVista_MINI", "WeMath", "MathVision", "MathVerse_MINI", "DynaMath"]
ROWS = {
    "shapes": 8, "LogicVista": 5, "MathVista_MINI": 5, "WeMath": 10, "MathVision": 4, "MathVerse_MINI": 4,
    "DynaMath": 6, "MMStar": 4, "MMBench_DEV_EN": 8, "MME": 4, "OCRBench": 4, "MMDU": 3,
}  # fmt: skip


# Of other families that VLMEvalKit has: multiple choice, the same in every order of its options, yes or no, text to be
# found, and a conversation.
OTHERS = ["MMStar", "MMBench_DEV_EN", "MME", "OCRBench", "MMDU"]


def write_all(folder: Path) -> None:
    """Write them."""
    for name, rows in (_all() | _others()).items():
        for number, row in enumerate(rows):
            row.setdefault("index", number)
            row["image"] = image(number)
        with (folder / f"{name}.tsv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t")
            writer.writeheader()
            writer.writerows(rows)


def image(number: int) -> str:
    """A picture in one colour, as base64."""
    picture = Image.new("RGB", (120, 110), (number * 37 % 256, number * 91 % 256, number * 53 % 256))
    file = io.BytesIO()
    picture.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def _all() -> dict[str, list[dict[str, Any]]]:
    shapes = [
        {
            "question": f"Which word is '{WORDS[n]}'",
            **{letter: WORDS[(n + k) % 8] for k, letter in enumerate("ABCD")},
            "answer": "A", "category": ("odd", "even")[n % 2],
        }
        for n in range(8)
    ]  # fmt: skip
    logic = [
        {"question": f"Which of A to D comes after {WORDS[n]}", "answer": "ABCD"[n % 4], "skill": skill}
        for n, skill in enumerate(["inductive", "deductive", "numerical", "spatial", "mechanical"])
    ]
    free = {"question_type": "free_form", "answer_type": "integer", "choices": "[]", "answer_option": "", "task": "sum"}
    choice = {"question_type": "multi_choice", "answer_type": "text", "answer_option": "A", "task": "pick"}
    vista: list[dict[str, Any]] = [
        {"question": f"What is {n} + 1", "answer": str(n + 1), **free, "skills": "['numeric', 'algebra']"}
        for n in range(3)
    ]
    vista += [
        {
            "question": f"Pick {WORDS[n]}", "answer": WORDS[n], **choice, "choices": str(WORDS[n : n + 2]),
            "skills": "['logic']",
        }
        for n in range(2)
    ]  # fmt: skip
    vision = [
        {
            "question": f"What is {n} * 2",
            "answer": str(2 * n),
            "choices": "[]",
            "category": ("algebra", "angles")[n % 2],
        }
        for n in range(4)
    ]
    verse = [
        {
            "question": f"Is {n} a 0 or a 1", "question_for_eval": f"Is {n} a 0 or a 1", "answer": "1",
            "problem_version": ("Vision Only", "Text Lite")[n % 2],
            "metadata": "{'subject': 'Plane', 'subfield': 'Angle'}",
        }
        for n in range(4)
    ]  # fmt: skip
    dyna = [
        {
            "qid": n // 2 * 2, "varid": n % 2 + 1, "question": f"Which letter has number {n + 1}", "answer": "A",
            "answer_type": "multiple choice", "subject": "algebra", "knowledge_level": "high school",
        }
        for n in range(6)
    ]  # fmt: skip
    steps = [(problem, f"2steps_{step}") for problem in range(2) for step in (1, 2, "multi")]
    steps += [(0, f"3steps_{step}") for step in (1, 2, 3, "multi")]
    we = [
        {
            "ID": problem, "key": key, "question": f"Step {key} of {WORDS[problem]}", "A": "one", "B": "two",
            "C": "three", "D": "four", "answer": "A", "knowledge concept": "Area of Squares",
        }
        for problem, key in steps
    ]  # fmt: skip
    riddles = [{"question": f"What am I: {word}", "answer": word} for word in WORDS[:3]]
    return {
        "shapes": shapes, "LogicVista": logic, "MathVista_MINI": vista, "MathVision": vision, "MathVerse_MINI": verse,
        "DynaMath": dyna, "WeMath": we, OPEN: riddles,
    }  # fmt: skip


def _others() -> dict[str, list[dict[str, Any]]]:
    star = [
        {
            "question": f"Which star is '{WORDS[n]}'", **{letter: WORDS[n + k] for k, letter in enumerate("ABCD")},
            "answer": "A", "category": ("coarse", "fine")[n % 2], "l2_category": "x",
        }
        for n in range(4)
    ]  # fmt: skip
    circular = [
        {
            "index": n + turn * 1_000_000, "question": f"Which bench is '{WORDS[n]}'",
            "hint": f"{WORDS[n]}, turn {turn}",
            **{letter: WORDS[n + (k + turn) % 4] for k, letter in enumerate("ABCD")},
            "answer": "ABCD"[-turn % 4], "category": "c", "l2-category": "d", "split": "dev",
        }
        for n in range(2)
        for turn in range(4)
    ]  # fmt: skip
    mme = [
        {
            "question": f"Is it {WORDS[n]}? Please answer yes or no.", "answer": ("Yes", "No")[n % 2],
            "category": "color", "image_path": f"{n // 2}.png",
        }
        for n in range(4)
    ]  # fmt: skip
    ocr = [
        {"question": f"What is written: {WORDS[n]}", "answer": f"['{WORDS[n]}']", "category": "Handwriting Recognition"}
        for n in range(4)
    ]
    talk = [
        {"question": str([f"<ImageHere>First {WORDS[n]}?", f"Then {WORDS[n]}?"]), "answer": str(["one", "two"])}
        for n in range(3)
    ]
    return {"MMStar": star, "MMBench_DEV_EN": circular, "MME": mme, "OCRBench": ocr, "MMDU": talk}
