"""Training a glimpse: its data, records with boxes that say which visual tokens an answer needs."""
