"""What a benchmark's number depends on beside the model, each choice by name; no model, no decoder, no file of videos.

`samplers` chooses frames, `prompts` writes the text, `protocol` holds every choice of a run, `presets`
names what others run. `scorers` reads answers our way, `harness_scorers` as other harnesses do. `lines` joins stored
answers of any number of files, `manifest` says how many there should be; `summary` counts, `figures` says how sure,
`tables` shows. `videomme_export` writes what Video-MME's own script scores.
"""
