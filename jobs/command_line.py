"""What the jobs share: the configuration schema, printed results, exit codes with a clear line for a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from wbrag.benchmarks import InputError, OverErrorBudget
from wbrag.config import ConfigError, TrainConfig
from wbrag.index.files import StoreError
from wbrag.tables import recall_line, terminal_table

ConfigStore.instance().store(name="train_schema", node=TrainConfig)
#: Hydra then raises the errors of a command line, instead of printing them and leaving with 1.
os.environ.setdefault("HYDRA_FULL_ERROR", "1")


def settings(cfg: DictConfig) -> TrainConfig:
    """The composed configuration as typed data; OmegaConf's errors name the key that is missing or of a wrong type."""
    typed = OmegaConf.to_object(cfg)
    assert isinstance(typed, TrainConfig)
    return typed


def print_results(metrics: dict[str, Any], k: int, folder: Path) -> None:
    """The table of the primary metric, recall@k, and where the report is."""
    primary = metrics["results"][0]
    print(f"\n{terminal_table([primary])}\n\n{recall_line(primary, k)}\nreport: {folder}/report.html")


@contextmanager
def exit_codes() -> Iterator[None]:
    """Leave with 2 for settings, inputs or stores that cannot work, with 3 over the error budget; other errors pass.

    It stands around the Hydra main, for the command line's errors, and inside it: Hydra reports what its main raises,
    but lets SystemExit through.
    """
    try:
        yield
    except (ConfigError, InputError, StoreError, HydraException, OmegaConfBaseException) as error:
        raise SystemExit(_told(error, 2)) from error
    except OverErrorBudget as error:
        raise SystemExit(_told(error, 3)) from error


def _told(error: Exception, code: int) -> int:
    lines = (line.strip() for line in str(error).splitlines())
    print(f"error: {'; '.join(line for line in lines if line)}", file=sys.stderr)
    return code
