"""``prunevid bench speed``: what pruning costs and saves on the clock, beside the stock model on the same inputs.

`shapes` and `inputs` make what is measured, `variants` says who competes, `timing` and `memory` take one measurement,
`measure` takes them in turns and keeps them, `flops` says what was to be expected, `findings` compares, `report` and
`plots` show. `growth` and `overhead` are the two measurements that stand for themselves.
"""
