"""The machine facts on which a run's exact values depend, in addition to its seed: processor, threads, versions."""

import contextlib
import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

# Environment variables that set the number of threads of numpy, torch and numba
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")

PACKAGES = ("torch", "stable_baselines3", "gymnasium", "numpy", "numba", "sb3_reptile")


def processor_name() -> str:
    """The processor's name, as its manufacturer calls it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def installed_versions(packages: Sequence[str]) -> dict[str, str]:
    """
    :param packages: Names of packages
    :return: Versions of those that are installed
    """
    versions = {}
    for package in packages:
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions


def processor() -> str:
    """The processor model. The last digits of floating point numbers depend on it, and with them all later training."""
    import torch

    names = {"model name": platform.machine()}
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            names[name.strip()] = value.strip()
    numbers = [f"{name} {names[name]}" for name in ("cpu family", "model", "stepping") if name in names]
    return ", ".join([names["model name"], *numbers, torch.backends.cpu.get_cpu_capability()])


def versions_used(repository: Path | None = None, code: Sequence[str] = ()) -> dict[str, str]:
    """
    :param repository: A git repository whose commit is added
    :param code: Paths in it; if one of them has uncommitted changes, "+" is appended to the commit
    :return: Versions of Python, the processor and the packages that are installed
    """
    versions = {"python": platform.python_version(), "processor": processor(), **installed_versions(PACKAGES)}
    if repository is None:
        return versions
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        git = ["git", "--no-optional-locks", "-C", str(repository)]
        commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "status", "--porcelain", "--", *code], capture_output=True, check=True)
        versions["commit"] = commit.stdout.strip() + ("+" if changed.stdout else "")
    return versions
