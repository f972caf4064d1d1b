"""Whether the judge that a config names answers."""

from __future__ import annotations

import asyncio

from repo_ray.config import Config, environment
from repo_ray.doctor.check import Check


def judge(config: Config) -> Check:
    """One request to the endpoint; a local judge needs none."""
    settings = config.judge
    if not settings.enabled:
        return Check("judge", "ok", "off")
    if settings.kind == "local":
        return Check("judge", "ok", "local, no endpoint needed")
    from repo_ray.rewards.judge.endpoint import EndpointJudge, JudgeUnavailableError
    from repo_ray.rewards.judge.rubric import load_rubric

    key = environment(settings.api_key_env) or ""
    client = EndpointJudge(load_rubric(settings.rubric), settings, api_key=key)

    async def ask() -> None:
        await client.check()
        await client.close()

    try:
        asyncio.run(ask())
    except JudgeUnavailableError as error:
        return Check("judge", "fail", str(error))
    return Check("judge", "ok", f"{settings.model} at {settings.base_url} answers")
