import pytest
import yaml

from repo_ray.config import ConfigError
from repo_ray.planning.speeds import CPU, H100, read_speeds


def test_a_file_gives_the_speeds_that_were_written(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(CPU.model_dump()), encoding="utf-8")
    assert read_speeds(path) == CPU


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"memory_bandwith": 1e9}, ["memory_bandwith", "unknown key"]),
        ({"learner_flops": None}, ["learner_flops", "valid number"]),
        ({"learner_flops": 0}, ["learner_flops", "greater than 0"]),
        ({"decode_step_s": -1}, ["decode_step_s", "greater than or equal to 0"]),
    ],
)
def test_a_wrong_key_or_number_is_named_with_its_file(tmp_path, change, words):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**CPU.model_dump(), **change}), encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        read_speeds(path)
    for word in ("mine.yaml", *words):
        assert word in str(error.value)


def test_a_missing_key_is_named(tmp_path):
    path = tmp_path / "mine.yaml"
    speeds = CPU.model_dump()
    del speeds["merge_bandwidth"]
    path.write_text(yaml.safe_dump(speeds), encoding="utf-8")
    with pytest.raises(ConfigError, match="merge_bandwidth: Field required"):
        read_speeds(path)


def test_what_was_not_measured_says_so():
    assert "not measured" in H100.origin
    assert CPU.origin.startswith("measured")
    # No share of a datasheet's peak may be above it.
    assert max(H100.learner_flops, H100.prefill_flops, H100.scoring_flops) < 989.4e12
    assert H100.memory_bandwidth < 3.35e12
