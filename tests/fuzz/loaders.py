"""Every loader of files that people write or copy: it loads them, or says what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from repo_ray.comparison.settings import load_comparison
from repo_ray.config import ConfigError
from repo_ray.config.load import load_config
from repo_ray.data.reader import (
    read_dialogues,
    read_preferences,
    read_prompts,
    read_sft,
    read_verdicts,
)
from repo_ray.data.validation import DataError
from repo_ray.models.adapters import parse_adapter
from repo_ray.rewards.declaration import RewardConfigError
from repo_ray.rewards.judge.rubric import load_rubric
from repo_ray.rewards.reward_model import FORMAT, NAME, RewardModelCard
from repo_ray.rewards.rules.rule_set import load_rules
from repo_ray.rewards.tuned import CheckpointError as ScorerError
from repo_ray.rewards.tuned import load_checkpoint as load_scorer
from repo_ray.training.checkpoints import MANIFEST, CheckpointError, load_checkpoint


@dataclass(frozen=True)
class Loader:
    """`load` reads the file `name` of a folder and may raise `error` alone."""

    name: str
    load: Callable[[Path], object]
    error: type[Exception]

    def feed(self, content: bytes, folder: Path) -> bool:
        """Whether the file with this content is accepted. Any other error than the documented
        one comes through."""
        path = folder / self.name
        path.write_bytes(content)
        message = "accepted"
        try:
            self.load(path)
        except self.error as error:
            message = str(error)
        assert message, "an error without a message"
        assert "Traceback" not in message
        return message == "accepted"


LOADERS: Mapping[str, Loader] = {
    "config": Loader("config.yaml", load_config, ConfigError),
    "comparison": Loader("compare.yaml", lambda path: load_comparison(path, {}), ConfigError),
    "rubric": Loader("rubric.yaml", load_rubric, RewardConfigError),
    "rules": Loader("rules.yaml", load_rules, RewardConfigError),
    "prompts": Loader("prompts.jsonl", read_prompts, DataError),
    "preferences": Loader("preferences.parquet", read_preferences, DataError),
    "sft": Loader("sft.jsonl", read_sft, DataError),
    "verdicts": Loader("verdicts.jsonl", read_verdicts, DataError),
    "dialogues": Loader("dialogues.parquet", read_dialogues, DataError),
    "adapter": Loader(
        "adapter.safetensors", lambda path: parse_adapter(path.read_bytes()), ValueError
    ),
    "checkpoint": Loader(MANIFEST, lambda path: load_checkpoint(path.parent), CheckpointError),
    "reward_model": Loader(
        f"{NAME}.json",
        lambda path: load_scorer(path.parent, NAME, RewardModelCard, FORMAT),
        ScorerError,
    ),
}
