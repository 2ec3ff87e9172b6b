"""The settings of a job: their schema and rules, presets, and launchers."""
