"""`repo-ray config`: the config reference, or a config with every default filled in."""

from __future__ import annotations

from typing import Annotated

import typer

from repo_ray.cli.console import ConfigOption, OverridesArgument
from repo_ray.config import dump_config, load_config
from repo_ray.config.reference import reference


def command(
    config: ConfigOption = None,
    overrides: OverridesArgument = None,
    resolved: Annotated[
        bool, typer.Option(help="Print the complete YAML that the given config amounts to.")
    ] = False,
) -> None:
    """Print every setting with its default and the reason for it, as Markdown."""
    settings = load_config(config, overrides or ())
    typer.echo(dump_config(settings) if resolved else reference(), nl=False)
