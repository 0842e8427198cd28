"""One plain sentence for each row: faster or not, by how much, and why not more."""

from __future__ import annotations

from prunevid_qwen.config.amounts import percent
from prunevid_qwen.evaluation.report.page import Row
from prunevid_qwen.evaluation.speed.competitors import KEEP_EVERYTHING, STOCK

NOTICEABLE = 1.05  # less than that is called the same
_NAMES = {
    "vision": "the vision encoder", "stage1": "stage 1", "layers": "the decoder", "stage2": "stage 2",
    "stage3": "stage 3", "lm_head": "the output layer", "rest": "what lies between the parts",
}  # fmt: skip
_EATERS = {
    "stage2": "stage 2", "stage3": "stage 3", "hooks": "hooks",
    "shorter_matrices": "lower efficiency at shorter lengths",
}  # fmt: skip
_SHORT = 0.85  # of the predicted speed-up: what is missing is named below it
_NOISY = 0.25  # (high - low) / median of the stock model's time to the first token


def sentence(row: Row, new_tokens: int) -> str:
    """Say what a row means.

    Args:
        row: of `speed_findings.rows_of`.
        new_tokens: of every answer.
    """
    if "error" in row:
        return f"Did not run: {row['error']}."
    if row["variant"] == STOCK:
        shares = ", ".join(f"{_NAMES[part]} {percent(share)}" for part, share in _shares(row)[:3])
        return f"First token after {row['ms']['first_token']['median']:.0f} ms: {shares}."
    if "speedup" not in row:
        return "The stock model could not run here: nothing to compare with."
    if row["variant"] == KEEP_EVERYTHING:
        return _keeping(row)
    ratio = {part: value["median"] for part, value in row["speedup"].items()}
    said = f"Prefill {faster(ratio['prefill'])} (predicted {row['predicted']['prefill']:.1f}x"
    if row["parts_ms"]["stage1"]["median"] > 0:
        said += f"; {ratio['prefill_with_stage1']:.1f}x with stage 1"
    if row["reached"] < _SHORT:
        largest = max(_EATERS, key=lambda name: row["difference_ms"][name])
        said += f"; most of what is missing: {_EATERS[largest]}"
    first = f"to first token {faster(ratio['first_token'])}{_because(row, ratio['prefill'], ratio['first_token'])}"
    return f"{said}); {first}; end to end with {new_tokens} new tokens {faster(ratio['end_to_end'])}."


def faster(ratio: float) -> str:
    """Say a speed-up: faster, slower, or neither."""
    if ratio >= NOTICEABLE:
        return f"{ratio:.1f}x faster" if ratio >= 1.1 else f"{ratio:.2f}x faster"
    if ratio <= 1 / NOTICEABLE:
        return f"{1 / ratio:.2f}x slower"
    return f"not faster ({ratio:.2f}x)"


def noise_of(rows: list[Row]) -> list[str]:
    """Name the cells whose stock times spread too widely to be believed."""
    found = []
    for row in rows:
        if row["variant"] == STOCK and "error" not in row:
            time = row["ms"]["first_token"]
            spread = (time["high"] - time["low"]) / time["median"]
            if spread > _NOISY:
                found.append(
                    f"{row['frames']} frames, batch {row['batch']}: the stock model's own time to the first token "
                    f"spreads by {percent(spread)} between its 20 % and 80 % quantiles: something else ran on this "
                    "machine"
                )
    return found


def eaten(difference: dict[str, float]) -> str:
    """Say what eats the difference between the predicted and the measured time of the decoder."""
    parts = [f"{name} {difference[key]:+.1f}" for key, name in {"stage1": "stage 1", **_EATERS}.items()]
    return f"{difference['predicted']:.1f} ms predicted, {difference['measured']:.1f} measured: {', '.join(parts)}"


def _shares(row: Row) -> list[tuple[str, float]]:
    medians = {part: value["median"] for part, value in row["parts_ms"].items()}
    total = sum(medians.values())
    return sorted(((part, value / total) for part, value in medians.items()), key=lambda pair: -pair[1])


def _because(row: Row, prefill: float, first: float) -> str:
    """Why the first token gains less than the prefill."""
    if first > 0.9 * prefill and first >= NOTICEABLE:
        return ""
    shares = [(part, share) for part, share in _shares(row) if part != "layers" and share >= 0.1]
    said = [f"{_NAMES[part]} is {percent(share)} of it" for part, share in shares[:3]]
    if prefill < NOTICEABLE:  # what pruning leaves alone is not to blame
        said = ["the prefill is not", *(text for text in said if text.startswith("stage"))]
    return ", because " + " and ".join(said) if said else ""


def _keeping(row: Row) -> str:
    first, step = row["added_ms"]["first_token"]["median"], row["added_ms"]["decode_per_token"]["median"]
    share = row["added_ms"]["end_to_end_share"]["median"]
    same = "its tokens are the stock model's" if row["tokens_as_stock"] else "ITS TOKENS ARE NOT THE STOCK MODEL'S"
    return (
        f"All stages on and nothing dropped: {first:+.1f} ms to the first token, {step:+.2f} ms a token, "
        f"{100 * share:+.1f} % end to end; {same}."
    )
