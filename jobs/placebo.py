"""Measure runs with placebos in place of their write-back corpus, and once more with their own (A/A).

    python jobs/placebo.py 'runs=[runs/nq-naive-M]' 'placebos=[raw,cheat_sheet]' report_dir=DIR

A run's own knowledge base is not touched. What is measured already is not asked again. Exit codes as jobs/train.py.
"""

from __future__ import annotations

from pathlib import Path

import hydra
from command_line import point, settings, start
from omegaconf import DictConfig

from wbrag.config import PlaceboConfig
from wbrag.experiments.grid_report import summary, write_grid_report
from wbrag.experiments.placebos import check_placebos
from wbrag.experiments.variants import placebo, repeat, trained


@hydra.main(version_base="1.3", config_path="../conf", config_name="placebo")
def main(cfg: DictConfig) -> None:
    """Measure, then write the report over these runs."""
    with point() as session:
        typed = settings(cfg, PlaceboConfig)
        check_placebos(typed.placebos)
        for run in typed.runs:
            own = trained(Path(run), session)
            for name in typed.placebos:
                placebo(own, name, session)
            if typed.repeat:
                repeat(own, session)
        grid = write_grid_report(Path(typed.report_dir), [Path(run) for run in typed.runs])
        print(f"{summary(grid)}\nreport: {typed.report_dir}/report.html")


if __name__ == "__main__":
    start(main)
