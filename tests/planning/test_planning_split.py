from itertools import product
from pathlib import Path

import pytest

from repo_ray.config import load_config
from repo_ray.config.load import merge, validate
from repo_ray.planning import Cluster, PlanError, plan, read_architecture
from repo_ray.planning.forecast import Setting, forecast
from repo_ray.planning.forecast_report import describe_splits
from repo_ray.planning.memory import GIB
from repo_ray.planning.speeds import H100
from repo_ray.planning.split import best_split
from repo_ray.planning.work import Load

QWEN = load_config(Path(__file__).parents[2] / "jobs/configs/qwen3-32b.yaml")
ARCHITECTURE = read_architecture(QWEN.model.path)
NODE = Cluster(nodes=1, cpus=96, memory_gib=1000, gpus=8, gpu_memory_gib=80)
LOAD = Load(2048, 512, 512)


def split(gpus, config=QWEN, node=NODE):
    return best_split(config, ARCHITECTURE, node, H100, LOAD, gpus)


@pytest.fixture(scope="module")
def sizes():
    return {gpus: split(gpus) for gpus in (8, 16, 32, 64, 1024)}


def test_more_gpus_are_never_slower_and_never_more_than_asked_for(sizes):
    steps = [sizes[gpus].forecast.step_s for gpus in sorted(sizes)]
    assert steps == sorted(steps, reverse=True)
    assert steps[0] > steps[-1]
    assert all(found.gpus <= gpus for gpus, found in sizes.items())


def test_a_split_fits_in_memory_and_respects_tensor_parallelism(sizes):
    for found in sizes.values():
        rollout = found.config.rollout
        assert rollout.pool.gpus == rollout.tensor_parallel
        assert ARCHITECTURE.heads % rollout.tensor_parallel == 0
        assert found.plan.kv_tokens >= rollout.max_model_len
        used = {}
        for place in found.plan.places:
            for gpu in place.gpus:
                key = place.node, gpu
                used[key] = used.get(key, 0) + place.bundle.device_bytes
        assert max(used.values()) <= 80 * GIB
        assert len(used) == found.gpus


def test_the_split_is_the_best_of_all():
    """Every division of 8 GPUs, tried one by one; with much memory, so that many fit."""
    node = Cluster(nodes=1, cpus=96, memory_gib=1000, gpus=8, gpu_memory_gib=192)
    base = merge(
        QWEN.model_dump(),
        {
            "rollout": {"pool": {"labels": {}}},
            "reward_model": {"pool": {"labels": {}}},
            "learner": {"labels": {}},
        },
    )
    tried: list[float] = []
    for world, engines, parallel, scorers in product(
        range(1, 8), range(1, 8), (1, 2, 4), range(1, 4)
    ):
        if world + engines * parallel + scorers > 8:
            continue
        config = validate(
            merge(
                base,
                {
                    "learner": {"world_size": world},
                    "rollout": {
                        "tensor_parallel": parallel,
                        "pool": {"replicas": engines, "gpus": parallel},
                    },
                    "reward_model": {"pool": {"replicas": scorers}},
                },
            ),
            "test",
        )
        try:
            plan(config, ARCHITECTURE, node)
        except PlanError:
            continue
        tried.append(forecast(Setting(config, ARCHITECTURE, node, H100, LOAD)).step_s)
    assert len(tried) > 50
    assert split(8, node=node).forecast.step_s == pytest.approx(min(tried))


def test_no_role_gets_more_actors_than_there_are_samples():
    small = validate(merge(QWEN.model_dump(), {"run": {"batch_size": 8}}), "test")
    small = small.model_copy(
        update={"learner": small.learner.model_copy(update={"micro_batch_tokens": 1})}
    )
    found = split(512, small)
    assert found.config.learner.world_size <= 8
    assert found.config.rollout.pool.replicas <= 8
    assert found.gpus < 512
    text = describe_splits(small, [(512, found)], H100)
    assert f"{found.gpus:g} of 512 GPUs are as fast as all" in text
    assert "batch of 8" in text


def test_too_few_gpus_are_refused_with_what_each_role_needs():
    with pytest.raises(PlanError, match=r"GPUs are needed at least \(learner 5, rollout 1, rew"):
        split(6)
    with pytest.raises(PlanError, match="learner: not even 4 GPUs of 80 GiB hold it"):
        split(4)


def test_a_row_that_does_not_fit_says_so_and_the_others_stand(sizes):
    text = describe_splits(QWEN, [(4, PlanError("too small")), (16, sizes[16])], H100)
    assert "does not fit: too small" in text
    assert "ASSUMED" in text
    role = sizes[16].forecast.bottleneck
    assert f"{role.name}: {role.cause}" in text


def test_a_local_judge_gets_gpus_of_its_own():
    judge = {"kind": "local", "base_url": "", "model": ""}
    local = validate(merge(QWEN.model_dump(), {"judge": judge}), "test")
    found = split(16, local)
    names = {place.bundle.name for place in found.plan.places if place.gpus}
    assert {"judge-0", "reward_model-0", "rollout-0", "learner-0"} <= names
