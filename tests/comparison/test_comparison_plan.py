from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from repo_ray.comparison.methods import METHODS
from repo_ray.comparison.plan import Entry, entries, pointers, shared_config
from repo_ray.comparison.settings import Comparison, load_comparison
from repo_ray.config import ConfigError

ROWS = {"sft": 100, "dpo": 40}


def write(folder: Path, **settings: object) -> Path:
    (folder / "base.yaml").write_text(yaml.safe_dump({"run": {"batch_size": 16, "seed": 3}}))
    file = folder / "compare.yaml"
    file.write_text(yaml.safe_dump({"config": "base.yaml", "budget": 64, **settings}))
    return file


def load(folder: Path, **settings: object) -> Comparison:
    return load_comparison(write(folder, **settings), {})


def plan(folder: Path, **settings: object) -> dict[str, Entry]:
    comparison = load(folder, **settings)
    places = pointers(
        {"prompts": folder / "prompts.parquet"},
        {"warm_start": folder / "warm", "reward_model": folder / "rm", "judge": folder / "judge"},
    )
    found = entries(comparison, shared_config(comparison), places, ROWS)
    return {entry.name: entry for entry in found}


def test_every_method_differs_from_repo_only_by_what_it_is(tmp_path: Path) -> None:
    found = plan(tmp_path, methods=list(METHODS), name="c")
    ours = found["c-repo-seed0"].config.model_dump(exclude={"run"})
    for name, method in METHODS.items():
        theirs = found[f"c-{name}-seed0"].config.model_dump(exclude={"run"})
        differing = {k for k in ours if ours[k] != theirs[k]}
        assert differing == set(method.changes) | ({method.trainer} - {"rl"}), name


def test_ppo_and_grpo_see_the_reward_model_alone(tmp_path: Path) -> None:
    found = plan(tmp_path, name="c")
    for name in ("ppo", "grpo"):
        config = found[f"c-{name}-seed0"].config
        assert config.reward_model.enabled
        assert not config.judge.enabled
        assert not config.rules.enabled
    assert found["c-ppo-seed0"].config.algorithm.advantage == "gae"
    assert found["c-grpo-seed0"].config.algorithm.advantage == "group"


def test_all_start_from_what_is_shared(tmp_path: Path) -> None:
    for entry in plan(tmp_path, methods=list(METHODS)).values():
        config = entry.config
        assert config.warm_start is not None
        assert config.warm_start.checkpoint == tmp_path / "warm"
        assert config.reward_model.checkpoint == tmp_path / "rm"
        assert config.judge.checkpoint == tmp_path / "judge"
        assert config.data.prompts == tmp_path / "prompts.parquet"
        assert not config.evaluation.enabled


def test_one_budget_in_each_methods_own_unit(tmp_path: Path) -> None:
    found = plan(tmp_path, name="c", budget=96, budgets={"ppo": 32})
    assert found["c-repo-seed0"].config.run.steps == 6
    assert found["c-ppo-seed0"].config.run.steps == 2
    sft, dpo = found["c-sft-seed0"].config.sft, found["c-dpo-seed0"].config.dpo
    assert (sft.epochs, sft.max_rows) == (1, 96)
    assert (dpo.epochs, dpo.max_rows) == (3, 32)  # 40 pairs: 96 take three passes over 32


def test_seeds_follow_each_other_and_change_nothing_else(tmp_path: Path) -> None:
    found = plan(tmp_path, name="c", methods=["ppo", "repo"], seeds=[0, 5])
    assert list(found) == ["c-ppo-seed0", "c-repo-seed0", "c-ppo-seed5", "c-repo-seed5"]
    one, two = (found[f"c-repo-seed{s}"].config for s in (0, 5))
    assert (one.run.seed, two.run.seed) == (0, 5)
    assert one.model_dump(exclude={"run"}) == two.model_dump(exclude={"run"})


def test_changes_of_one_method_leave_the_others_alone(tmp_path: Path) -> None:
    found = plan(tmp_path, name="c", changes={"grpo": {"algorithm": {"group_size": 4}}})
    assert found["c-grpo-seed0"].config.algorithm.group_size == 4
    assert found["c-grpo-seed0"].config.algorithm.advantage == "group"
    assert found["c-repo-seed0"].config.algorithm.group_size == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"methods": ["repo", "magic"]}, "unknown: magic"),
        ({"methods": ["repo", "repo"]}, "named twice: repo"),
        ({"methods": []}, "at least one"),
        ({"changes": {"magic": {}}}, "unknown: magic"),
        ({"budgte": 3}, "budgte: unknown key"),
        ({"budget": 0}, "budget"),
    ],
)
def test_bad_settings_are_refused_by_file_and_key(
    tmp_path: Path, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        load(tmp_path, **settings)
    assert "compare.yaml" in str(error.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"budget": 70}, "no multiple of the batch size 16"),
        ({"overrides": {"run": {"stepz": 1}}}, "run.stepz: unknown key"),
        ({"overrides": {"warm_start": None}}, "warm_start: every method needs one"),
        ({"changes": {"grpo": {"algorithm": {"group_size": 5}}}}, "group_size"),
    ],
)
def test_a_config_that_cannot_run_is_refused(
    tmp_path: Path, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(tmp_path, **settings)
