"""`repo-ray agree`: do the evaluators of a run agree?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from repo_ray.cli.console import fail, user_errors


def command(
    run: Annotated[Path, typer.Argument(help="Run folder.", file_okay=False)],
    base_url: Annotated[
        str | None, typer.Option(help="OpenAI-compatible endpoint to ask for a second opinion.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Model name at the endpoint.")] = None,
    api_key_env: Annotated[
        str, typer.Option(help="Environment variable that holds the key.")
    ] = "OPENAI_API_KEY",
) -> None:
    """Cohen's kappa between gold evaluator, LLM evaluator and people (`repo-ray rate`)."""
    import asyncio

    from rich.console import Console
    from rich.table import Table

    from repo_ray.config import environment
    from repo_ray.evaluation.llm_evaluator import LLMEvaluator, LLMEvaluatorConfig
    from repo_ray.serving.opinions import agreements, ask_llm, columns_of
    from repo_ray.serving.rating import RatingError

    evaluation = run / "evaluation"
    columns = columns_of(evaluation)
    if not columns:
        fail(f"{evaluation}: no evaluation-*.parquet in it")
    if (base_url is None) != (model is None):
        fail("--base-url and --model go together")
    console = Console(highlight=False)
    if base_url is not None and model is not None:
        config = LLMEvaluatorConfig(base_url=base_url, model=model, api_key_env=api_key_env)

        async def ask() -> dict[str, int]:
            evaluator = LLMEvaluator(config, environment(api_key_env))
            try:
                return await ask_llm(evaluator, evaluation, columns)
            finally:
                await evaluator.close()

        invalid = asyncio.run(ask())
        causes = ", ".join(f"{cause} x{count}" for cause, count in invalid.items())
        console.print(f"opinions that could not be had: {causes or 'none'}")
    with user_errors(RatingError):
        found = agreements(run, columns)
    if not any(found.values()):
        fail(
            "gold is the only evaluator so far: give --base-url and --model, or rate replies with "
            "repo-ray rate"
        )
    table = Table("what", "evaluators", "kappa", "95% interval", "equal", "replies", "dialogues")
    for what, pairs in found.items():
        for pair in pairs:
            kappa = "undefined" if pair.kappa is None else f"{pair.kappa:.2f}"
            interval = "" if pair.low is None else f"{pair.low:.2f} to {pair.high:.2f}"
            equal = "" if pair.observed is None else f"{pair.observed:.0%}"
            names = f"{pair.first}, {pair.second}"
            table.add_row(what, names, kappa, interval, equal, str(pair.n), str(pair.groups))
    console.print(table)
