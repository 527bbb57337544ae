"""Measure finished runs with other units of their kept examples, merged in other ways: which way is best?

    python jobs/compare_units.py 'runs=[runs/nq-naive-M]' report_dir=DIR

The ways are in conf/compare_units.yaml. A run's own knowledge base is not touched; what is measured already is not
asked again. Exit codes as jobs/train.py.
"""

from __future__ import annotations

from pathlib import Path

import hydra
from command_line import measure_ways, point, settings, start
from omegaconf import DictConfig

from wbrag.config import CompareConfig
from wbrag.experiments.grid_report import text_table, write_comparison
from wbrag.experiments.variants import trained


@hydra.main(version_base="1.3", config_path="../conf", config_name="compare_units")
def main(cfg: DictConfig) -> None:
    """Measure, then print the table."""
    with point() as session:
        typed = settings(cfg, CompareConfig)
        runs = [Path(run).absolute() for run in typed.runs]
        for run in runs:
            measure_ways(trained(run, session), typed.ways, session)
        print(text_table(write_comparison(runs, Path(typed.report_dir))), end="")
        print(f"table: {typed.report_dir}/units.md")


if __name__ == "__main__":
    start(main)
