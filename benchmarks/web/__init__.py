"""What the live page costs a bus: its throughput with five readers of the page and without."""
