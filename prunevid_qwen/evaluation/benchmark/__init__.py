"""Benchmarks under a protocol, run by an engine: what is asked, who answers, and the tables of what was stored."""
