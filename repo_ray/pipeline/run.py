"""Runs the pipeline once and turns every outcome into one message and an exit status."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import ray
from rich.console import Console
from rich.logging import RichHandler
from transformers.utils.logging import disable_progress_bar

from repo_ray.actors.learner import LearnerError
from repo_ray.actors.members import PoolError
from repo_ray.actors.placement import PlacementError
from repo_ray.actors.pool import CallTimeoutError
from repo_ray.config import ConfigError, load_config
from repo_ray.data.reader import DataError
from repo_ray.learner.fitting import TrainingError
from repo_ray.logs import in_context
from repo_ray.models.chat import ChatTemplateError
from repo_ray.models.loading import ModelNotFoundError
from repo_ray.pipeline.cluster import ClusterLostError, connect, run_there
from repo_ray.pipeline.mirroring import Uploads, mirrored, open_mirror
from repo_ray.pipeline.phases import Pipeline
from repo_ray.pipeline.preflight import check_inputs
from repo_ray.pipeline.progress import Display
from repo_ray.pipeline.run_folder import open_run_folder
from repo_ray.pipeline.signals import Stopped
from repo_ray.rewards.judge.endpoint import JudgeUnavailableError
from repo_ray.rollouts.publication import PublicationError
from repo_ray.storage.store import StorageError
from repo_ray.training.checkpoints import CheckpointError
from repo_ray.training.loop import RunError

FINISHED, FAILED, BAD_INPUT, STOPPED = 0, 1, 2, 143

#: The user's input is at fault; nothing has been started, or nothing that matters.
INPUT_ERRORS = (
    ChatTemplateError,
    ConfigError,
    DataError,
    JudgeUnavailableError,
    ModelNotFoundError,
    PlacementError,
)
#: The run failed for a reason that its message explains; a traceback would not help.
RUN_ERRORS = (
    CallTimeoutError,
    CheckpointError,
    ClusterLostError,
    LearnerError,
    PoolError,
    PublicationError,
    RunError,
    StorageError,
    TrainingError,
)
#: The disk takes no more, whatever is written to it.
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


def run(
    config_path: Path | None, overrides: Sequence[str], resume: bool, address: str | None
) -> int:
    """The main job; returns its exit status."""

    def job(display: Display) -> None:
        config = load_config(config_path, overrides)
        mirror = open_mirror(config, resume, display.console.print)
        check_inputs(config)
        folder = open_run_folder(config, resume)
        log_to(folder.root)
        with folder.locked(), mirrored(mirror):
            display.console.print(f"[bold]REPO[/] run {config.run.name} in {folder.root}")
            display.console.print(f"  {connect(config, folder, address)}")
            pipeline = Pipeline(config, folder, display, Uploads(mirror))
            try:
                report = run_there(config, address, display, pipeline.main())
            except OSError as error:
                if error.errno not in DISK_ERRORS:
                    raise
                # A failed write, other than a failed open, does not say of what.
                where = error.filename or folder.root
                raise RunError(
                    f"{os.strerror(error.errno)}: '{where}'; the last checkpoint is whole, "
                    "--resume continues"
                ) from error
        display.console.print(f"[bold]report[/]  {report}")

    return exit_status(job)


def exit_status(job: Callable[[Display], None]) -> int:
    """0 finished, 1 failed, 2 bad input, 143 stopped on request and saved; errors in one message."""
    errors = _error_console()
    disable_progress_bar()
    try:
        job(Display())
        return FINISHED
    except Stopped:
        errors.print("stopped on request; everything is saved, --resume continues")
        return STOPPED
    except (*INPUT_ERRORS, *RUN_ERRORS) as error:
        errors.print("[red]error:[/] ", end="")
        errors.print(str(error), markup=False)
        logging.getLogger(__name__).debug("the run failed", exc_info=error)
        return BAD_INPUT if isinstance(error, INPUT_ERRORS) else FAILED
    except OSError as error:
        if error.filename is None and error.errno not in DISK_ERRORS:
            raise  # of a connection, say: the traceback tells more
        errors.print("[red]error:[/] ", end="")
        errors.print(f"{error.strerror}: {error.filename or 'a file'}", markup=False)
        return FAILED
    finally:
        ray.shutdown()


def log_to(folder: Path) -> None:
    """Everything goes to `run.log` in `folder`, warnings to the terminal as well."""
    logging.raiseExceptions = False  # a log that a full disk does not take hides the error itself
    logger = logging.getLogger("repo_ray")
    logger.setLevel(logging.DEBUG)
    file = logging.FileHandler(folder / "run.log", encoding="utf-8")
    in_context(file)
    terminal = RichHandler(logging.WARNING, _error_console(), show_path=False, show_time=False)
    logger.handlers = [file, terminal]
    logger.propagate = False


def _error_console() -> Console:
    return Console(stderr=True, highlight=False, soft_wrap=True)
