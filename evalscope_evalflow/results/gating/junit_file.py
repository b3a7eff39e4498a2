"""A gate's result as a JUnit XML file, which most CI systems show."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from evalscope_evalflow.results.gating.gate_policy import Tier
from evalscope_evalflow.results.gating.gate_verdicts import GateCell, GateResult, Status

# What XML 1.0 cannot hold in any spelling.
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_ELEMENTS = {Status.BLOCKED: "failure", Status.UNDECIDED: "error", Status.SHOWN: "skipped"}


def as_junit(result: GateResult) -> str:
    """The file: a test suite for each tier, a test case for each run and dataset.

    A cell that blocks is a failure, one that is not decidable an error, and one that decides nothing is skipped.
    """
    root = ElementTree.Element("testsuites", name="evalflow gate")
    for tier in Tier:
        cells = [cell for cell in result.cells if cell.rule.tier is tier]
        if cells:
            root.append(_suite(tier, cells))
    for name, element in (("tests", "testcase"), ("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        root.set(name, str(len(root.findall(f".//{element}"))))
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _suite(tier: Tier, cells: list[GateCell]) -> ElementTree.Element:
    suite = ElementTree.Element("testsuite", name=tier.value, tests=str(len(cells)))
    for name, status in (("failures", Status.BLOCKED), ("errors", Status.UNDECIDED), ("skipped", Status.SHOWN)):
        suite.set(name, str(sum(cell.status is status for cell in cells)))
    for cell in cells:
        case = ElementTree.SubElement(
            suite, "testcase", classname=_valid(f"{tier.value}.{cell.run}"), name=_valid(cell.dataset), time="0"
        )
        if cell.status in _ELEMENTS:
            ElementTree.SubElement(case, _ELEMENTS[cell.status], message=_valid(cell.reason))
        else:
            ElementTree.SubElement(case, "system-out").text = _valid(cell.reason)
    return suite


def _valid(text: str) -> str:
    """A text without characters that no XML can hold."""
    return _NOT_XML.sub("\ufffd", text)
