"""Other people's mail software, run for real beside qpy in tests and benchmarks."""
