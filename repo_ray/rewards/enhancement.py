"""How reward model, judge and rules become one reward (arXiv 2510.04214, reward enhancement)."""

from __future__ import annotations

import math

from repo_ray.config.rewards import EnhancementConfig
from repo_ray.records import Reward


def enhance(r_model: float, e_judge: float, e_func: float, n: float = 100.0) -> Reward:
    """The paper's reward: the reward model, scaled by what judge and rules found.

        E_enh   = clip(E_judge + E_func, -n, n)
        R_total = R_model + |R_model| · E_enh / n

    The paper writes `R_model · (1 ± E_enh/n)` with a sign that makes a positive enhancement
    raise the reward; |R_model| is that sign written out. The multiplier
    `1 + sign(R_model) · E_enh / n` lies in [0, 2], so the sign of the reward never flips. At
    R_model = 0 judge and rules have no effect, which is why the reward model is centred.

    Raises `ValueError` if an input is not finite or `n` is not positive.
    """
    e_enh = _clip(e_judge + e_func, n, r_model, e_judge, e_func)
    share = e_enh / n
    sign = (r_model > 0) - (r_model < 0)
    return Reward(
        total=r_model + abs(r_model) * share,
        r_model=r_model,
        e_judge=e_judge,
        e_func=e_func,
        e_enh=e_enh,
        multiplier=1.0 + sign * share,
    )


def combine(config: EnhancementConfig, r_model: float, e_judge: float, e_func: float) -> Reward:
    """The reward under `config.combine`. With J, F and E the judge's points, the rules' points
    and their sum, each clipped to [-n, n]:

    - `repo`:           R_model + |R_model| · E/n (see `enhance`)
    - `weighted_sum`:   R_model + E/n: n points weigh as much as one standard deviation of the
      reward model, whatever R_model is
    - `normalised_sum`: (tanh(R_model) + J/n + F/n) / 3: each source in [-1, 1], equal weights
    - `rule_gated`:     R_model + J/n where F >= 0, else min(R_model + J/n, 0) + F/n: a reply
      that breaks rules keeps no credit from the other sources

    All but `repo` add rather than scale, so their multiplier is 1.

    Raises `ValueError` as `enhance` does.
    """
    reward = enhance(r_model, e_judge, e_func, config.n)
    n = config.n
    judge = _clip(e_judge, n) / n
    rules = _clip(e_func, n) / n
    match config.combine:
        case "repo":
            return reward
        case "weighted_sum":
            total = r_model + reward.e_enh / n
        case "normalised_sum":
            total = (math.tanh(r_model) + judge + rules) / 3
        case "rule_gated":
            total = r_model + judge if rules >= 0 else min(r_model + judge, 0.0) + rules
    return Reward(total, r_model, e_judge, e_func, reward.e_enh, multiplier=1.0)


def _clip(value: float, n: float, *inputs: float) -> float:
    if not all(math.isfinite(x) for x in inputs):
        raise ValueError(f"reward inputs (R_model, E_judge, E_func) must be finite: {inputs}")
    if not (math.isfinite(n) and n > 0):
        raise ValueError(f"n must be a positive finite number of points, found {n}")
    return max(-n, min(n, value))
