"""The variables that begin with TIDELENS_: settings, mistakes, and those of Kubernetes.

An unknown name is a mistake: its author would rely on a setting that has no effect.
Kubernetes adds variables of its own to every pod beside a service, named after the service: a
service called `tidelens` gives TIDELENS_SERVICE_HOST and TIDELENS_PORT=tcp://10.0.0.1:8080, and one
called `tidelens-api` gives TIDELENS_API_PORT. Those are ignored.
"""

import difflib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from contracts.fault_points import VARIABLE as FAULT

PREFIX = "TIDELENS_"

_SERVICE = re.compile(r"TIDELENS_(\w+_)?SERVICE_(HOST|PORT(_\w+)?)", re.ASCII)
_LINK = re.compile(r"TIDELENS_(\w+_)?PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?", re.ASCII)
_PORT = re.compile(r"TIDELENS_(\w+_)?PORT", re.ASCII)
_ADDRESS = re.compile(r"(tcp|udp|sctp)://\S+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Variables:
    """The variables that begin with TIDELENS_ in upper or lower case, without their values."""

    unknown: tuple[str, ...]
    twice: tuple[str, ...]
    kubernetes: tuple[str, ...]
    known: tuple[str, ...]

    def wrong(self) -> list[str]:
        """Return one line for each mistake. Values are left out, since they may be secrets."""
        return [
            *(
                f"{name}: no setting has this name; {advice(name, self.known)}"
                for name in self.unknown
            ),
            *(
                f"{name}: this setting is set twice, in upper and in lower case"
                for name in self.twice
            ),
        ]


def advice(name: str, known: Collection[str]) -> str:
    """Return what to do about a wrong `name`: use the nearest of the `known` ones, or look."""
    # Without the prefix that all names share: with it, any name would be close to some other.
    rest = {each.removeprefix(PREFIX): each for each in known}
    near = difflib.get_close_matches(name.upper().removeprefix(PREFIX), rest, n=1)
    if near:
        return f"did you mean {rest[near[0]]}?"
    return "`tidelens config --all` lists all settings"


def sort_variables(environment: Mapping[str, str], known: Collection[str]) -> Variables:
    """Sort the variables by what they are; `known` are the names of the settings."""
    prefixed = [name for name in environment if name.upper().startswith(PREFIX)]
    injected = {name for name in prefixed if is_kubernetes_service(name, environment[name])}
    settings = sorted(name for name in prefixed if name not in injected)
    spelled: dict[str, list[str]] = {}
    for name in settings:
        spelled.setdefault(name.upper(), []).append(name)
    return Variables(
        unknown=tuple(name for name in settings if name.upper() not in {*known, FAULT}),
        twice=tuple(name for names in spelled.values() for name in names[1:]),
        kubernetes=tuple(sorted(injected)),
        known=tuple(known),
    )


def is_kubernetes_service(name: str, value: str) -> bool:
    """Return whether Kubernetes made the variable: a service's port is an address, not a number."""
    name = name.upper()
    if _SERVICE.fullmatch(name) or _LINK.fullmatch(name):
        return True
    return bool(_PORT.fullmatch(name) and _ADDRESS.fullmatch(value))
