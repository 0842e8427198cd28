"""The smallest budget whose answers agree often enough, chosen on half of the videos and judged on the other half."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.config.option_checks import check_share, unknown
from prunevid_qwen.config.option_classes import STAGES
from prunevid_qwen.errors import ConfigError, quoted
from prunevid_qwen.evaluation.report.intervals import clustered_mean, rounded
from prunevid_qwen.evaluation.tuning.same_answers import VideoAnswers
from prunevid_qwen.evaluation.tuning.upper_bound import LEVEL, least_clusters, shown_below, upper_bound
from prunevid_qwen.reducer import says

BUDGETS = (0.8, 0.6, 0.5, 0.4, 0.3, 0.25, 0.2, 0.15, 0.1, 0.05)
CLUSTERS = ("videos", "questions")


def levers(config: PruneVidConfig) -> dict[str, dict[str, Any]]:
    """Return each option of a config whose value is a budget, the selector's first, and what it needs beside it."""
    own = {}
    for part in ("selector", "merger"):
        said = says(getattr(config, part), STAGES[part])
        if said.lever is not None and getattr(config, part) is not None:
            own[f"{part}.{said.lever}"] = {f"{part}.{name}": value for name, value in said.lever_needs.items()}
    return own


def lever_of(config: PruneVidConfig, option: str | None = None) -> tuple[str, dict[str, Any]]:
    """Return the option whose value is the budget, such as "selector.keep_ratio", and what it needs beside it.

    Args:
        config: its selector's budget is taken, or its merger's where it has no selector.
        option: another option of the config that is a share, short or in full.

    Raises:
        ConfigError: the config prunes nothing, or the option is none of it.
    """
    own = levers(config)
    if option is None:
        if not own:
            raise ConfigError("this config has no budget to tune: name one that merges or selects, such as paper")
        return next(iter(own.items()))
    meant = next((name for name in own if option in (name, name.partition(".")[2])), None)
    if meant is None:
        offered = ", ".join(own) or "none"
        raise ConfigError(f"option is a budget of this config ({offered}), got {quoted(option)}")
    return meant, own[meant]


def configs_of(
    config: PruneVidConfig, budgets: Sequence[float], option: str | None = None
) -> tuple[str, dict[float, PruneVidConfig]]:
    """Return the name of the budget's option, and the config under each budget, from the gentlest to the hardest.

    Raises:
        ConfigError: as `lever_of`, or a budget is no share or given twice.
    """
    lever, beside = lever_of(config, option)
    for each in budgets:
        check_share("a budget", each)
    if not budgets or len(set(budgets)) != len(budgets):
        raise ConfigError(f"budgets are shares, each once, got {', '.join(map(str, budgets)) or 'none'}")
    return lever, {each: config.replace(**{**beside, lever: each}) for each in sorted(budgets, reverse=True)}


def halves(videos: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the videos to choose on, and those held out: every other one in the order of their names' hashes.

    The same names fall in the same half, in whatever order they came.
    """
    ordered = sorted(videos, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    return ordered[::2], ordered[1::2]


def check_clusters(clusters: str) -> None:
    """Refuse what is neither "videos" nor "questions"; `ConfigError`."""
    if clusters not in CLUSTERS:
        raise ConfigError(unknown("clusters are", clusters, CLUSTERS))


def check_enough(questions: Mapping[str, Sequence[str]], promise: float, clusters: str) -> None:
    """Refuse too few videos to show a promise, before a model is loaded.

    Args:
        questions: of each video.
        promise: largest share of answers that differ.
        clusters: "videos", whose questions share their luck, or "questions", each on its own.

    Raises:
        ConfigError: it says how many are needed, and what so few can show.
    """
    count = min(sum(1 if clusters == "videos" else len(questions[each]) for each in half)
                for half in halves(list(questions)))  # fmt: skip
    needed = least_clusters(promise)
    if count >= needed:
        return
    if count == 0:
        raise ConfigError("one video has no second half to judge by: name at least two")
    ways = [f"pass {2 * needed} {clusters}"]
    shown = 100 * upper_bound([0.0] * count) + 0.1
    ways += [f"--max_disagreement {shown:.1f}%"] if shown < 99 else []
    if clusters == "videos":
        ways.append("--clusters questions, if those about one video are as different as those about two")
    raise ConfigError(
        f"half of the {clusters}, {count}, are too few to show that at most {100 * promise:g} % of the answers differ, "
        f"even where none does: {', or '.join(ways)}"
    )


def chosen(videos: Sequence[VideoAnswers], promise: float, clusters: str = "videos") -> dict[str, Any]:
    """Choose the smallest budget of which the first half shows that fewer answers differ than promised.

    Budgets are tried from the gentlest to the hardest, and the first that is not shown to keep the promise ends the
    search. So the chance that the chosen one breaks it is at most 5 %, however many were tried (a fixed sequence of
    tests: Angelopoulos and others, 2021, "Learn then test"). The held-out half takes no part in the choice.

    Args:
        videos: what was answered, at least two.
        promise: largest share of answers that differ, in (0, 1).
        clusters: as `check_enough`.

    Returns:
        Ready for JSON: "rows", one for each budget with ``kept`` (layer-averaged share of the visual tokens) and, under
        "first" and "held_out", ``disagreement``, its clustered ``interval`` (bootstrap), its ``upper`` bound and the
        counts; "chosen", the budget, None where none is shown to keep the promise; and "held", whether the held-out
        half's disagreement is within it.
    """
    by_name = {each.video: each for each in videos}
    first, held_out = ([by_name[name] for name in half] for half in halves(list(by_name)))
    budgets = list(videos[0].under)
    found, going_on = None, True
    rows: list[dict[str, Any]] = []
    for budget in budgets:
        shares = _shares(first, budget, clusters)
        going_on = going_on and shown_below(shares, promise)
        found = budget if going_on else found
        kept = [share for video in videos for share in video.under[budget].kept]
        rows.append(
            {
                "budget": budget,
                "kept": rounded(sum(kept) / len(kept)),
                "shown": going_on,
                "first": _row(first, budget, clusters),
                "held_out": _row(held_out, budget, clusters),
            }
        )
    own = next((row for row in rows if row["budget"] == found), None)
    held = None if own is None else own["held_out"]["disagreement"] <= promise
    return {
        "promise": promise,
        "level": LEVEL,
        "clusters": clusters,
        "videos": {"first": [each.video for each in first], "held_out": [each.video for each in held_out]},
        "rows": rows,
        "chosen": found,
        "held": held,
    }


def _shares(videos: Sequence[VideoAnswers], budget: float, clusters: str) -> list[float]:
    """Return the share of answers that differ, of each video, or of each question 0 or 1."""
    differ = [[float(not each) for each in video.under[budget].agrees] for video in videos]
    if clusters == "questions":
        return [each for video in differ for each in video]
    return [sum(video) / len(video) for video in differ]


def _row(videos: Sequence[VideoAnswers], budget: float, clusters: str) -> dict[str, Any]:
    names = [video.video for video in videos for _ in video.questions]
    differ = [float(not each) for video in videos for each in video.under[budget].agrees]
    labels = names if clusters == "videos" else [str(number) for number in range(len(differ))]
    estimate = clustered_mean(differ, labels)
    return {
        "disagreement": rounded(estimate.value),
        "interval": None if estimate.interval is None else [rounded(end) for end in estimate.interval],
        "upper": upper_bound(_shares(videos, budget, clusters)),
        "differ": int(sum(differ)),
        "questions": len(differ),
        "videos": len(videos),
    }
