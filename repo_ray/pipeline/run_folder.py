"""The run folder: one absolute place for everything a run writes, and what is done so far."""

from __future__ import annotations

import fcntl
import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repo_ray.config import Config, ConfigError, dump_config, environment
from repo_ray.training.checkpoints import CheckpointError, file_sha256

#: Ray unpacks an uploaded working directory below a folder of this name and deletes it later.
_UPLOADED = "working_dir_files"
#: Limits of an endpoint that costs: they decide how far and how fast a run goes, not what it
#: computes, so it may be resumed with others.
ADJUSTABLE = ("judge.max_spend", "judge.requests_per_minute", "judge.tokens_per_minute")
#: An adapter inside its folder, on the wire format of `models.adapters`.
BLOB = "adapter.safetensors"
#: Keys that say where a run is kept, not what it is: it may be continued elsewhere.
_PLACES = (".run.dir", ".run.storage")


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run. `config.yaml` is the complete config; `phases.json` what is done."""

    root: Path

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def warm_start(self) -> Path:
        return self.root / "models" / "warm_start"

    @property
    def reward_model(self) -> Path:
        return self.root / "models" / "reward_model"

    @property
    def judge(self) -> Path:
        return self.root / "models" / "judge"

    @property
    def policy(self) -> Path:
        """The trained adapter: `adapter.safetensors` (our blob) in a PEFT folder."""
        return self.root / "adapters" / "policy"

    @property
    def trajectories(self) -> Path:
        return self.root / "trajectories"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def evaluation(self) -> Path:
        return self.root / "evaluation"

    @property
    def inputs(self) -> Path:
        """Data sets that the config names by URL."""
        return self.root / "inputs"

    @property
    def config(self) -> Path:
        """The complete config; with it the run is started."""
        return self.root / "config.yaml"

    @property
    def cluster(self) -> Path:
        """Where the run's Ray cluster is, for `repo-ray scale` and `repo-ray status`."""
        return self.root / "cluster.json"

    # --- phases -------------------------------------------------------------------------

    def phases(self) -> dict[str, dict[str, Any]]:
        """Finished phases by name: `fingerprint`, `seconds`, `result`, perhaps `files`."""
        path = self.root / "phases.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def finish_phase(
        self,
        name: str,
        fingerprint: str,
        seconds: float,
        result: Any,
        files: Mapping[str, str] | None = None,
    ) -> None:
        """Notes a phase as done; `files` are the SHA-256 of what it made, for `verify`."""
        phases = self.phases()
        phases[name] = {"fingerprint": fingerprint, "seconds": seconds, "result": result}
        if files is not None:
            phases[name]["files"] = dict(files)
        write_json(self.root / "phases.json", phases)

    def verify(self, name: str) -> None:
        """Compares what a finished phase made with the hashes noted then.

        Raises `CheckpointError` naming the file that is missing or another one.
        """
        for file, digest in self.phases()[name].get("files", {}).items():
            path = self.root / file
            if not path.is_file() or file_sha256(path) != digest:
                raise CheckpointError(
                    f"{path}: not the file that the phase {name} wrote (SHA-256 in phases.json); "
                    f"take {name} out of phases.json to run it again"
                )

    def hashes(self, folder: Path) -> dict[str, str]:
        """SHA-256 of every file of `folder`, which is below the run folder, for `finish_phase`."""
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return {str(path.relative_to(self.root)): file_sha256(path) for path in files}

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Only one process works on a run folder. Raises `ConfigError`."""
        with (self.root / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConfigError(f"{self.root}: another process is running this run") from None
            yield


def open_run_folder(config: Config, resume: bool) -> RunFolder:
    """Creates the run folder, or opens it again to resume.

    Resumed with other limits (`ADJUSTABLE`), it takes them over. Raises `ConfigError` if it exists
    and `resume` is false, or if it belongs to another config.
    """
    root = run_root(config)
    saved = RunFolder(root).config
    text = dump_config(config)
    if saved.exists():
        if not resume:
            raise ConfigError(
                f"{root} exists already: continue it with --resume, or choose another run.name"
            )
        changed = _differing(saved.read_text(encoding="utf-8"), text)
        if differing := [key for key in changed if key not in ADJUSTABLE]:
            raise ConfigError(
                f"{saved}: the run was started with other settings ({', '.join(differing[:5])}); "
                "resume it with its own, or choose another run.name"
            )
        if changed:
            partial = root / ".config.yaml.partial"
            partial.write_text(text, encoding="utf-8")
            partial.replace(saved)
    else:
        root.mkdir(parents=True, exist_ok=True)
        saved.write_text(text, encoding="utf-8")
    return RunFolder(root)


def run_root(config: Config) -> Path:
    """The absolute run folder.

    A relative `run.dir` starts at $REPO_RAY_HOME where set, else at the current folder; in a
    submitted job's uploaded working directory, which Ray deletes, at ~/repo_ray instead.
    """
    base = config.run.dir.expanduser()
    if not base.is_absolute():
        home = environment("REPO_RAY_HOME")
        here = Path.cwd()
        if home is not None:
            base = Path(home).expanduser() / base
        elif _UPLOADED in here.parts:
            base = Path.home() / "repo_ray" / base
        else:
            base = here / base
    return base.resolve() / config.run.name


def fingerprint(*parts: Any) -> str:
    """A short hash of what a phase depends on; values are hashed by their JSON form."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_json(path: Path, value: Any) -> None:
    """Replaces `path` whole, so that a reader never sees half a file."""
    partial = path.with_name(f".{path.name}.{time.monotonic_ns()}")
    partial.write_text(json.dumps(value, indent=1, ensure_ascii=False), encoding="utf-8")
    partial.replace(path)


def _differing(old: str, new: str) -> list[str]:
    """Dotted keys whose values differ, of two dumped configs."""
    import yaml

    def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
        if not isinstance(tree, dict):
            return {prefix: tree}
        return {k: v for key, sub in tree.items() for k, v in flat(sub, f"{prefix}.{key}").items()}

    a, b = flat(yaml.safe_load(old)), flat(yaml.safe_load(new))
    keys = [key for key in sorted(a.keys() | b.keys()) if a.get(key) != b.get(key)]
    return [key.lstrip(".") for key in keys if key not in _PLACES]
