"""The files of cluster/ as they stand: schemas, versions, settings, and that they agree with each other.

What the scripts among them do is in tests/test_cluster_scripts.py.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from wbrag import config

ROOT = Path(__file__).resolve().parents[1]
CLUSTER = ROOT / "cluster"
MANIFESTS = sorted((CLUSTER / "kuberay").glob("*.yaml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
RAY = next(r for r in map(Requirement, PROJECT["optional-dependencies"]["train"]) if r.name == "ray").specifier
#: What stands before a job's settings on a command line.
LAUNCHERS = ("jobs/train.py", "cluster/local.sh", "slurm/wbrag.sbatch")
OPERATOR = {"app.kubernetes.io/component": "kuberay-operator"}


def documents(path: Path) -> list[dict[str, Any]]:
    """The objects of a YAML file."""
    return [one for one in yaml.safe_load_all(path.read_text(encoding="utf-8")) if one]


OBJECTS = [pytest.param(one, id=f"{path.name}-{one['kind']}") for path in MANIFESTS for one in documents(path)]
JOB = documents(CLUSTER / "kuberay" / "rayjob.yaml")[0]["spec"]
CLUSTER_SPEC = JOB["rayClusterSpec"]
HEAD = CLUSTER_SPEC["headGroupSpec"]["template"]
WORKERS = CLUSTER_SPEC["workerGroupSpecs"]
PODS = [HEAD, *(group["template"] for group in WORKERS)]


def check_object(given: dict[str, Any]) -> None:
    """jsonschema.ValidationError where a Kubernetes object has a field, or a value, that its kind does not."""
    schema = yaml.safe_load((ROOT / "tests" / "data" / "kubernetes.schema.yaml").read_text(encoding="utf-8"))
    assert given["kind"] in schema["definitions"]
    of_kind = {"allOf": [{"$ref": f"#/definitions/{given['kind']}"}], **schema}
    jsonschema.Draft7Validator(of_kind).validate(given)


def composed(settings: list[str]) -> config.TrainConfig:
    """What jobs/train.py makes of its settings; an error for a key that conf/ does not have or one without a value."""
    ConfigStore.instance().store(name="train_schema", node=config.TrainConfig)
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        result = OmegaConf.to_object(compose("train", overrides=settings))
    assert isinstance(result, config.TrainConfig)
    return result


def points(settings: list[str]) -> Iterator[list[str]]:
    """The settings of each point of a sweep; of a single run they are those that are given."""
    parsed = OverridesParser.create().parse_overrides(settings)
    swept = [
        [f"{one.get_key_element()}={value}" for value in one.sweep_string_iterator()]
        if one.is_sweep_override()
        else [str(one.input_line)]
        for one in parsed
    ]
    return (list(point) for point in itertools.product(*swept))


def settings_of(command: str) -> list[str] | None:
    """The settings in a command that starts jobs/train.py; None for any other command."""
    words = shlex.split(command.replace("$PWD", "/here").replace("\\$", "$"), comments=True)
    at = [i for i, word in enumerate(words) if word.endswith(LAUNCHERS)]
    return [word for word in words[at[-1] + 1 :] if not word.startswith("-")] if at else None


def texts() -> Iterator[tuple[str, str]]:
    """Where commands stand in cluster/: the blocks of the README, the examples that head a script, the RayJob."""
    for block in re.findall(r"^```\n(.*?)^```", (CLUSTER / "README.md").read_text(encoding="utf-8"), re.M | re.S):
        yield "README.md", block
    for path in (CLUSTER / "local.sh", CLUSTER / "slurm" / "wbrag.sbatch"):
        for block in re.findall(r"^#   .*\n(?:#   .*\n)*", path.read_text(encoding="utf-8"), re.M):
            yield path.name, re.sub(r"^# +", "", block, flags=re.M)
    yield "rayjob.yaml", JOB["entrypoint"]


def written_commands() -> Iterator[tuple[str, list[str]]]:
    """Every command that starts jobs/train.py in the files of cluster/: the file's name, and the command's settings."""
    for name, text in texts():
        for command in re.sub(r"\\\n\s*", "", text).splitlines():
            if (settings := settings_of(command)) is not None:
                yield name, settings


COMMANDS = [pytest.param(settings, id=f"{name}-{i}") for i, (name, settings) in enumerate(written_commands())]


@pytest.mark.parametrize("given", OBJECTS)
def test_kubernetes_objects_have_fields_that_there_are(given: dict[str, Any]) -> None:
    check_object(given)


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("backofLimit",), 2),
        (("backoffLimit",), "0"),
        (("shutdownAfterJobFinishes",), False),
        (("submissionMode",), "K8sJob"),
        (("rayClusterSpec", "auth"), {"mode": "token"}),
        (("rayClusterSpec", "headGroupSpec", "rayStartParams", "num-cpus"), 0),
        (("rayClusterSpec", "workerGroupSpecs", 0, "minReplicas"), "two"),
        (("rayClusterSpec", "workerGroupSpecs", 0, "template", "spec", "containers", 0, "volumeMount"), []),
        (("submitterPodTemplate", "spec", "containers", 0, "image"), "wbrag"),
    ],
)
def test_a_field_that_there_is_not_is_found(keys: tuple[str | int, ...], value: object) -> None:
    wrong = deepcopy(documents(CLUSTER / "kuberay" / "rayjob.yaml")[0])
    within: Any = wrong["spec"]
    for key in keys[:-1]:
        within = within[key]
    within[keys[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        check_object(wrong)


def test_the_launchers_file_has_rays_own_schema() -> None:
    spec = importlib.util.find_spec("ray")
    assert spec is not None
    assert spec.origin is not None
    schema = json.loads((Path(spec.origin).parent / "autoscaler" / "ray-schema.json").read_text(encoding="utf-8"))
    given = documents(CLUSTER / "ray-cluster.yaml")[0]
    jsonschema.validate(given, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**given, "file_mount": {}}, schema)


def test_options_of_ray_start_are_rays() -> None:
    from ray.scripts.scripts import start

    known = {option for parameter in start.params for option in parameter.opts}
    given = documents(CLUSTER / "ray-cluster.yaml")[0]
    commands = [*given["head_start_ray_commands"], *given["worker_start_ray_commands"]]
    commands += re.sub(r"\\\n\s*", "", (CLUSTER / "local.sh").read_text(encoding="utf-8")).splitlines()
    used = [word for line in commands if "ray start " in line for word in shlex.split(line.partition("ray start ")[2])]
    options = {word.partition("=")[0] for word in used if word.startswith("--")}
    assert {"--head", "--address", "--num-cpus"} <= options <= known
    params = [CLUSTER_SPEC["headGroupSpec"]["rayStartParams"], *(group["rayStartParams"] for group in WORKERS)]
    assert {f"--{name}" for one in params for name in one} <= known


def test_images_and_ray_have_the_versions_of_the_project() -> None:
    texts = [
        path.read_text(encoding="utf-8") for path in CLUSTER.rglob("*") if path.is_file() and path.suffix != ".pyc"
    ]
    tags = [tag for text in texts for tag in re.findall(r"/wbrag:([\w.]+)", text)]
    assert len(tags) >= 6
    assert set(tags) == {PROJECT["version"]}
    assert CLUSTER_SPEC["rayVersion"] in RAY
    assert set(re.findall(r"\bRay (\d+\.\d+)", "".join(texts))) <= {".".join(CLUSTER_SPEC["rayVersion"].split(".")[:2])}
    python = re.search(r"^FROM python:(\d+\.\d+)-", (CLUSTER / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    assert python is not None
    assert python[1] in SpecifierSet(PROJECT["requires-python"])


@pytest.mark.parametrize("settings", COMMANDS)
def test_settings_in_commands_are_those_of_conf(settings: list[str]) -> None:
    for point in points(settings):
        cfg = composed(point)
        assert Path(cfg.run_dir).is_absolute(), "a submitted job refuses a relative run_dir"


def test_commands_are_found_and_a_sweep_is_every_point() -> None:
    named = [name for name, _ in written_commands()]
    assert {"README.md", "local.sh", "wbrag.sbatch", "rayjob.yaml"} == set(named)
    assert named.count("README.md") >= 3
    assert list(points(["backbone=a,b", "k=1,2"])) == [
        ["backbone=a", "k=1"],
        ["backbone=a", "k=2"],
        ["backbone=b", "k=1"],
        ["backbone=b", "k=2"],
    ]


def test_a_setting_that_there_is_not_is_found() -> None:
    settings = settings_of(JOB["entrypoint"])
    assert settings is not None
    with pytest.raises(HydraException, match="engnes"):
        composed([*settings, "cluster.engnes=2"])
    with pytest.raises(OmegaConfBaseException):
        composed([one for one in settings if not one.startswith("benchmark.train")])


def test_the_rayjob_names_its_model_and_uses_every_gpu() -> None:
    settings = settings_of(JOB["entrypoint"])
    assert settings is not None
    assert any(one.startswith("backbone=") for one in settings)
    cfg = composed(settings)
    gpus = sum(
        group["replicas"] * int(group["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"])
        for group in WORKERS
    )
    assert cfg.cluster.gpus
    assert cfg.cluster.engines * cfg.backbone.tensor_parallel_size == gpus
    assert cfg.cluster.encoders == gpus
    assert all(group["replicas"] == group["minReplicas"] == group["maxReplicas"] for group in WORKERS)


def test_a_typo_gets_no_second_cluster() -> None:
    assert JOB["backoffLimit"] == 0
    assert JOB["shutdownAfterJobFinishes"] is True


def test_every_node_has_token_model_folder_and_the_volume() -> None:
    claims = {one["metadata"]["name"] for one in documents(CLUSTER / "kuberay" / "storage.yaml")}
    assert CLUSTER_SPEC["authOptions"]["mode"] == "token"
    for pod in PODS:
        container = pod["spec"]["containers"][0]
        given = {one["name"]: one for one in container["env"]}
        assert given["HF_TOKEN"]["valueFrom"]["secretKeyRef"] == {"name": "wbrag-hf", "key": "token", "optional": True}
        assert given["HF_HOME"]["value"].startswith("/data/")
        mounted = {one["name"] for one in container["volumeMounts"] if one["mountPath"] == "/data"}
        volumes = {one["name"]: one for one in pod["spec"]["volumes"]}
        assert {volumes[name]["persistentVolumeClaim"]["claimName"] for name in mounted} == claims
        assert {one["name"] for one in container["volumeMounts"]} == set(volumes)
    secret = "kubectl create secret generic wbrag-hf --from-literal=token="
    assert secret in (CLUSTER / "README.md").read_text(encoding="utf-8")


def fits(selector: dict[str, Any] | None, labels: dict[str, str]) -> bool:
    """Whether a label selector takes something with these labels."""
    return selector is not None and set(selector.get("matchLabels", {}).items()) <= set(labels.items())


def may_connect(source: dict[str, str], inside: bool, target: dict[str, str], port: int) -> bool:
    """What the network policies say of a connection. Kubernetes' rules: a pod that no policy selects takes any, and of
    several policies one that allows it is enough. `inside`: from the namespace of the target.
    """
    policies = [one["spec"] for one in documents(CLUSTER / "kuberay" / "networkpolicy.yaml")]
    chosen = [one for one in policies if fits(one["podSelector"], target)]

    def admits(peer: dict[str, Any]) -> bool:
        here = inside if "namespaceSelector" not in peer else fits(peer["namespaceSelector"], {})
        return here and fits(peer.get("podSelector", {}), source)

    rules = [rule for one in chosen for rule in one["ingress"]]
    open_to = [rule for rule in rules if "from" not in rule or any(map(admits, rule["from"]))]
    return not chosen or any("ports" not in rule or port in [one["port"] for one in rule["ports"]] for rule in open_to)


def test_nodes_submitter_and_operator_may_connect_and_nobody_else() -> None:
    rays = {"ray.io/is-ray-node": "yes", "ray.io/cluster": "wbrag-x"}  # what KubeRay adds
    head = HEAD["metadata"]["labels"] | rays | {"ray.io/node-type": "head"}
    worker = WORKERS[0]["template"]["metadata"]["labels"] | rays | {"ray.io/node-type": "worker"}
    submitter = JOB["submitterPodTemplate"]["metadata"]["labels"]
    cron = documents(CLUSTER / "kuberay" / "cronjob.yaml")[-1]["spec"]["jobTemplate"]["spec"]["template"]["metadata"][
        "labels"
    ]
    assert all(may_connect(one, True, other, 31337) for one in (head, worker) for other in (head, worker))
    assert may_connect(submitter, True, head, 8265)
    assert may_connect(OPERATOR, False, head, 8265)
    for port in (6379, 10001):
        assert not may_connect(submitter, True, head, port)
        assert not may_connect(OPERATOR, False, head, port)
    assert not may_connect(submitter, True, worker, 8265)
    for stranger, inside in ((cron, True), ({"app": "other"}, True), ({}, False), (head, False), (submitter, False)):
        assert not may_connect(stranger, inside, head, 8265)
        assert not may_connect(stranger, inside, worker, 10002)


def test_the_cronjob_may_create_and_read_rayjobs_and_nothing_else() -> None:
    account, role, binding, cron = documents(CLUSTER / "kuberay" / "cronjob.yaml")
    assert role["rules"] == [{"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["create", "get"]}]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": account["metadata"]["name"]}]
    assert cron["spec"]["jobTemplate"]["spec"]["template"]["spec"]["serviceAccountName"] == account["metadata"]["name"]
    assert cron["spec"]["concurrencyPolicy"] == "Forbid"


def test_the_launchers_nodes_share_storage_and_token() -> None:
    given = documents(CLUSTER / "ray-cluster.yaml")[0]
    options = given["docker"]["run_options"]
    assert "--volume=/data:/data" in options
    assert any(" /data" in line and "mount -t nfs4" in line for line in given["initialization_commands"])
    assert "--env=RAY_AUTH_MODE=token" in options
    home = re.search(r"HOME=(\S+)", (CLUSTER / "Dockerfile").read_text(encoding="utf-8"))
    assert home is not None
    assert given["file_mounts"] == {f"{home[1]}/.ray/auth_token": "~/.ray/auth_token"}
    assert given["provider"]["region"] in "".join(given["initialization_commands"])
    head, gpu = given["available_node_types"][given["head_node_type"]], given["available_node_types"]["gpu"]
    assert head["resources"] == {"CPU": 0, "GPU": 0}
    assert gpu["min_workers"] == gpu["max_workers"] == given["max_workers"]


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions with what follows each."""
    text = re.sub(r"\\\n\s*", "", (CLUSTER / "Dockerfile").read_text(encoding="utf-8"))
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.partition(" ")[0], line.partition(" ")[2]) for line in lines]


def test_the_image_copies_what_there_is_and_is_no_ones_root() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    copied = [word for name, rest in instructions() if name == "COPY" for word in rest.split()[1:-1]]
    assert {"pyproject.toml", "Makefile", "."} <= set(copied)
    for path in copied:
        assert (ROOT / path).exists(), path
        assert Path(path).parts[:1] not in [(one,) for one in ignored], path
    assert [rest for name, rest in instructions() if name == "USER"] == ["1000:1000"]
    assert JOB["submitterPodTemplate"]["spec"]["securityContext"]["runAsUser"] == 1000
    assert [pod["spec"]["securityContext"]["runAsUser"] for pod in PODS] == [1000] * len(PODS)
    assert {".git", ".venv", "runs"} <= set(ignored)


def test_the_image_is_installed_as_make_installs() -> None:
    runs = " ".join(rest for name, rest in instructions() if name == "RUN")
    found = re.search(r"make EXTRA=\$\{EXTRA\} (\S+)", runs)
    assert found is not None
    targets = re.findall(r"^(\.venv/\S+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert found[1] in targets
    assert ("ARG", "EXTRA=cpu") in instructions()
    assert {"cpu", "gpu", "cluster"} <= set(PROJECT["optional-dependencies"])
    workdir = next(rest for name, rest in instructions() if name == "WORKDIR")
    assert JOB["entrypoint"].startswith(f"python {workdir}/jobs/train.py ")
    assert f"{workdir}/.venv/bin" in runs, "login shells reset PATH"


def test_links_of_the_readme_lead_somewhere() -> None:
    readme = (CLUSTER / "README.md").read_text(encoding="utf-8")
    headings = {
        re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in re.findall(r"^#+ (.*)", readme, re.MULTILINE)
    }
    for link in re.findall(r"\]\(([^)]+)\)", readme):
        assert link.removeprefix("#") in headings if link.startswith("#") else (CLUSTER / link).exists(), link
