"""How to install an extra of EvalFlow: from the source that this copy came from, as an index may not have it.

An installer writes that source into `direct_url.json` of the installed metadata (PEP 610); there is none where the
package came from an index.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from evalscope_evalflow.config.environment import Environment

PACKAGE = "evalscope-evalflow"


def install_command(extra: str = "", env: Environment | None = None) -> str:
    """The command that installs this copy's source, with an extra.

    Args:
        extra: the extra's name, such as "vllm"; empty: none.
        env: the environment to install it in; default: this interpreter's.
    """
    if env is None or env.own:
        env = Environment.find(None)
        installer = "pip install" if env.has_module("pip") else env.installer
    else:
        installer = env.installer
    return f"{installer} {' '.join(map(shlex.quote, requirement(direct_url(), extra)))}"


def direct_url() -> Mapping[str, Any]:
    """What PEP 610 says of this copy's source; empty: it came from an index, or is not installed."""
    try:
        found = json.loads(distribution(PACKAGE).read_text("direct_url.json") or "{}")
    except (PackageNotFoundError, OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def requirement(source: Mapping[str, Any], extra: str = "") -> list[str]:
    """The words that name a source to pip or uv, behind `install`.

    Args:
        source: the contents of direct_url.json.
        extra: the extra's name; empty: none.
    """
    extras = f"[{extra}]" if extra else ""
    url = _without_user(str(source.get("url", "")))
    path = Path(unquote(urlsplit(url).path))
    if "dir_info" in source and path.is_dir():
        editable = ["-e"] if source["dir_info"].get("editable") else []
        return [*editable, f"{path / source.get('subdirectory', '')}{extras}"]
    subdirectory = f"#subdirectory={source['subdirectory']}" if source.get("subdirectory") else ""
    if "vcs_info" in source:
        vcs = source["vcs_info"]
        revision = vcs.get("requested_revision") or vcs.get("commit_id")
        at = f"@{revision}" if revision else ""
        return [f"{PACKAGE}{extras} @ {vcs.get('vcs', 'git')}+{url}{at}{subdirectory}"]
    if "archive_info" in source and (urlsplit(url).scheme != "file" or path.is_file()):
        return [f"{PACKAGE}{extras} @ {url}{subdirectory}"]
    return [f"{PACKAGE}{extras}"]


def _without_user(url: str) -> str:
    """The URL without a user's name and password: a hint is printed. `git` is no user's name."""
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    return url if not at or user == "git" else urlunsplit(parts._replace(netloc=host))
