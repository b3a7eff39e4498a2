"""The interface of result exporters: they write a finished run's results in another form."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from evalscope_evalflow.config.plugin_options import PluginOptions
from evalscope_evalflow.results.outcome import FlowResult

INTERFACE_VERSION = 1


class Exporter(ABC):
    """Exports the results of a run, once, when all of its models have finished or failed.

    A new one is a subclass with the three class attributes below and one method, and an entry point in the group
    `evalflow.exporters`; docs/contributing/add-an-exporter.md has a complete example.

    Attributes:
        name: as in the section's `exporters`, and of the entry point.
        interface_version: the version of this interface that it was written for: 1.
        Options: its options in the section, each a typed field with a default and a description.
        options: its options, validated.
    """

    name: ClassVar[str]
    interface_version: ClassVar[int]

    class Options(PluginOptions):
        """No options."""

    def __init__(self, options: PluginOptions | None = None) -> None:
        """
        Args:
            options: an instance of `Options`; default: none is set.
        """
        self.options = self.Options() if options is None else options

    @abstractmethod
    def export(self, result: FlowResult, folder: Path) -> None:
        """Export the results; `score_rows(result)` lists the scores as the table shows them.

        Args:
            result: the results of every model, failed ones included.
            folder: an empty folder for its files. When this method has returned, each file moves into `work_dir` in
                one step, in place of an earlier one of that name; if it raises, none does. Sub-folders are refused.

        Raises:
            Exception: anything; it is reported to the user, and the run's results and exit code stay as they are.
        """
