"""Python and the packages, against what the installed Tidelens asks for."""

import platform
import re
from collections.abc import Sequence
from importlib import metadata
from typing import TYPE_CHECKING

from contracts.settings import KafkaSettings, Settings
from tidelens.cli.doctor.finding import Finding, failed, in_thread, ok, warning

if TYPE_CHECKING:
    from packaging.requirements import Requirement

_INSTALL = "pip install tidelens"
_EXTRA = re.compile(r"extra == ['\"]([\w-]+)['\"]")


@in_thread
def python(settings: Settings, kafka: KafkaSettings) -> Sequence[Finding]:
    """Check the version of the interpreter that runs this."""
    from packaging.specifiers import SpecifierSet

    have, wanted = platform.python_version(), metadata.metadata("tidelens")["Requires-Python"]
    if SpecifierSet(wanted).contains(have, prereleases=True):
        return [ok("python", have)]
    fix = f"install a Python {wanted} and make a new virtual environment with it"
    return [failed("python", f"{have}, want {wanted}", fix=fix)]


@in_thread
def packages(settings: Settings, kafka: KafkaSettings) -> Sequence[Finding]:
    """Report each package of the base that is missing, and each one of an unwanted version."""
    try:
        base, by_extra = _requirements()
    except metadata.PackageNotFoundError:
        return [failed("packages", "tidelens is not installed", fix=_INSTALL)]
    optional = [one for requirements in by_extra.values() for one in requirements]
    installed = [one for one in optional if _version(one.name) is not None]
    wanted = [*base, *installed]
    wrong = [finding for one in wanted if (finding := _unmet(one)) is not None]
    return wrong or [ok("packages", f"{len(wanted)} as wanted")]


@in_thread
def extras(settings: Settings, kafka: KafkaSettings) -> Sequence[Finding]:
    """Report which extras are installed, and what is missing of them.

    An extra counts as installed if more than half of its packages are here: fewer may have come
    with other software. A node needs Faiss, in one of its two builds.
    """
    try:
        _, by_extra = _requirements()
    except metadata.PackageNotFoundError:
        return []
    missing = {
        extra: [one.name for one in requirements if _version(one.name) is None]
        for extra, requirements in by_extra.items()
    }
    complete = [extra for extra, names in missing.items() if not names]
    absent = [extra for extra, names in missing.items() if 2 * len(names) >= len(by_extra[extra])]
    wrong = [
        failed("extras", f"{extra} lacks {', '.join(names)}", fix=_install(extra))
        for extra, names in missing.items()
        if names and extra not in absent
    ]
    wrong += _faiss_faults(complete)
    listed = [("complete", complete), ("not installed", absent)]
    detail = "; ".join(f"{state}: {', '.join(names)}" for state, names in listed if names)
    return wrong or [ok("extras", detail or "there are none")]


def _faiss_faults(complete: Sequence[str]) -> list[Finding]:
    """Return what is wrong with the builds of Faiss where a node is installed, or both are."""
    builds = [extra for extra in ("cpu", "gpu") if extra in complete]
    if not builds and "server" in complete:
        return [failed("extras", "no faiss-cpu and no faiss-gpu", fix=_install("cpu"))]
    if len(builds) <= 1:
        return []
    both = "faiss-cpu and faiss-gpu are both installed, and overwrite each other's files"
    fix = "pip uninstall faiss-cpu faiss-gpu, then install one of them"
    return [warning("extras", both, fix=fix)]


def _requirements() -> "tuple[list[Requirement], dict[str, list[Requirement]]]":
    """Return what the base needs, and what each extra adds without those that it includes.

    Raises PackageNotFoundError if Tidelens itself is not installed.
    """
    from packaging.requirements import Requirement

    base: list[Requirement] = []
    by_extra: dict[str, list[Requirement]] = {}
    for one in map(Requirement, metadata.requires("tidelens") or ()):
        extra = _EXTRA.search(str(one.marker or ""))
        if extra is None:
            base.append(one)
        elif one.name != "tidelens":
            by_extra.setdefault(extra[1], []).append(one)
    return [one for one in base if one.marker is None or one.marker.evaluate()], by_extra


def _unmet(requirement: "Requirement") -> Finding | None:
    have = _version(requirement.name)
    if have is not None and requirement.specifier.contains(have, prereleases=True):
        return None
    wanted = f"{requirement.name}{requirement.specifier}"
    detail = f"{requirement.name} {have or 'is not installed'}, want {requirement.specifier}"
    return failed("packages", detail, fix=f"pip install '{wanted}'")


def _install(extra: str) -> str:
    return f"pip install 'tidelens[{extra}]'"


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
