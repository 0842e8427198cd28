"""Doing less in the vision encoder: contexts around the stock towers, which change no weight and leave no trace."""
