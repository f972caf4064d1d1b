import pytest

pytest.importorskip("ray")

from repo_ray.config.load import validate
from repo_ray.doctor import cluster

SMALL = {
    "model": {"attention": "eager", "max_prompt_tokens": 128},
    "lora": {"rank": 8, "alpha": 8},
    "sampling": {"max_new_tokens": 32},
    "rollout": {"max_model_len": 256, "max_num_seqs": 8, "pool": {"cpus": 0.2}},
    "reward_model": {"pool": {"cpus": 0.1}},
    "judge": {"pool": {"cpus": 0.1}},
    "rules": {"pool": {"cpus": 0.1}},
    "learner": {"cpus": 0.2},
}


@pytest.mark.engine
def test_placement_and_canary_on_a_real_engine(monkeypatch):
    config = validate(SMALL, "test")
    with cluster.connected(None):
        assert cluster.placement(config).status == "ok"
        check = cluster.canary(config, timeout_s=240)
        assert check.status == "ok", check
        assert "tensors verified" in check.found

        greedy = validate(SMALL | {"learner": {"cpus": 9999}}, "test")
        monkeypatch.setattr(cluster, "PLACEMENT_TIMEOUT_S", 1.0)
        refused = cluster.placement(greedy)
        assert refused.status == "fail"
        assert "9999" in refused.found
