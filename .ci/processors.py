"""Run numeric tests as on other processors: with the kernels that OpenBLAS, numpy and torch would choose there.

Usage: ``python .ci/processors.py haswell nehalem -- tests/unit/analysis ...``
"""

from __future__ import annotations

import os
import subprocess
import sys

from numpy._core._multiarray_umath import __cpu_dispatch__  # no other name says which kernels this numpy can be told to leave

PROCESSORS = {
    "haswell": {"OPENBLAS_CORETYPE": "Haswell", "ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    "nehalem": {"OPENBLAS_CORETYPE": "Nehalem", "ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"},
}
LATER = {"haswell": ("AVX512", "X86_V4"), "nehalem": ("AVX", "FMA", "F16C", "X86_V3", "X86_V4")}
"""Beginnings of the names of the instruction sets that a processor lacks."""


def environment(processor: str) -> dict[str, str]:
    """Variables under which the libraries believe they run on a processor."""
    lacking = [name for name in __cpu_dispatch__ if name.startswith(LATER[processor])]
    return {**os.environ, **PROCESSORS[processor], "NPY_DISABLE_CPU_FEATURES": " ".join(lacking)}


if __name__ == "__main__":
    split = sys.argv.index("--")
    for name in sys.argv[1:split]:
        print(f"as on {name}:", flush=True)
        done = subprocess.run([sys.executable, "-m", "pytest", "-q", *sys.argv[split + 1 :]], env=environment(name), check=False)
        if done.returncode:
            sys.exit(done.returncode)
