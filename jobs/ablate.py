"""Vary the gates' thresholds of finished runs, made with units=paper, by the scores that they recorded.

    python jobs/ablate.py 'runs=[runs/nq-naive-M]' 'thresholds.n_min=[1,2,3]' report_dir=DIR

Asked is only what no run has distilled, what a run's own gates left out, and the test questions over other units. Exit
codes as jobs/train.py.
"""

from __future__ import annotations

from pathlib import Path

import hydra
from command_line import point, settings, start
from omegaconf import DictConfig

from wbrag.config import AblateConfig
from wbrag.experiments.ablation import ablate
from wbrag.experiments.grid_report import summary, write_grid_report
from wbrag.experiments.variants import trained


@hydra.main(version_base="1.3", config_path="../conf", config_name="ablate")
def main(cfg: DictConfig) -> None:
    """Measure, then write the report over these runs."""
    with point() as session:
        typed = settings(cfg, AblateConfig)
        for run in typed.runs:
            ablate(trained(Path(run), session), typed.thresholds, session)
        grid = write_grid_report(Path(typed.report_dir), [Path(run) for run in typed.runs])
        print(f"{summary(grid)}\nreport: {typed.report_dir}/report.html")


if __name__ == "__main__":
    start(main)
