"""The launcher files and Kubernetes manifests: valid, safe by default, and fit for the config."""

from __future__ import annotations

import copy
import gzip
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import (
    _derive_autoscaling_config_from_ray_cr,
)
from ray.autoscaler._private.util import prepare_config, validate_config

from repo_ray.config import load_config
from repo_ray.planning.placement import Bundle, Cluster, PlanError, place

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
SCHEMAS = ROOT.parent / "shared" / "schemas" / "kuberay-ray.io-v1.json.gz"
CONFIG = ROOT / "jobs" / "configs" / "qwen3-32b.yaml"

LAUNCHERS = ("launcher.yaml", "launcher-single-node.yaml")
KUBERAY = ("raycluster.yaml", "rayjob.yaml", "single-node.yaml")
GROUPED = ("launcher.yaml", "kuberay/raycluster.yaml")
FILES = sorted(
    path for path in CLUSTER.rglob("*.yaml") if path.name in LAUNCHERS or "kuberay" in path.parts
)
ROLE = "repo-ray/role"


def read(name: str) -> dict[str, Any]:
    return yaml.safe_load((CLUSTER / name).read_text(encoding="utf-8"))


def cluster_spec(name: str) -> dict[str, Any]:
    """The cluster of a RayCluster or a RayJob."""
    spec = read(f"kuberay/{name}")["spec"]
    return spec.get("rayClusterSpec", spec)


def pods(name: str) -> Iterator[dict[str, Any]]:
    """The pod specs of a KubeRay manifest, the head's first."""
    spec = cluster_spec(name)
    for group in (spec["headGroupSpec"], *spec.get("workerGroupSpecs", ())):
        yield group["template"]["spec"]


def groups(name: str) -> dict[str, Any]:
    """Node types as Ray's autoscaler sees them, by name."""
    if not name.startswith("kuberay"):
        return prepare_config(read(name))["available_node_types"]
    resource = read(name)
    resource["metadata"]["namespace"] = "default"
    return _derive_autoscaling_config_from_ray_cr(resource)["available_node_types"]


# --- the schemas ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", LAUNCHERS)
def test_launcher_files_are_valid_for_ray(name):
    validate_config(prepare_config(read(name)))


@pytest.mark.parametrize("name", KUBERAY)
def test_manifests_are_valid_for_kuberay(name):
    resource = read(f"kuberay/{name}")
    jsonschema.validate(resource, kuberay_schema(resource["kind"]))


def test_the_kuberay_schema_is_read_so_that_unknown_keys_are_found():
    resource = read("kuberay/raycluster.yaml")
    resource["spec"]["workerGroupSpecs"][0]["minimumReplicas"] = 1
    with pytest.raises(jsonschema.ValidationError, match="minimumReplicas"):
        jsonschema.validate(resource, kuberay_schema("RayCluster"))


def kuberay_schema(kind: str) -> dict[str, Any]:
    """The resource definition's schema; skips the test where it is not beside the checkout."""
    if not SCHEMAS.is_file():
        pytest.skip(f"KubeRay's schemas are not beside the checkout ({SCHEMAS})")
    with gzip.open(SCHEMAS, "rt", encoding="utf-8") as file:
        schema = json.load(file)[kind]
    close(schema)
    return schema


def close(schema: Any) -> None:
    """Kubernetes drops keys that a definition does not know; here they are errors."""
    if isinstance(schema, list):
        for part in schema:
            close(part)
    elif isinstance(schema, dict):
        for part in schema.values():
            close(part)
        known = isinstance(schema.get("properties"), dict) and schema.get("type") == "object"
        if known and not schema.get("x-kubernetes-preserve-unknown-fields"):
            schema.setdefault("additionalProperties", False)


@pytest.mark.parametrize("name", KUBERAY)
def test_manifests_name_the_locked_version_of_ray(name):
    pins = (ROOT / "docker" / "requirements.in").read_text(encoding="utf-8")
    locked = re.search(r"^ray\[default\]==(\S+)$", pins, re.MULTILINE)
    assert locked is not None
    assert cluster_spec(name)["rayVersion"] == locked[1]


def test_the_job_starts_the_same_cluster_as_the_one_that_stays():
    assert cluster_spec("rayjob.yaml") == cluster_spec("raycluster.yaml")


# --- groups and the config -----------------------------------------------------------------


@pytest.mark.parametrize("name", GROUPED)
def test_every_role_has_one_group_and_the_head_takes_no_work(name):
    found = groups(name)
    roles = [group["labels"][ROLE] for group in found.values()]
    assert sorted(roles) == ["driver", "judge", "learner", "reward", "rollout"]
    (head,) = (g for g in found.values() if g["labels"][ROLE] == "driver")
    assert head["resources"]["CPU"] == 0
    assert "GPU" not in head["resources"]


@pytest.mark.parametrize("name", GROUPED)
def test_the_smallest_cluster_holds_every_actor_of_the_config_on_the_group_it_asks_for(name):
    by_role = {group["labels"][ROLE]: group for group in groups(name).values()}
    for role, bundles in wanted_bundles().items():
        group = by_role[role]
        resources = group["resources"]
        place(
            bundles,
            Cluster(
                nodes=group["min_workers"],
                cpus=resources["CPU"],
                memory_gib=0,
                gpus=resources.get("GPU", 0),
            ),
        )


def test_too_small_a_group_would_be_noticed():
    bundles = wanted_bundles()["rollout"]
    with pytest.raises(PlanError, match="rollout"):
        place(bundles, Cluster(nodes=2, cpus=8, memory_gib=0, gpus=2))


def wanted_bundles() -> dict[str, list[Bundle]]:
    """What the actors of the config reserve, by the role that their labels ask for."""
    config = load_config(CONFIG)
    learner = config.learner
    asked = [("learner", learner.labels, learner.world_size, learner.cpus, learner.gpus)]
    for name in ("rollout", "reward_model", "judge", "rules"):
        pool = getattr(config, name).pool
        asked.append((name, pool.labels, pool.replicas, pool.cpus, pool.gpus))
    bundles = defaultdict(list)
    for name, labels, count, cpus, gpus in asked:
        assert set(labels) == {ROLE}, name
        bundles[labels[ROLE]] += [Bundle(f"{name}-{i}", cpus, gpus, {}) for i in range(count)]
    return bundles


@pytest.mark.parametrize("name", GROUPED)
def test_judges_scale_on_their_own(name):
    (judge,) = (g for g in groups(name).values() if g["labels"][ROLE] == "judge")
    assert "GPU" not in judge["resources"]
    assert judge["max_workers"] >= 8 * judge["min_workers"] > 0
    assert judge["idle_timeout_s"]


def test_the_launchers_limit_is_the_sum_of_its_groups():
    config = read("launcher.yaml")
    assert config["max_workers"] == sum(
        group["max_workers"] for group in config["available_node_types"].values()
    )


# --- safe by default -----------------------------------------------------------------------


@pytest.mark.parametrize("name", LAUNCHERS)
def test_every_start_of_a_launcher_asks_for_the_token_and_hides_the_dashboard(name):
    config = read(name)
    head = [c for c in config["head_start_ray_commands"] if "ray start" in c]
    worker = [c for c in config["worker_start_ray_commands"] if "ray start" in c]
    assert len(head) == 1
    for command in head + worker:
        assert "RAY_AUTH_MODE=token;" in command
    assert "--dashboard-host=127.0.0.1" in head[0]
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"


@pytest.mark.parametrize("name", KUBERAY)
def test_kuberay_asks_for_the_token_and_keeps_the_dashboard_inside(name):
    spec = cluster_spec(name)
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"
    for pod in pods(name):
        names = {entry["name"] for container in pod["containers"] for entry in container["env"]}
        assert not {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN"} & names  # KubeRay's to set


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_nothing_is_opened_to_every_address(path):
    text = path.read_text(encoding="utf-8")
    assert "0.0.0.0" not in text
    assert not re.search(r"NodePort|LoadBalancer|kind: Ingress|hostNetwork|hostPort", text)


@pytest.mark.parametrize("name", KUBERAY)
def test_pods_run_without_privileges(name):
    for pod in pods(name):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == 1000
        for container in pod["containers"]:
            rights = container["securityContext"]
            assert rights == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }


def test_only_the_head_may_speak_to_kubernetes():
    """The autoscaler runs there."""
    head, *workers = pods("raycluster.yaml")
    assert "automountServiceAccountToken" not in head
    assert all(pod["automountServiceAccountToken"] is False for pod in workers)
    (alone,) = pods("single-node.yaml")
    assert alone["automountServiceAccountToken"] is False


SECRET = re.compile(
    r"AKIA[0-9A-Z]{12}|\bsk-[A-Za-z0-9_-]{16}|\bhf_[A-Za-z0-9]{16}|-----BEGIN|kind: Secret\b"
)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_secret_is_inside(path):
    text = path.read_text(encoding="utf-8")
    assert not SECRET.search(text)
    for key, value in leaves(yaml.safe_load(text)):
        if re.search(r"token|password|secret|api_?key", key, re.IGNORECASE):
            assert isinstance(value, bool) or value.startswith("~/"), f"{key}: {value}"


def leaves(tree: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every value with the key above it; environment entries under their name."""
    if isinstance(tree, dict):
        if "value" in tree and "name" in tree:
            yield tree["name"], tree["value"]
        for name, below in tree.items():
            yield from leaves(below, name)
    elif isinstance(tree, list):
        for below in tree:
            yield from leaves(below, key)
    else:
        yield key, tree


# --- pods ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KUBERAY)
def test_images_are_those_that_docker_builds(name):
    for pod in pods(name):
        for container in pod["containers"]:
            repository, _, device = container["image"].rpartition(":")
            assert repository.endswith("/repo-ray")
            assert (ROOT / "docker" / f"Dockerfile.{device}").is_file()
            needs_gpu = "nvidia.com/gpu" in container["resources"]["limits"]
            assert device == ("gpu" if needs_gpu else "cpu")


@pytest.mark.parametrize("name", KUBERAY)
def test_every_pod_has_probes_and_the_shared_volume(name):
    claim = read("kuberay/storage.yaml")["metadata"]["name"]
    for pod in pods(name):
        (volume,) = (v for v in pod["volumes"] if "persistentVolumeClaim" in v)
        assert volume["persistentVolumeClaim"]["claimName"] == claim
        for container in pod["containers"]:
            for probe in ("readinessProbe", "livenessProbe"):
                assert container[probe]["httpGet"]["path"] == "/api/healthz"
            (mount,) = (m for m in container["volumeMounts"] if m["name"] == volume["name"])
            environment = {entry["name"]: entry["value"] for entry in container["env"]}
            assert environment["REPO_RAY_HOME"] == mount["mountPath"]
            assert environment["HF_HOME"].startswith(f"{mount['mountPath']}/")


@pytest.mark.parametrize("name", ["network-policy.yaml", "pod-monitor.yaml"])
def test_policies_select_the_pods_of_all_clusters(name):
    spec = read(f"kuberay/{name}")["spec"]
    selected = (spec.get("podSelector") or spec["selector"])["matchLabels"]
    for manifest in KUBERAY:
        cluster = cluster_spec(manifest)
        for group in (cluster["headGroupSpec"], *cluster.get("workerGroupSpecs", ())):
            assert selected.items() <= group["template"]["metadata"]["labels"].items()


# --- jobs ----------------------------------------------------------------------------------


def test_a_stopped_job_has_time_to_write_its_checkpoint():
    for name in LAUNCHERS:
        (start,) = (c for c in read(name)["head_start_ray_commands"] if "ray start" in c)
        assert "RAY_JOB_STOP_WAIT_TIME_S=120;" in start
    for name in KUBERAY:
        head = next(pods(name))["containers"][0]
        assert {"name": "RAY_JOB_STOP_WAIT_TIME_S", "value": "120"} in head["env"]


def test_the_job_of_the_manifest_is_the_configs_and_resumes():
    job = read("kuberay/rayjob.yaml")["spec"]
    words = job["entrypoint"].split()
    program, options = Path(words[1]), words[2:]
    assert (ROOT / program.relative_to("/app")).is_file()
    config = Path(options[options.index("--config") + 1])
    assert ROOT / config.relative_to("/app") == CONFIG
    assert "--resume" in options  # a second attempt continues
    overrides = [
        word.replace("SET_ME_judge_url", "http://judge:8000/v1") for word in options if "=" in word
    ]
    assert job["metadata"]["run"] == load_config(CONFIG, overrides).run.name


# --- what the user sets --------------------------------------------------------------------


def test_the_readme_explains_every_value_that_must_be_set():
    marked = {
        mark
        for path in FILES
        for mark in re.findall(r"SET_ME_\w+", path.read_text(encoding="utf-8"))
    }
    explained = re.findall(
        r"^\| `(SET_ME_\w+)` \|",
        (CLUSTER / "README.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    assert marked
    assert sorted(explained) == sorted(marked)


def test_closing_leaves_free_maps_open():
    """A map of labels takes any key; an object with known keys takes those."""
    free = {"type": "object", "additionalProperties": {"type": "string"}}
    schema = {"type": "object", "properties": {"labels": copy.deepcopy(free)}}
    close(schema)
    assert schema["properties"]["labels"] == free
    assert schema["additionalProperties"] is False
