"""The models that a run folder holds: base, warm start and REPO."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from repo_ray.config import Config, load_config
from repo_ray.pipeline.run_folder import BLOB, RunFolder
from repo_ray.training.checkpoints import CheckpointError, best_checkpoint, load_checkpoint

#: The bare base, the adapter after supervised fine-tuning, the adapter after REPO.
Stage = Literal["base", "warm", "repo"]


class RunFolderError(Exception):
    """The folder is no run, or lacks what is asked of it. The message names the path."""


@dataclass(frozen=True)
class RunModels:
    """`adapters` maps `warm` and `repo`, as far as the run has them, to their blobs."""

    folder: RunFolder
    config: Config
    adapters: Mapping[str, bytes]

    @property
    def stages(self) -> tuple[str, ...]:
        return ("base", *self.adapters)


def at_step(models: RunModels, step: int) -> RunModels:
    """The same run with the policy of its checkpoint after `step` updates as `repo`.

    Raises `RunFolderError` where there is none, or it is damaged.
    """
    root = models.folder.checkpoints
    try:
        folder = load_checkpoint(root / f"step-{step:06d}").folder
    except CheckpointError as error:
        kept = ", ".join(str(int(p.name[5:])) for p in sorted(root.glob("step-*"))) or "none"
        best = best_checkpoint(root)
        text = f" (highest reward: {int(best.name[5:])})" if best else ""
        raise RunFolderError(f"{error}; checkpoints kept: {kept}{text}") from None
    blob = (folder / "policy.safetensors").read_bytes()
    return replace(models, adapters={**models.adapters, "repo": blob})


def open_run(root: Path) -> RunModels:
    """Reads config and adapters of a run. Raises `RunFolderError` or `ConfigError`."""
    saved = root / "config.yaml"
    if not saved.is_file():
        raise RunFolderError(f"{root}: not a run folder: no config.yaml in it")
    folder, config = RunFolder(root.resolve()), load_config(saved)
    given = config.warm_start.checkpoint if config.warm_start else None
    places = {"warm": (given or folder.warm_start) / BLOB, "repo": folder.policy / BLOB}
    adapters = {name: path.read_bytes() for name, path in places.items() if path.is_file()}
    return RunModels(folder, config, adapters)
