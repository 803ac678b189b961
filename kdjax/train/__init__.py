"""Training: a step of a learner, an objective and a task, and its loop."""
