"""How well and how fast systems are identified from data: `python -m benchmarks.fitting`."""
