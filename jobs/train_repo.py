"""The main job: data, warm start, reward model, judge, REPO, evaluation, report.

    python jobs/train_repo.py --config jobs/configs/quickstart.yaml run.steps=20
    ray job submit --working-dir . -- python jobs/train_repo.py --config jobs/configs/quickstart.yaml

Exit status: 0 finished, 1 failed, 2 bad input, 143 stopped on request with everything saved
(`--resume` continues).
"""

from __future__ import annotations

import argparse
import importlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from repo_ray.config import ConfigError, load_config
from repo_ray.pipeline.cluster import join
from repo_ray.pipeline.run_folder import RunFolder, run_root


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, help="YAML config; default: the paper's settings")
    parser.add_argument("--resume", action="store_true", help="continue the run of that name")
    parser.add_argument("--address", help="Ray cluster to join; default: an own, embedded one")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    arguments = parser.parse_args()
    # Ray and the run's imports take seconds each, and side by side no more than one of them.
    with ThreadPoolExecutor(1) as aside, suppress(ConfigError):  # of which the run tells
        aside.submit(importlib.import_module, "repo_ray.pipeline.run")
        config = load_config(arguments.config, arguments.overrides)
        join(config, RunFolder(run_root(config)), arguments.address)
    from repo_ray.pipeline.run import run

    return run(arguments.config, arguments.overrides, arguments.resume, arguments.address)


if __name__ == "__main__":
    raise SystemExit(main())
