"""Which Ray cluster the run uses: the submitted job's, a given one, or an own embedded one."""

from __future__ import annotations

import logging

import ray
from ray.job_config import JobConfig

from repo_ray.actors.control import namespace
from repo_ray.config import Config, environment
from repo_ray.pipeline.run_folder import RunFolder, write_json


def connect(config: Config, folder: RunFolder, address: str | None) -> str:
    """Joins or starts a cluster and notes its address in the run folder; returns a description.

    Inside a submitted job Ray sets RAY_ADDRESS. Without it and without `address`, a cluster of
    this run's own is started: a bare `ray.init()` would join any that is left on the machine.
    """
    chosen = address or environment("RAY_ADDRESS") or "local"
    if chosen == "local":
        # Ray warns that its own default, token authentication, is on: said below.
        name = "ray._private.authentication.authentication_token_setup"
        logging.getLogger(name).setLevel(logging.ERROR)
    context = ray.init(
        address=chosen,
        namespace=namespace(config.run.name),
        # For the dashboard. A submitted job shows that of `ray job submit --metadata-json`.
        job_config=JobConfig(metadata={"run": config.run.name, "folder": str(folder.root)}),
        include_dashboard=True if chosen == "local" else None,
        log_to_driver=False,
        logging_level=logging.WARNING,
        configure_logging=True,
    )
    gcs = ray.get_runtime_context().gcs_address
    dashboard = f"http://{context.dashboard_url}" if context.dashboard_url else ""
    write_json(folder.cluster, {"address": gcs, "dashboard": dashboard, "run": config.run.name})
    kind = "embedded Ray cluster" if chosen == "local" else f"Ray cluster at {gcs}"
    if not dashboard:
        return f"{kind}, dashboard not running"
    return f"{kind}, dashboard {dashboard} (its token: ray get-auth-token)"
