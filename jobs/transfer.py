"""Measure every run with every other run's write-back corpus: the paper's cross-method transfer.

    python jobs/transfer.py 'runs=[runs/nq-naive-M,runs/nq-replug-M]' report_dir=DIR

The runs have to differ in their method alone. What is measured already is not asked again. Exit codes as jobs/train.py.
"""

from __future__ import annotations

from pathlib import Path

import hydra
from command_line import point, settings, start
from omegaconf import DictConfig

from wbrag.config import TransferConfig
from wbrag.experiments.grid_report import summary, write_grid_report
from wbrag.experiments.variants import trained, transfer


@hydra.main(version_base="1.3", config_path="../conf", config_name="transfer")
def main(cfg: DictConfig) -> None:
    """Measure, then write the report over these runs."""
    with point() as session:
        typed = settings(cfg, TransferConfig)
        transfer([trained(Path(run), session) for run in typed.runs], session)
        grid = write_grid_report(Path(typed.report_dir), [Path(run) for run in typed.runs])
        print(f"{summary(grid)}\nreport: {typed.report_dir}/report.html")


if __name__ == "__main__":
    start(main)
