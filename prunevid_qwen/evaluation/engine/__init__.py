"""Engines: tasks (media, and questions about them) to lines of answers."""
