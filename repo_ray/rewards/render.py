"""Shows one reply's scores to a person."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from repo_ray.records import Reward, Score

_TITLES = {"reward_model": "reward model", "judge": "judge", "rules": "rules"}
_TOTALS = {"reward_model": "R_model", "judge": "E_judge", "rules": "E_func"}


def render_score(
    reply: str, scores: Sequence[Score], reward: Reward | None, n: float = 100.0
) -> RenderableType:
    """Every source's value and reasons, then multiplier and total.

    `reward` is None where a score is invalid: there is no total then, and the cause is shown.
    Text of the reply or of a reason is shown as it is, never as markup.
    """
    table = Table(title="Scores", title_justify="left", show_lines=False)
    table.add_column("source")
    table.add_column("criterion or rule")
    table.add_column("points", justify="right")
    table.add_column("reason", overflow="fold")
    for score in scores:
        title = _TITLES[score.source]
        for name, detail in score.detail.items():
            said = "" if detail.likelihood is None else f"p={detail.likelihood:.2f} "
            colour = "red" if detail.points < 0 else "green" if detail.points > 0 else "dim"
            points = Text(f"{detail.points:+.2f}", style=colour)
            table.add_row(title, Text(name), points, Text(said + detail.reason))
        if score.value is None:
            table.add_row(title, "invalid", "–", Text(score.error, style="red"))
        else:
            what = Text(_TOTALS[score.source], style="bold")
            none = "no rule applies" if score.source == "rules" and not score.detail else ""
            table.add_row(title, what, Text(f"{score.value:+.3f}", style="bold"), none)
        table.add_section()
    return Group(Text.assemble(("Reply  ", "bold"), reply), table, _total(reward, n))


def _total(reward: Reward | None, n: float) -> Text:
    if reward is None:
        return Text("No total: a score is invalid.", style="bold red")
    clipped = "" if reward.e_enh == reward.e_judge + reward.e_func else f", clipped to ±{n:g}"
    return Text.assemble(
        f"E_enh = {reward.e_judge:+.3f} {reward.e_func:+.3f} = {reward.e_enh:+.3f}{clipped}\n",
        f"multiplier = {reward.multiplier:.4f}\n",
        (f"R_total = {reward.total:+.4f}", "bold"),
        f"   (R_model = {reward.r_model:+.4f})",
    )
