"""The paper's table: SFT, DPO, PPO, GRPO, REPO and variants under one budget.

    python jobs/compare.py --config jobs/configs/compare.yaml
    python jobs/compare.py --config jobs/configs/compare.yaml --methods repo no_judge --seeds 0 1 2
    ray job submit --working-dir . -- python jobs/compare.py --config jobs/configs/compare.yaml

Everything that is done already is kept: the same command continues after any stop. Writes
`comparison.json`, `comparison.md` and `comparison.html`. Exit status as jobs/train_repo.py.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from repo_ray.comparison.run import run


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, required=True, help="YAML of the comparison")
    parser.add_argument("--methods", nargs="+", help="instead of the config's methods")
    parser.add_argument("--seeds", nargs="+", type=int, help="instead of the config's seeds")
    parser.add_argument("--budget", type=int, help="instead of the config's budget")
    parser.add_argument("--name", help="instead of the config's name")
    parser.add_argument("--address", help="Ray cluster to join; default: an own, embedded one")
    arguments = vars(parser.parse_args())
    path, address = arguments.pop("config"), arguments.pop("address")
    return run(path, {k: v for k, v in arguments.items() if v is not None}, address)


if __name__ == "__main__":
    raise SystemExit(main())
