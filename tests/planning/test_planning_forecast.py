from dataclasses import replace
from itertools import pairwise

import pytest

from repo_ray.config.load import merge, validate
from repo_ray.planning import Cluster, PlanError, read_architecture
from repo_ray.planning.architecture import Architecture
from repo_ray.planning.forecast import Setting, forecast
from repo_ray.planning.forecast_report import describe_forecast
from repo_ray.planning.speeds import H100, Speeds
from repo_ray.planning.work import Load, gathers, update_flops

# Linear maps of a layer: q 4x4, k and v 4x2, o 4x4, gate, up and down 4x8: 144 weights, 288 in two
# layers. LoRA of rank 1: 64 weights a layer, 128. All weights: 288 + 40 + 5 norms of 4 = 348.
SMALL = Architecture(
    hidden=4,
    layers=2,
    heads=2,
    kv_heads=1,
    head_dim=2,
    intermediate=8,
    vocab=10,
    tied_embeddings=True,
)
GPUS = Cluster(nodes=4, cpus=64, memory_gib=500, gpus=8, gpu_memory_gib=80)
CORES = Cluster(nodes=1, cpus=2, memory_gib=24)
LOAD = Load(prompt=6, reply=4, longest=4)
#: Small numbers, all different, so that each can be told from the others.
SPEEDS = Speeds(
    origin="test",
    learner_flops=1000,
    prefill_flops=1000,
    scoring_flops=10000,
    memory_bandwidth=100,
    decode_step_s=0.5,
    decode_token_s=0.25,
    link_bandwidth=40,
    network_bandwidth=20,
    broadcast_bandwidth=64,
    adapter_bandwidth=256,
    merge_bandwidth=288,
    judge_latency_s=3,
    rules_s=0.1,
)
BASE = {
    "run": {"batch_size": 4},
    "model": {"path": "small", "attention": "sdpa", "max_prompt_tokens": 6},
    "lora": {"rank": 1, "alpha": 1},
    "sampling": {"max_new_tokens": 4},
    "rollout": {"max_model_len": 10, "verify_tensors": 7, "pool": {"gpus": 1}},
    "judge": {
        "kind": "endpoint",
        "base_url": "http://judge.example/v1",
        "model": "m",
        "pool": {"max_in_flight": 2},
    },
    "learner": {"zero_stage": 3, "gpus": 1, "micro_batch_tokens": 20},
}


def setting(*changes, cluster=GPUS, speeds=SPEEDS, load=LOAD):
    tree = BASE
    for change in changes:
        tree = merge(tree, change)
    return Setting(validate(tree, "test"), SMALL, cluster, speeds, load)


def busy(predicted, name):
    return next(role for role in predicted.roles if role.name == name).busy


def test_update_by_hand():
    # A token forward: 2*288 + attention 4 * 2 layers * width 4 * 5 seen = 576 + 160.
    # Policy and values: 10 * (2*576 + 3*160 + 6*128) each. Vocabulary: 4 reply tokens * 2 products
    # * 2*10*4.
    per_sample = 2 * 10 * (1152 + 480 + 768) + 640
    s = setting()
    assert update_flops(s.config, SMALL, LOAD, 4) == 4 * per_sample
    assert busy(forecast(s), "learner")["arithmetic"] == pytest.approx(4 * per_sample / 1000)
    # Old values in a pass of their own: 10 tokens * (736 + LoRA 2*128).
    halves = setting({"algorithm": {"minibatches": 2}})
    assert update_flops(halves.config, SMALL, LOAD, 4) == 4 * (per_sample + 10 * (736 + 256))
    group = setting({"algorithm": {"advantage": "group", "group_size": 2}})
    # Two replies share the six tokens of their prompt.
    assert update_flops(group.config, SMALL, LOAD, 4) == 4 * (7 * 2400 + 640)


def test_plain_attention_computes_what_the_mask_throws_away():
    plain = setting({"model": {"attention": "eager"}})
    # 160 more for each pass of a token: twice three.
    difference = update_flops(plain.config, SMALL, LOAD, 1) - update_flops(
        setting().config, SMALL, LOAD, 1
    )
    assert difference == 10 * 160 * (3 + 3)


def test_zero_3_gathers_by_hand():
    two = setting({"learner": {"world_size": 2}})
    # Two samples a rank in one micro-batch of 20 tokens: policy 2, value 2.
    assert gathers(two.config, LOAD) == 4
    received = 4 * (2 * 348 + 4 * 128) / 2
    predicted = forecast(two)
    assert busy(predicted, "learner")["ZeRO-3 gathers"] == pytest.approx(received / 40)
    assert predicted.network["ZeRO-3 gathers"] == pytest.approx(2 * received)
    assert predicted.network["gradients"] == pytest.approx(2 * 4 * 256 / 2)
    # Half the micro-batch, so twice the passes.
    small = setting({"learner": {"world_size": 2, "micro_batch_tokens": 10}})
    assert gathers(small.config, LOAD) == 8


def test_gathers_over_nodes_enter_each_node_once():
    four = {"learner": {"world_size": 4}}
    pairs = replace(GPUS, gpus=2)
    received = 4 * (2 * 348 + 4 * 128) * 3 / 4
    # Two nodes of two: half of everything comes from the other one, at 20 B/s.
    found = busy(forecast(setting(four, cluster=pairs)), "learner")["ZeRO-3 gathers"]
    assert found == pytest.approx(max(received / 40, received * 4 / 3 / 2 / 20))


def test_generation_by_hand():
    predicted = forecast(setting())
    rollout = busy(predicted, "rollout")
    # Prompts: 24 tokens * (576 + 4*2*4*3).
    assert rollout["prefill"] == pytest.approx(24 * 672 / 1000)
    # A decode step: 2 bytes * (288 + 40) weights, 4 sequences * 8 tokens of context * 16 bytes.
    assert rollout["decoding: reading weights"] == pytest.approx(4 * (656 + 512) / 100)
    assert rollout["decoding: launches and sampling"] == pytest.approx(4 * (0.5 + 4 * 0.25))
    assert predicted.generation_s == pytest.approx(16.128 + 46.72 + 6)


def test_decoding_is_bound_by_arithmetic_where_memory_is_fast():
    rollout = busy(
        forecast(setting(speeds=SPEEDS.model_copy(update={"memory_bandwidth": 1e9}))), "rollout"
    )
    assert rollout["decoding: arithmetic"] == pytest.approx(4 * 4 * (656 + 4 * 2 * 4 * 8) / 1000)


def test_a_group_has_its_prompt_computed_once():
    group = forecast(setting({"algorithm": {"advantage": "group", "group_size": 2}}))
    assert busy(group, "rollout")["prefill"] == pytest.approx(16.128 / 2)


def test_few_slots_make_waves():
    two = forecast(setting({"rollout": {"max_num_seqs": 2}}))
    # 4 replies of 4 tokens in 2 slots: 8 steps of 2 sequences.
    launches = busy(two, "rollout")["decoding: launches and sampling"]
    assert launches == pytest.approx(8 * (0.5 + 2 * 0.25))


def test_scores_by_hand():
    predicted = forecast(setting())
    assert busy(predicted, "reward_model") == {
        "forward passes": pytest.approx(4 * 10 * 736 / 10000)
    }
    assert busy(predicted, "judge") == {"the endpoint's answers": 6}
    # All replies end together, and the judge answers two at a time after that.
    assert predicted.collect_s == pytest.approx(predicted.generation_s + 6)
    limited = forecast(setting({"judge": {"requests_per_minute": 8}}))
    assert busy(limited, "judge") == {"its rate limit": 30}


def test_scoring_overlaps_with_generation_where_replies_differ_in_length():
    early = forecast(setting(load=Load(6, 2, 4)))
    # The first reply is there at once (after the prompts), the last score 3 s after the last reply.
    assert early.collect_s == pytest.approx(early.generation_s + 3)


def test_publication_by_hand():
    predicted = forecast(setting())
    rollout = busy(predicted, "rollout")
    # 512 bytes: exported, digested by driver and engine, at 256 B/s. 576 bytes of base reread at
    # 288 B/s; 7 of 14 modules read back.
    assert busy(predicted, "learner")["adapter's export"] == 2
    assert rollout["publication: digests"] == 4
    assert rollout["publication: loading and checking"] == pytest.approx(3)
    assert rollout["publication: copies to the nodes"] == 0
    assert predicted.push_s == pytest.approx(9)
    four = {"rollout": {"pool": {"replicas": 4}}}
    spread = forecast(setting(four, cluster=replace(GPUS, gpus=1)))
    assert busy(spread, "rollout")["publication: copies to the nodes"] == 3 * 512 / 64


def test_bytes_grow_with_the_nodes_of_engines_and_the_batch():
    alone = replace(GPUS, nodes=8, gpus=1)
    sizes = [
        forecast(setting({"rollout": {"pool": {"replicas": n}}}, cluster=alone)) for n in (1, 2, 4)
    ]
    assert [p.network["adapter to engines"] for p in sizes] == [512, 1024, 2048]
    assert [p.store["adapter"] for p in sizes] == [1024, 1536, 2560]
    double = forecast(setting({"run": {"batch_size": 8}}))
    single = sizes[0]
    assert double.network["samples and scores"] == 2 * single.network["samples and scores"]


def test_with_staleness_the_longer_of_generation_and_learning_counts():
    now, later = forecast(setting()), forecast(setting({"run": {"staleness": 1}}))
    assert now.step_s == pytest.approx(now.collect_s + now.update_s + now.push_s)
    exclusive = later.push_s - 2  # the learner exports while engines sample
    assert later.step_s == pytest.approx(max(later.collect_s, later.update_s + 2) + exclusive)
    assert later.step_s < now.step_s


def test_actors_that_share_cores_take_turns():
    speeds = SPEEDS.model_copy(update={"shared": True})
    on_cores = {"rollout": {"pool": {"gpus": 0}}, "learner": {"gpus": 0}}
    one = forecast(setting(on_cores, cluster=CORES, speeds=speeds))
    # Reward model and rules compute; of the endpoint only the last answer is waited for.
    assert one.collect_s == pytest.approx(one.generation_s + 2.944 + 0.4 + 3)
    stale = forecast(setting(on_cores, {"run": {"staleness": 1}}, cluster=CORES, speeds=speeds))
    assert stale.step_s == pytest.approx(one.step_s)
    two = {"rollout": {"pool": {"replicas": 2}}}
    engines = forecast(setting(on_cores, two, cluster=CORES, speeds=speeds))
    # The same prompts in all; weights are read twice as often, one engine after the other.
    assert busy(engines, "rollout")["prefill"] == pytest.approx(busy(one, "rollout")["prefill"])
    decoding = 2 * 4 * (656 + 256) / 100
    assert busy(engines, "rollout")["decoding: reading weights"] == pytest.approx(decoding)


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("engines", [1, 4])
@pytest.mark.parametrize("staleness", [0, 1])
def test_the_bottleneck_is_the_role_with_the_least_idle_time(world, engines, staleness):
    predicted = forecast(
        setting(
            {
                "run": {"staleness": staleness},
                "learner": {"world_size": world},
                "rollout": {"pool": {"replicas": engines}},
            }
        )
    )
    idle = {role.name: predicted.idle(role) for role in predicted.roles}
    assert idle[predicted.bottleneck.name] == min(idle.values())
    assert all(0 <= share < 1 for share in idle.values())
    text = describe_forecast(setting().config, predicted, SPEEDS)
    assert f"bottleneck  {predicted.bottleneck.name}: {predicted.bottleneck.cause}" in text


def test_more_actors_of_a_role_never_need_more_seconds_for_a_batch():
    for role, key in (("rollout", "rollout"), ("reward_model", "reward_model")):
        times = [
            busy_seconds(forecast(setting({key: {"pool": {"replicas": n}}})), role)
            for n in (1, 2, 3, 4)
        ]
        assert all(later <= earlier for earlier, later in pairwise(times))


def busy_seconds(predicted, name):
    return sum(s for cause, s in busy(predicted, name).items() if "publication" not in cause)


def test_an_engine_that_cannot_hold_one_sample_is_refused():
    with pytest.raises(PlanError, match="less than one sample"):
        forecast(
            replace(
                setting(cluster=replace(GPUS, gpu_memory_gib=72), speeds=H100),
                architecture=read_architecture("Qwen/Qwen3-32B"),
                load=Load(2048, 512, 512),
            )
        )


def test_the_report_says_where_the_batch_leaves_nothing_to_divide():
    four = setting({"learner": {"world_size": 4}})
    text = describe_forecast(four.config, forecast(four), SPEEDS)
    assert "bottleneck  learner: ZeRO-3 gathers; batch 4: one sample each" in text
    two = setting({"learner": {"world_size": 2}})
    assert "one sample each" not in describe_forecast(two.config, forecast(two), SPEEDS)
