"""What the scripts of cluster/ do, run as they stand with stand-ins for Slurm, kubectl and Ray that record their calls.

The settings that they give are composed as jobs/train.py does it; exit codes also come from a real job server of Ray.
"""

from __future__ import annotations

import importlib.util
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from canaries import KEY, SECRETS, leaks
from test_cluster_files import CLUSTER, ROOT, composed, documents
from test_openai import Server

SBATCH = CLUSTER / "slurm" / "wbrag.sbatch"
SHELL = [*sorted(CLUSTER.rglob("*.sh")), *sorted(CLUSTER.rglob("*.sbatch")), ROOT / ".ci" / "run"]
SHELLCHECK = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
WORLD = ["world=/w", "run_dir=/r"]

#: Runs the command once for each node, one after another, and ends with the worst code, as srun does.
SRUN = """
printf '%s\\n' "$*" >> "$CALLS/srun"
while [[ $1 == --* ]]; do
    case $1 in --nodes=*) nodes=${1#*=} ;; esac
    shift
done
code=0
for ((i = 1; i <= nodes; i++)); do NODE=node-$i "$@" || code=$?; done
exit $code
"""
SCONTROL = """
printf '%s\\n' "$*" >> "$CALLS/scontrol"
if [ "$1" = show ]; then printf 'node-1\\nnode-2\\n'; fi
"""
#: `ray symmetric-run`: the command after -- runs on the node that --address names, and there alone.
SYMMETRIC_RUN = """
printf '%s %s\\n' "$NODE" "$*" >> "$CALLS/ray"
printf '%s %s\\n' "$RAY_AUTH_MODE" "$RAY_AUTH_TOKEN" >> "$CALLS/tokens"
case "$*" in *"--address $NODE:"*) ;; *) exit 0 ;; esac
while [ "$1" != -- ]; do shift; done
shift
exec "$@"
"""
#: The entry point: notes where it was told that Ray is, and what it was given, a line each.
PYTHON = f"""
if [ "$1" = -c ]; then exec {sys.executable} "$@"; fi
printf '%s\\n' "${{RAY_ADDRESS:-}}" >> "$CALLS/address"
printf '%s\\n' "$@" >> "$CALLS/python"
sleep "${{SLEEPS:-0}}"
exit "${{ENDS:-0}}"
"""
#: `ray status` fails until a head is started.
RAY = """
printf '%s\\n' "$RAY_AUTH_MODE $*" >> "$CALLS/ray"
case "$1" in
get-auth-token) mkdir -p "$HOME/.ray" && echo token > "$HOME/.ray/auth_token" ;;
status) grep -q -- --head "$CALLS/ray" ;;
esac
"""
KUBECTL = """
printf '%s\\n' "$*" >> "$CALLS/kubectl"
case "$*" in
create*) cat > "$CALLS/created" && echo rayjob.ray.io/wbrag-x ;;
*jobDeploymentStatus*) sed -n "$(grep -c jobDeploymentStatus "$CALLS/kubectl")p" "$CALLS/states" ;;
*) echo told ;;
esac
"""


def stand_in(path: Path, script: str) -> None:
    """An executable that takes the place of another program."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/usr/bin/env bash\n" + script, encoding="utf-8")
    path.chmod(0o755)


def noted(calls: Path, name: str) -> list[str]:
    """The lines that a stand-in noted."""
    return (calls / name).read_text(encoding="utf-8").splitlines() if (calls / name).exists() else []


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    """Where the stand-ins note their calls."""
    (tmp_path / "calls").mkdir()
    return tmp_path / "calls"


@pytest.fixture
def slurm(tmp_path: Path, calls: Path) -> dict[str, str]:
    """The environment of a batch script on the first of two nodes with four GPUs each."""
    stand_in(tmp_path / "bin" / "srun", SRUN)
    stand_in(tmp_path / "bin" / "scontrol", SCONTROL)
    stand_in(tmp_path / "clone" / ".venv" / "bin" / "ray", SYMMETRIC_RUN)
    stand_in(tmp_path / "clone" / ".venv" / "bin" / "python", PYTHON)
    given = {"SUBMIT_DIR": f"{tmp_path}/clone", "JOB_NODELIST": "node-[1-2]", "JOB_NUM_NODES": "2", "JOB_ID": "7"}
    given |= {"GPUS_ON_NODE": "4", "CPUS_PER_TASK": "16"}
    outside = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "SLURM_"))}
    slurms = {f"SLURM_{key}": value for key, value in given.items()}
    return outside | slurms | {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "CALLS": str(calls)}


def batch(environment: dict[str, str], *settings: str) -> int:
    """Exit code of the batch script."""
    return subprocess.run(["bash", str(SBATCH), *settings], env=environment, check=False, timeout=60).returncode


@pytest.mark.parametrize("path", SHELL, ids=lambda path: path.name)
def test_shell_parses(path: Path) -> None:
    subprocess.run(["bash", "-n", str(path)], check=True)


@pytest.mark.skipif(SHELLCHECK is None, reason="no shellcheck: its package has none for this machine")
@pytest.mark.parametrize("path", SHELL, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(path: Path) -> None:
    done = subprocess.run([str(SHELLCHECK), "--shell=bash", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_slurm_uses_every_node_and_tells_the_job_where_ray_is(slurm: dict[str, str], calls: Path) -> None:
    assert batch(slurm, "benchmark=nq", *WORLD) == 0
    started = noted(calls, "ray")
    assert [line.split()[0] for line in started] == ["node-1", "node-2"]
    assert all("symmetric-run --address node-1:6379 --min-nodes 2 --num-cpus=16 --num-gpus=4 -- " in s for s in started)
    assert noted(calls, "address") == ["node-1:6379"]
    assert noted(calls, "python")[0] == "jobs/train.py"
    (asked,) = noted(calls, "srun")
    assert {"--nodes=2", "--ntasks=2", "--ntasks-per-node=1", "--cpus-per-task=16"} <= set(asked.split())


def test_slurm_gives_an_engine_and_an_encoder_to_each_gpu_unless_told(slurm: dict[str, str], calls: Path) -> None:
    batch(slurm, *WORLD)
    cfg = composed(noted(calls, "python")[1:])
    assert (cfg.cluster.gpus, cfg.cluster.engines, cfg.cluster.encoders) == (True, 8, 8)
    assert cfg.backbone.name == "llama31_8b"
    (calls / "python").unlink()
    batch(slurm, *WORLD, "backbone=gemma3_12b", "backbone.tensor_parallel_size=4", "cluster.engines=2")
    cfg = composed(noted(calls, "python")[1:])
    assert (cfg.backbone.name, cfg.cluster.engines, cfg.cluster.encoders) == ("gemma3_12b", 2, 8)


def test_slurm_takes_a_sweep(slurm: dict[str, str], calls: Path) -> None:
    batch(slurm, "-m", "benchmark=nq,fever", *WORLD)
    given = noted(calls, "python")
    assert given[:2] == ["jobs/train.py", "-m"]
    assert not [one for one in given[2:] if one.startswith("-")]
    assert "benchmark=nq,fever" in given


def test_slurm_guards_ray_with_one_new_token(slurm: dict[str, str], calls: Path) -> None:
    batch(slurm, *WORLD)
    batch(slurm, *WORLD)
    first, second, third, fourth = (line.split() for line in noted(calls, "tokens"))
    assert first == second
    assert third == fourth
    assert first[0] == "token"
    assert len(first[1]) == 64
    assert first[1] != third[1]


@pytest.mark.parametrize("code", [1, 2, 3])
def test_slurm_ends_with_the_jobs_code_and_does_not_try_again(code: int, slurm: dict[str, str], calls: Path) -> None:
    assert batch(slurm | {"ENDS": str(code)}, *WORLD) == code
    assert not [one for one in noted(calls, "scontrol") if "requeue" in one]


@pytest.mark.parametrize(("restarts", "asked"), [("", ["requeue 7"]), ("10", [])])
def test_slurm_queues_a_job_again_whose_time_is_up(
    restarts: str, asked: list[str], slurm: dict[str, str], calls: Path
) -> None:
    more = {"SLEEPS": "60"} | ({"SLURM_RESTART_COUNT": restarts} if restarts else {})
    with subprocess.Popen(["bash", str(SBATCH), *WORLD], env=slurm | more, start_new_session=True) as running:
        try:
            until(lambda: bool(noted(calls, "python")))
            running.send_signal(signal.SIGUSR1)
            assert running.wait(timeout=30) != 0
        finally:
            os.killpg(running.pid, signal.SIGKILL)
    assert [one for one in noted(calls, "scontrol") if "requeue" in one] == asked


def test_what_slurm_gives_symmetric_run_is_taken_by_ray(slurm: dict[str, str], calls: Path) -> None:
    from ray.scripts.scripts import start
    from ray.scripts.symmetric_run import curate_and_validate_ray_start_args

    batch(slurm, *WORLD)
    words = noted(calls, "ray")[0].split()[2:]
    left = curate_and_validate_ray_start_args(words[: words.index("--")])
    known = {option for parameter in start.params for option in parameter.opts}
    assert [word.partition("=")[0] for word in left] == ["--num-cpus", "--num-gpus"]
    assert {"--num-cpus", "--num-gpus"} <= known


def taken(port: int) -> bool:
    """Whether something listens there."""
    with socket.socket() as asked:
        return asked.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def local(tmp_path: Path, calls: Path) -> Callable[..., int]:
    """Runs local.sh in a clone of its own, with stand-ins for Ray and Python; gives its exit code."""
    clone = tmp_path / "clone"
    stand_in(clone / ".venv" / "bin" / "ray", RAY)
    stand_in(clone / ".venv" / "bin" / "python", PYTHON)
    (clone / "cluster").mkdir()
    shutil.copy(CLUSTER / "local.sh", clone / "cluster")
    given = os.environ | {"HOME": str(tmp_path), "CALLS": str(calls)}
    if taken(8265):
        pytest.skip("port 8265, the dashboard's, is taken on this machine")

    def run(*settings: str, **more: str) -> int:
        command = ["bash", str(clone / "cluster" / "local.sh"), *settings]
        return subprocess.run(command, env=given | more, check=False, timeout=60).returncode

    return run


def test_local_starts_a_head_and_two_workers_once_all_with_a_token(local: Callable[..., int], calls: Path) -> None:
    assert local(*WORLD) == 0
    started = [one for one in noted(calls, "ray") if one.startswith("token start ")]
    assert ["--head" in one for one in started] == [True, False, False]
    assert "--num-cpus 0" in started[0]
    assert all("--address 127.0.0.1:6379 --num-cpus 4" in one for one in started[1:])
    assert all("--num-gpus 0" in one for one in started)  # each would count the machine's as its own
    assert len([one for one in noted(calls, "ray") if "get-auth-token" in one]) == 1
    assert all(one.startswith("token ") for one in noted(calls, "ray"))
    local(*WORLD)
    assert len([one for one in noted(calls, "ray") if " start " in one]) == 3
    assert len([one for one in noted(calls, "ray") if "get-auth-token" in one]) == 1


def test_local_starts_nothing_where_another_dashboard_would_get_the_job(
    local: Callable[..., int], calls: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 8265)):
        assert local(*WORLD) == 2
    assert "port 8265, the dashboard's, is taken" in capfd.readouterr().err
    assert not [one for one in noted(calls, "ray") if " start " in one]


def test_local_submits_what_it_is_given_and_ends_with_its_code(local: Callable[..., int], calls: Path) -> None:
    assert local("-m", "benchmark=nq,fever", *WORLD, ENDS="2") == 2
    given = noted(calls, "python")
    assert given[0] == "cluster/submit.py"
    after = given[given.index("--") + 1 :]
    assert "--working-dir" not in given  # one of the nodes would remove the copy that they share
    assert after[0].endswith("/clone/.venv/bin/python")
    assert after[1].endswith("/clone/jobs/train.py")
    assert after[2:] == ["-m", "benchmark=nq,fever", *WORLD]


@pytest.mark.parametrize(
    ("states", "code"),
    [(["", "Initializing", "Running", "Complete"], 0), (["Running", "Failed"], 1), (["ValidationFailed"], 1)],
)
def test_a_night_updates_the_run_of_the_rayjob_and_waits_for_it(
    states: list[str], code: int, tmp_path: Path, calls: Path
) -> None:
    stand_in(tmp_path / "bin" / "kubectl", KUBECTL)
    stand_in(tmp_path / "bin" / "sleep", "exit 0")
    (calls / "states").write_text("\n".join(states) + "\n", encoding="utf-8")
    pod = documents(CLUSTER / "kuberay" / "cronjob.yaml")[-1]["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    (script,) = container["args"]
    mounted = f"{container['volumeMounts'][0]['mountPath']}/rayjob.yaml"
    assert mounted in script
    environment = os.environ | {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "CALLS": str(calls)}
    command = [*container["command"], script.replace(mounted, str(CLUSTER / "kuberay" / "rayjob.yaml"))]
    done = subprocess.run(command, env=environment, check=False, timeout=60)
    assert done.returncode == code
    created = yaml.safe_load((calls / "created").read_text(encoding="utf-8"))
    (given,) = documents(CLUSTER / "kuberay" / "rayjob.yaml")
    python, program, *words = created["spec"].pop("entrypoint").split()
    assert (python, program) == ("python", "/opt/wbrag/jobs/update.py")
    assert {"run_dir", "corpus", "cluster"} <= {word.partition("=")[0] for word in words}
    assert set(words) <= {*given["spec"].pop("entrypoint").split()}  # the same run, corpus, engines and encoders
    assert created == given
    assert len([one for one in noted(calls, "kubectl") if "jobDeploymentStatus" in one]) == len(states)


@pytest.fixture(scope="module")
def submit() -> ModuleType:
    """cluster/submit.py, which belongs to no package."""
    spec = importlib.util.spec_from_file_location("submit", CLUSTER / "submit.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("told", "status", "own", "code"),
    [
        (0, "SUCCEEDED", 0, 0),
        (1, "FAILED", 2, 2),
        (1, "FAILED", 3, 3),
        (1, "FAILED", -9, 137),  # the driver was killed
        (1, "FAILED", None, 1),  # it never started
        (0, "STOPPED", None, 1),
        (0, "RUNNING", None, 0),  # --no-wait
        (1, "", None, 1),  # not submitted
    ],
)
def test_the_exit_code_is_the_jobs(told: int, status: str, own: int | None, code: int, submit: ModuleType) -> None:
    assert submit.exit_code(told, status, own) == code


def test_an_id_of_ones_own_is_refused(submit: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        submit.main(["--submission-id", "mine", "--", "true"])
    assert ended.value.code == 2
    assert "--submission-id" in capsys.readouterr().err


def until(holds: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait for a condition; fails where it does not come."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def answers(address: str) -> bool:
    """Whether a job server is there; one that asks for a token is."""
    try:
        with urllib.request.urlopen(f"{address}/api/version", timeout=5):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


@pytest.fixture(scope="module")
def ray_folder() -> Iterator[Path]:
    """Where the job server's Ray keeps its logs."""
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp", ignore_cleanup_errors=True) as folder:  # for sockets
        yield Path(folder)


@pytest.fixture(scope="module")
def job_server(ray_folder: Path) -> Iterator[dict[str, str]]:
    """A Ray of one node with job server and token, apart from any other Ray here: the environment of its clients."""
    pytest.importorskip("aiohttp_cors", reason="Ray's job server needs ray[default]")
    port, address = free_port(), f"http://127.0.0.1:{free_port()}"
    given = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_API_SERVER_ADDRESS": address}
    ports = ["--port", str(port), "--dashboard-port", address.rpartition(":")[2], "--dashboard-agent-listen-port", "0"]
    ports += ["--min-worker-port", "0", "--max-worker-port", "0", "--temp-dir", str(ray_folder)]
    sizes = ["--num-cpus", "1", "--num-gpus", "0", "--object-store-memory", str(100 * 1024**2)]
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", *ports, *sizes]
    own = os.environ | given | SECRETS | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=own, stdout=subprocess.DEVNULL) as head:
        try:
            until(lambda: answers(address), 120)
            yield os.environ | given
        finally:
            head.terminate()
            head.wait(timeout=60)


@pytest.mark.slow
@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("exit 3", 3), ("kill -9 $$", 137)])
def test_a_real_job_server_gives_the_exit_code(script: str, code: int, job_server: dict[str, str]) -> None:
    command = [sys.executable, str(CLUSTER / "submit.py"), "--", "bash", "-c", script]
    done = subprocess.run(command, env=job_server, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == code, done.stdout + done.stderr


@pytest.mark.slow
def test_a_submitted_job_that_is_refused_ends_with_2_and_nobody_tells_its_secrets(
    job_server: dict[str, str], ray_folder: Path, tmp_path: Path
) -> None:
    """The endpoint quotes the key that it was sent, which the nodes have in their environment."""
    files = [f"benchmark.train={tmp_path}/a", f"benchmark.test={tmp_path}/b", f"corpus={tmp_path}/c"]
    own = ["benchmark=files", "backbone=openai", "backbone.model=m", f"backbone.api_key_env={KEY}", *files]
    server = Server()
    server.faults = [f"401 Incorrect API key provided: {SECRETS[KEY]}"]
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    job = [sys.executable, str(ROOT / "jobs" / "train.py"), *own, f"backbone.base_url={server.url}"]
    command = [sys.executable, str(CLUSTER / "submit.py"), "--", *job, f"run_dir={tmp_path}/run"]
    done = subprocess.run(command, env=job_server, capture_output=True, text=True, check=False, timeout=120)
    server.shutdown()
    server.server_close()
    assert done.returncode == 2, done.stdout + done.stderr
    assert "refuses: status 401: " in done.stdout + done.stderr
    assert server.headers[0]["authorization"] == f"Bearer {SECRETS[KEY]}"
    assert leaks(done.stdout, done.stderr, ray_folder, tmp_path) == []
    assert job_server["RAY_AUTH_TOKEN"] not in done.stdout + done.stderr


@pytest.mark.slow
def test_a_job_that_is_not_let_in_ends_with_1(job_server: dict[str, str]) -> None:
    command = [sys.executable, str(CLUSTER / "submit.py"), "--", "true"]
    stranger = job_server | {"RAY_AUTH_TOKEN": secrets.token_hex(32)}
    for environment in (stranger, {key: value for key, value in job_server.items() if "RAY_AUTH" not in key}):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 1, done.stdout + done.stderr
        assert done.stderr.splitlines()[-1].startswith("submit.py: Authentication ")
        assert "RAY_AUTH_MODE=token" in done.stderr
        assert "Traceback" not in done.stderr
