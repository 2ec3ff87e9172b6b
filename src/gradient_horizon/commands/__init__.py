"""From a command line to finished jobs: the parser, the actions behind it, sweeps and launchers at work."""
