from pathlib import Path

import pytest

from repo_ray.config import load_config
from repo_ray.planning import Cluster, PlanError, plan, read_architecture
from repo_ray.planning.memory import GIB
from repo_ray.planning.placement import Bundle, place
from repo_ray.planning.report import describe

QWEN = Path(__file__).parents[2] / "jobs/configs/qwen3-32b.yaml"
TWO_NODES = Cluster(nodes=2, cpus=96, memory_gib=1000, gpus=8, gpu_memory_gib=80)


def planned(cluster, *overrides):
    config = load_config(QWEN, overrides)
    return plan(config, read_architecture(config.model.path), cluster)


def test_the_papers_settings_are_what_the_paper_says():
    config = load_config(QWEN)
    assert config.run.batch_size == 128
    assert (config.lora.rank, config.lora.alpha) == (64, 64)
    assert config.learner.policy_lr == 1e-6
    assert config.learner.warmup_steps == 2
    assert config.sampling.max_new_tokens == 512
    assert config.run.epochs == 2
    assert config.model.thinking is False


def test_the_papers_settings_fit_two_nodes_of_eight_gpus():
    result = planned(TWO_NODES)
    on_gpu = {}
    for place_ in result.places:
        for gpu in place_.gpus:
            key = (place_.node, gpu)
            on_gpu[key] = on_gpu.get(key, 0) + place_.bundle.device_bytes
    assert len(on_gpu) == 16
    assert max(on_gpu.values()) <= 80 * GIB
    roles = [p.bundle.name for p in result.places]
    assert roles[0] == "learner-0"
    assert sum(name.startswith("rollout") for name in roles) == 3


@pytest.mark.parametrize(
    ("cluster", "overrides", "words"),
    [
        (Cluster(2, 96, 1000, 8, 40), (), ["does not fit", "40 gib"]),
        (Cluster(1, 96, 1000, 8, 80), (), ["all actors", "16 gpus", "8 gpus"]),
        (Cluster(2, 8, 1000, 8, 80), (), ["cpus"]),
        (
            Cluster(2, 96, 1000, 8, 72),
            ("rollout.tensor_parallel=1", "rollout.pool.gpus=1"),
            ["kv cache", "tensor_parallel"],
        ),
        (TWO_NODES, ("rollout.pool.gpus=1",), ["rollout.pool.gpus", "tensor_parallel"]),
        (TWO_NODES, ("learner.zero_stage=2",), ["learner-0", "base weights 61.0 gib"]),
        (TWO_NODES, ("rollout.pool.replicas=0",), ["rollout.pool.replicas"]),
        (
            TWO_NODES,
            ("rollout.tensor_parallel=3", "rollout.pool.gpus=3"),
            ["does not divide", "64"],
        ),
    ],
)
def test_refuses_what_cannot_fit_and_says_why(cluster, overrides, words):
    with pytest.raises(PlanError) as error:
        planned(cluster, *overrides)
    for word in words:
        assert word in str(error.value).lower()


def test_a_small_model_fits_two_cores():
    config = load_config(
        None, ["model.max_prompt_tokens=320", "sampling.max_new_tokens=64", "model.attention=eager"]
    )
    cpu = Cluster(nodes=1, cpus=4, memory_gib=24)
    result = plan(config, read_architecture("smollm2-135m"), cpu)
    assert sum(p.bundle.device_bytes for p in result.places) < 24 * GIB
    assert "smollm2-135m" in describe(config, result)


def test_fractions_share_a_gpu_as_long_as_memory_lasts():
    cluster = Cluster(nodes=1, cpus=8, memory_gib=8, gpus=2, gpu_memory_gib=10)
    half = [Bundle(f"a-{i}", 1, 0.5, {"x": 4 * GIB}) for i in range(4)]
    assert [p.gpus for p in place(half, cluster)] == [(0,), (0,), (1,), (1,)]
    wide = [Bundle(f"a-{i}", 1, 0.5, {"x": 6 * GIB}) for i in range(3)]
    with pytest.raises(PlanError, match="a-2"):
        place(wide, cluster)


def test_the_gpus_of_one_actor_are_on_one_node():
    cluster = Cluster(nodes=2, cpus=8, memory_gib=8, gpus=3, gpu_memory_gib=10)
    pairs = [Bundle(f"a-{i}", 1, 2, {"x": GIB}) for i in range(2)]
    assert [(p.node, p.gpus) for p in place(pairs, cluster)] == [(0, (0, 1)), (1, (0, 1))]
    with pytest.raises(PlanError):
        place([*pairs, Bundle("a-2", 1, 2, {"x": GIB})], cluster)


def test_the_report_names_every_actor_and_its_memory():
    config = load_config(QWEN)
    text = describe(config, planned(TWO_NODES))
    for word in ("learner x 8", "rollout x 3", "KV cache", "Adam moments", "reward_model x 2"):
        assert word in text
    assert "judge at http://judge.example" in text


def test_labels_and_custom_resources_are_remarked_on_once():
    remarks = planned(TWO_NODES, "learner.resources={fast_disk: 1}").remarks
    (remark,) = [r for r in remarks if "custom resources" in r]
    assert "learner: 4 CPU, 1 GPU, 1 fast_disk on a node with repo-ray/role=learner;" in remark
    assert "judge: 0.5 CPU on a node with repo-ray/role=judge;" in remark
    plain = plan(load_config(None), read_architecture("smollm2-135m"), TWO_NODES)
    assert not any("custom" in r for r in plain.remarks)


def test_remarks_when_pools_could_not_grow_to_their_largest():
    fits = planned(TWO_NODES, "judge.pool.autoscale.max=8")
    assert not any("autoscale" in remark for remark in fits.remarks)
    grown = planned(TWO_NODES, "rollout.pool.autoscale.max=6")
    (remark,) = [r for r in grown.remarks if "autoscale" in r]
    assert "does not fit" in remark
    assert "reserve 22 GPUs" in remark  # 8 learner ranks, 6 engines on 2 each, 2 reward models
    assert len(grown.places) == len(fits.places)
