"""Engines: questions about videos and images to answers, read ahead in worker processes, whatever the questions are of.

A *task* is some media and the questions about them. `reading` turns its media into small frames, without a model, in
any process; `answering` answers its questions under one or more configs, encoding the media once. An engine brings the
two together: `local` in this process with readers beside it, `ray_data` on many machines. `storing` keeps the lines.
"""
