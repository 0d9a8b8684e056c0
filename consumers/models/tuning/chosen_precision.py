"""The precision that was best for a model on this machine, kept in the user's cache folder."""

import platform
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import torch

from consumers.models.precision import PRECISIONS, PrecisionChoice
from consumers.models.spaces import Checkpoint
from consumers.models.tuning import results_file as results_file

# The most inputs at once; tuning never tries more.
AT_ONCE_MAX = 4096

_LIBRARIES = ("torch", "transformers")


def key_of(checkpoint: Checkpoint, device: torch.device, threads: int) -> str:
    """Return the key of a choice: device, threads, model, and versions of the libraries."""
    versions = " ".join(f"{name}-{version(name)}" for name in _LIBRARIES)
    return f"{_name_of(device)} x{threads} | {checkpoint.name}@{checkpoint.revision} | {versions}"


def load_choice(key: str) -> PrecisionChoice | None:
    """Return the choice under `key`, or None if there is none that this version can read."""
    try:
        choice = PrecisionChoice(**results_file.load_all()[key])
    except (KeyError, TypeError):
        return None
    return choice if _is_possible(choice) else None


def _is_possible(choice: PrecisionChoice) -> bool:
    """Return whether a model can run with a choice; the user may have written anything."""
    at_once = (choice.pictures, choice.texts)
    return (
        choice.precision in PRECISIONS
        and type(choice.compiled) is bool
        and all(type(count) is int and 1 <= count <= AT_ONCE_MAX for count in at_once)
    )


def save_choice(key: str, choice: PrecisionChoice) -> None:
    """Keep a choice under `key` for the next start."""
    results_file.save_entry(key, asdict(choice))


def _name_of(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                # Virtual machines with the same name have processors with different instructions.
                flags = {"amx_tile", "avx512_bf16", "avx512_vnni"} & set(
                    cpuinfo.read_text().split()
                )
                return " ".join([line.partition(": ")[2], *sorted(flags)])
    return platform.machine()
