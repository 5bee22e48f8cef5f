"""How wrong a result may be (accuracy) and how long a call takes (timing): for check, demo and benchmarks."""
