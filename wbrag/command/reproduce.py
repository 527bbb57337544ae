"""The paper's experiments from one command: a grid of runs, what is measured in them afterwards, and one report."""

from __future__ import annotations

from itertools import product
from pathlib import Path

from hydra import compose

from wbrag.command.command_line import failed, measure_ways, noted, plan_told, settings
from wbrag.config import ConfigError, ReproduceConfig, TrainConfig
from wbrag.experiments.ablation import ablate
from wbrag.experiments.grid_report import summary, write_grid_report
from wbrag.experiments.placebos import check_placebos
from wbrag.experiments.variants import Trained, judge, other_temperature, placebo, repeat, trained, transfer
from wbrag.run.inputs import check_backbone
from wbrag.run.job import Session
from wbrag.run.lease import leased
from wbrag.run.pipeline import finished, train


def reproduce(typed: ReproduceConfig, session: Session) -> None:
    """The paper's experiments: a grid of runs, what is measured in them afterwards, and one report; again goes on.

      wbrag reproduce world=DIR run_dir=runs/reproduce
      wbrag reproduce run_dir=DIR 'methods=[naive]' 'backbones=[scripted]' world=DIR
      wbrag reproduce world=DIR run_dir=runs/reproduce plan=true     what it would ask for and cost

    What is done is not run again. A point that fails does not stop the others: report and last lines name it.
    """
    out = Path(typed.run_dir).absolute()
    names = list(product(typed.backbones, typed.benchmarks, typed.methods))
    settings_of = {name: point_settings(typed, out, *name) for name in names}  # a typo ends here, not in 48 points
    check_placebos(typed.placebos)
    check_named(typed)
    to_do = {"/".join(name): settings_of[name] for name in names if not is_done(out, *name)}
    if typed.plan:
        print(f"{plan_told(to_do)}\nTransfer, ablation, placebos and what else is measured in them come on top.")
        return
    for one in to_do.values():
        check_backbone(one.backbone)  # a model that cannot be had is told before the first point
    with leased(out):
        for backbone in typed.backbones:  # all that one engine is asked, before the next one starts
            for name in (name for name in names if name[0] == backbone):
                with noted("/".join(name)):
                    run_point(settings_of[name], session)
            measure_more(typed, out, backbone, session)
        done = [run_of(out, *name) for name in names if is_done(out, *name)]
        grid = write_grid_report(out / "report", done, list(failed))
    print(f"\n{summary(grid)}\nreport: {out}/report/report.html")


def run_of(out: Path, backbone: str, benchmark: str, method: str) -> Path:
    """The run folder of a point."""
    return out / f"{backbone}-{benchmark}-{method}"


def is_done(out: Path, backbone: str, benchmark: str, method: str) -> bool:
    """Whether a point is trained and measured."""
    return (run_of(out, backbone, benchmark, method) / "metrics.json").is_file()


def point_settings(typed: ReproduceConfig, out: Path, backbone: str, benchmark: str, method: str) -> TrainConfig:
    """What conf/train.yaml is for a point; errors as any job's that is told these settings."""
    names = [f"backbone={backbone}", f"benchmark={benchmark}", f"method={method}"]
    names += [f"run_dir={run_of(out, backbone, benchmark, method)}", f"cache_dir={out / 'cache'}"]
    names += [f"world={typed.world}"] if typed.world else []
    return settings(compose("train", overrides=[*names, *typed.overrides]), TrainConfig)


def run_point(cfg: TrainConfig, session: Session) -> None:
    """Train and measure one point, unless that is done."""
    if not finished(cfg):
        metrics = train(cfg, session)
        told = metrics["results"][0]
        print(f"{Path(cfg.run_dir).name}: {told['metric']} {told['base']:.3f} -> {told['writeback']:.3f}", flush=True)


def measure_more(typed: ReproduceConfig, out: Path, backbone: str, session: Session) -> None:
    """What conf/reproduce.yaml says is measured in one backbone's finished runs, each on its own."""
    if backbone == typed.backbones[0]:
        measure_as_the_paper(typed, out, backbone, session)
    for benchmark, method in product(typed.benchmarks, typed.compare):
        with noted(f"units {backbone}/{benchmark}/{method}"):
            if is_done(out, backbone, benchmark, method):
                measure_ways(trained(run_of(out, backbone, benchmark, method), session), typed.ways, session)


def measure_as_the_paper(typed: ReproduceConfig, out: Path, backbone: str, session: Session) -> None:
    """Transfer, ablation, placebos, A/A and judge in the named runs, and REPLUG's temperatures: of one backbone."""

    def own(benchmark: str, method: str) -> Trained:
        return trained(run_of(out, backbone, benchmark, method), session)

    for benchmark in typed.transfer:
        with noted(f"transfer {backbone}/{benchmark}"):
            methods = [method for method in typed.methods if is_done(out, backbone, benchmark, method)]
            if len(methods) > 1:
                transfer([own(benchmark, method) for method in methods], session)
    for name in typed.ablate:
        with noted(f"ablation {backbone}/{name}"):
            ablate(own(*name.split("/")), typed.thresholds, session)
    for name, one in product(typed.placebo, typed.placebos):
        with noted(f"placebo {one} {backbone}/{name}"):
            placebo(own(*name.split("/")), one, session)
    for name in typed.repeat:
        with noted(f"A/A {backbone}/{name}"):
            repeat(own(*name.split("/")), session)
    for name in typed.judge:
        with noted(f"judge {backbone}/{name}"):
            judge(own(*name.split("/")), session)
    replug = [name for name in typed.benchmarks if "replug" in typed.methods and is_done(out, backbone, name, "replug")]
    for benchmark, temperature in product(replug, typed.temperatures):
        with noted(f"temperature {temperature} {backbone}/{benchmark}"):
            other_temperature(own(benchmark, "replug"), temperature, session)


def check_named(typed: ReproduceConfig) -> None:
    """ConfigError, naming key and value, for a setting to measure more in that is none of the grid."""
    for key in ("ablate", "placebo", "repeat", "judge"):
        for name in getattr(typed, key):
            benchmark, _, method = name.partition("/")
            if benchmark not in typed.benchmarks or method not in typed.methods:
                grid = f"benchmarks {', '.join(typed.benchmarks)}; methods {', '.join(typed.methods)}"
                told = f"{key}: {name!r} is no benchmark/method of the grid ({grid})"
                raise ConfigError(f"{told}; give one of these, or {key}=[]")
