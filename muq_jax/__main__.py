"""`python -m muq_jax COMMAND`."""

import hashlib
import os
import platform
import sys
from pathlib import Path

from muq_jax.cli import main


def _keep_what_is_compiled() -> None:
    """Has JAX keep compiled programs between commands, where the user has not said where."""
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    # JAX tells accelerators apart and not CPUs, whose programs fail on an older one that shares the folder.
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.is_file() else []
    features = next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
    digest = hashlib.sha256(f"{platform.machine()} {features}".encode()).hexdigest()
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = cache / "muq_jax" / digest[:12]
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):
        return  # no home, or one that is read-only: what is compiled is not kept
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    # JAX keeps what took a second; the many small programs of a command take more than that together.
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")


if __name__ == "__main__":
    _keep_what_is_compiled()
    sys.exit(main())
