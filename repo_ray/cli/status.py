"""`repo-ray status`: how a run stands, once or live."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from repo_ray.cli.attach import AddressOption, RunOption, attach, read_status
from repo_ray.cli.console import fail

if TYPE_CHECKING:
    from rich.console import Group

REFRESH_S = 2.0
#: A run that is silent for so long is over: its cluster may have gone before the news of its end.
SILENCE_S = 10.0
#: The controller reports each second while it trains; a report that is older is told as old.
OLD_S = 10.0

NOT_YET = "the run has not reached its training yet"
WAITS_FOR = {
    "collect": "waiting for replies and scores",
    "update": "waiting for the learner",
    "push": "waiting for the engines to take the adapter",
    "check": "checking held-out prompts",
    "checkpoint": "writing a checkpoint",
}
#: Column of metrics.jsonl, its name here and its format.
SHOWN = (
    ("reward/total", "reward", "+.2f"),
    ("reward/r_model", "reward model", "+.2f"),
    ("reward/e_judge", "judge", "+.1f"),
    ("reward/e_func", "rules", "+.1f"),
    ("approx_kl", "KL", ".4f"),
    ("heldout/gold", "held-out gold", ".2f"),
)


def command(
    run: RunOption,
    address: AddressOption = None,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Refresh every 2 seconds until the run ends.")
    ] = False,
) -> None:
    """Show how a run stands: step, reward, adapters, who waits for whom, what failed."""
    from rich.console import Console
    from rich.live import Live

    control = attach(run, address)  # before ray is imported
    from ray.exceptions import RayError

    console = Console(highlight=False)
    if not watch:
        state = read_status(control)
        if not state:
            fail(NOT_YET)
        console.print(view(state, time.time()))
        return
    with Live(console=console, auto_refresh=False) as live:
        while True:
            try:
                state = read_status(control, SILENCE_S)
            except RayError:
                break
            live.update(view(state, time.time()) if state else NOT_YET, refresh=True)
            time.sleep(REFRESH_S)
    console.print("the run has ended")


def view(state: Mapping[str, Any], now: float) -> Group:
    """`state` for people, at the time `now` (seconds since the epoch)."""
    from rich.console import Group
    from rich.markup import escape
    from rich.table import Table

    metrics, ledger = state["metrics"], state["ledger"]
    lines = [
        f"[bold]{escape(state['run'])}[/] step {state['step']} of {state['steps']}, "
        f"{state['step_age_s']:.0f} s since the last; {WAITS_FOR[state['phase']]}",
        escape(state["folder"]),
    ]
    if now - state["time"] > OLD_S:
        lines.append(
            f"[yellow]this is {now - state['time']:.0f} s old: training is over or stuck[/]"
        )
    if shown := [f"{name} {metrics[key]:{form}}" for key, name, form in SHOWN if key in metrics]:
        lines.append(", ".join(shown))
    if metrics.get("alarm/hacking"):
        lines.append("[red]alarm: the reward rises while the gold score falls (run.log)[/]")
    if state["skipped_in_a_row"]:
        lines.append(f"[red]{state['skipped_in_a_row']} updates in a row were skipped[/]")
    lines.append(f"adapters: {_adapters(state['versions'])}")
    total = sum(state["phases"].values()) or 1.0
    shares = (f"{phase} {seconds / total:.0%}" for phase, seconds in state["phases"].items())
    lines.append(f"time: {', '.join(shares)}")
    dropped = sum(ledger["dropped"].values())
    lines.append(
        f"prompts: issued {ledger['issued']}, consumed {ledger['consumed']}, dropped {dropped}, "
        f"in progress {ledger['issued'] - ledger['consumed'] - dropped}"
    )
    lines += [
        f"[yellow]{name}: {escape(causes)}[/]"
        for name in ("dropped", "invalid")
        if (causes := ", ".join(f"{cause} x{count}" for cause, count in ledger[name].items()))
    ]

    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("pool", "ready", "queue", "wait", "running", "idle", "calls", "lost", "late"):
        table.add_column(column, justify="left" if column == "pool" else "right", no_wrap=True)
    table.add_column("actors")
    for kind, pool in state["pools"].items():
        table.add_row(
            kind,
            f"{pool['ready']}/{pool['wanted']}",
            str(pool["queue"]),
            f"{pool['queue_s']:.1f} s",
            str(pool["in_flight"]),
            f"{1 - pool['busy_share']:.0%}",
            str(pool["calls"]),
            str(pool["restarts"]),
            str(pool["timeouts"]),
            " ".join(
                name.removeprefix(f"{kind}-") + ("" if at == "ready" else f" ({at})")
                for name, at in pool["members"].items()
            ),
        )
    return Group(*lines, table)


def _adapters(versions: Mapping[str, int]) -> str:
    """Version by holder; an engine behind the learner stands out."""
    newest = versions.get("learner")
    return ", ".join(
        f"{holder} {version}" if version == newest else f"[yellow]{holder} {version}[/]"
        for holder, version in versions.items()
    )
