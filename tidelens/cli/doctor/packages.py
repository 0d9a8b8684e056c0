"""Python and the packages, against what the installed Tidelens asks for."""

import platform
from collections.abc import Sequence
from importlib import metadata
from typing import TYPE_CHECKING

from contracts.settings import KafkaSettings, Settings
from tidelens.cli.doctor.finding import Finding, failed, in_thread, ok, warning

if TYPE_CHECKING:
    from packaging.requirements import Requirement

_INSTALL = "pip install 'tidelens[cpu]'"


@in_thread
def python(settings: Settings, kafka: KafkaSettings) -> Sequence[Finding]:
    """The interpreter that runs us."""
    from packaging.specifiers import SpecifierSet

    have, wanted = platform.python_version(), metadata.metadata("tidelens")["Requires-Python"]
    if SpecifierSet(wanted).contains(have, prereleases=True):
        return [ok("python", have)]
    fix = f"install a Python {wanted} and make the virtual environment anew with it"
    return [failed("python", f"{have}, want {wanted}", fix=fix)]


@in_thread
def packages(settings: Settings, kafka: KafkaSettings) -> Sequence[Finding]:
    """One line for each that is not met. Of Faiss's two builds one is wanted."""
    from packaging.requirements import Requirement

    try:
        requirements = [Requirement(line) for line in metadata.requires("tidelens") or ()]
    except metadata.PackageNotFoundError:
        return [failed("packages", "tidelens is not installed", fix=_INSTALL)]
    needed = [one for one in requirements if one.marker is None or one.marker.evaluate()]
    builds = [one for one in requirements if one.name in ("faiss-cpu", "faiss-gpu")]
    installed = [one for one in builds if _version(one.name) is not None]
    wrong = [finding for one in (*needed, *installed) if (finding := _unmet(one)) is not None]
    if not installed:
        wrong.append(failed("packages", "no faiss-cpu and no faiss-gpu", fix=_INSTALL))
    if len(installed) > 1:
        both = "faiss-cpu and faiss-gpu are both installed, and overwrite each other's files"
        fix = "pip uninstall faiss-cpu faiss-gpu, then install one of them"
        wrong.append(warning("packages", both, fix=fix))
    faiss = ", ".join(f"{one.name} {_version(one.name)}" for one in installed)
    return wrong or [ok("packages", f"{len(needed)} as wanted, and {faiss}")]


def _unmet(requirement: "Requirement") -> Finding | None:
    have = _version(requirement.name)
    if have is not None and requirement.specifier.contains(have, prereleases=True):
        return None
    wanted = f"{requirement.name}{requirement.specifier}"
    detail = f"{requirement.name} {have or 'is not installed'}, want {requirement.specifier}"
    return failed("packages", detail, fix=f"pip install '{wanted}'")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
