from __future__ import annotations

from pathlib import Path

import pytest

from repo_ray.config import ConfigError, dump_config, load_config

ENDPOINT = "judge: {kind: endpoint, base_url: 'http://x/v1', model: m}"


def test_overrides_replace_what_the_file_says(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("run: {steps: 3, name: a}\njudge: {enabled: false}\n")
    config = load_config(path, ["run.steps=5", "reward_model.pool.cpus=0.5"])
    assert (config.run.steps, config.run.name) == (5, "a")
    assert config.reward_model.pool.cpus == 0.5
    assert not config.judge.enabled


def test_a_dumped_config_loads_to_the_same(tmp_path: Path) -> None:
    config = load_config(None, ["run.name=x", "algorithm.clip=0.3", "data.prompts=p.jsonl"])
    path = tmp_path / "c.yaml"
    path.write_text(dump_config(config))
    assert load_config(path) == config


def test_a_config_for_groups_is_accepted_and_survives_a_dump(tmp_path: Path) -> None:
    overrides = ["algorithm.advantage=group", "algorithm.group_size=4", "dpo.beta=0.5"]
    config = load_config(None, overrides)
    path = tmp_path / "c.yaml"
    path.write_text(dump_config(config))
    assert load_config(path) == config
    assert (config.algorithm.group_size, config.dpo.beta) == (4, 0.5)


@pytest.mark.parametrize(
    ("text", "overrides", "expected"),
    [
        ("run: {stepz: 3}", [], r"c.yaml: run.stepz: unknown key"),
        ("run: {steps: 0}", [], r"run.steps: .*greater than or equal to 1.*found 0"),
        ("- a", [], r"expected a mapping of sections, found list"),
        ("run: {", [], r"not valid YAML"),
        ("run: {seed: 2001-99-99}", [], r"c.yaml: not valid YAML: .*month must be in 1..12"),
        ("run: &a {name: *a}", [], r"c.yaml: a section contains itself"),
        ("", ["run.seed=2001-99-99"], r"override 'run.seed=2001-99-99': .*month must be"),
        ("", ["run.seed=0b_"], r"override 'run.seed=0b_': the value is not valid YAML"),
        ("", ["run.seed=!!float y"], r"the value is not valid YAML"),
        ("", ["run.seed=!!timestamp x"], r"the value is not valid YAML"),
        ("", ["run.seed=" + "9" * 5000], r"the value is not valid YAML: .*digits"),
        ("", ["run.seed=0x" + "f" * 5000], r"the value is not valid YAML: .*digits"),
        ("", ["run.steps"], r"expected section.key=value"),
        ("", ["run.name.x=1"], r"run.name"),
        ("judge: {kind: endpoint}", [], r"judge.base_url and judge.model must be set"),
        ("judge: {model: m}", [], r"no effect when judge.kind is local"),
        ("", ["rollout.in_flight_updates=true"], r"needs run.staleness of 1 or more"),
        (
            "run: {staleness: 1}",
            ["rollout.in_flight_updates=true", "rollout.publication=native"],
            r"needs rollout.publication merged",
        ),
        (
            "judge: {pool: {autoscale: {min: 4, max: 2}}}",
            [],
            r"judge.pool.autoscale: .*min \(4\) is larger than max \(2\)",
        ),
        (
            "rules: {pool: {replicas: 9, autoscale: {max: 8}}}",
            [],
            r"rules.pool: .*replicas \(9\) must lie between .*min \(1\) and .*max \(8\)",
        ),
        (
            "judge: {pool: {autoscale: {cooldown_s: 2}}}",
            [],
            r"cooldown_s \(2\) is shorter than queue_target_s \(5\)",
        ),
        (
            "judge: {max_spend: 5, cache: true}",
            [],
            r"judge.max_spend, judge.cache: no effect when judge.kind is local",
        ),
        ("judge: {requests_per_minute: 0}", [], r"requests_per_minute: .*greater than or equal"),
        (ENDPOINT, ["judge.max_spend=5"], r"judge.max_spend needs judge.price_per_million_input"),
        (
            ENDPOINT,
            ["judge.price_per_million_input_tokens=0.5"],
            r"price_per_million_output_tokens must be set together",
        ),
        ("run: {batch_size: 5}\nalgorithm: {minibatches: 2}", [], r"must be divisible"),
        (
            "reward_model: {enabled: false}\njudge: {enabled: false}\nrules: {enabled: false}",
            [],
            r"there is no reward",
        ),
        ("rollout: {max_model_len: 100}", [], r"exceeds rollout.max_model_len"),
        ("algorithm: {group_size: 4}", [], r"advantage is gae, which takes one reply"),
        ("algorithm: {advantage: group}", [], r"algorithm.group_size must be 2 or more"),
        (
            "run: {batch_size: 6}\nalgorithm: {advantage: group, group_size: 4}",
            [],
            r"run.batch_size \(6\) must be divisible by algorithm.group_size \(4\)",
        ),
        (
            "algorithm: {advantage: group, group_size: 4, gae_lambda: 1.0}",
            [],
            r"algorithm.gae_lambda has no effect when algorithm.advantage is group",
        ),
        (
            "algorithm: {advantage: group, group_size: 4, truncation: bootstrap}",
            [],
            r"algorithm.truncation has no effect",
        ),
        (
            "learner: {compile: true, zero_stage: 3}",
            [],
            r"learner.compile does not work with learner.zero_stage 3",
        ),
        ("dpo: {beta: 0}", [], r"dpo.beta: .*greater than 0"),
        (
            "judge: {pool: {labels: {repo-ray/role: 'in(judge, rules)'}}}",
            [],
            r"judge.pool.labels.repo-ray/role: String should match pattern",
        ),
        ("learner: {labels: {'a role': x}}", [], r"learner.labels.a role.*should match pattern"),
        ("run: {storage: runs}", [], r"storage: expected a URL such as s3://bucket/prefix"),
        (
            "run: {storage: 's3://b', keep_checkpoints: 1}",
            [],
            r"keep_checkpoints must be 2 or more",
        ),
    ],
)
def test_bad_settings_are_refused_with_file_and_key(
    tmp_path: Path, text: str, overrides: list[str], expected: str
) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=expected):
        load_config(path, overrides)


def test_an_endpoint_that_costs_may_have_limits_and_prices(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(ENDPOINT)
    assert not load_config(path).judge.budgeted
    for override in ("judge.requests_per_minute=60", "judge.tokens_per_minute=9000"):
        judge = load_config(path, [override]).judge
        assert judge.budgeted
        assert judge.limited
    cached = load_config(path, ["judge.cache=true"]).judge
    assert cached.budgeted
    assert not cached.limited
    prices = [f"judge.price_per_million_{kind}_tokens=0.5" for kind in ("input", "output")]
    assert load_config(path, [*prices, "judge.max_spend=5"]).judge.max_spend == 5


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none.yaml: cannot be read: No such file"):
        load_config(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    "url",
    [
        "s3://key:hidden@bucket/x",
        "s3://key:hid/den@bucket/x",
        "s3://bucket/x?region=a&secret_key=hidden",
        "abfs://c@account/x?sas_token=hidden",
        "key:hidden@bucket/x",
    ],
)
@pytest.mark.parametrize("key", ["run.storage", "data.prompts", "judge.base_url"])
def test_a_url_with_credentials_is_refused_and_not_repeated(key: str, url: str) -> None:
    if key == "data.prompts" and "://" not in url:
        pytest.skip("a path")
    with pytest.raises(ConfigError) as caught:
        load_config(None, [f"{key}={url}"])
    assert key.rpartition(".")[2] in str(caught.value)
    for part in ("hidden", "hid/den"):
        assert part not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "s3://bucket/x?scheme=http&endpoint_override=localhost:9000",
        "hdfs://namenode:8020/runs",
        "abfs://container@account.dfs.core.windows.net/runs",
        "file:///mnt/runs",
        "fsspec+memory://runs",
    ],
)
def test_urls_without_credentials_are_accepted_and_survive_a_dump(tmp_path: Path, url: str) -> None:
    config = load_config(None, [f"run.storage={url}", f"data.sft={url}/sft.parquet"])
    path = tmp_path / "c.yaml"
    path.write_text(dump_config(config))
    assert load_config(path) == config
    assert config.data.sft == f"{url}/sft.parquet"


def test_dotted_paths_start_at_the_file_and_others_at_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "c.yaml").write_text(
        "data: {prompts: ./p.jsonl, sft: ../s.jsonl, verdicts: v.jsonl}\nrules: {path: ./r.yaml}\n"
    )
    monkeypatch.chdir(tmp_path)
    config = load_config(Path("mine/c.yaml"), ["data.preferences=./w.jsonl"])
    assert config.data.prompts == Path("mine/p.jsonl")
    assert config.data.sft == Path("mine/../s.jsonl")
    assert config.data.verdicts == Path("v.jsonl")
    assert config.data.preferences == Path("w.jsonl")
    assert config.rules.path == Path("mine/r.yaml")
    assert load_config(folder / "c.yaml").data.prompts == folder / "p.jsonl"


def test_a_config_saved_elsewhere_keeps_its_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("mine", "here", "runs"):
        (tmp_path / name).mkdir()
    (tmp_path / "mine" / "c.yaml").write_text("data: {prompts: ./p.jsonl}\n")
    saved = tmp_path / "runs" / "config.yaml"
    for current, given in (("", "mine/c.yaml"), ("here", "../mine/c.yaml"), ("mine", "c.yaml")):
        monkeypatch.chdir(tmp_path / current)
        config = load_config(Path(given))
        assert config.data.prompts is not None
        assert config.data.prompts.resolve() == tmp_path / "mine" / "p.jsonl"
        saved.write_text(dump_config(config))
        assert load_config(saved) == config
