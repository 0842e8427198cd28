"""``prunevid bench speed``: what pruning costs and saves in time, memory and FLOPs, beside the stock model.

Made: `model_shapes`, `random_prompt`, `video_prompt`, `competitors`. Measured: `timing`, `memory` (one run), `contest`
(all in turns), `overhead` and `growth`, stored by `speed_run`. Computed: `flops`, `facts`. Shown: `speed_findings`,
`sentences`, `speed_page`, `speed_plots`.
"""
