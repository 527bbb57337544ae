"""FlashRAG's naive pipeline as a contestant, in a virtual environment of its own, whose Python runs this file too.

Behind its own packages stand those of this environment, so that both contestants have the same torch, vLLM and FAISS.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import venv
from pathlib import Path
from typing import Any

#: FlashRAG: all its releases of the last years are development releases. Most of what it asks for (spacy, gradio,
#: streamlit) is for other pipelines; what the import of this one needs, and accelerate, which Hugging Face's does.
FLASHRAG = "flashrag-dev==0.3.0.dev20260919"
IMPORTED = ("datasets", "langid", "nltk", "openai", "termcolor", "tiktoken", "accelerate")
#: What its naive pipeline can generate with.
FRAMEWORKS = ("hf", "vllm")
INSTALL_SECONDS, RUN_SECONDS = 200.0, 300.0
RESULT = "found.json"


def installed(out: Path) -> Path | str:
    """The Python of an environment that has FlashRAG, made once; or why there is none."""
    folder = out / "flashrag-venv"
    python, done = folder / "bin" / "python", folder / "installed"
    if done.exists():
        return python
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    ours = [path for path in sys.path if path.endswith("site-packages")]
    (folder / "lib" / version / "site-packages" / "ours.pth").write_text("\n".join(ours) + "\n", encoding="utf-8")
    for packages in (IMPORTED, ("--no-deps", FLASHRAG)):
        install = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", *packages]
        try:
            ran = subprocess.run(install, capture_output=True, text=True, check=False, timeout=INSTALL_SECONDS)
        except subprocess.TimeoutExpired:
            return f"pip has not installed it after {INSTALL_SECONDS:.0f} s"
        if ran.returncode:
            return f"pip cannot install it: {last_line(ran.stderr)}"
    done.touch()
    return python


def flashrag(python: Path, folder: Path, given: dict[str, Any]) -> dict[str, Any] | str:
    """What `main` finds with these settings (`answering.flashrag_settings`), run by this Python; or why nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    asked, found = folder / "asked.json", folder / RESULT
    found.unlink(missing_ok=True)
    asked.write_text(json.dumps(given), encoding="utf-8")
    # As much cache as our engine has, and both cores where there are two. vLLM's LLM class fails without tqdm.
    more = {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
    more |= {"VLLM_CPU_NUM_OF_RESERVED_CPU": "0"} if len(os.sched_getaffinity(0)) <= 2 else {}
    environment = {**os.environ, **more, "VLLM_NO_USAGE_STATS": "1", "PYTHONPATH": ""}
    environment.pop("TQDM_DISABLE", None)
    # -P: the modules beside this file are not to be taken for others of their name.
    command = [str(python), "-P", str(Path(__file__).resolve()), str(asked), str(found)]
    try:
        ran = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=RUN_SECONDS
        )
    except subprocess.TimeoutExpired:
        return f"it has not ended after {RUN_SECONDS:.0f} s"
    if not found.exists():
        return f"it fails: {last_line(ran.stderr)}"
    made: dict[str, Any] = json.loads(found.read_text(encoding="utf-8"))
    return made


def last_line(text: str) -> str:
    """What a program said last."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no word why")


def main() -> None:
    """Answer the questions of the settings in argv[1] and write seconds and answers to argv[2]."""
    started = time.perf_counter()
    given = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    from importlib.metadata import version

    from flashrag.config import Config  # type: ignore[import-not-found]
    from flashrag.pipeline import SequentialPipeline  # type: ignore[import-not-found]
    from flashrag.prompt import PromptTemplate  # type: ignore[import-not-found]
    from flashrag.utils import get_dataset  # type: ignore[import-not-found]

    class Ours(PromptTemplate):  # type: ignore[misc]
        """The documents as wbrag numbers and joins them."""

        def format_reference(self, retrieval_result: list[dict[str, str]]) -> str:
            parts = [document["contents"].partition("\n") for document in retrieval_result]
            shown = [given["document"].format(rank=i, title=t, text=x) for i, (t, _, x) in enumerate(parts, 1)]
            return "\n".join(shown)

    config = Config(config_dict=given["config"])
    config["gpu_num"] = max(1, config["gpu_num"] or 1)  # 0 without a GPU, and vLLM's tensor_parallel_size
    pipeline = SequentialPipeline(config, Ours(config, user_prompt=given["user"]))
    load = time.perf_counter() - started
    splits = get_dataset(config)
    few = type(splits["train"])(config, data=splits["train"].data[: given["warm"]])
    pipeline.run(few, do_eval=False)
    dataset = splits["test"]
    started = time.perf_counter()
    pipeline.run(dataset, do_eval=False)
    run = time.perf_counter() - started
    answers = {item.id: item.output["pred"].strip() for item in dataset.data}
    told = {"load": load, "run": run, "answers": answers, "version": version("flashrag-dev")}
    Path(sys.argv[2]).write_text(json.dumps(told), encoding="utf-8")


if __name__ == "__main__":
    main()
