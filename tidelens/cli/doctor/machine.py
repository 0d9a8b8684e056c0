"""The machine: its processor, GPU, compiler, memory and open files.

Nothing here imports torch, which takes longer than all checks together.
"""

import os
import platform
import resource
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from contracts.settings import KafkaSettings, Settings
from tidelens.cli.doctor.finding import Finding, in_thread, ok, warning

# Instructions that make torch and oneDNN fast.
_FLAGS = ("amx_tile", "avx512_bf16", "avx512_vnni")
_GIB = 1024**3
# Kafka's heap, an encoder, the query encoder and the node, each with its libraries.
_MEMORY_MIN = 3 * _GIB
_NVIDIA_SMI_S = 5.0


@in_thread
def device(settings: Settings, kafka: KafkaSettings) -> Sequence[Finding]:
    """Name the processor, with the instructions that make it fast, and the GPU."""
    described = processor(Path("/proc/cpuinfo"))
    smi = shutil.which("nvidia-smi")
    if smi is None:
        return [
            ok("device", f"{described}; {_gpu_of_driver(Path('/proc/driver/nvidia')) or 'no GPU'}")
        ]
    asked = [smi, "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        answer = subprocess.run(
            asked, capture_output=True, text=True, timeout=_NVIDIA_SMI_S, check=True
        )
    except subprocess.SubprocessError as error:
        fix = "install the NVIDIA driver of this kernel, until `nvidia-smi` lists the GPU"
        said = getattr(error, "stdout", None) or error  # nvidia-smi reports errors on stdout
        return [warning("device", f"{described}; no GPU to use: {said}", fix=fix)]
    return [ok("device", f"{described}; {', '.join(answer.stdout.splitlines()) or 'no GPU'}")]


@in_thread
def compiler(settings: Settings, kafka: KafkaSettings) -> Sequence[Finding]:
    """Name the compiler, which only torch.compile needs; everything works without it."""
    found = shutil.which(os.environ.get("CXX", "g++"))
    return [ok("compiler", "g++, for torch.compile" if found else "no g++: no torch.compile")]


@in_thread
def memory(settings: Settings, kafka: KafkaSettings) -> Sequence[Finding]:
    """Check the free memory, within the limit of the control group."""
    available = free_memory_bytes()
    detail = f"{available / _GIB:.1f} GiB free"
    if available >= _MEMORY_MIN:
        return [ok("memory", detail)]
    fix = f"free {(_MEMORY_MIN - available) / _GIB:.1f} GiB, or run roles on other machines"
    return [warning("memory", f"{detail}, want {_MEMORY_MIN // _GIB} GiB for `up`", fix=fix)]


@in_thread
def open_files(settings: Settings, kafka: KafkaSettings) -> Sequence[Finding]:
    """Check the limit of open files: one for each connection; a node raises its soft limit."""
    from tidelens.server.file_descriptors import descriptors_needed

    connections = settings.http_connections_max
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY or limit >= descriptors_needed(connections):
        return [ok("open files", f"{limit}, enough for {connections} connections")]
    detail = f"{limit}, want {descriptors_needed(connections)} for {connections} connections"
    return [warning("open files", detail, fix=f"ulimit -Hn {descriptors_needed(connections)}")]


def free_memory_bytes() -> int:
    """Return the available memory, within the limit of the control group."""
    import psutil

    available = int(psutil.virtual_memory().available)
    limit, used = _group_bytes("memory.max"), _group_bytes("memory.current")
    if limit is not None and used is not None:
        available = min(available, limit - used)
    return available


def processor(cpuinfo: Path) -> str:
    """Return model, cores of this process and flags, as far as Linux reports them."""
    reported: dict[str, str] = {}
    for line in cpuinfo.read_text().splitlines() if cpuinfo.is_file() else ():
        name, _, value = line.partition(":")
        reported.setdefault(name.strip(), value.strip())
    flags = [flag for flag in _FLAGS if flag in reported.get("flags", "").split()]
    cores = len(os.sched_getaffinity(0))
    model = reported.get("model name") or platform.machine()
    return f"{model}, {cores} cores, {' '.join(flags) or 'none of ' + ' '.join(_FLAGS)}"


def _gpu_of_driver(driver: Path) -> str:
    """Return the GPUs that the kernel module reports, since containers often lack nvidia-smi."""
    models = []
    for information in sorted(driver.glob("gpus/*/information")):
        for line in information.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "Model":
                models.append(value.strip())
    return ", ".join(models)


def _group_bytes(name: str) -> int | None:
    """Return a figure of the control group, or None if there is no group or no limit."""
    try:
        return int(Path("/sys/fs/cgroup", name).read_text())
    except (OSError, ValueError):
        return None
