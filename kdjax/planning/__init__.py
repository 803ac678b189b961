"""What a run takes, before it runs: memory, time, costs."""
