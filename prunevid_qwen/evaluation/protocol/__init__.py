"""What a benchmark's number depends on beside the model, each choice by name; no model, no decoder, no file of videos.

`samplers` chooses frames, `prompts` writes the text (prompts.yaml), `protocol` holds every choice of a run, `presets`
names what others run (presets.yaml). `scorers` reads answers our way, `harness_scorers` as other harnesses do. `lines`
joins stored answers, `manifest` says how many there should be; `summary` counts, `tables` shows. `exports` writes what
the authors of Video-MME and EgoSchema score.
"""
