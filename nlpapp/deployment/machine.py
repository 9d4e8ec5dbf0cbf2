"""What a machine has and can do: versions, devices, cores, memory, disk, the way to the Hub.

Every check is bounded in time and returns a sentence instead of raising, since it is run where
something is broken. Torch is asked in a process of its own: a broken driver can hang or kill it.
"""

import importlib.metadata
import json
import locale
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import psutil
from packaging.requirements import Requirement

GIB = 1 << 30
HUB_TIMEOUT = 2.0
PROBE_TIMEOUT = 90.0
"""Seconds that importing torch may take; on a cold network disk it can take a minute."""
SHOWN_PACKAGES = tuple(
    "torch transformers datasets tokenizers accelerate evaluate onnxruntime".split()  # noqa: SIM905
)
CHECK_TIMEOUT = 120.0
Result = TypeVar("Result")
CONTROL_GROUP = Path("/sys/fs/cgroup")

PROBE = """
import json, torch
found = {"threads": torch.get_num_threads(), "cuda_build": torch.version.cuda, "devices": []}
for index in range(torch.cuda.device_count()):
    free, total = torch.cuda.mem_get_info(index)
    device = {"name": torch.cuda.get_device_name(index), "free": free, "total": total}
    try:
        square = torch.ones(8, 8, device=f"cuda:{index}")
        square.mm(square).sum().item()
    except RuntimeError as error:
        device["error"] = str(error).splitlines()[0]
    found["devices"].append(device)
found["mps"] = torch.backends.mps.is_available()
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Check:
    """One finding; ``meaning`` says what it means for the user and the way out."""

    name: str
    status: Literal["ok", "warn", "problem"]
    found: str
    meaning: str = ""


def guarded(
    name: str, check: Callable[[], list[Check]], limit: float = CHECK_TIMEOUT
) -> list[Check]:
    """Return what ``check`` finds; a warning if it fails, or not within ``limit`` seconds."""
    try:
        return within(limit, check)
    except TimeoutError:
        found = f"could not be checked in {limit:g} s"
        return [Check(name, "warn", found, "Something that it asks is not answering.")]
    except Exception as error:  # whatever is broken here is what the user wants to read about
        found = f"could not be checked ({type(error).__name__}: {error})"
        return [Check(name, "warn", found, "See the reason given.")]


def within(seconds: float, function: Callable[[], Result]) -> Result:
    """Return what ``function`` returns, or raise what it raises.

    Looking up a name or reading a lost network disk has no time limit of its own, so the thread is
    left behind when it is late.

    Raises:
        TimeoutError: it took longer than ``seconds``.
    """
    outcome: list[Any] = []

    def call() -> None:
        try:
            outcome.append((function(), None))
        except Exception as error:  # raised again in the caller's thread
            outcome.append((None, error))

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise TimeoutError(f"no answer in {seconds:g} s")
    result, error = outcome[0]
    if error is not None:
        raise error
    return result


def check_python(version: tuple[int, ...] = sys.version_info[:3]) -> list[Check]:
    """Check that Python is one that nlpapp supports."""
    found = ".".join(map(str, version))
    if version < (3, 10):
        meaning = (
            "nlpapp needs Python 3.10 or newer: install one and make a new environment with it."
        )
        return [Check("python", "problem", found, meaning)]
    return [Check("python", "ok", found)]


def check_packages(requirements: list[str] | None = None) -> list[Check]:
    """Compare what is installed with what nlpapp requires.

    Args:
        requirements: requirement lines as in pyproject.toml; those of the installed nlpapp if None.
    """
    checks = []
    if requirements is None:
        try:
            requirements = importlib.metadata.requires("nlpapp") or []
            checks.append(Check("nlpapp", "ok", importlib.metadata.version("nlpapp")))
        except importlib.metadata.PackageNotFoundError:
            meaning = "Only `python -m nlpapp` in this folder finds it: run pip install -e . here."
            checks.append(Check("nlpapp", "warn", "not installed", meaning))
            requirements = list(SHOWN_PACKAGES)
    extras: dict[str, list[str]] = {}
    for requirement in map(Requirement, requirements):
        fault = _fault(requirement)
        extra = _extra(requirement)
        if extra is not None:
            extras.setdefault(extra, []).extend([requirement.name] if fault else [])
        elif requirement.marker and not requirement.marker.evaluate():
            continue
        elif fault:
            meaning = f"Commands that use it will fail: pip install '{_plain(requirement)}'."
            checks.append(Check(requirement.name, "problem", fault, meaning))
        elif requirement.name in SHOWN_PACKAGES:
            version = importlib.metadata.version(requirement.name)
            checks.append(Check(requirement.name, "ok", version))
    for extra, missing in extras.items():
        if missing:
            meaning = f"Optional; for what it offers: pip install -e '.[{extra}]'."
            found = f"without {', '.join(missing)}"
            checks.append(Check(f"extra {extra}", "warn", found, meaning))
        else:
            checks.append(Check(f"extra {extra}", "ok", "installed"))
    return checks


def _fault(requirement: Requirement) -> str:
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
    if not requirement.specifier.contains(version, prereleases=True):
        return f"{version}, but nlpapp needs {requirement.specifier}"
    return ""


def _extra(requirement: Requirement) -> str | None:
    _, mark, rest = str(requirement.marker or "").partition("extra ==")
    return rest.split()[0].strip("\"'") if mark else None


def _plain(requirement: Requirement) -> str:
    return f"{requirement.name}{requirement.specifier}"


def check_devices(code: str = PROBE, timeout: float = PROBE_TIMEOUT) -> list[Check]:
    """Ask torch, in a process of its own, for its threads and for GPUs that compute."""
    try:
        result = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=timeout
        )
    except subprocess.TimeoutExpired:
        meaning = (
            "Training would hang likewise: look at the driver, or set CUDA_VISIBLE_DEVICES=''."
        )
        return [Check("devices", "problem", f"torch gave no answer in {timeout:.0f} s", meaning)]
    if result.returncode != 0:
        reason = (result.stderr.strip().splitlines() or [f"exit code {result.returncode}"])[-1]
        meaning = "Nothing can be trained until torch works: install it again in this environment."
        return [Check("devices", "problem", f"torch fails: {reason}", meaning)]
    return _judge_devices(json.loads(result.stdout.strip().splitlines()[-1]))


def _judge_devices(probe: Mapping[str, Any]) -> list[Check]:
    checks = []
    for index, device in enumerate(probe["devices"]):
        name = f"gpu {index}"
        free, total = device["free"] / GIB, device["total"] / GIB
        found = f"{device['name']}, {free:.1f} of {total:.1f} GiB free"
        if "error" in device:
            meaning = "This torch cannot compute on it: install a build for this GPU and driver."
            checks.append(Check(name, "problem", f"{device['name']}: {device['error']}", meaning))
        elif free < 2:
            meaning = "Another program holds its memory: stop it, or use a smaller batch size."
            checks.append(Check(name, "warn", found, meaning))
        else:
            checks.append(Check(name, "ok", found))
    if probe["mps"]:
        checks.append(Check("gpu", "ok", "Apple GPU (mps)"))
    if not checks:
        found = "CPU only"
        if shutil.which("nvidia-smi") and not probe["cuda_build"]:
            meaning = (
                "There is an NVIDIA driver, but this torch has no CUDA: install a build with it."
            )
            checks.append(Check("gpu", "warn", found, meaning))
        else:
            meaning = "Enough for the quickstart and small models; BERT-base needs a GPU to train."
            checks.append(Check("gpu", "ok", found, meaning))
    cores = usable_cores()
    threads = probe["threads"]
    if threads > cores:
        meaning = f"Threads wait for each other: set OMP_NUM_THREADS={max(1, int(cores))}."
        checks.append(Check("threads", "warn", f"{threads} on {cores:g} cores", meaning))
    else:
        checks.append(Check("threads", "ok", str(threads)))
    return checks


def usable_cores(control_group: Path = CONTROL_GROUP) -> float:
    """Return the cores this process may use: affinity and container quota, not what is built in."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = float(len(affinity(0)) if affinity else os.cpu_count() or 1)
    try:
        quota, period = (control_group / "cpu.max").read_text().split()
        return cores if quota == "max" else min(cores, int(quota) / int(period))
    except (OSError, ValueError):
        return cores


def usable_memory(control_group: Path = CONTROL_GROUP) -> tuple[int, int]:
    """Return (total, available) bytes of memory, within the container's limit if there is one."""
    machine = psutil.virtual_memory()
    try:
        limit = int((control_group / "memory.max").read_text())
        used = int((control_group / "memory.current").read_text())
    except (OSError, ValueError):  # no container, or one without a limit ("max")
        return machine.total, machine.available
    return min(machine.total, limit), min(machine.available, max(0, limit - used))


def describe_processor(facts: Path = Path("/proc/cpuinfo")) -> str:
    """Return the processor's name and the usable cores, as stands beside figures of speed."""
    name = platform.processor() or platform.machine()
    try:
        lines = facts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # no Linux
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{named[0] if named else name}, {usable_cores():g} usable cores"


def check_cores(cores: float | None = None) -> list[Check]:
    """Check that there is more than one core."""
    cores = usable_cores() if cores is None else cores
    if cores < 2:
        meaning = "The quickstart takes about twice its time; close other programs."
        return [Check("cores", "warn", f"{cores:g} usable", meaning)]
    return [Check("cores", "ok", f"{cores:g} usable")]


def check_memory(total: int | None = None, available: int | None = None) -> list[Check]:
    """Check that the memory left is enough for a small model."""
    if total is None or available is None:
        total, available = usable_memory()
    found = f"{available / GIB:.1f} of {total / GIB:.1f} GiB free"
    if available < 1 * GIB:
        meaning = "Training is likely to be killed: close other programs or raise the limit."
        return [Check("memory", "problem", found, meaning)]
    if available < 3 * GIB:
        meaning = "Enough for small models: lower batch_size and evaluation_batch_size if killed."
        return [Check("memory", "warn", found, meaning)]
    return [Check("memory", "ok", found)]


def check_folder(name: str, folder: Path) -> list[Check]:
    """Check the space in ``folder``, or where it would be made, and that files can be written."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    way_out = "give another output_dir, or change its permissions."
    if not existing.is_dir():
        return [
            Check(name, "problem", f"{existing} is a file", f"Runs cannot be written: {way_out}")
        ]
    try:
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(b"x" * 4096)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        reason = error.strerror or str(error)
        return [
            Check(name, "problem", f"{existing}: {reason}", f"Runs cannot be written: {way_out}")
        ]
    free = shutil.disk_usage(existing).free / GIB
    found = f"{existing}, writable, {free:.1f} GiB free"
    if free < 0.5:
        meaning = (
            "A checkpoint may not fit: free some space, or give an output_dir on another disk."
        )
        return [Check(name, "problem", found, meaning)]
    if free < 5:
        meaning = "Enough for small models; BERT-base takes 1.3 GB for each checkpoint."
        return [Check(name, "warn", found, meaning)]
    return [Check(name, "ok", found)]


def check_hub(
    environment: Mapping[str, str] = os.environ, timeout: float = HUB_TIMEOUT
) -> list[Check]:
    """Check whether the Hugging Face Hub answers within ``timeout`` seconds, if it may be asked."""
    offline = environment.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON")
    if offline:
        meaning = "Models and data are read from folders and the cache only, as you have asked."
        return [Check("hub", "ok", "not asked (HF_HUB_OFFLINE is set)", meaning)]
    address = environment.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        reason = within(timeout, lambda: _ask(address, timeout))
    except TimeoutError as error:
        reason = str(error)
    if not reason:
        return [Check("hub", "ok", f"{address} answers")]
    meaning = (
        "Names such as bert-base-uncased cannot be downloaded: give local folders, which need no "
        "network, or look at the proxy. The quickstart downloads nothing."
    )
    return [Check("hub", "warn", f"{address}: {reason}", meaning)]


def _ask(address: str, timeout: float) -> str:
    """Return why ``address`` does not answer, or an empty text."""
    try:
        with urllib.request.urlopen(
            urllib.request.Request(address, method="HEAD"), timeout=timeout
        ):
            return ""
    except urllib.error.HTTPError as error:
        return "" if error.code < 500 else f"status {error.code}"
    except (OSError, ValueError) as error:
        return str(getattr(error, "reason", error))


def check_encoding(encoding: str | None = None) -> list[Check]:
    """Check that text files and the console are UTF-8, as all of nlpapp's files are."""
    encoding = encoding or locale.getpreferredencoding(False)
    if encoding.lower().replace("-", "").replace("_", "") != "utf8":
        meaning = "Other programs' files may be misread, and names cut: set PYTHONUTF8=1."
        return [Check("encoding", "warn", encoding, meaning)]
    return [Check("encoding", "ok", encoding)]


def check_place(folder: Path) -> list[Check]:
    """Check that commands are run where the paths of the configs start."""
    if (folder / "configs" / "doctor" / "debug.yaml").is_file():
        return [Check("place", "ok", "the root of the repository")]
    meaning = "The configs name files from that root: cd there before using --config configs/..."
    return [Check("place", "warn", f"{folder} is not the root of the repository", meaning)]
