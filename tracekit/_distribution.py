"""The distribution on the package index, whose name is not the package's: "tracekit" belongs to another project there."""

from __future__ import annotations

import os

from ._core.log import log

NAME = "tracekit-async"


def install_hint(extra: str) -> str:
    """Return the command that installs the optional dependencies *extra*."""
    return f"pip install '{NAME}[{extra}]'"


def find_clash(package: str) -> str:
    """Return the name and version of another distribution that has installed a package ``tracekit`` here, or "".

    *package* is the path of this package's folder. Both distributions have files in that folder, and the one installed
    last has replaced files of the other.
    """
    try:
        names = os.listdir(os.path.dirname(package))
    except OSError:
        return ""
    # A distribution of a release is a folder "name-version.dist-info" beside its packages.
    for name in names:
        project, _, version = name.removesuffix(".dist-info").partition("-")
        if project == "tracekit" and version and "-" not in version and name.endswith(".dist-info"):
            return f"tracekit {version}"
    return ""


def find_elsewhere() -> str:
    """Return the name, version and folder of the other distribution ``tracekit`` anywhere on ``sys.path``, or "".

    The order of the path, which may depend on the working directory, decides which of the two is imported.
    """
    from importlib import metadata

    try:
        found = metadata.distribution("tracekit")
    except metadata.PackageNotFoundError:
        return ""
    return f"tracekit {found.version} in {found.locate_file('')}"


def warn_of_clash() -> None:
    """Log one line if another distribution is in this folder."""
    other = find_clash(os.path.dirname(__file__))
    if other:
        log("warning", "%s is installed in the same folder as %s: uninstall both, and install one again", other, NAME)
