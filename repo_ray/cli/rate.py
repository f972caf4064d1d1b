"""`repo-ray rate`: people rate replies blind on a local page; ratings back to preference rows."""

from __future__ import annotations

import socket
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from repo_ray.cli.console import fail, user_errors


def command(
    run: Annotated[Path, typer.Argument(help="Run folder with evaluated replies.")],
    columns: Annotated[
        tuple[str, str] | None,
        typer.Option(
            metavar="A B",
            help="Whose replies to compare; left out: warm_start and repo, or the only two.",
        ),
    ] = None,
    rater: Annotated[
        str | None, typer.Option(help="Serve this person only; left out: the page asks.")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 0,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")
    ] = "127.0.0.1",
    seed: Annotated[int, typer.Option(help="Draws the order and the sides.")] = 0,
    export: Annotated[
        Path | None,
        typer.Option(help="Serve nothing; write all ratings as preference rows (.parquet)."),
    ] = None,
) -> None:
    """Rate replies blind, A against B, on a local page; with --export turn ratings into data."""
    if export is not None and (columns or rater):
        fail("--export takes all ratings of the run: leave out --columns and --rater")
    from repo_ray.serving.rating.ratings import RatingError

    with user_errors(RatingError):
        if export is not None:
            _export(run, export)
        else:
            _serve(run, columns, rater, host, port, seed)


def _export(run: Path, out: Path) -> None:
    from repo_ray.serving.rating.preferences import export_preferences

    found = export_preferences(run, out)
    typer.echo(f"{len(found.rows)} preference rows in {out}")
    typer.echo(
        f"no row: {found.ties} rated equal, {found.split} without a majority, "
        f"{found.empty} with a reply without words"
    )
    typer.echo(
        "The dialogues are the run's evaluation dialogues: what is trained on these rows "
        "has to be evaluated on others."
    )


def _serve(
    run: Path, columns: tuple[str, str] | None, rater: str | None, host: str, port: int, seed: int
) -> None:
    import secrets

    import uvicorn

    from repo_ray.serving.rating.pairs import load_pairs
    from repo_ray.serving.rating.ratings import load_ratings
    from repo_ray.serving.rating.server import RatingServer

    pairing = load_pairs(run, columns, seed)
    load_ratings(run)  # a file that cannot be read is better known before than after an hour
    token = secrets.token_urlsafe(16)
    server = RatingServer(run, pairing.pairs, token=token, host=host, rater=rater, seed=seed)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family)
    except OSError as error:
        fail(f"cannot listen on {host}, port {port}: {error.strerror or error}")
    anywhere = host in ("0.0.0.0", "::")
    shown = socket.gethostname() if anywhere else f"[{host}]" if ":" in host else host
    typer.echo(
        f"{len(pairing.pairs)} pairs; left out: {pairing.same} with the same reply twice, "
        f"{pairing.unmatched} without a counterpart"
    )
    typer.echo(f"http://{shown}:{listener.getsockname()[1]}/{token}/")
    typer.echo(f"Whoever has this address can rate. Ratings: {run / 'ratings'}. Ctrl-C ends.")
    config = uvicorn.Config(
        server.app, log_level="warning", access_log=False, server_header=False, ws="none"
    )
    with suppress(KeyboardInterrupt):  # uvicorn raises it again, or returns
        uvicorn.Server(config).run(sockets=[listener])
    typer.echo("stopped")
