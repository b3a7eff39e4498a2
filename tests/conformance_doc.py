"""Writes the table of `docs/measured/conformance.md` from a run of the conformance suite.

pytest tests/real/engines/test_conformance.py --junitxml=conformance.xml
python tests/conformance_doc.py conformance.xml
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "measured" / "conformance.md"
BEGIN, END = "<!-- conformance -->", "<!-- /conformance -->"
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent / "real" / "engines")]

from test_conformance import SUITES  # noqa: E402

from evalscope_evalflow.testing.engine_suite import AREAS, PROPERTY, ServerConformance, count_tests  # noqa: E402
from evalscope_evalflow.testing.remote_suite import APIConformance  # noqa: E402

Passed = Mapping[tuple[str, str], int]  # (engine, area): tests that passed


def everything_passed() -> Passed:
    """What a run without a failure has."""
    return {(engine, area): count for engine, suite in SUITES.items() for area, count in count_tests(suite).items()}


def passed_in(file: Path) -> Passed:
    """What a run had.

    Args:
        file: pytest's XML report of it.
    """
    outcomes: dict[tuple[str, str], dict[str, bool]] = defaultdict(dict)
    for case in ElementTree.parse(file).iter("testcase"):
        good = not {child.tag for child in case} & {"failure", "error", "skipped"}
        for item in case.iter("property"):
            if item.get("name") == PROPERTY:
                engine, _, area = str(item.get("value")).partition("/")
                name = str(case.get("name")).split("[")[0]
                found = outcomes[engine, area]
                found[name] = good and found.get(name, True)
    return {place: sum(found.values()) for place, found in outcomes.items()}


def table(passed: Passed) -> str:
    """The table in Markdown."""
    lines = [f"| | {' | '.join(f'`{name}`' for name in SUITES)} |", "|---" * (len(SUITES) + 1) + "|"]
    how = [str(suite.__doc__).strip().rstrip(".") for suite in SUITES.values()]
    lines.append(f"| what ran | {' | '.join(how)} |")
    whole = count_tests(ServerConformance)
    for area in AREAS:
        cells = []
        for engine, suite in SUITES.items():
            there, good = count_tests(suite)[area], passed.get((engine, area), 0)
            of = "" if there == whole[area] or issubclass(suite, APIConformance) else f" of {whole[area]}"
            cells.append("–" if not there else f"{good}{of}" if good == there else f"**{good} of {there} pass**")
        lines.append(f"| {area} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(file: str) -> None:
    """Put the table into the document."""
    text = DOCUMENT.read_text()
    head, tail = text[: text.index(BEGIN) + len(BEGIN)], text[text.index(END) :]
    DOCUMENT.write_text("\n".join([head, table(passed_in(Path(file))), tail]))


if __name__ == "__main__":
    main(sys.argv[1])
