"""autofaiss as a contestant, in a virtual environment of its own: it asks for numpy < 2."""

from __future__ import annotations

import json
import re
import subprocess
import venv
from pathlib import Path

AUTOFAISS = """
import json, sys, time
from autofaiss import build_index
started = time.perf_counter()
build_index(embeddings=sys.argv[1], index_path=sys.argv[2], index_infos_path=sys.argv[2] + ".json", index_key="Flat",
            metric_type="ip", max_index_memory_usage="8G", current_memory_available="16G", verbose=20)
print(json.dumps({"seconds": time.perf_counter() - started}))
"""


def autofaiss(folder: Path, out: Path) -> tuple[float, float] | str:
    """Seconds of autofaiss's `build_index`, and of the metrics that are always in it; or why there are none."""
    python = out / "autofaiss-venv" / "bin" / "python"
    if not python.exists():
        venv.create(out / "autofaiss-venv", with_pip=True)
        install = [python, "-m", "pip", "install", "-q", "autofaiss", "numpy<2", "pyarrow<20"]
        ran = subprocess.run(install, capture_output=True, text=True, check=False)
        if ran.returncode:
            return f"pip cannot install it: {ran.stderr.strip().splitlines()[-1]}"
    made = out / "knn.index"
    made.unlink(missing_ok=True)
    ran = subprocess.run([python, "-c", AUTOFAISS, folder, made], capture_output=True, text=True, check=False)
    if ran.returncode or not made.exists():
        return f"it fails: {[*ran.stderr.splitlines(), 'no word why'][-1 if ran.returncode else -2]}"
    measuring = re.findall(r'Finished "Compute fast metrics" in ([0-9.]+) secs', ran.stdout + ran.stderr)
    return float(json.loads(ran.stdout.splitlines()[-1])["seconds"]), sum(map(float, measuring))
