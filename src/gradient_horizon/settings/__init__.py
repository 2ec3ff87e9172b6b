"""The settings of a job: each with its default and rule; validation and its messages; presets and launchers."""
