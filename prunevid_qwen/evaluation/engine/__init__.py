"""Engines: tasks (media, and questions about them) to lines of answers. `reading` makes frames of media without a
model, in any process; `answering` asks a model; `local` and `ray_data` bring the two together; `storing` keeps lines.
"""
