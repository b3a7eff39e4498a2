"""The interface of result exporters: they write finished runs' results in another form."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from evalscope_evalflow.config.plugin_options import PluginOptions
from evalscope_evalflow.errors import Problem

if TYPE_CHECKING:
    from evalscope_evalflow.results.exporters.exported_results import ExportedResults

INTERFACE_VERSION = 1


class Exporter(ABC):
    """Exports the results of a run, once, when all of its models have finished or failed; or those of finished folders.

    A new one is a subclass with the two class attributes below and one method, and an entry point in the group
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

    def check(self, where: str) -> Iterable[Problem]:
        """What would keep it from exporting, such as a library that is not installed; looked at before anything starts.

        It imports nothing slow and asks no server.

        Args:
            where: the setting that chooses it, for messages.
        """
        return ()

    @abstractmethod
    def export(self, result: ExportedResults, folder: Path) -> str | None:
        """Export the results.

        Args:
            result: `scores` has a row for each model, dataset and metric as the table shows them, failed models
                included; `samples()` is a DataFrame of all samples; `runs` are the run folders.
            folder: an empty folder for its files. When this method has returned, each file moves into `work_dir` in
                one step, in place of an earlier one of that name; if it raises, none does. Sub-folders are refused.

        Returns:
            Where the results are, if they are not in files: a line for the user. It holds no key.

        Raises:
            Exception: anything; it is reported to the user, and the run's results and exit code stay as they are.
        """
