"""The command line: its parser, the action behind each command, sweeps and launchers."""
