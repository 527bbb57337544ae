"""What an engine is opened with: arguments of vLLM that users give, and models that a hub does or does not give."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from forked import run_program
from test_pipeline import settings, world

from wbrag.config import Backbone, ConfigError
from wbrag.experiments.variants import check_transfer
from wbrag.llm.engine import check_template, engine_arguments, gpus_of, open_tokenizer, template_of
from wbrag.llm.vllm import check_engine_args, engine_config
from wbrag.run.inputs import check_backbone, closed_book_identity, identity_of

ROOT = Path(__file__).resolve().parents[1]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
MEMBER, EXPIRED = "hf_member", "hf_expired"
ASK = """
import json, sys
from wbrag.config import Backbone, ConfigError
from wbrag.llm.engine import check_hub
told = []
for model, revision in json.loads(sys.argv[1]):
    try:
        check_hub(Backbone(name="m", model=model, engine_args={"revision": revision} if revision else {}))
        told.append("")
    except ConfigError as error:
        told.append(str(error))
print(json.dumps(told))
"""


def backbone(**engine_args: Any) -> Backbone:  # noqa: ANN401 - whatever a user gives
    return Backbone(name="m", model="microworld/models/micro_small", engine_args=engine_args)


def test_a_backbones_own_arguments_stand_before_those_of_wbrag() -> None:
    given = backbone(max_num_batched_tokens=512, enable_prefix_caching=False, kv_cache_dtype="fp8")
    check_engine_args(given)
    for on_cpu in (True, False):
        made = engine_arguments(given, on_cpu)
        assert (made["max_num_batched_tokens"], made["enable_prefix_caching"]) == (512, False)
        assert (made["kv_cache_dtype"], made["logprobs_mode"]) == ("fp8", "processed_logprobs")
    assert "max_num_batched_tokens" not in engine_arguments(backbone(), on_cpu=False)


def test_an_argument_that_vllm_has_not_is_told_with_the_nearest() -> None:
    for key, nearest in {"max_batched_tokens": "max_num_batched_tokens", "quantisation": "quantization"}.items():
        told = f"backbone.engine_args.{key}: vLLM has no such argument; the nearest is {nearest}"
        with pytest.raises(ConfigError, match=f"^{re.escape(told)}$"):
            check_engine_args(backbone(seed=1, **{key: 1}))


@pytest.mark.parametrize(
    ("key", "why"),
    [
        ("max_model_len", "backbone.max_model_len is its setting"),
        ("model", "backbone.model is its setting"),
        ("logprobs_mode", "methods read the probabilities of what was sampled"),
        ("spec_tokens", "vLLM drafts no tokens beside REPLUG's logits processor"),
        ("data_parallel_size", "cluster.engines=N"),
        ("hf_token", "set HF_TOKEN in the environment"),
    ],
)
def test_an_argument_that_has_another_place_is_refused_with_why(key: str, why: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"backbone.engine_args.{key} cannot be given: ") + f".*{why}"):
        check_engine_args(backbone(**{key: 1}))


def test_every_reserved_argument_is_one_that_vllm_has_and_names_like_them_may_be_given() -> None:
    from vllm import AsyncEngineArgs

    from wbrag.llm.engine import NAMED, RESERVED

    own = set(NAMED) | {name for name in RESERVED if "*" not in name}
    assert own <= set(AsyncEngineArgs.__dataclass_fields__)
    check_engine_args(backbone(model_impl="auto", specialize_active_lora=False, revision="v1"))


def test_what_has_no_vllm_engine_takes_no_arguments_of_one() -> None:
    scripted = Backbone(name="s", kind="scripted", model="scripted", engine_args={"seed": 1})
    with pytest.raises(ConfigError, match=r"backbone\.engine_args\.seed: backbone\.kind=scripted is no vLLM engine"):
        check_engine_args(scripted)


def test_an_engine_takes_the_gpus_of_all_its_ranks() -> None:
    given = backbone(pipeline_parallel_size=2)
    assert (gpus_of(backbone()), gpus_of(given)) == (1, 2)
    given.tensor_parallel_size = 4
    assert gpus_of(given) == 8
    assert engine_arguments(backbone(pipeline_parallel_size=2), on_cpu=False)["distributed_executor_backend"] == "mp"
    assert "distributed_executor_backend" not in engine_arguments(backbone(), on_cpu=False)


def test_engine_arguments_are_part_of_a_runs_identity_and_none_leave_it_as_it_was(tmp_path: Path) -> None:
    data = world(tmp_path / "world", train_rows=6)
    local = {"max_model_len": 2048}
    plain, fp8 = (
        settings(data, tmp_path / "run", backbone=Backbone("m", model="microworld/models/micro_small", **more))
        for more in (local, local | {"engine_args": {"quantization": "fp8"}})
    )
    for identity in (identity_of, closed_book_identity):
        without, given = identity(plain), identity(fp8)
        assert given == without | {"backbone.engine_args.quantization": "fp8"}
    runs = [("naive", identity_of(plain)), ("flare", identity_of(fp8))]
    for order in (runs, runs[::-1]):
        with pytest.raises(ConfigError, match=r"backbone\.engine_args\.quantization is"):
            check_transfer(order)


class H200:
    """What vLLM asks its platform for when it chooses the tokens of a step."""

    is_tpu = is_cpu = staticmethod(lambda: False)
    get_device_total_memory = staticmethod(lambda: 150_754_820_096)
    get_device_name = staticmethod(lambda: "NVIDIA H200")


@pytest.mark.slow
def test_a_step_on_an_h200_takes_as_many_tokens_as_vllms_own_offline_work(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm import AsyncEngineArgs

    with monkeypatch.context() as patch:
        patch.setattr("vllm.engine.arg_utils.current_platform", H200)
        defaults = AsyncEngineArgs.get_batch_defaults(1)
    monkeypatch.setattr(AsyncEngineArgs, "get_batch_defaults", staticmethod(lambda world_size: defaults))
    unsaid = {"max_num_batched_tokens": None}  # as it is on GPUs; on a CPU wbrag says a number
    tiny = Backbone("tiny", model=str(tiny_model), dtype="float32", kv_cache_gib=0.1, engine_args=unsaid)
    assert engine_config(tiny, on_cpu=True).scheduler_config.max_num_batched_tokens == 16384


class Hub(BaseHTTPRequestHandler):
    """The part of the hub's protocol that tells whether a file can be had."""

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on stderr."""

    def do_GET(self) -> None:
        self.reply(404)

    def do_HEAD(self) -> None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        model, _, rest = self.path.strip("/").partition("/resolve/")
        if token == EXPIRED:
            self.reply(401, {"X-Error-Message": "Invalid credentials in Authorization header"})
        elif model == "gated/model" and token != MEMBER:
            self.reply(403 if token else 401, {"X-Error-Code": "GatedRepo"})
        elif model not in ("open/model", "gated/model", "bare/model"):
            self.reply(404 if token else 401, {"X-Error-Code": "RepoNotFound"})
        elif rest.partition("/")[0] not in ("main", "v1"):
            self.reply(404, {"X-Error-Code": "RevisionNotFound"})
        elif model == "bare/model":
            self.reply(404, {"X-Error-Code": "EntryNotFound"})
        else:
            self.reply(200, {"X-Repo-Commit": COMMIT, "ETag": '"e7a6"'})

    def reply(self, status: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": "2" if status == 200 else "0", **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    """Where it is served, for HF_ENDPOINT, which is read when the client is imported: tests ask in new processes."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def environment(hub: str, home: Path, **more: str) -> dict[str, str]:
    foreign = re.compile(r"HF_|HUGGING_FACE_|.*_proxy$", re.IGNORECASE)
    own = {key: value for key, value in os.environ.items() if not foreign.match(key)}
    return own | {"HF_ENDPOINT": hub, "HF_HOME": str(home), "PYTHONPATH": str(ROOT)} | more


def asked(models: list[tuple[str, str]], given: dict[str, str]) -> list[str]:
    """What is said against each model, "" where nothing is."""
    command = [sys.executable, "-c", ASK, json.dumps(models)]
    told: list[str] = json.loads(subprocess.run(command, env=given, capture_output=True, text=True, check=True).stdout)
    return told


def test_models_that_the_hub_does_not_give_are_told_with_what_to_do(hub: str, tmp_path: Path) -> None:
    models = [("open/model", ""), ("open/model", "v1"), ("bare/model", ""), ("gated/model", "")]
    models += [("no/model", ""), ("open/model", "v9")]
    account = "set HF_TOKEN, on every node, to a token of an account that may read it"
    unset = f"({hub}, HF_TOKEN is not set)"
    assert asked(models, environment(hub, tmp_path)) == [
        *("", "", ""),
        f"backbone.model=gated/model is gated and may not be read {unset}; accept its terms at {hub}/gated/model and "
        f"{account}",
        f"backbone.model=no/model is not there, or is private {unset}; check the name; where it is private, {account}",
        f"backbone.model=open/model has no revision 'v9' {unset}; check backbone.engine_args.revision",
    ]
    assert not (tmp_path / "hub").exists()  # where it keeps what it downloads


def test_the_token_of_the_environment_is_used_and_never_told(hub: str, tmp_path: Path) -> None:
    gated = [("gated/model", "")]
    assert asked(gated, environment(hub, tmp_path, HF_TOKEN=MEMBER)) == [""]
    (stranger,) = asked(gated, environment(hub, tmp_path, HF_TOKEN="hf_stranger"))
    (expired,) = asked(gated, environment(hub, tmp_path, HF_TOKEN=EXPIRED))
    assert "is gated and may not be read" in stranger
    assert "is refused with status 401" in expired
    for told in (stranger, expired):
        assert "HF_TOKEN is set" in told
        assert "hf_" not in told


def test_without_a_hub_the_cache_of_hf_home_is_enough(hub: str, tmp_path: Path) -> None:
    models, offline = [("open/model", "")], environment(hub, tmp_path, HF_HUB_OFFLINE="1")
    (told,) = asked(models, offline)
    assert "cannot be asked for (OfflineModeIsEnabled) and is not in HF_HOME's cache" in told
    assert str(tmp_path) in told
    kept = tmp_path / "hub" / "models--open--model"
    (kept / "snapshots" / COMMIT).mkdir(parents=True)
    (kept / "snapshots" / COMMIT / "config.json").write_text("{}")
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text(COMMIT)
    assert asked(models, offline) == [""]


@pytest.mark.parametrize(
    ("job", "given", "told"),
    [
        ("train", ["backbone=hf", "backbone.model=gated/model"], "backbone.model=gated/model is gated"),
        (
            "reproduce",
            ["methods=[naive]", "backbones=[scripted,hf]", "overrides=['backbone.model=gated/model']"],
            "backbone.model=gated/model is gated",
        ),
        ("train", ["+backbone.engine_args.max_batched_tokens=9"], "nearest is max_num_batched_tokens"),
    ],
)
def test_a_job_tells_it_before_anything_is_built(
    job: str, given: list[str], told: str, hub: str, tmp_path: Path
) -> None:
    (empty := tmp_path / "empty").mkdir()
    script, own = ROOT / "jobs" / f"{job}.py", ["world=w", f"run_dir={empty / 'run'}", *given]
    ended = run_program(script, *own, folder=empty, environment=environment(hub, tmp_path))
    assert ended.returncode == 2, ended.stderr
    assert any(told in line for line in ended.stderr.splitlines() if line.startswith("error: "))
    assert list(empty.iterdir()) == []


#: A chat template.
SAYS = "{{ bos_token + messages[0].content }}"


@pytest.mark.parametrize(
    ("own", "files", "ends"),
    [
        ("", {"chat_template.jinja": SAYS}, SAYS),
        ("", {"tokenizer_config.json": json.dumps({"chat_template": SAYS})}, SAYS),
        (SAYS, {}, SAYS),
        ("", {"default": SAYS, "tool_use": "T"}, SAYS),
        (
            "",
            {"rag": "R", "tool_use": "T"},
            "has chat templates named .*rag.* and none named default: give one of them",
        ),
        ("", {}, r"has no chat template: give backbone\.chat_template"),
        (
            "",
            {"chat_template.jinja": "{{ bos_token }}Answer:"},
            "the chat template of .* leaves the question out",
        ),
        ("{% for m in messages[:-1] %}{{ m.content }}{% endfor %}", {}, "leaves the question out"),
        ("", {"default": "{{ messages[0].content[:9] }}", "tool_use": SAYS}, "leaves the question out"),
        (
            "{{ raise_exception('Only tools!') }}",
            {},
            r"refuses .*\(TemplateError: Only tools!\)",
        ),
        (
            "{{ messages[0].content + messages[1].content }}",
            {},
            "refuses",
        ),
        ("{% if messages %}{{ messages[0].content }}", {}, "refuses .*TemplateSyntaxError"),
    ],
)
def test_the_chat_template_is_found_or_missed_before_an_engine_starts(
    tmp_path: Path, own: str, files: dict[str, str], ends: str
) -> None:
    """A checkpoint's own tokenizer, without its template or with others."""
    folder = tmp_path / "model"
    shutil.copytree(ROOT / "microworld" / "models" / "micro_small", folder, ignore=lambda *_: ["model.safetensors"])
    (folder / "chat_template.jinja").unlink()
    config = json.loads((folder / "tokenizer_config.json").read_text())
    if "tool_use" in files:
        config["chat_template"] = [{"name": name, "template": text} for name, text in files.items()]
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    else:
        for name, text in files.items():
            more = config | json.loads(text) if name.endswith("json") else text
            (folder / name).write_text(text if isinstance(more, str) else json.dumps(more))
    given = Backbone(name="m", model=str(folder), chat_template=own)
    if ends != SAYS:
        with pytest.raises(ConfigError, match=ends):
            check_template(given)
    else:
        check_template(given)
        assert template_of(given, open_tokenizer(given)) == ends


def test_what_is_for_one_kind_of_backbone_is_refused_for_another() -> None:
    with pytest.raises(ConfigError, match=r"backbone\.template_args: for backbone\.kind=vllm only, not scripted"):
        check_backbone(Backbone(name="s", kind="scripted", template_args={"enable_thinking": False}))
    with pytest.raises(ConfigError, match=r"backbone\.extra_body: for backbone\.kind=openai only, not vllm"):
        check_backbone(Backbone(name="m", model="m", extra_body={"n": 2}))
    with pytest.raises(ConfigError, match=r"backbone\.extra_body\.stream cannot be given"):
        check_backbone(Backbone(name="o", kind="openai", extra_body={"stream": True}))
