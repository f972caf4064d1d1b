"""Trains every entry of a comparison, one after the other, and evaluates all columns together."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from repo_ray.comparison.cost import Cost, measured, reserved_gpus, rl_cost, supervised_cost
from repo_ray.comparison.plan import Entry, entries, pointers, shared_config
from repo_ray.comparison.settings import Comparison
from repo_ray.config import Config
from repo_ray.data.reader import read_preferences, read_sft
from repo_ray.models.adapters import adapter_digest, save_adapter, zero_adapter
from repo_ray.models.loading import resolve_model
from repo_ray.pipeline.data import encoder, prepare_data, refuse_long
from repo_ray.pipeline.evaluation import evaluate_columns, evaluation_sets
from repo_ray.pipeline.phases import Pipeline
from repo_ray.pipeline.progress import Display
from repo_ray.pipeline.run_folder import BLOB, RunFolder, fingerprint, open_run_folder, write_json
from repo_ray.pipeline.signals import Stopped, stop_requests
from repo_ray.pipeline.stages import DATA, run_stages, train_stage
from repo_ray.training.metrics import read_metrics
from repo_ray.training.system import Folders, System

#: The phase of a finished training in its run folder.
TRAINED = "trained"
#: Columns that are not trained here: the bare base, the common start, the data's own replies.
BASE, WARM_START, ANNOTATION = "base", "warm_start", "annotation"


@dataclass(frozen=True)
class Trained:
    """One finished training."""

    entry: Entry
    folder: RunFolder
    cost: Cost


@dataclass
class Runner:
    """One comparison. Everything that is done already is not done again."""

    comparison: Comparison
    folder: RunFolder
    display: Display

    async def main(self) -> list[Trained]:
        """Runs what is missing. The rows of every column are then in the shared run's folder.

        Raises `Stopped`, and every error of the phases with a message for people.
        """
        config, display = shared_config(self.comparison), self.display
        with self._stoppable():
            data = await prepare_data(config, self.folder, display)
            model = await asyncio.to_thread(resolve_model, config.model.path)
            await asyncio.to_thread(refuse_long, config, data, encoder(config, model))
            made = await run_stages(config, self.folder, model, data, display)
        rows = {
            "sft": len(read_sft(data["sft"], split="train")),
            "dpo": len(read_preferences(data["preferences"], split="train")),
        }
        plan = entries(self.comparison, config, pointers(data, made), rows)
        trained = [await self._train(entry, model, data) for entry in plan]

        start = _blob(made["warm_start"])
        turns = evaluation_sets(config, data).turns.values()
        annotated = any(turn.annotation for rows in turns for turn in rows)
        adapters: dict[str, bytes | None] = {
            **({ANNOTATION: None} if annotated else {}),
            BASE: zero_adapter(start),
            WARM_START: start,
            **{t.entry.name: _blob(t.folder.policy) for t in trained},
        }
        keys = {k: _key(config, blob) for k, blob in adapters.items()}
        done = self._evaluated()
        missing = {k: blob for k, blob in adapters.items() if done.get(k) != keys[k]}
        if missing:
            with self._stoppable():
                folders = Folders(model, made["reward_model"], made["judge"])
                await self._evaluate(config, folders, data, missing)
            write_json(self._columns, done | keys)
        return trained

    # --- training -----------------------------------------------------------------------

    async def _train(self, entry: Entry, model: Path, data: Mapping[str, Path]) -> Trained:
        """Trains the entry, unless its run folder says that it is done."""
        config, method = entry.config, entry.method
        folder = open_run_folder(config, resume=True)
        done = folder.phases().get(TRAINED)
        if done is None:
            self.display.heading(
                f"{method.title}, seed {entry.seed}: {entry.budget} {method.budget_unit}"
            )
            gpus = reserved_gpus(config, supervised=method.trainer != "rl")
            with folder.locked(), measured(folder.root, gpus):
                if method.trainer == "rl":
                    await Pipeline(config, folder, self.display).main()
                else:
                    await self._supervised(entry, folder, model, data)
            if method.trainer == "rl":
                cost = rl_cost(folder.root, read_metrics(folder.root))
            else:
                cost = supervised_cost(folder.root, folder.phases()[method.trainer]["result"])
            folder.finish_phase(TRAINED, "", cost.wall_s, asdict(cost))
            done = folder.phases()[TRAINED]
        return Trained(entry, folder, Cost(**done["result"]))

    async def _supervised(
        self, entry: Entry, folder: RunFolder, model: Path, data: Mapping[str, Path]
    ) -> None:
        """SFT or DPO, from the warm start's adapter to the policy's."""
        config, stage = entry.config, entry.method.trainer
        assert stage != "rl"
        assert config.warm_start is not None
        assert config.warm_start.checkpoint is not None  # set by `plan.entries`
        began = time.monotonic()
        with self._stoppable(), self.display.phase(stage, "starting"):
            result = await train_stage(
                config,
                stage,
                model,
                data[DATA[stage]],
                folder.policy,
                lambda text: self.display.update(None, None, text),
                start=config.warm_start.checkpoint / BLOB,
            )
        folder.finish_phase(stage, "", time.monotonic() - began, result)
        save_adapter(folder.policy, _blob(folder.policy), config.model.path)
        self.display.done(result["text"])

    # --- evaluation ---------------------------------------------------------------------

    async def _evaluate(
        self,
        config: Config,
        folders: Folders,
        data: Mapping[str, Path],
        columns: Mapping[str, bytes | None],
    ) -> None:
        """Rows of every column in `columns`, through one start of engines and scorers."""
        sets = evaluation_sets(config, data)
        encode = encoder(config, folders.model)
        system = System(config, folders, self.folder.root)
        self.display.heading(f"evaluation of {len(columns)} columns, {sets.count} replies each")
        with self.display.phase("evaluation", "starting engines and scorers"):
            try:
                await system.start_pools(self.display.line)
                await evaluate_columns(
                    config, self.folder, system, encode, sets, columns, 0, self.display
                )
            finally:
                await system.stop()
        self.display.done(f"{sets.count * len(columns)} replies evaluated")

    @property
    def _columns(self) -> Path:
        """Which columns are evaluated, each with what its rows depend on."""
        return self.folder.evaluation / "columns.json"

    def _evaluated(self) -> dict[str, str]:
        if not self._columns.exists():
            return {}
        return dict(json.loads(self._columns.read_text(encoding="utf-8")))

    @contextmanager
    def _stoppable(self) -> Iterator[None]:
        """A stop request ends the phase inside at once; what it had is not kept."""
        task = asyncio.current_task()
        assert task is not None
        try:
            with stop_requests(task.cancel):
                yield
        except asyncio.CancelledError:
            raise Stopped from None


def _blob(folder: Path | None) -> bytes:
    assert folder is not None  # plan.shared_config refuses a config without a warm start
    return (folder / BLOB).read_bytes()


def _key(config: Config, blob: bytes | None) -> str:
    """What the rows of a column depend on."""
    return fingerprint(
        config.evaluation.model_dump(mode="json"),
        config.sampling.model_dump(mode="json"),
        adapter_digest(blob) if blob is not None else "",
    )
