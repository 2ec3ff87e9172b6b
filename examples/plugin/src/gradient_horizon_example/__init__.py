"""A cell, a task and an experiment for gradient-horizon."""
